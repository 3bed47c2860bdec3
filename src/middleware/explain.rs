//! What a failure means, to whoever is told of it: the vocabulary that the layers and the sum of their errors share.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};

use crate::call::{Cause, Record};
use crate::openai::envelope::ErrorBody;

/// What an error means to the client, to the log and to the metrics.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The status.
    pub status: StatusCode,
    /// The envelope's `type`.
    pub kind: &'static str,
    /// The envelope's `code`.
    pub code: &'static str,
    /// The envelope's `param`.
    pub param: Option<&'static str>,
    /// The envelope's `message`; never internal text.
    pub message: String,
    /// Who is to blame.
    pub cause: Cause,
    /// More for the log.
    pub detail: Option<String>,
    /// Further headers of the response.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Whether the connection cannot be used any more.
    pub close: bool,
}

/// An error that can be shown to a client.
pub trait Explain {
    /// Returns what the error means.
    fn explain(&self) -> Explanation;
}

// === impl Explanation ===

impl Explanation {
    /// Returns the envelope, with the request's id in the message where the fault is not the client's.
    pub fn body(&self, request_id: Option<&str>) -> Bytes {
        self.with_message(request_id, |body| body.to_json())
    }

    /// Returns the envelope as the last event of a stream.
    pub fn event(&self, request_id: Option<&str>) -> Bytes {
        self.with_message(request_id, |body| body.to_event())
    }

    /// Returns the whole response.
    pub fn response(&self, request_id: Option<&str>) -> Response<Bytes> {
        let mut response = Response::new(self.body(request_id));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.extend(self.headers.iter().cloned());
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }

    /// Notes who is to blame, and what the log should know, in the request's record.
    pub fn note(&self, record: Option<&Record>) {
        if let Some(record) = record {
            let mut facts = record.facts();
            facts.cause = Some(self.cause);
            facts.detail = self.detail.clone();
        }
    }

    fn with_message(
        &self,
        request_id: Option<&str>,
        render: impl FnOnce(&ErrorBody<'_>) -> Bytes,
    ) -> Bytes {
        let with_id = request_id.filter(|_| self.status.is_server_error());
        let message = with_id.map(|id| format!("{} (request id {id})", self.message));
        let message = message.as_deref().unwrap_or(&self.message);
        render(&ErrorBody {
            message,
            kind: self.kind,
            param: self.param,
            code: self.code,
        })
    }
}
