//! What a call that passes through says of its model, as far as that can be known before the call goes on.
//!
//! A body is looked at where it is JSON, small, and its length is announced: then it is held for as long as it takes to
//! come, and goes on unchanged. Any other body may name whatever it likes, and is read by nobody here.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, Uri, header};
use http_body_util::{BodyExt, Full};
use percent_encoding::percent_decode_str;

use super::ApiError;
use crate::call::{Caller, UploadBody};
use crate::openai::json;

/// The most bytes of a body that are looked at.
pub(super) const LOOKED_AT: u64 = 256 << 10;

/// The parameters of a query that say which model is meant: OpenAI's, and Azure's.
const PARAMETERS: [&str; 2] = ["model", "deployment"];

/// What there is beside the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beside<'a> {
    /// Nothing: what the call uses, its head says.
    Nothing,
    /// A connection that is switched to another protocol: what is said on it is not read.
    Tunnel,
    /// A body that is not looked at.
    Unread,
    /// A body that was.
    Json(&'a [u8]),
}

/// Returns whether a body of a length is to be looked at.
pub(super) fn is_looked_at(headers: &HeaderMap, length: Option<u64>) -> bool {
    let kind = headers.get(header::CONTENT_TYPE);
    let kind = kind.map_or(&b""[..], |kind| kind.as_bytes());
    let essence = kind.split(|byte| *byte == b';').next().unwrap_or_default();
    essence
        .trim_ascii()
        .eq_ignore_ascii_case(b"application/json")
        && length.is_some_and(|length| length <= LOOKED_AT)
        && headers
            .get(header::CONTENT_ENCODING)
            .is_none_or(|coding| coding == "identity")
}

/// Returns the model that a call names, and judges it: every name that it gives must be the caller's to use, and a
/// caller who may not use them all must give one wherever one can be meant.
///
/// # Errors
/// [`ApiError::ModelNotAllowed`], [`ApiError::ModelUnknown`].
pub(super) fn model(
    caller: &Caller,
    uri: &Uri,
    beside: Beside<'_>,
    max_json_depth: usize,
) -> Result<Option<Arc<str>>, ApiError> {
    let in_head = in_head(uri);
    let in_body = match beside {
        Beside::Json(bytes) => in_body(bytes, max_json_depth),
        Beside::Nothing | Beside::Tunnel | Beside::Unread => None,
    };
    for name in in_head.iter().chain(&in_body) {
        if !caller.may_use(name) {
            return Err(ApiError::ModelNotAllowed {
                model: name.clone().into_owned(),
            });
        }
    }
    // A body could say otherwise than the head, and it is the body's word that counts upstream.
    let is_known = match beside {
        Beside::Nothing => true,
        Beside::Tunnel => !in_head.is_empty(),
        Beside::Unread | Beside::Json(_) => in_body.is_some(),
    };
    if !is_known && !caller.may_use_all() {
        return Err(ApiError::ModelUnknown);
    }
    let named = in_body.or_else(|| in_head.into_iter().next());
    Ok(named.map(|name| Arc::from(&*name)))
}

/// Returns each model that path and query name.
fn in_head(uri: &Uri) -> Vec<Cow<'_, str>> {
    let in_path = uri.path().strip_prefix("/v1/models/").map(decode);
    let pairs = uri.query().unwrap_or_default().split(['&', ';']);
    let in_query = pairs.filter_map(|pair| {
        let (name, value) = pair.split_once('=')?;
        let name = decode(name);
        let names_it = PARAMETERS
            .iter()
            .any(|parameter| name.eq_ignore_ascii_case(parameter));
        names_it.then(|| decode(value))
    });
    in_path.into_iter().chain(in_query).collect()
}

fn in_body(bytes: &[u8], max_json_depth: usize) -> Option<Cow<'_, str>> {
    let members = json::inspect(bytes, max_json_depth).ok()?;
    members.model(bytes).ok()?
}

fn decode(text: &str) -> Cow<'_, str> {
    match text.contains('+') {
        true => {
            let text = text.replace('+', " ");
            Cow::Owned(percent_decode_str(&text).decode_utf8_lossy().into_owned())
        }
        false => percent_decode_str(text).decode_utf8_lossy(),
    }
}

