//! The members of a request, each checked where it is used. Unknown ones are ignored, null counts as absent.

use serde_json::{Map, Value};

use crate::upstream::UpstreamError;

/// A request's members.
pub(super) struct Fields(Map<String, Value>);

/// Builds the error for a member of the wrong type.
pub(super) fn invalid_type(param: &'static str, wanted: &str) -> UpstreamError {
    UpstreamError::BadRequest {
        message: format!("Invalid type for '{param}': it must be {wanted}."),
        param: Some(param),
        code: "invalid_type",
    }
}

/// Builds the error for a member that has the right type and a value that will not do.
pub(super) fn invalid_value(param: &'static str, wanted: impl std::fmt::Display) -> UpstreamError {
    UpstreamError::BadRequest {
        message: format!("Invalid value for '{param}': {wanted}."),
        param: Some(param),
        code: "invalid_value",
    }
}

/// Builds the error for something that this model cannot do.
pub(super) fn unsupported(param: &'static str, why: &str) -> UpstreamError {
    UpstreamError::BadRequest {
        message: format!("'{param}' is not supported: {why}."),
        param: Some(param),
        code: "unsupported_parameter",
    }
}

impl Fields {
    pub(super) fn parse(body: &[u8]) -> Result<Self, UpstreamError> {
        let fields = serde_json::from_slice(body).map_err(|error| UpstreamError::BadRequest {
            message: format!("The request body is not a JSON object that can be read: {error}."),
            param: None,
            code: "invalid_json",
        })?;
        Ok(Self(fields))
    }

    /// Returns a member that is there.
    pub(super) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    /// Takes a member out.
    pub(super) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.remove(name).filter(|value| !value.is_null())
    }

    pub(super) fn bool(&self, name: &'static str) -> Result<bool, UpstreamError> {
        match self.get(name) {
            None => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(_) => Err(invalid_type(name, "a boolean")),
        }
    }

    pub(super) fn number(
        &self,
        name: &'static str,
        range: std::ops::RangeInclusive<f64>,
    ) -> Result<Option<f32>, UpstreamError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let number = value
            .as_f64()
            .ok_or_else(|| invalid_type(name, "a number"))?;
        if !range.contains(&number) {
            let wanted = format!("it must be from {} to {}", range.start(), range.end());
            return Err(invalid_value(name, wanted));
        }
        Ok(Some(number as f32))
    }

    pub(super) fn integer(
        &self,
        name: &'static str,
        range: std::ops::RangeInclusive<i64>,
    ) -> Result<Option<i64>, UpstreamError> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        // Some clients write whole numbers with a fraction of zero.
        let whole = |n: f64| (n.fract() == 0.0 && n.abs() < 9e15).then_some(n as i64);
        let number = value
            .as_i64()
            .or_else(|| value.as_f64().filter(|_| !value.is_u64()).and_then(whole));
        let number = match number {
            Some(number) => number,
            // Beyond what 64 bits with a sign can hold: an integer, and out of every range.
            None if value.is_u64() => i64::MAX,
            None => return Err(invalid_type(name, "an integer")),
        };
        if !range.contains(&number) {
            let wanted = match *range.end() {
                i64::MAX => format!("it must be at least {}", range.start()),
                end => format!("it must be from {} to {end}", range.start()),
            };
            return Err(invalid_value(name, wanted));
        }
        Ok(Some(number))
    }
}
