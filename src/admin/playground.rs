//! `/admin/v1/playground/…`: a call of the data plane, made by the console.
//!
//! The console is a page of the admin listener, and no page of another origin may read the data plane. So its calls come
//! here, under the admin token, and go through the whole stack of the data plane like anybody's: on the gateway key that
//! they bring in a header of their own, with its models, limits and budgets, one row in the ledger, streamed, and
//! cancelled when the page leaves. The admin token, and whatever else a browser says of itself, ends here.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, header,
};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Either, Full};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tower::util::BoxCloneSyncService;
use tower::{BoxError, Service, ServiceExt};

use super::answer::{Answer, error, not_allowed, not_found};
use crate::server::Drain;

/// Where its paths begin; what follows is a path under `/v1`.
pub(super) const PREFIX: &str = "/admin/v1/playground/";

/// Carries the gateway key that a call is made on. `Authorization` is the admin token's here.
const KEY: HeaderName = HeaderName::from_static("x-weir-key");

/// What of a request goes on. A browser adds the page's address, its own name and its wish for no cache: none of them is
/// the user's.
const PASSED_ON: [HeaderName; 5] = [
    header::HOST,
    header::ACCEPT,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::TRANSFER_ENCODING,
];

/// What of an answer comes back, beside `x-weir-…` and `x-ratelimit-…`. Upstreams have no say over the origin that holds
/// the admin token.
const PASSED_BACK: [HeaderName; 8] = [
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::RETRY_AFTER,
    HeaderName::from_static("cache-status"),
    HeaderName::from_static("retry-after-ms"),
    HeaderName::from_static("server-timing"),
    HeaderName::from_static("x-request-id"),
    HeaderName::from_static("x-should-retry"),
];

/// The data plane's service, whatever it is made of.
pub type DataPlane<B> = BoxCloneSyncService<Request<B>, Response<DataBody>, Infallible>;

/// The body of its answers.
pub type DataBody = UnsyncBoxBody<Bytes, BoxError>;

/// The body of the admin plane's answers.
pub type AdminBody = Either<Full<Bytes>, Streamed>;

/// Takes the data plane's service for the admin plane to call.
pub fn data_plane<B, S, R>(service: S) -> DataPlane<B>
where
    S: Service<Request<B>, Response = Response<R>, Error = Infallible>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send + 'static,
    R: Body<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
    B: 'static,
{
    let boxed =
        |response: Response<R>| response.map(|body| body.map_err(Into::into).boxed_unsync());
    BoxCloneSyncService::new(service.map_response(boxed))
}

/// An answer of the data plane. A stop waits for its end.
pub struct Streamed {
    inner: DataBody,
    _under_way: TaskTrackerToken,
}

/// Makes the call that a request under [`PREFIX`] asks for.
pub(super) async fn answer<B>(
    data: &DataPlane<B>,
    drain: &Drain,
    request: Request<B>,
) -> Response<AdminBody> {
    let Some((path, method)) = target(request.uri().path()) else {
        return not_found().map(Either::Left);
    };
    if let Some(answer) = refuse(drain, request.method(), method) {
        return answer.map(Either::Left);
    }
    let (mut head, body) = request.into_parts();
    head.uri = Uri::from_static(path);
    head.headers = passed_on(&head.headers);
    let under_way = drain.tasks().token();
    let request = Request::from_parts(head, body);
    let Ok(response): Result<_, Infallible> = data.clone().oneshot(request).await;
    let (mut head, inner) = response.into_parts();
    head.headers = passed_back(&head.headers);
    let streamed = Streamed {
        inner,
        _under_way: under_way,
    };
    Response::from_parts(head, Either::Right(streamed))
}

/// Returns the path of the data plane that is meant, and its method.
fn target(path: &str) -> Option<(&'static str, &'static str)> {
    match path.strip_prefix(PREFIX)? {
        "models" => Some(("/v1/models", "GET")),
        "chat/completions" => Some(("/v1/chat/completions", "POST")),
        "completions" => Some(("/v1/completions", "POST")),
        _ => None,
    }
}

fn refuse(drain: &Drain, asked: &Method, allowed: &'static str) -> Option<Answer> {
    if asked.as_str() != allowed {
        return Some(not_allowed(allowed));
    }
    let stopping = || {
        error(
            StatusCode::SERVICE_UNAVAILABLE,
            "shutting_down",
            "Weir is shutting down.",
        )
    };
    drain.has_begun().then(stopping)
}

