//! Where a request stands in a distributed trace: W3C Trace Context, level 1.
//!
//! <https://www.w3.org/TR/trace-context-1/>. What a client sends is continued where it is valid, and ignored where it is
//! not: it is never a reason to refuse a request.

use std::cell::RefCell;
use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue};

/// The header that names the trace, and the span that asks.
pub const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// The header in which tracing systems leave notes for themselves.
pub const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// The length of a `traceparent` of version 00.
const LENGTH: usize = 55;
/// How many members a `tracestate` may have (section 3.3.1.1).
const MOST_MEMBERS: usize = 32;
/// How long a `tracestate` may be: eight times what everybody has to pass on (section 3.3.1.5).
const LONGEST_STATE: usize = 4096;

/// The id of a trace: 16 bytes, not all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceId([u8; 16]);

/// The id of a span: 8 bytes, not all zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SpanId([u8; 8]);

/// What a client says of the trace that its request belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// The trace.
    pub trace: TraceId,
    /// The client's span.
    pub span: SpanId,
    /// Whether the client records it.
    pub sampled: bool,
    /// The `tracestate`, valid and not empty.
    pub state: Option<HeaderValue>,
}

/// The trace of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// The trace.
    pub id: TraceId,
    /// The client's span; `None`: the trace begins here.
    pub parent: Option<SpanId>,
    /// The request's own span, of which those of its attempts are made. `None`: the gateway makes no spans, and hands the
    /// client's headers on as they are.
    pub span: Option<SpanId>,
    /// Whether its spans are recorded.
    pub sampled: bool,
    /// What is handed on as `tracestate`.
    pub state: Option<HeaderValue>,
}

// === impl TraceId ===

impl TraceId {
    /// Takes an id that is not all zero.
    pub fn new(bytes: [u8; 16]) -> Option<Self> {
        (bytes != [0; 16]).then_some(Self(bytes))
    }

    /// Returns an id that no other trace has.
    pub fn random() -> Self {
        let [high, low] = [random(), random()];
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&high.to_be_bytes());
        bytes[8..].copy_from_slice(&low.to_be_bytes());
        Self::new(bytes).unwrap_or(Self([1; 16]))
    }

    /// Returns the id's bytes.
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// Returns the id's random part, by which traces are drawn: all who draw by it agree.
    pub fn lot(&self) -> u64 {
        let [.., a, b, c, d, e, f, g, h] = self.0;
        u64::from_be_bytes([a, b, c, d, e, f, g, h])
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

// === impl SpanId ===

impl SpanId {
    /// Takes an id that is not all zero.
    pub fn new(bytes: [u8; 8]) -> Option<Self> {
        (bytes != [0; 8]).then_some(Self(bytes))
    }

    /// Returns an id that no other span of a trace has.
    pub fn random() -> Self {
        Self::new(random().to_be_bytes()).unwrap_or(Self([1; 8]))
    }

    /// Returns the id's bytes.
    pub fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }

    /// Returns the id of a request's attempt, by its place among them. It is made of the request's own, so that nobody has
    /// to remember it.
    fn attempt(self, number: usize) -> Self {
        // The golden ratio's bits, an odd number: no two places give the same id.
        const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
        let place = u64::try_from(number).unwrap_or(u64::MAX).wrapping_add(1);
        let own = u64::from_be_bytes(self.0);
        let id = own.wrapping_add(place.wrapping_mul(STEP));
        Self::new(id.to_be_bytes()).unwrap_or(Self([1; 8]))
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

// === impl Parent ===

impl Parent {
    /// Reads a client's headers. `None`: there is no trace, or none that is valid; then its `tracestate` means nothing
    /// either.
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let mut parents = headers.get_all(&TRACEPARENT).iter();
        let parent = parents.next()?;
        if parents.next().is_some() {
            return None;
        }
        let (trace, span, sampled) = parse(parent.as_bytes().trim_ascii())?;
        Some(Self {
            trace,
            span,
            sampled,
            state: state(headers),
        })
    }
}

// === impl Trace ===

impl Trace {
    /// The trace of a request whose gateway makes no spans: the client's.
    pub fn passing(parent: Parent) -> Self {
        Self {
            id: parent.trace,
            parent: Some(parent.span),
            span: None,
            sampled: parent.sampled,
            state: parent.state,
        }
    }

    /// Continues a client's trace, or begins one; `draw` says whether a new one is recorded. A client's own decision
    /// stands.
    pub fn continuing(parent: Option<Parent>, draw: impl FnOnce(&TraceId) -> bool) -> Self {
        let span = Some(SpanId::random());
        match parent {
            Some(parent) => Self {
                span,
                ..Self::passing(parent)
            },
            None => {
                let id = TraceId::random();
                Self {
                    id,
                    parent: None,
                    span,
                    sampled: draw(&id),
                    state: None,
                }
            }
        }
    }

    /// Returns the span of an attempt, by its place among the request's; `None` where the gateway makes no spans.
    pub fn attempt(&self, number: usize) -> Option<SpanId> {
        Some(self.span?.attempt(number))
    }

    /// Puts into an attempt's headers whose child the upstream's span is.
    pub fn hand_on(&self, number: usize, headers: &mut HeaderMap) {
        let Some(span) = self.attempt(number) else {
            return;
        };
        let text = format!("00-{}-{span}-{:02x}", self.id, u8::from(self.sampled));
        if let Ok(value) = HeaderValue::try_from(text) {
            headers.insert(TRACEPARENT, value);
        }
        match &self.state {
            Some(state) => headers.insert(TRACESTATE, state.clone()),
            None => headers.remove(TRACESTATE),
        };
    }
}

/// Reads a `traceparent` (section 3.2.2). Of a later version than 00 the beginning is read, which stays the same.
fn parse(text: &[u8]) -> Option<(TraceId, SpanId, bool)> {
    let head = text.get(..LENGTH)?;
    let [version] = hex::<1>(head.get(..2)?)?;
    let is_whole = match version {
        0xff => false,
        0 => text.len() == LENGTH,
        _ => text.get(LENGTH).is_none_or(|next| *next == b'-'),
    };
    let has_dashes = [2, 35, 52].into_iter().all(|at| head[at] == b'-');
    if !is_whole || !has_dashes {
        return None;
    }
    let trace = TraceId::new(hex(&head[3..35])?)?;
    let span = SpanId::new(hex(&head[36..52])?)?;
    let [flags] = hex::<1>(&head[53..])?;
    Some((trace, span, flags & 1 == 1))
}

/// Reads lower-case hexadecimal digits, the only ones that are allowed.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    if digits.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = (digit(pair[0])? << 4) | digit(pair[1])?;
    }
    Some(bytes)
}

