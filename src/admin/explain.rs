//! `POST /admin/v1/explain`: what would become of a call.
//!
//! The body that a client would send stays as it was written, byte for byte: what is wrong with it is for the explanation
//! to say. Everything else must be right here.

use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version, header};
use http_body::Body;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::answer::{Answer, Problem, json};
use super::{Params, body};
use crate::secret::Secret;

/// A prompt of some length, and what is said about it.
const MAX_BODY: usize = 4 << 20;
/// What most clients ask for.
const USUAL_PATH: &str = "/v1/chat/completions";
const FIELDS: [&str; 5] = ["key", "method", "path", "headers", "body"];
/// The headers that carry keys; the one that is meant stands in `key`.
const KEY_HEADERS: [HeaderName; 3] = [
    header::AUTHORIZATION,
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-api-key"),
];

/// A call that is not made.
#[derive(Debug)]
pub struct Question {
    /// The name of a key, its id, or the key itself.
    pub key: Secret,
    /// The request as a client would send it, but for its key.
    pub request: Request<Bytes>,
}

pub(super) async fn answer<B>(
    params: &Params,
    headers: &HeaderMap,
    body: B,
) -> Result<Answer, Problem>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let whole = body::read_whole(MAX_BODY, headers, body).await?;
    let outlook = params.control.explain(read(&whole)?).await;
    Ok(json(StatusCode::OK, &outlook))
}

/// The members of an object in their order, those given twice too, and each as it was written.
struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct InOrder;

        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    if members.len() >= MOST_MEMBERS {
                        return Err(A::Error::custom("too many members"));
                    }
                    members.push(member);
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(InOrder)
    }
}

/// The most members of an object here: more headers than that no client sends.
const MOST_MEMBERS: usize = 256;

fn read(bytes: &[u8]) -> Result<Question, Problem> {
    let Members(members) = serde_json::from_slice(bytes).map_err(|error| body::no_json(&error))?;
    let mut fields: [Option<Box<RawValue>>; FIELDS.len()] = Default::default();
    for (name, value) in members {
        let place = FIELDS.iter().position(|field| *field == name);
        let field = place.and_then(|place| fields.get_mut(place));
        let Some(field) = field else {
            let known = FIELDS.join("`, `");
            let message = format!("is not known here; the fields are `{known}`");
            return Err(Problem::invalid(&shown(&name), &message));
        };
        if field.replace(value).is_some() {
            return Err(Problem::invalid(&name, "stands there twice"));
        }
    }
    // What is null is not there.
    let fields = fields.map(|field| field.filter(|value| value.get() != "null"));
    let [key, method, path, headers, body] = fields;
    let key = key.ok_or_else(|| Problem::invalid("key", "is missing"))?;
    let key = Secret::new(text("key", &key)?);
    let body = body.map(|body| object(&body)).transpose()?;
    let method = match method {
        Some(method) => text("method", &method)?
            .parse()
            .map_err(|_| Problem::invalid("method", "is no method of HTTP"))?,
        None if body.is_some() => Method::POST,
        None => Method::GET,
    };
    let path = path.map(|path| text("path", &path)).transpose()?;
    let mut request = Request::new(body.unwrap_or_default());
    *request.method_mut() = method;
    *request.uri_mut() = uri(path.as_deref().unwrap_or(USUAL_PATH))?;
    // Of what only HTTP/1.1 must have, nothing is asked.
    *request.version_mut() = Version::HTTP_2;
    if let Some(fields) = headers {
        *request.headers_mut() = header_map(&fields)?;
    }
    Ok(Question { key, request })
}

fn text(field: &str, value: &RawValue) -> Result<String, Problem> {
    serde_json::from_str(value.get()).map_err(|_| Problem::invalid(field, "must be a text"))
}

fn object(value: &RawValue) -> Result<Bytes, Problem> {
    let text = value.get();
    match text.starts_with('{') {
        true => Ok(Bytes::copy_from_slice(text.as_bytes())),
        false => Err(Problem::invalid("body", "must be an object")),
    }
}

fn uri(path: &str) -> Result<http::Uri, Problem> {
    let uri = Some(path).filter(|path| path.starts_with('/'));
    let uri = uri.and_then(|path| path.parse().ok());
    uri.ok_or_else(|| Problem::invalid("path", "is no path; write such as /v1/chat/completions"))
}

