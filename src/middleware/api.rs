//! The hinge between HTTP and the stack's own types: an authenticated request becomes a [`Call`], a [`Reply`] becomes a
//! response.
//!
//! Bodies of understood endpoints are read whole, within bounds of size, depth and time, and inspected; bodies of all
//! other paths become streams that break when they stall or grow too large; what such a call says of its model is judged
//! as far as it can be known (`named`). Headers that belong to the hop, or that could carry a secret of the client's, end
//! here.

mod named;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use tokio::time::{Instant, Sleep, timeout_at};
use tower::{Layer, Service, ServiceExt};

use self::named::Beside;
use crate::call::headers::keep_end_to_end;
use crate::call::{
    Authenticated, Call, CallBody, Head, Join, Record, Reply, ReplyBody, Upload, UploadBody,
    UploadError, written_name,
};
use crate::openai::endpoint::Endpoint;
use crate::openai::json::{self, JsonError};

/// The bounds of request bodies.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// Bytes of a JSON body, held in memory.
    pub max_body: u64,
    /// Bytes of a pass-through body, streamed.
    pub max_upload: u64,
    /// Levels of nesting in a JSON body.
    pub max_json_depth: usize,
    /// The longest pause between two pieces of a body.
    pub body_idle_timeout: Duration,
    /// The time for a whole JSON body.
    pub body_timeout: Duration,
}

/// Why a request body is not taken.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// It is not what an understood endpoint needs.
    #[error(transparent)]
    Json(#[from] JsonError),
    /// It names no model.
    #[error("no model")]
    ModelMissing,
    /// The caller's allow-lists do not have the model.
    #[error("model not allowed")]
    ModelNotAllowed {
        /// The model.
        model: String,
    },
    /// The caller may use some models only, and the call passes through without telling its own where that can be read.
    #[error("model not known")]
    ModelUnknown,
    /// It is compressed.
    #[error("compressed body")]
    Encoded,
    /// It broke, stalled or grew too large.
    #[error(transparent)]
    Upload(#[from] UploadError),
    /// It took too long.
    #[error("not whole within {limit:?}")]
    Overdue {
        /// The bound.
        limit: Duration,
    },
}

/// Builds [`Api`].
#[derive(Clone, Copy, Debug)]
pub struct ApiLayer {
    params: Params,
}

/// The service of this layer.
#[derive(Clone, Debug)]
pub struct Api<S> {
    inner: S,
    params: Params,
}

impl ApiLayer {
    /// Holds bodies to `params`.
    pub fn new(params: Params) -> Self {
        Self { params }
    }
}

impl<S> Layer<S> for ApiLayer {
    type Service = Api<S>;

    fn layer(&self, inner: S) -> Api<S> {
        Api {
            inner,
            params: self.params,
        }
    }
}

impl<S, B> Service<Authenticated<B>> for Api<S>
where
    S: Service<Call, Response = Reply> + Clone + Send + 'static,
    S::Error: From<ApiError> + Send,
    S::Future: Send,
    B: Body<Data = Bytes> + Unpin + Send + 'static,
{
    type Response = Response<ReplyBody>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Authenticated<B>) -> Self::Future {
        let params = self.params;
        let clone = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, clone);
        Box::pin(async move {
            let call = read(request, params).await?;
            let record = Arc::clone(&call.record);
            let reply = inner.ready().await?.call(call).await?;
            let noted = Arc::clone(&record);
            let reply = reply.on_end(move |outcome| noted.facts().outcome = Some(outcome));
            Ok(response(reply, &record))
        })
    }
}

