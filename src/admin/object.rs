//! Objects of JSON in which no member stands twice: of two, nobody could say which was meant.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// What a member that stands twice is reported with; the rest is its name.
const TWICE: &str = "given twice: ";

/// Why a text is no such object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ObjectError {
    /// It is no JSON.
    Syntax { line: usize, column: usize },
    /// It is JSON of another kind.
    NoObject,
    /// A member stands there twice.
    Twice(String),
}

/// Reads an object.
pub(super) fn parse(text: &[u8]) -> Result<Map<String, Value>, ObjectError> {
    match serde_json::from_slice(text) {
        Ok(Unique(Value::Object(fields))) => Ok(fields),
        Ok(_) => Err(ObjectError::NoObject),
        Err(error) => {
            let message = error.to_string();
            let twice = message.strip_prefix(TWICE).filter(|_| error.is_data());
            Err(match twice {
                Some(name) => {
                    let name = name.rsplit_once(" at line ").map_or(name, |(name, _)| name);
                    ObjectError::Twice(name.to_owned())
                }
                None => ObjectError::Syntax {
                    line: error.line(),
                    column: error.column(),
                },
            })
        }
    }
}

/// A value in which no member stands twice, at whatever depth.
struct Unique(Value);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Build).map(Self)
    }
}

struct Build;

impl<'de> Visitor<'de> for Build {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Value, A::Error> {
        let mut values = Vec::new();
        while let Some(Unique(value)) = list.next_element()? {
            values.push(value);
        }
        Ok(values.into())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut fields = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if fields.contains_key(&name) {
                let name: String = name.chars().filter(|c| !c.is_control()).take(64).collect();
                return Err(A::Error::custom(format!("{TWICE}{name}")));
            }
            let Unique(value) = members.next_value()?;
            fields.insert(name, value);
        }
        Ok(fields.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn whole_objects_are_read_as_they_are() {
        let text = r#"{"a": [1, -2, 1.5, null, true, "x"], "b": {"a": {}}}"#;
        let expected: Value = serde_json::from_str(text).unwrap();
        assert_eq!(parse(text.as_bytes()).map(Value::Object), Ok(expected));
    }

    #[test]
    fn a_member_that_stands_twice_is_named() {
        for (text, name) in [
            (r#"{"name": "a", "name": "a"}"#, "name"),
            (r#"{"n\u0061me": 1, "name": 2}"#, "name"),
            (r#"{"budgets": [{"per": "day", "per": "month"}]}"#, "per"),
        ] {
            assert_eq!(parse(text.as_bytes()), Err(ObjectError::Twice(name.into())));
        }
        assert_eq!(parse(b"[1]"), Err(ObjectError::NoObject));
        let broken = ObjectError::Syntax { line: 1, column: 1 };
        assert_eq!(parse(b"{"), Err(broken));
        assert_eq!(json!({}), Value::Object(parse(b"{}").unwrap()));
    }
}
