//! What an answer is found by: a digest of everything that could make it another one.

use http::{HeaderName, header};

use super::judge::{Scope, Ways};
use crate::call::Call;
use crate::openai::endpoint::Endpoint;
use crate::openai::json::{CanonicalError, canonical};
use crate::store::cache::Key;

/// Makes keys of another version others.
const VERSION: &[u8] = b"weir cache 3";

/// Members that cannot change an answer, and that it does not tell again either: who asks, and where the upstream keeps the
/// beginning of the prompt. The model and whether it is a stream stand in the key by themselves.
const LEFT_OUT: [&str; 8] = [
    "model",
    "stream",
    "stream_options",
    "user",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_retention",
];

/// Of a response these are no more than the call; the others stand in its answer again.
const LEFT_OUT_OF_RESPONSES: [&str; 2] = ["model", "stream"];

/// Headers that say something of the connection, of the client's library, or of who watches the request.
static HEADERS_LEFT_OUT: [HeaderName; 23] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::CACHE_CONTROL,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::DATE,
    header::ORIGIN,
    header::PRAGMA,
    header::REFERER,
    header::USER_AGENT,
    header::VIA,
    HeaderName::from_static("cdn-loop"),
    HeaderName::from_static("cf-connecting-ip"),
    HeaderName::from_static("cf-ipcountry"),
    HeaderName::from_static("cf-ray"),
    HeaderName::from_static("cf-visitor"),
    HeaderName::from_static("idempotency-key"),
    HeaderName::from_static("request-timeout"),
    HeaderName::from_static("true-client-ip"),
    HeaderName::from_static("x-client-request-id"),
    HeaderName::from_static("x-correlation-id"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("x-request-id"),
];

/// Beginnings of such headers.
const HEADER_FAMILIES_LEFT_OUT: [&str; 11] = [
    "x-stainless-",
    "x-forwarded-",
    "x-envoy-",
    "sec-",
    "trace",
    "baggage",
    "sentry-",
    "x-b3-",
    "x-datadog-",
    "x-amzn-trace-",
    "x-cloud-trace-",
];

/// What a key is made of, besides the members of the body. The numbers stand in keys, which gateways share: where one becomes
/// another one, so does [`VERSION`]. None is that of a bracket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Part {
    Endpoint = 0,
    Scope = 1,
    Model = 2,
    Route = 3,
    Query = 4,
    Headers = 5,
    Stream = 6,
}

/// What is digested, in a row and at once: a digest that is fed many short pieces costs more than they are worth.
pub(super) struct Pieces(Vec<u8>);

impl Pieces {
    /// Room for what most calls say besides their bodies.
    const HEAD: usize = 512;

    /// Begins with what makes digests of another kind or version others.
    pub(super) fn new(version: &[u8]) -> Self {
        let mut pieces = Self(Vec::with_capacity(Self::HEAD));
        pieces.add(version);
        pieces
    }

    /// Says what kind of piece follows.
    fn mark(&mut self, kind: u8) {
        self.0.push(kind);
    }

    /// Adds a piece, with its length: no two rows of pieces are one text.
    pub(super) fn add(&mut self, piece: &[u8]) {
        self.0
            .extend_from_slice(&(piece.len() as u64).to_le_bytes());
        self.0.extend_from_slice(piece);
    }

    /// Returns the digest of all that, and of one more behind which nothing follows.
    pub(super) fn digest_with(&self, last: &[u8]) -> Key {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.0).update(last);
        Key(*hasher.finalize().as_bytes())
    }
}

/// Returns the key of a call.
///
/// # Errors
/// [`CanonicalError::DuplicateKey`]: nobody knows what is asked for.
pub(super) fn key(call: &Call, scope: Scope, ways: &dyn Ways) -> Result<Key, CanonicalError> {
    let body = call.json().map_or(&[][..], |(bytes, _)| bytes);
    let mut pieces = Pieces::new(VERSION);
    parts(call, scope, ways, &mut |part, bytes| {
        pieces.mark(part as u8);
        pieces.add(bytes);
    });
    let is_left_out = |key: &[u8]| Part::is_left_out(&call.endpoint, key);
    // It begins with a bracket, which marks no piece.
    pieces.0.reserve(body.len());
    canonical(body, is_left_out, &mut pieces.0)?;
    Ok(Key(*blake3::hash(&pieces.0).as_bytes()))
}