/// Wraps a body that was looked at, to go on as it came.
pub(super) fn replay(bytes: Bytes) -> UploadBody {
    Box::pin(Full::new(bytes).map_err(|never| match never {}))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pattern::Pattern;

    fn caller(models: &[&str]) -> Caller {
        let models = models.iter().map(|model| Pattern::parse(model).unwrap());
        Caller {
            models: vec![models.collect()],
            ..Caller::configured("alice")
        }
    }

    fn judged(models: &[&str], uri: &str, beside: Beside<'_>) -> String {
        match model(&caller(models), &uri.parse().unwrap(), beside, 8) {
            Ok(model) => model.map_or_else(|| "-".to_owned(), |model| model.to_string()),
            Err(ApiError::ModelNotAllowed { model }) => format!("not {model}"),
            Err(ApiError::ModelUnknown) => "unknown".to_owned(),
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn the_head_tells_the_model_of_a_tunnel() {
        let judged = |uri| judged(&["gpt-*"], uri, Beside::Tunnel);
        for (uri, verdict) in [
            ("/v1/realtime?model=gpt-realtime", "gpt-realtime"),
            ("/v1/realtime?x=1&%6dodel=gpt%2Drealtime", "gpt-realtime"),
            ("/v1/realtime?model=o3", "not o3"),
            ("/v1/realtime?model=gpt-4&model=o3", "not o3"),
            ("/v1/realtime?model=gpt-4;Model=o3", "not o3"),
            ("/v1/realtime?model=gpt-4&deployment=o3", "not o3"),
            ("/v1/realtime?intent=transcription", "unknown"),
            ("/v1/realtime", "unknown"),
        ] {
            assert_eq!(judged(uri), verdict, "{uri}");
        }
    }

    #[test]
    fn a_body_has_the_last_word_where_it_is_read_and_leaves_none_where_it_is_not() {
        for (uri, beside, verdict) in [
            (
                "/v1/x",
                Beside::Json(br#"{"model":"gpt-image"}"#),
                "gpt-image",
            ),
            (
                "/v1/x",
                Beside::Json(br#"{"mod\u0065l":"dall-e"}"#),
                "not dall-e",
            ),
            (
                "/v1/x?model=o3",
                Beside::Json(br#"{"model":"gpt-4"}"#),
                "not o3",
            ),
            (
                "/v1/x?model=gpt-4",
                Beside::Json(br#"{"model":"o3"}"#),
                "not o3",
            ),
            (
                "/v1/x?model=gpt-4",
                Beside::Json(br#"{"input":"a"}"#),
                "unknown",
            ),
            (
                "/v1/x?model=gpt-4",
                Beside::Json(br#"[{"model":"o3"}]"#),
                "unknown",
            ),
            (
                "/v1/x",
                Beside::Json(br#"{"model":"gpt-4","model":"o3"}"#),
                "unknown",
            ),
            (
                "/v1/x",
                Beside::Json(br#"{"model":"gpt-4","MODEL":"o3"}"#),
                "unknown",
            ),
            ("/v1/x?model=gpt-4", Beside::Unread, "unknown"),
            ("/v1/files", Beside::Nothing, "-"),
            ("/v1/models/o3%2Fmine", Beside::Nothing, "not o3/mine"),
        ] {
            assert_eq!(judged(&["gpt-*"], uri, beside), verdict, "{uri} {beside:?}");
        }
    }

    #[test]
    fn who_may_use_all_models_is_asked_for_none() {
        for beside in [Beside::Unread, Beside::Tunnel, Beside::Json(b"no JSON")] {
            assert_eq!(judged(&["gpt-*", "*"], "/v1/x", beside), "-");
        }
        assert_eq!(
            judged(&["*"], "/v1/x", Beside::Json(br#"{"model":"whisper-1"}"#)),
            "whisper-1"
        );
    }

    #[test]
    fn only_small_json_of_a_known_length_is_looked_at() {
        let headers = |kind: &'static str, coding: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            if let Some(coding) = coding {
                headers.insert(header::CONTENT_ENCODING, coding.parse().unwrap());
            }
            headers
        };
        let json = headers("Application/JSON; charset=utf-8", None);
        assert!(is_looked_at(&json, Some(LOOKED_AT)));
        assert!(!is_looked_at(&json, Some(LOOKED_AT + 1)));
        assert!(!is_looked_at(&json, None));
        let gzip = headers("application/json", Some("gzip"));
        assert!(!is_looked_at(&gzip, Some(1)));
        assert!(!is_looked_at(
            &headers("multipart/form-data; boundary=x", None),
            Some(1)
        ));
    }
}
