//! The paths under `/admin/v1`, and who answers each.

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request};
use http_body::Body;
use percent_encoding::percent_decode_str;
use serde_json::{Map, Value};

use super::answer::{Answer, Problem, not_allowed, not_found};
use super::{Params, audit, body, cache, explain, keys, reload, requests, teams, usage};

/// Answers a call that may be made.
pub(super) async fn answer<B>(params: &Params, request: Request<B>) -> Answer
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let answered = route(params, request).await;
    answered.unwrap_or_else(Answer::from)
}

async fn route<B>(params: &Params, request: Request<B>) -> Result<Answer, Problem>
where
    B: Body<Data = Bytes>,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let directory = &params.directory;
    let (
        Parts {
            method,
            uri,
            headers,
            ..
        },
        body,
    ) = request.into_parts();
    let Some(segments) = segments(uri.path()) else {
        return Ok(not_found());
    };
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let reader = || params.directory.ledger().reader();
    match (segments.as_slice(), &method) {
        (["keys"], &Method::GET) => Ok(keys::all(directory)),
        (["keys"], &Method::POST) => {
            keys::create(directory, body::read(&headers, body).await?).await
        }
        (["keys"], _) => Ok(not_allowed("GET, POST")),
        (["keys", key], &Method::GET) => keys::one(directory, key),
        (["keys", key], &Method::PATCH) => {
            keys::edit(directory, key, body::read(&headers, body).await?).await
        }
        (["keys", key], &Method::DELETE) => keys::revoke(directory, key).await,
        (["keys", _], _) => Ok(not_allowed("GET, PATCH, DELETE")),
        (["keys", key, "rotate"], &Method::POST) => {
            keys::rotate(directory, key, body::read_if_any(&headers, body).await?).await
        }
        (["teams"], &Method::GET) => Ok(teams::all(directory)),
        (["teams"], &Method::POST) => {
            teams::create(directory, body::read(&headers, body).await?).await
        }
        (["teams"], _) => Ok(not_allowed("GET, POST")),
        (["teams", team], &Method::GET) => teams::one(directory, team),
        (["teams", team], &Method::PATCH) => {
            teams::edit(directory, team, body::read(&headers, body).await?).await
        }
        (["teams", team], &Method::DELETE) => teams::delete(directory, team).await,
        (["teams", _], _) => Ok(not_allowed("GET, PATCH, DELETE")),
        (["cache"], &Method::GET) => Ok(cache::state(params)),
        (["cache"], &Method::DELETE) => cache::purge(params, uri.query()).await,
        (["cache"], _) => Ok(not_allowed("GET, DELETE")),
        (["usage"], &Method::GET) => usage::answer(&reader(), uri.query()).await,
        (["audit"], &Method::GET) => audit::answer(&reader(), uri.query()).await,
        (["requests"], &Method::GET) => requests::answer(&reader(), uri.query()).await,
        (["usage" | "audit" | "requests"], _) => Ok(not_allowed("GET")),
        (["reload"], &Method::POST) => Ok(reload(params).await),
        (["explain"], &Method::POST) => explain::answer(params, &headers, body).await,
        (["reload" | "explain"] | ["keys", _, "rotate"], _) => Ok(not_allowed("POST")),
        _ => Ok(not_found()),
    }
}

/// Has the configuration read anew, and notes that it was asked for.
async fn reload(params: &Params) -> Answer {
    let outcome = params.control.reload().await;
    let mut detail = Map::new();
    detail.insert("reloaded".into(), Value::from(outcome.is_ok()));
    if let Err(error) = params.directory.note("config.reload", detail).await {
        tracing::error!(%error, "a reload cannot be noted in the audit");
    }
    reload::answer(&outcome)
}

/// Splits the path before it decodes the names in it: a slash in a name is no slash of the path.
fn segments(path: &str) -> Option<Vec<String>> {
    let rest = path.strip_prefix(super::PREFIX)?;
    let decoded = rest.split('/').map(|segment| {
        let segment = percent_decode_str(segment).decode_utf8().ok()?;
        (!segment.is_empty()).then(|| segment.into_owned())
    });
    decoded.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_decoded_in_their_segment() {
        let split = |path: &str| segments(path);
        assert_eq!(
            split("/admin/v1/keys/a%2Fb%20%27%3B--/rotate"),
            Some(vec!["keys".into(), "a/b ';--".into(), "rotate".into()])
        );
        assert_eq!(
            split("/admin/v1/keys/..%2Fx"),
            Some(vec!["keys".into(), "../x".into()])
        );
        for path in [
            "/admin/v1/keys/",
            "/admin/v1//keys",
            "/admin/v1/keys/%ff",
            "/admin/v2/keys",
        ] {
            assert_eq!(split(path), None, "{path}");
        }
    }
}
