//! The hinge between HTTP and the stack's own types: an authenticated request becomes a [`Call`], a [`Reply`] becomes a
//! response.
//!
//! Bodies of understood endpoints are read whole, within bounds of size, depth and time (`json_body`), and inspected;
//! bodies of all other paths become streams that break when they stall or grow too large (`bounded`); what such a call says
//! of its model is judged as far as it can be known (`named`). Headers that belong to the hop, or that could carry a secret
//! of the client's, end here.

mod bounded;
mod json_body;
mod named;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, header};
use http_body::Body;
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;
use tower::{Layer, Service, ServiceExt};

use self::bounded::Bounded;
use self::named::Beside;
use crate::call::headers::keep_end_to_end;
use crate::call::{
    Authenticated, Call, CallBody, Head, Record, Reply, ReplyBody, Upload, UploadError,
    written_name,
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
        let bytes = json_body::read(&parts.headers, body, params).await?;
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
        CallBody::Json {
            bytes,
            members: Box::new(members),
        }
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
        let bytes = json_body::read(headers, body, params).await?;
        let model = judge(Beside::Json(&bytes))?;
        (named::replay(bytes), model)
    } else {
        let model = judge(Beside::Unread)?;
        (Bounded::new(body, params).boxed(), model)
    };
    let body = Upload::new(body);
    Ok((CallBody::Stream { body, length }, model))
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

#[cfg(test)]
mod scripted;