fn passed_on(headers: &HeaderMap) -> HeaderMap {
    let mut passed = HeaderMap::new();
    for name in PASSED_ON {
        for value in headers.get_all(&name) {
            passed.append(name.clone(), value.clone());
        }
    }
    // Without a key the data plane says what is missing. What came as a header can go on as one.
    let bearer = headers
        .get(KEY)
        .map(|key| [b"Bearer ", key.as_bytes()].concat());
    if let Some(Ok(mut bearer)) = bearer.map(|bearer| HeaderValue::from_bytes(&bearer)) {
        bearer.set_sensitive(true);
        passed.insert(header::AUTHORIZATION, bearer);
    }
    passed
}

fn passed_back(headers: &HeaderMap) -> HeaderMap {
    let comes_back = |name: &HeaderName| {
        let own = ["x-weir-", "x-ratelimit-"];
        PASSED_BACK.contains(name) || own.iter().any(|own| name.as_str().starts_with(own))
    };
    let mut passed: HeaderMap = headers
        .iter()
        .filter(|(name, _)| comes_back(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    passed.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    passed.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    passed
}

impl Body for Streamed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tower::service_fn;

    use super::*;

    /// A data plane that remembers what it was asked, and answers as an upstream with a mind of its own would.
    fn data(seen: &Arc<Mutex<Vec<http::request::Parts>>>) -> DataPlane<()> {
        let seen = Arc::clone(seen);
        data_plane(service_fn(move |request: Request<()>| {
            seen.lock().unwrap().push(request.into_parts().0);
            let response = Response::builder()
                .header("content-type", "text/event-stream")
                .header("clear-site-data", "\"*\"")
                .header("x-weir-upstream", "far")
                .body(Full::<Bytes>::from("data: 1\n\n"));
            std::future::ready(Ok(response.unwrap()))
        }))
    }

    #[tokio::test]
    async fn a_call_carries_its_key_and_nothing_of_the_browsers() {
        let seen = Arc::default();
        let request = Request::post("/admin/v1/playground/chat/completions?x=1")
            .header("host", "weir:8081")
            .header("authorization", "Bearer the-admin-token")
            .header("x-weir-key", "wk-mine")
            .header("content-type", "application/json")
            .header("origin", "http://weir:8081")
            .header("cookie", "a=b")
            .header("cache-control", "no-cache")
            .body(());
        let drain = Drain::default();
        let response = answer(&data(&seen), &drain, request.unwrap()).await;
        let asked = seen.lock().unwrap().remove(0);
        assert_eq!(
            (&asked.method, asked.uri.to_string()),
            (&Method::POST, "/v1/chat/completions".into())
        );
        let mut names: Vec<_> = asked.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["authorization", "content-type", "host"]);
        assert_eq!(asked.headers["authorization"], "Bearer wk-mine");
        let headers = response.headers();
        assert_eq!(headers.get("clear-site-data"), None);
        assert_eq!(
            (&headers["x-weir-upstream"], &headers["content-type"]),
            (
                &HeaderValue::from_static("far"),
                &HeaderValue::from_static("text/event-stream")
            )
        );
        assert!(!drain.tasks().is_empty(), "a stop would not wait for it");
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            "data: 1\n\n"
        );
        assert!(drain.tasks().is_empty());
    }

    #[tokio::test]
    async fn only_what_the_console_asks_for_is_there_and_only_until_a_stop() {
        let (seen, drain) = (Arc::default(), Drain::default());
        let ask = |method: Method, path: &str| {
            let request = Request::builder()
                .method(method)
                .uri(format!("{PREFIX}{path}"));
            let (data, drain) = (data(&seen), drain.clone());
            async move {
                answer(&data, &drain, request.body(()).unwrap())
                    .await
                    .status()
            }
        };
        assert_eq!(ask(Method::GET, "models").await, 200);
        for path in ["", "files", "../models", "models/x", "chat%2Fcompletions"] {
            assert_eq!(ask(Method::POST, path).await, 404, "{path}");
        }
        assert_eq!(ask(Method::GET, "completions").await, 405);
        drain.began().cancel();
        assert_eq!(ask(Method::GET, "models").await, 503);
        assert_eq!(seen.lock().unwrap().len(), 1);
    }
}