/// Reads the `tracestate`, its lines put together. One that breaks the rules is none.
fn state(headers: &HeaderMap) -> Option<HeaderValue> {
    let mut lines = headers.get_all(&TRACESTATE).iter();
    let first = lines.next()?;
    let value = match lines.next() {
        None => first.clone(),
        Some(second) => {
            let mut joined = first.as_bytes().to_vec();
            for line in std::iter::once(second).chain(lines) {
                joined.push(b',');
                joined.extend_from_slice(line.as_bytes());
            }
            HeaderValue::from_bytes(&joined).ok()?
        }
    };
    is_state(value.as_bytes()).then_some(value)
}

/// Returns whether a text is a list of members (section 3.3.1).
fn is_state(text: &[u8]) -> bool {
    let members = text.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let mut count = 0;
    for member in members.filter(|member| !member.is_empty()) {
        count += 1;
        let mut parts = member.splitn(2, |byte| *byte == b'=');
        let (Some(key), Some(value)) = (parts.next(), parts.next()) else {
            return false;
        };
        let of_a_key = |byte: &u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(byte)
        };
        let of_a_value = |byte: &u8| (b' '..=b'~').contains(byte) && *byte != b'=';
        let is_key = (1..=256).contains(&key.len()) && key.iter().all(of_a_key);
        let is_value = (1..=256).contains(&value.len()) && value.iter().all(of_a_value);
        if !is_key || !is_value {
            return false;
        }
    }
    (1..=MOST_MEMBERS).contains(&count) && text.len() <= LONGEST_STATE
}

