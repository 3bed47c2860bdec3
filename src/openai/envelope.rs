//! The error body of the OpenAI API.

use bytes::Bytes;
use serde::Serialize;

/// The inside of `{"error": …}`.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorBody<'a> {
    /// What happened, for the person who reads it.
    pub message: &'a str,
    /// The family of the error, such as `invalid_request_error`.
    #[serde(rename = "type")]
    pub kind: &'a str,
    /// The field at fault.
    pub param: Option<&'a str>,
    /// The error's code, such as `model_not_found`.
    pub code: &'a str,
}

#[derive(Serialize)]
struct Envelope<'a> {
    error: &'a ErrorBody<'a>,
}

impl ErrorBody<'_> {
    /// Returns the whole JSON body.
    pub fn to_json(&self) -> Bytes {
        // Strings and options of strings always serialize.
        serde_json::to_vec(&Envelope { error: self })
            .unwrap_or_default()
            .into()
    }

    /// Returns the error as the last event of a stream; no `[DONE]` follows it.
    pub fn to_event(&self) -> Bytes {
        let mut event = Vec::with_capacity(256);
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(&self.to_json());
        event.extend_from_slice(b"\n\n");
        event.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_there() {
        let body = ErrorBody {
            message: "no \"such\" model",
            kind: "invalid_request_error",
            param: None,
            code: "model_not_found",
        };
        assert_eq!(
            body.to_json(),
            r#"{"error":{"message":"no \"such\" model","type":"invalid_request_error","param":null,"code":"model_not_found"}}"#
        );
        assert!(body.to_event().starts_with(b"data: {\"error\""));
        assert!(body.to_event().ends_with(b"}}\n\n"));
    }
}