fn header_map(value: &RawValue) -> Result<HeaderMap, Problem> {
    let Members(fields) = serde_json::from_str(value.get())
        .map_err(|_| Problem::invalid("headers", "must be an object of texts"))?;
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        let param = format!("headers.{}", shown(&name));
        let name: HeaderName = name
            .parse()
            .map_err(|_| Problem::invalid(&param, "is no name of a header"))?;
        if KEY_HEADERS.contains(&name) {
            return Err(Problem::invalid(&param, "carries a key; name it in `key`"));
        }
        let value = HeaderValue::try_from(text(&param, &value)?)
            .map_err(|_| Problem::invalid(&param, "holds what no header can carry"))?;
        if headers.insert(name, value).is_some() {
            return Err(Problem::invalid(&param, "stands there twice"));
        }
    }
    Ok(headers)
}

/// A name is the caller's; the start of it is enough to know it by.
fn shown(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).take(64).collect()
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::Value;

    use super::*;

    #[test]
    fn a_request_is_read_and_its_body_stays_as_it_was_written() {
        let text = r#"{"key": "alice", "body": { "model":"a",  "model":"b", "n": 1.0e0 }, "headers": {"X-Session": "7"}}"#;
        let Question { key, request } = read(text.as_bytes()).unwrap();
        assert_eq!(key.expose(), "alice");
        assert_eq!(request.method(), Method::POST);
        assert_eq!(request.uri(), USUAL_PATH);
        assert_eq!(request.headers()["x-session"], "7");
        let body = r#"{ "model":"a",  "model":"b", "n": 1.0e0 }"#;
        assert_eq!(request.body(), body);
        let shown = format!("{:?}", read(text.as_bytes()).unwrap().key);
        assert!(!shown.contains("alice"), "{shown}");
    }

    #[test]
    fn without_a_body_it_is_a_get_unless_it_says_otherwise() {
        let request = |text: &str| read(text.as_bytes()).unwrap().request;
        let listing = request(r#"{"key":"a","path":"/v1/models?x=1","body":null}"#);
        assert_eq!(listing.method(), Method::GET);
        assert_eq!(listing.uri(), "/v1/models?x=1");
        assert!(listing.body().is_empty());
        let deletion = request(r#"{"key":"a","path":"/v1/files/f","method":"DELETE"}"#);
        assert_eq!(deletion.method(), Method::DELETE);
    }

    #[tokio::test]
    async fn what_is_wrong_is_named() {
        let deep = format!(r#"{{"key":"a","body":[{}]}}"#, "[".repeat(9));
        for (text, param, said) in [
            (r#"{}"#, "key", "is missing"),
            (r#"{"key":null}"#, "key", "is missing"),
            (r#"{"key":7}"#, "key", "must be a text"),
            (r#"{"key":"a","key":"b"}"#, "key", "stands there twice"),
            (
                r#"{"key":"a","kee\u0007y":1}"#,
                "keey",
                "is not known here; the fields are `key`, `method`",
            ),
            (r#"{"key":"a","path":"v1/chat"}"#, "path", "is no path"),
            (r#"{"key":"a","path":"/v1 x"}"#, "path", "is no path"),
            (r#"{"key":"a","path":["/v1"]}"#, "path", "must be a text"),
            (r#"{"key":"a","method":"GE T"}"#, "method", "is no method"),
            (r#"{"key":"a","body":"{}"}"#, "body", "must be an object"),
            (r#"{"key":"a","body":[]}"#, "body", "must be an object"),
            (
                r#"{"key":"a","headers":[]}"#,
                "headers",
                "must be an object",
            ),
            (
                r#"{"key":"a","headers":{"a b":"c"}}"#,
                "headers.a b",
                "is no name",
            ),
            (
                r#"{"key":"a","headers":{"a":1}}"#,
                "headers.a",
                "must be a text",
            ),
            (
                r#"{"key":"a","headers":{"a":"\n"}}"#,
                "headers.a",
                "no header can carry",
            ),
            (
                r#"{"key":"a","headers":{"a":"1","A":"2"}}"#,
                "headers.A",
                "stands there twice",
            ),
            (
                r#"{"key":"a","headers":{"api-key":"secret"}}"#,
                "headers.api-key",
                "name it in `key`",
            ),
        ] {
            let answer = Answer::from(read(text.as_bytes()).unwrap_err());
            assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["error"]["param"], param, "{text}");
            let message = body["error"]["message"].as_str().unwrap();
            assert!(message.contains(said), "{text}: {message}");
            assert!(!message.contains("secret"), "{message}");
        }
        for text in ["", "[]", "7", r#"{"key":"a","#, r#"{"key":"a"} x"#, &deep] {
            let answer = Answer::from(read(text.as_bytes()).unwrap_err());
            let body = answer.into_body().collect().await.unwrap().to_bytes();
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body["error"]["code"], "invalid_json", "{text}");
        }
    }
}
