//! JSON in one form, whatever it was written like: members in order of their keys (RFC 8785, section 3.2.3, but that keys are
//! compared by their bytes), without white space, strings with no more escapes than they need.
//!
//! Numbers stay as they are spelled. RFC 8785 writes them as the double that is next to them, by which two seeds could become
//! one; `1` and `1.0` are two here, which costs a hit and never a wrong one.
//!
//! One pass, and no document: each object's members are written as they come, and moved into their order when it closes.

use std::ops::Range;

use super::scan::{ScanError, Scanner, unescape};

/// Why there is no one form of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CanonicalError {
    /// It is not JSON.
    #[error("not JSON")]
    Syntax,
    /// A key stands twice in an object, and each reader takes another one of the two.
    #[error("a key is given twice")]
    DuplicateKey,
}

/// Writes a JSON object in its one form behind what is in `out`, without the outermost members whose keys `is_left_out`
/// says so of.
///
/// # Errors
/// [`CanonicalError`]
pub fn canonical(
    object: &[u8],
    is_left_out: impl Fn(&[u8]) -> bool,
    out: &mut Vec<u8>,
) -> Result<(), CanonicalError> {
    let mut writer = Writer {
        scanner: Scanner::new(object),
        out,
        open: Vec::new(),
        members: Vec::new(),
        scratch: Vec::new(),
    };
    writer.write(is_left_out)
}

struct Writer<'a, 'b> {
    scanner: Scanner<'a>,
    out: &'b mut Vec<u8>,
    /// The objects and arrays that are not closed yet, the outermost first.
    open: Vec<Open>,
    /// The members of all open objects.
    members: Vec<Member>,
    scratch: Vec<u8>,
}

struct Open {
    is_object: bool,
    /// The number of its first member.
    first: usize,
    /// Where what it holds begins in the output.
    start: usize,
}

/// A member in the output.
#[derive(Clone)]
struct Member {
    key: Range<usize>,
    end: usize,
}

impl From<ScanError> for CanonicalError {
    fn from(_: ScanError) -> Self {
        Self::Syntax
    }
}

impl Writer<'_, '_> {
    fn write(&mut self, is_left_out: impl Fn(&[u8]) -> bool) -> Result<(), CanonicalError> {
        loop {
            match self.scanner.peek() {
                Some(b'"') => self.string()?,
                Some(bracket @ (b'{' | b'[')) => {
                    self.scanner.step();
                    self.scanner.skip_space();
                    self.out.push(bracket);
                    self.open.push(Open {
                        is_object: bracket == b'{',
                        first: self.members.len(),
                        start: self.out.len(),
                    });
                    // In ASCII a closing bracket stands two behind its opening one.
                    if self.scanner.peek() == Some(bracket + 2) {
                        self.close()?;
                    } else {
                        if bracket == b'{' {
                            self.key()?;
                        }
                        continue;
                    }
                }
                Some(b'-' | b'0'..=b'9') => {
                    let number = self.scanner.number_range()?;
                    self.out.extend_from_slice(self.scanner.text(number));
                }
                _ => {
                    let literal = self.scanner.literal_range()?;
                    self.out.extend_from_slice(self.scanner.text(literal));
                }
            }
            // Behind a value.
            loop {
                let Some(open) = self.open.last() else {
                    return Ok(self.scanner.clone().end()?);
                };
                let is_object = open.is_object;
                if is_object {
                    self.end_member(&is_left_out);
                }
                self.scanner.skip_space();
                match self.scanner.peek() {
                    Some(b',') => {
                        self.scanner.step();
                        self.scanner.skip_space();
                        self.separate();
                        if is_object {
                            self.key()?;
                        }
                        break;
                    }
                    Some(b'}') if is_object => self.close()?,
                    Some(b']') if !is_object => self.close()?,
                    _ => return Err(CanonicalError::Syntax),
                }
            }
        }
    }

    fn string(&mut self) -> Result<(), CanonicalError> {
        let inside = self.scanner.string()?;
        let as_written = self.scanner.text(inside.start - 1..inside.end + 1);
        let inside = self.scanner.text(inside);
        let plain = match inside.contains(&b'\\') {
            true => unescape(inside),
            false => None,
        };
        // A lone surrogate has no other form than its escape.
        match plain.and_then(|plain| serde_json::to_string(&plain).ok()) {
            Some(quoted) => self.out.extend_from_slice(quoted.as_bytes()),
            None => self.out.extend_from_slice(as_written),
        }
        Ok(())
    }