/// Turns a request into a call: reads a body that is to be understood, and inspects it.
///
/// # Errors
/// [`ApiError`]
pub async fn read<B>(request: Authenticated<B>, params: Params) -> Result<Call, ApiError>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
{
    let Authenticated {
        caller,
        record,
        target,
        mut parts,
        body,
    } = request;
    let endpoint = target.endpoint;
    let upgrade = take_upgrade(&mut parts);
    let model: Option<Arc<str>>;
    let mut stream = false;
    let body = if endpoint.is_generation() {
        let began = Instant::now();
        let bytes = read_json_body(&parts.headers, body, params).await?;
        let upload_time = began.elapsed();
        let members = json::inspect(&bytes, params.max_json_depth)?;
        let in_body = members.model(&bytes)?;
        let name = target
            .engine
            .as_deref()
            .or(in_body.as_deref())
            .ok_or(ApiError::ModelMissing)?;
        record.facts().model = Some(written_name(name).into());
        if !caller.may_use(name) {
            return Err(ApiError::ModelNotAllowed {
                model: name.to_owned(),
            });
        }
        model = Some(name.into());
        stream = members.stream(&bytes)?;
        {
            let mut facts = record.facts();
            facts.stream = stream;
            facts.received = bytes.len() as u64;
            facts.upload_time = Some(upload_time);
        }
        CallBody::Json { bytes, members }
    } else {
        let judge = |beside: Beside<'_>| match endpoint {
            Endpoint::PassThrough => {
                named::model(&caller, &parts.uri, beside, params.max_json_depth)
            }
            _ => Ok(None),
        };
        let (body, named) =
            pass_through(&parts.headers, body, upgrade.is_some(), params, judge).await?;
        model = named;
        body
    };
    let deadline = patience(&parts.headers).and_then(|patience| {
        let received = Instant::from_std(record.received);
        received.checked_add(patience)
    });
    let target = parts
        .uri
        .path_and_query()
        .cloned()
        .unwrap_or_else(|| http::uri::PathAndQuery::from_static("/"));
    keep_end_to_end(&mut parts.headers, &NOT_FORWARDED);
    let head = Head {
        method: parts.method,
        target,
        headers: parts.headers,
    };
    Ok(Call {
        caller,
        endpoint,
        model,
        stream,
        report_usage: false,
        upstream: None,
        estimate: None,
        room: None,
        looked: None,
        deadline,
        head,
        body,
        upgrade,
        record,
    })
}

