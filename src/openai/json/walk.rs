//! Walks over values one level at a time, for those who look at a few members of a deep document. What breaks the
//! grammar ends the walk; that is no error here.

use std::borrow::Cow;

use super::answer::members;
use super::scan::{Scanner, spells};

/// Calls `see` with each member of an object whose key is one of `names`, as the name's place and the raw value. Any
/// other value has no members. Returns whether the whole object was read.
pub fn each_member<'a>(
    object: &'a [u8],
    names: &[&str],
    mut see: impl FnMut(usize, &'a [u8]),
) -> bool {
    every_member(object, |key, value| {
        let place = names.iter().position(|name| spells(key, name));
        if let Some(place) = place {
            see(place, value);
        }
    })
}

/// Calls `see` with each member of an object: what stands between its key's quotes, and the raw value. Any other value has
/// none. Returns whether the whole object was read.
pub fn every_member<'a>(object: &'a [u8], mut see: impl FnMut(&'a [u8], &'a [u8])) -> bool {
    let Some(mut members) = members(object) else {
        return false;
    };
    loop {
        match members.next_member() {
            Ok(Some(member)) => {
                if let (Some(key), Some(value)) = (object.get(member.key), object.get(member.value))
                {
                    see(key, value);
                }
            }
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Calls `see` with each element of an array, raw. Any other value has none. Returns whether the whole array was read.
pub fn each_element<'a>(array: &'a [u8], mut see: impl FnMut(&'a [u8])) -> bool {
    let Ok(mut elements) = Scanner::new(array).array() else {
        return false;
    };
    loop {
        match elements.next_element() {
            Ok(Some(element)) => see(array.get(element).unwrap_or_default()),
            Ok(None) => return true,
            Err(_) => return false,
        }
    }
}

/// Decodes what stands between a string's quotes, and takes everything: of a lone surrogate, of broken escapes and
/// broken UTF-8 a replacement character remains.
pub fn text(raw: &[u8]) -> Cow<'_, str> {
    let mut rest = raw;
    let Some(mut at) = memchr::memchr(b'\\', rest) else {
        return String::from_utf8_lossy(raw);
    };
    let mut text = String::with_capacity(raw.len());
    loop {
        text.push_str(&String::from_utf8_lossy(&rest[..at]));
        rest = &rest[at..];
        if rest.is_empty() {
            return Cow::Owned(text);
        }
        let (decoded, length) = escape(rest);
        text.push(decoded);
        rest = rest.get(length..).unwrap_or_default();
        at = memchr::memchr(b'\\', rest).unwrap_or(rest.len());
    }
}

/// Decodes the escape that begins here, or the pair of escapes. Returns its length too.
fn escape(rest: &[u8]) -> (char, usize) {
    let decoded = match rest.get(1) {
        Some(b'n') => '\n',
        Some(b't') => '\t',
        Some(b'r') => '\r',
        Some(b'b') => '\u{8}',
        Some(b'f') => '\u{c}',
        Some(b'u') => {
            let Some(unit) = code_unit(rest) else {
                return (char::REPLACEMENT_CHARACTER, 2);
            };
            let low = rest.get(6..).and_then(code_unit);
            let pair = low.and_then(|low| char::decode_utf16([unit, low]).next()?.ok());
            return match (char::from_u32(unit.into()), pair) {
                (Some(single), _) => (single, 6),
                (None, Some(pair)) => (pair, 12),
                (None, None) => (char::REPLACEMENT_CHARACTER, 6),
            };
        }
        Some(&other @ (b'"' | b'\\' | b'/')) => char::from(other),
        // The byte behind may be a part of a character: it is left where it is.
        _ => return (char::REPLACEMENT_CHARACTER, 1),
    };
    (decoded, 2)
}

/// Reads `\uXXXX`.
fn code_unit(rest: &[u8]) -> Option<u16> {
    let hex = rest.strip_prefix(b"\\u")?.get(..4)?;
    let is_hex = hex.iter().all(u8::is_ascii_hexdigit);
    let hex = std::str::from_utf8(hex).ok().filter(|_| is_hex)?;
    u16::from_str_radix(hex, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_level_is_walked_and_what_is_deeper_is_handed_out() {
        let mut seen = Vec::new();
        let object = br#"{"a": [1, {"b": 2}], "c": 3, "\u0062": "x"}"#;
        assert!(each_member(object, &["b", "a"], |place, value| {
            seen.push((place, value));
        }));
        assert_eq!(seen, [(1, &br#"[1, {"b": 2}]"#[..]), (0, br#""x""#)]);

        let mut seen = Vec::new();
        assert!(each_element(b"[1, [2], \"\"]", |value| seen.push(value)));
        assert_eq!(seen, [&b"1"[..], b"[2]", b"\"\""]);
        assert!(!each_element(b"[1, 2", |_| {}));
        assert!(!each_element(b"[1 2]", |_| {}));
        assert!(!each_element(b"7", |_| {}));
        assert!(!each_member(b"[]", &[], |_, _| {}));
    }

    #[test]
    fn broken_escapes_leave_a_replacement() {
        for (raw, expected) in [
            (&br"a\n\u00e9\ud83d\ude00"[..], "a\né😀"),
            (br"\ud83d!", "\u{fffd}!"),
            (br"\ude00\ud83d\ude00", "\u{fffd}😀"),
            (br"\ud83d\u0041", "\u{fffd}A"),
            (br"\u12", "\u{fffd}12"),
            (br"\u+123", "\u{fffd}+123"),
            (br"\", "\u{fffd}"),
            (b"\\\xc3\xa9", "\u{fffd}é"),
            (b"\xff", "\u{fffd}"),
        ] {
            assert_eq!(text(raw), expected);
        }
    }

    proptest! {
        #[test]
        fn strings_are_read_back(expected in ".*") {
            let quoted = serde_json::to_string(&expected).unwrap();
            prop_assert_eq!(text(&quoted.as_bytes()[1..quoted.len() - 1]), expected);
        }

        #[test]
        fn nothing_panics(raw in prop::collection::vec(any::<u8>(), 0..40), escapes in r#"(\\[u"nx]|[dD8][89abc]|[0-9]){0,20}"#) {
            text(&raw);
            text(escapes.as_bytes());
            each_element(&raw, |_| {});
            each_member(&raw, &["a"], |_, _| {});
        }
    }
}