    /// Writes a key and its colon, and begins a member.
    fn key(&mut self) -> Result<(), CanonicalError> {
        let start = self.out.len();
        if self.scanner.peek() != Some(b'"') {
            return Err(CanonicalError::Syntax);
        }
        self.string()?;
        let key = start..self.out.len();
        self.scanner.skip_space();
        if self.scanner.peek() != Some(b':') {
            return Err(CanonicalError::Syntax);
        }
        self.scanner.step();
        self.scanner.skip_space();
        self.out.push(b':');
        self.members.push(Member {
            key,
            end: self.out.len(),
        });
        Ok(())
    }

    /// Ends the member written last, or takes it back.
    fn end_member(&mut self, is_left_out: &impl Fn(&[u8]) -> bool) {
        let is_outermost = self.open.len() == 1;
        let Some(member) = self.members.last_mut() else {
            return;
        };
        // A member that has closed already has an inner one behind it.
        let key = &self.out[member.key.clone()];
        let key = key.get(1..key.len().saturating_sub(1)).unwrap_or_default();
        if is_outermost && is_left_out(key) {
            self.out.truncate(member.key.start);
            self.members.pop();
        } else {
            member.end = self.out.len();
        }
    }

    /// Writes a comma, unless nothing stands before it.
    fn separate(&mut self) {
        let is_first = self
            .open
            .last()
            .is_none_or(|open| open.start == self.out.len());
        if !is_first && self.out.last() != Some(&b',') {
            self.out.push(b',');
        }
    }