/// Takes a body that passes through, and what it says of its model, which is for `judge` to find.
async fn pass_through<B>(
    headers: &HeaderMap,
    body: B,
    is_tunnel: bool,
    params: Params,
    judge: impl Fn(Beside<'_>) -> Result<Option<Arc<str>>, ApiError>,
) -> Result<(CallBody, Option<Arc<str>>), ApiError>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
{
    if body.is_end_stream() {
        let beside = match is_tunnel {
            true => Beside::Tunnel,
            false => Beside::Nothing,
        };
        return Ok((CallBody::Empty, judge(beside)?));
    }
    let length = body.size_hint().exact();
    if length.is_some_and(|length| length > params.max_upload) {
        return Err(UploadError::TooLarge {
            limit: params.max_upload,
        }
        .into());
    }
    let (body, model) = if named::is_looked_at(headers, length) {
        let bytes = read_json_body(headers, body, params).await?;
        let model = judge(Beside::Json(&bytes))?;
        (named::replay(bytes), model)
    } else {
        let model = judge(Beside::Unread)?;
        (Bounded::new(body, params).boxed(), model)
    };
    let body = Upload::new(body);
    Ok((CallBody::Stream { body, length }, model))
}

async fn read_json_body<B>(
    headers: &HeaderMap,
    mut body: B,
    params: Params,
) -> Result<Bytes, ApiError>
where
    B: Body<Data = Bytes> + Unpin,
{
    if headers
        .get(header::CONTENT_ENCODING)
        .is_some_and(|coding| coding != "identity")
    {
        return Err(ApiError::Encoded);
    }
    let too_large = UploadError::TooLarge {
        limit: params.max_body,
    };
    let announced = body.size_hint().exact();
    if announced.is_some_and(|length| length > params.max_body) {
        return Err(too_large.into());
    }
    let overdue = Instant::now() + params.body_timeout;
    let mut whole = Join::new(params.max_body);
    loop {
        let idle = Instant::now() + params.body_idle_timeout;
        let frame = match timeout_at(idle.min(overdue), body.frame()).await {
            Ok(None) => return Ok(whole.finish()),
            Ok(Some(frame)) => frame.map_err(|_| UploadError::Broken)?,
            Err(_) if idle < overdue => {
                return Err(UploadError::Stalled {
                    limit: params.body_idle_timeout,
                }
                .into());
            }
            Err(_) => {
                return Err(ApiError::Overdue {
                    limit: params.body_timeout,
                });
            }
        };
        whole
            .push(frame.into_data().unwrap_or_default())
            .map_err(|_| too_large)?;
    }
}

const STAINLESS_TIMEOUT: HeaderName = HeaderName::from_static("x-stainless-timeout");
const REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("request-timeout");

/// Returns how long the client will wait for its answer to begin, where it says so: whole or broken seconds, or with a unit.
fn patience(headers: &HeaderMap) -> Option<Duration> {
    let names = [STAINLESS_TIMEOUT, REQUEST_TIMEOUT];
    let values = names.iter().filter_map(|name| headers.get(name));
    let times = values.filter_map(|value| {
        let text = value.to_str().ok()?.trim();
        let (number, unit) = match text.strip_suffix("ms") {
            Some(number) => (number, 1e-3),
            None => (text.strip_suffix('s').unwrap_or(text), 1.0),
        };
        let seconds: f64 = number.trim_end().parse().ok()?;
        // No time at all is a way of saying that there is no bound.
        let time = Duration::try_from_secs_f64(seconds * unit).ok()?;
        (!time.is_zero()).then_some(time)
    });
    times.min()
}

/// Keeps hold of the connection when the client asks for a WebSocket (RFC 6455, section 4.2.1).
fn take_upgrade(parts: &mut Parts) -> Option<OnUpgrade> {
    let websocket = parts
        .headers
        .get(header::UPGRADE)
        .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if parts.method == Method::GET && websocket {
        parts.extensions.remove::<OnUpgrade>()
    } else {
        None
    }
}

/// What a client says of itself to the gateway alone.
static NOT_FORWARDED: [HeaderName; 7] = [
    header::HOST,
    header::EXPECT,
    header::COOKIE,
    header::FORWARDED,
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-proto"),
];

fn response(reply: Reply, record: &Record) -> Response<ReplyBody> {
    let Reply {
        status,
        headers,
        body,
    } = reply;
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    let facts = record.facts();
    let status = facts.cache_status.clone();
    let bypass = || HeaderValue::from_static("weir; fwd=bypass");
    let status = status.or_else(|| facts.upstream.is_some().then(bypass));
    drop(facts);
    if let Some(status) = status {
        let headers = response.headers_mut();
        headers.insert(HeaderName::from_static("cache-status"), status);
    }
    response
}

/// A pass-through body, guarded.
struct Bounded<B> {
    inner: B,
    left: u64,
    params: Params,
    /// Runs while nothing comes.
    idle: Option<Pin<Box<Sleep>>>,
    waiting: bool,
}

impl<B> Bounded<B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
{
    fn new(inner: B, params: Params) -> Self {
        Self {
            inner,
            left: params.max_upload,
            params,
            idle: None,
            waiting: false,
        }
    }

    fn boxed(self) -> UploadBody {
        Box::pin(self)
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<UploadError> {
        let limit = self.params.body_idle_timeout;
        let idle = self
            .idle
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if !self.waiting {
            idle.as_mut().reset(Instant::now() + limit);
            self.waiting = true;
        }
        idle.as_mut()
            .poll(cx)
            .map(|()| UploadError::Stalled { limit })
    }
}

impl<B> Body for Bounded<B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
{
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let this = &mut *self;
        let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => return Poll::Ready(Some(Err(ready!(this.poll_idle(cx))))),
        };
        this.waiting = false;
        Poll::Ready(match frame {
            None => None,
            Some(Err(_)) => Some(Err(UploadError::Broken)),
            Some(Ok(frame)) => {
                let size = frame.data_ref().map_or(0, |data| data.len() as u64);
                match this.left.checked_sub(size) {
                    None => Some(Err(UploadError::TooLarge {
                        limit: this.params.max_upload,
                    })),
                    Some(left) => {
                        this.left = left;
                        Some(Ok(frame))
                    }
                }
            }
        })
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
    use http_body_util::{Full, StreamBody};

    use super::*;

    const PARAMS: Params = Params {
        max_body: 16,
        max_upload: 16,
        max_json_depth: 8,
        body_idle_timeout: Duration::from_secs(10),
        body_timeout: Duration::from_secs(30),
    };

    fn pieces(
        pieces: Vec<(u64, &'static str)>,
    ) -> impl Body<Data = Bytes, Error = std::convert::Infallible> + Unpin + Send + 'static {
        let stream = futures_util::stream::unfold(pieces.into_iter(), |mut pieces| async move {
            let (secs, text) = pieces.next()?;
            tokio::time::sleep(Duration::from_secs(secs)).await;
            Some((Ok(Frame::data(Bytes::from_static(text.as_bytes()))), pieces))
        });
        StreamBody::new(Box::pin(stream))
    }

    #[tokio::test]
    async fn a_body_in_one_piece_is_not_copied() {
        let bytes = Bytes::from_static(b"{\"a\":1}");
        let read = read_json_body(&HeaderMap::new(), Full::new(bytes.clone()), PARAMS)
            .await
            .unwrap();
        assert_eq!(read.as_ptr(), bytes.as_ptr());
    }

    #[tokio::test(start_paused = true)]
    async fn pieces_are_joined() {
        let body = pieces(vec![(1, "{\"a\""), (1, ":"), (9, "1}")]);
        assert_eq!(
            read_json_body(&HeaderMap::new(), body, PARAMS)
                .await
                .unwrap(),
            "{\"a\":1}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn slow_bodies_run_out_of_time() {
        let stalled =
            read_json_body(&HeaderMap::new(), pieces(vec![(1, "{"), (11, "}")]), PARAMS).await;
        assert!(matches!(
            stalled,
            Err(ApiError::Upload(UploadError::Stalled { .. }))
        ));
        let dripping = pieces(vec![(9, "{"), (9, " "), (9, " "), (9, "}")]);
        assert!(matches!(
            read_json_body(&HeaderMap::new(), dripping, PARAMS).await,
            Err(ApiError::Overdue { .. })
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn large_bodies_are_refused_announced_or_not() {
        let announced = Full::new(Bytes::from_static(b"12345678901234567"));
        let too_large = |result| {
            matches!(
                result,
                Err(ApiError::Upload(UploadError::TooLarge { limit: 16 }))
            )
        };
        assert!(too_large(
            read_json_body(&HeaderMap::new(), announced, PARAMS).await
        ));
        let unannounced = pieces(vec![(0, "123456789"), (0, "123456789")]);
        assert!(too_large(
            read_json_body(&HeaderMap::new(), unannounced, PARAMS).await
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn uploads_break_when_they_stall_or_grow() {
        let stalled = Bounded::new(pieces(vec![(1, "a"), (11, "b")]), PARAMS)
            .collect()
            .await;
        assert_eq!(
            stalled.unwrap_err(),
            UploadError::Stalled {
                limit: PARAMS.body_idle_timeout
            }
        );
        let large = Bounded::new(pieces(vec![(9, "123456789"), (9, "123456789")]), PARAMS)
            .collect()
            .await;
        assert_eq!(large.unwrap_err(), UploadError::TooLarge { limit: 16 });
    }
}
