//! Attributes of spans, as the protocol writes them.

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};

/// What an attribute can be; nothing is none.
pub(super) trait Told {
    fn told(self) -> Option<Value>;
}

impl Told for &str {
    fn told(self) -> Option<Value> {
        Some(Value::StringValue(self.to_owned()))
    }
}

impl Told for String {
    fn told(self) -> Option<Value> {
        Some(Value::StringValue(self))
    }
}

impl Told for i64 {
    fn told(self) -> Option<Value> {
        Some(Value::IntValue(self))
    }
}

impl Told for f64 {
    fn told(self) -> Option<Value> {
        Some(Value::DoubleValue(self))
    }
}

impl Told for bool {
    fn told(self) -> Option<Value> {
        Some(Value::BoolValue(self))
    }
}

impl<T: Told> Told for Option<T> {
    fn told(self) -> Option<Value> {
        self?.told()
    }
}

/// Adds an attribute, if there is something to tell.
pub(super) fn put(attributes: &mut Vec<KeyValue>, name: &str, value: impl Told) {
    if let Some(value) = value.told() {
        attributes.push(KeyValue {
            key: name.to_owned(),
            value: Some(AnyValue { value: Some(value) }),
            ..KeyValue::default()
        });
    }
}

/// Numbers of the protocol have a sign.
pub(super) fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