/// Shows the parts of a call that its key is made of, besides the members of its body, in an order that is always the same.
/// A part may come in several pieces.
pub(super) fn parts(call: &Call, scope: Scope, ways: &dyn Ways, see: &mut dyn FnMut(Part, &[u8])) {
    see(Part::Endpoint, call.endpoint.label().as_bytes());
    let team = call.caller.team.as_ref().filter(|_| scope == Scope::Team);
    match (scope, team) {
        (Scope::Global, _) => see(Part::Scope, b"global"),
        (Scope::Team | Scope::Key, Some(team)) => {
            see(Part::Scope, b"team");
            see(Part::Scope, team.as_bytes());
            see(Part::Scope, &call.caller.team_origin.to_bytes());
        }
        // A key without a team is by itself.
        (Scope::Team | Scope::Key, None) => {
            see(Part::Scope, b"key");
            see(Part::Scope, call.caller.key.as_bytes());
            see(Part::Scope, &call.caller.key_origin.to_bytes());
        }
    }
    let model = call.model.as_deref().unwrap_or_default();
    see(Part::Model, model.as_bytes());
    ways.each_primary(call, &mut |piece| see(Part::Route, piece));
    let query = call.head.target.query().unwrap_or_default();
    see(Part::Query, query.as_bytes());
    for (name, value) in counting_headers(call) {
        see(Part::Headers, name.as_bytes());
        see(Part::Headers, value);
    }
    let kind: &[u8] = if call.stream { b"stream" } else { b"whole" };
    see(Part::Stream, kind);
    if !call.stream {
        return;
    }
    // The usage is always there, and taken out for those who did not ask. Anything else may change each event.
    let options = call
        .json()
        .and_then(|(bytes, members)| bytes.get(members.stream_options.clone()?));
    let options = options
        .filter(|options| *options != b"null")
        .unwrap_or(b"{}");
    let mut form = Vec::new();
    match canonical(options, |key| key == b"include_usage", &mut form) {
        Ok(()) => see(Part::Stream, &form),
        Err(_) => see(Part::Stream, options),
    }
}

impl Part {
    /// Returns what it is called when it is told of: in round brackets, which no member's name begins with.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Endpoint => "(endpoint)",
            Self::Scope => "(scope)",
            Self::Model => "model",
            Self::Route => "(route)",
            Self::Query => "(query)",
            Self::Headers => "(headers)",
            Self::Stream => "stream",
        }
    }

    /// Returns whether a member of the body cannot change the answer, or stands in the key by itself.
    pub(super) fn is_left_out(endpoint: &Endpoint, key: &[u8]) -> bool {
        let left_out: &[&str] = match endpoint {
            Endpoint::Responses => &LEFT_OUT_OF_RESPONSES,
            _ => &LEFT_OUT,
        };
        left_out.iter().any(|name| name.as_bytes() == key)
    }
}

/// Returns the headers that may change an answer, in order.
pub(super) fn counting_headers(call: &Call) -> Vec<(&str, &[u8])> {
    let headers = call.head.headers.iter();
    let mut headers: Vec<(&str, &[u8])> = headers
        .filter(|(name, _)| !is_left_out(name))
        .map(|(name, value)| (name.as_str(), value.as_bytes()))
        .collect();
    headers.sort_unstable();
    headers
}

fn is_left_out(name: &HeaderName) -> bool {
    let families = &HEADER_FAMILIES_LEFT_OUT;
    HEADERS_LEFT_OUT.contains(name)
        || families
            .iter()
            .any(|family| name.as_str().starts_with(family))
}