    /// Closes what was opened last, its members in order.
    fn close(&mut self) -> Result<(), CanonicalError> {
        let Some(open) = self.open.pop() else {
            return Err(CanonicalError::Syntax);
        };
        self.scanner.step();
        if !open.is_object {
            self.out.push(b']');
            return Ok(());
        }
        let members = &mut self.members[open.first..];
        let out = &*self.out;
        let in_order = |pair: &[Member]| out[pair[0].key.clone()] < out[pair[1].key.clone()];
        let is_in_order = members.windows(2).all(in_order);
        if !is_in_order {
            members.sort_by(|a, b| out[a.key.clone()].cmp(&out[b.key.clone()]));
            if !members.windows(2).all(in_order) {
                return Err(CanonicalError::DuplicateKey);
            }
            self.scratch.clear();
            for member in &*members {
                if !self.scratch.is_empty() {
                    self.scratch.push(b',');
                }
                let whole = member.key.start..member.end;
                self.scratch.extend_from_slice(&self.out[whole]);
            }
            self.out.truncate(open.start);
            self.out.extend_from_slice(&self.scratch);
        } else if let Some(last) = members.last() {
            // A comma may stand behind it, before a member that was taken back.
            self.out.truncate(last.end);
        }
        self.out.push(b'}');
        self.members.truncate(open.first);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<String, CanonicalError> {
        let mut out = Vec::new();
        canonical(text.as_bytes(), |key| key == b"user", &mut out)?;
        Ok(String::from_utf8(out).unwrap())
    }

    #[test]
    fn order_space_and_escapes_do_not_matter() {
        let one = r#"{"b":[1,{"y":2,"x":"\u0041\n"}],"a":null,"c":{}}"#;
        let other =
            "{ \"a\" : null,\r\n\"\\u0063\":{ },\t\"b\":[ 1 , {\"x\":\"A\\u000a\", \"y\":2} ] }";
        assert_eq!(of(one).unwrap(), of(other).unwrap());
        assert_eq!(
            of(one).unwrap(),
            r#"{"a":null,"b":[1,{"x":"A\n","y":2}],"c":{}}"#
        );
    }

    #[test]
    fn what_is_left_out_is_left_out_outermost_and_wherever_it_stands() {
        for text in [
            r#"{"user":"a","a":1,"b":{"user":"x"}}"#,
            r#"{"a":1,"user":[1,{"z":1}],"b":{"user":"x"}}"#,
            r#"{"b":{"user":"x"},"a":1,"user":{}}"#,
        ] {
            assert_eq!(of(text).unwrap(), r#"{"a":1,"b":{"user":"x"}}"#, "{text}");
        }
        assert_eq!(of(r#"{"user":"a"}"#).unwrap(), "{}");
    }

    #[test]
    fn numbers_stay_as_they_are_spelled() {
        let spellings = [
            "1",
            "1.0",
            "1e0",
            "10e-1",
            "9007199254740993",
            "9007199254740992",
        ];
        let forms = spellings.map(|number| of(&format!(r#"{{"seed":{number}}}"#)).unwrap());
        for (index, form) in forms.iter().enumerate() {
            assert!(!forms[index + 1..].contains(form), "{form}");
        }
    }

    #[test]
    fn a_key_that_stands_twice_is_told() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":{"x":1,"y":2,"\u0078":3}}"#,
            r#"{"a":[{"x":1,"x":1}]}"#,
        ] {
            assert_eq!(of(text), Err(CanonicalError::DuplicateKey), "{text}");
        }
    }

    #[test]
    fn lone_surrogates_stay_what_they_are() {
        assert_eq!(
            of(r#"{"a":"\ud800"}"#).unwrap(),
            r#"{"a":"\ud800"}"#,
            "they are no characters"
        );
    }

    #[test]
    fn depth_costs_no_stack() {
        let depth = 200_000;
        let text = format!("{{\"a\":{}{}}}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(of(&text).unwrap(), text);
    }

    mod properties {
        use proptest::prelude::*;
        use serde_json::{Map, Value};

        use super::*;

        fn json() -> impl Strategy<Value = Value> {
            let leaf = prop_oneof![
                Just(Value::Null),
                any::<bool>().prop_map(Value::from),
                any::<i64>().prop_map(Value::from),
                "[ -~\\n\"\\\\äé☃]{0,8}".prop_map(Value::from),
            ];
            leaf.prop_recursive(4, 64, 6, |inner| {
                prop_oneof![
                    prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                    prop::collection::btree_map("[a-zü\"]{0,4}", inner, 0..6)
                        .prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>())),
                ]
            })
        }

        fn object() -> impl Strategy<Value = Value> {
            prop::collection::btree_map("[a-z\"]{0,4}", json(), 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect::<Map<_, _>>()))
        }

        /// The same value with its members in the reverse order, much space, and needless escapes.
        fn otherwise(value: &Value, out: &mut String) {
            let text = |text: &str| {
                let escaped: String = text
                    .encode_utf16()
                    .map(|unit| format!("\\u{unit:04X}"))
                    .collect();
                format!("\"{escaped}\"")
            };
            match value {
                Value::String(string) => out.push_str(&text(string)),
                Value::Array(elements) => {
                    out.push_str("[ ");
                    for (index, element) in elements.iter().enumerate() {
                        out.push_str(if index > 0 { " , " } else { "" });
                        otherwise(element, out);
                    }
                    out.push_str("\n]");
                }
                Value::Object(members) => {
                    out.push_str("{\t");
                    for (index, (key, value)) in members.iter().rev().enumerate() {
                        out.push_str(if index > 0 { " , " } else { "" });
                        out.push_str(&text(key));
                        out.push_str(" : ");
                        otherwise(value, out);
                    }
                    out.push_str(" }");
                }
                other => out.push_str(&other.to_string()),
            }
        }

        fn form(text: &str) -> Vec<u8> {
            let mut out = Vec::new();
            canonical(text.as_bytes(), |_| false, &mut out).unwrap();
            out
        }

        proptest! {
            #[test]
            fn one_value_has_one_form(value in object()) {
                let mut text = String::new();
                otherwise(&value, &mut text);
                let form = form(&text);
                prop_assert_eq!(&form, &super::of(&value.to_string()).unwrap().into_bytes());
                // And it says the same.
                prop_assert_eq!(serde_json::from_slice::<Value>(&form).unwrap(), value);
            }

            #[test]
            fn two_values_have_two_forms(one in object(), other in object()) {
                let is_one = one == other;
                prop_assert_eq!(form(&one.to_string()) == form(&other.to_string()), is_one);
            }

            #[test]
            fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
                let _ = canonical(&bytes, |_| false, &mut Vec::new());
            }
        }
    }
}