/// Returns a number that nobody else draws: each thread has a sequence of its own, which begins anywhere.
fn random() -> u64 {
    thread_local! {
        static SEQUENCE: RefCell<fastrand::Rng> = RefCell::new(match getrandom::u64() {
            Ok(seed) => fastrand::Rng::with_seed(seed),
            Err(_) => fastrand::Rng::new(),
        });
    }
    SEQUENCE.with(|sequence| sequence.borrow_mut().u64(..))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn read(parents: &[&str], states: &[&str]) -> Option<Parent> {
        let mut headers = HeaderMap::new();
        for parent in parents {
            headers.append(TRACEPARENT, HeaderValue::from_str(parent).unwrap());
        }
        for state in states {
            headers.append(TRACESTATE, HeaderValue::from_str(state).unwrap());
        }
        Parent::read(&headers)
    }

    #[test]
    fn a_valid_parent_is_read() {
        let parent = read(&[VALID], &["a=1", "b@c=2"]).unwrap();
        assert_eq!(parent.trace.to_string(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(parent.span.to_string(), "00f067aa0ba902b7");
        assert!(parent.sampled);
        assert_eq!(parent.state.unwrap(), "a=1,b@c=2");
        // Flags that are not known yet say nothing.
        assert!(!read(&[&VALID.replace("-01", "-fe")], &[]).unwrap().sampled);
    }

    #[test]
    fn later_versions_are_read_as_far_as_they_are_known() {
        let later = VALID.replace("00-4b", "cc-4b");
        assert!(read(&[&later], &[]).is_some());
        assert!(read(&[&format!("{later}-more")], &[]).is_some());
        assert!(read(&[&format!("{later}.more")], &[]).is_none());
    }

    #[test]
    fn an_invalid_parent_is_none_and_so_is_its_state() {
        for parent in [
            "",
            "00",
            &VALID[..54],
            &format!("{VALID}-00"),
            &VALID.to_uppercase(),
            &VALID.replace("00-4b", "ff-4b"),
            &VALID.replace("00-4b", "0x-4b"),
            &VALID.replace('-', "_"),
            &VALID.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &VALID.replace("00f067aa0ba902b7", &"0".repeat(16)),
        ] {
            assert_eq!(read(&[parent], &["a=1"]), None, "{parent}");
        }
        assert_eq!(read(&[VALID, VALID], &[]), None);
        assert_eq!(read(&[], &["a=1"]), None);
    }

    #[test]
    fn an_invalid_state_is_dropped_alone() {
        let long = format!("a={}", "x".repeat(257));
        let many = vec!["a=1"; 33].join(",");
        for state in ["", ",", "a", "a=", "A=1", "a=b=c", "a b=1", &long, &many] {
            assert_eq!(read(&[VALID], &[state]).unwrap().state, None, "{state}");
        }
        assert!(read(&[VALID], &["a=1 , ,b=2"]).unwrap().state.is_some());
    }

    #[test]
    fn each_attempt_is_a_parent_of_its_own() {
        let trace = Trace::continuing(read(&[VALID], &["a=1"]), |_| panic!("the client decides"));
        let mut seen = vec![trace.span, trace.parent];
        for number in 0..50 {
            let mut headers = HeaderMap::new();
            trace.hand_on(number, &mut headers);
            let told = Parent::read(&headers).unwrap();
            assert_eq!((told.trace, told.sampled), (trace.id, true));
            assert_eq!(told.state.unwrap(), "a=1");
            assert_eq!(Some(told.span), trace.attempt(number));
            assert!(!seen.contains(&Some(told.span)));
            seen.push(Some(told.span));
        }
    }

    #[test]
    fn without_spans_the_clients_headers_are_left_alone() {
        let trace = Trace::passing(read(&[VALID], &[]).unwrap());
        let mut headers = HeaderMap::new();
        headers.insert(TRACEPARENT, HeaderValue::from_static(VALID));
        headers.insert(TRACESTATE, HeaderValue::from_static("whatever"));
        trace.hand_on(0, &mut headers);
        assert_eq!(headers[TRACEPARENT], VALID);
        assert_eq!(headers[TRACESTATE], "whatever");
    }

    #[test]
    fn a_new_trace_has_no_parent_and_an_id_of_its_own() {
        let one = Trace::continuing(None, |_| true);
        let two = Trace::continuing(None, |_| false);
        assert!(one.parent.is_none() && one.id != two.id && one.span != two.span);
        assert!(one.sampled && !two.sampled);
    }

    proptest! {
        #[test]
        fn garbage_is_ignored(parent in prop::collection::vec(any::<u8>(), 0..70), state in prop::collection::vec(any::<u8>(), 0..70)) {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&parent) {
                headers.insert(TRACEPARENT, value);
            }
            if let Ok(value) = HeaderValue::from_bytes(&state) {
                headers.insert(TRACESTATE, value);
            }
            prop_assert_eq!(Parent::read(&headers), None);
        }

        #[test]
        fn what_nearly_is_one_is_read_or_ignored(at in 0..LENGTH, byte in 0x20_u8..0x7f, tail in "[-0-9a-f.]{0,4}") {
            let mut text = format!("{VALID}{tail}").into_bytes();
            text[at] = byte;
            if let Some((trace, span, sampled)) = parse(&text) {
                let written = Trace { id: trace, parent: None, span: Some(span), sampled, state: None };
                let mut headers = HeaderMap::new();
                written.hand_on(0, &mut headers);
                prop_assert_eq!(Parent::read(&headers).map(|told| told.trace), Some(trace));
            }
        }

        #[test]
        fn any_state_is_read_without_panic(state in prop::collection::vec(any::<u8>(), 0..300)) {
            is_state(&state);
        }
    }
}
