//! Calls on their way through routes of scripted upstreams, in paused time.

mod credentials;
mod deadlines;
mod ejection;
mod fallback;
mod hedging;
mod preview;
mod replay;
mod retries;
mod sharing;

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};

use super::*;
use crate::call::{
    BoxBody, CallBody, Caller, Head, Record, RequestId, StreamError, Upload, UploadError,
};
use crate::openai::endpoint::Endpoint as Path;
use crate::openai::json;
use crate::openai::models::Model;
use crate::pattern::Pattern;
use crate::upstream::advice::Advice;
use crate::upstream::member::health::{self, Health};
use crate::upstream::member::{Credentials, Endpoint, Gate, Load, RetryBudget};
use crate::upstream::{Attempt, Credential, Phase, Timeouts, Upstream, UpstreamFuture};

const SECOND: Duration = Duration::from_secs(1);

/// What an upstream does with a call.
#[derive(Clone)]
enum Does {
    Answer,
    Status(u16),
    StatusWith(u16, &'static str, &'static str),
    Refuse,
    /// What the local model says of what it cannot do.
    CannotDo,
    /// An answer of this status with an error of this code.
    Told(u16, &'static str),
    Break,
    /// No connection comes about.
    Unreached,
    /// The same, for all that is said, though the body was taken.
    Swallow,
    Hang,
    After(Duration),
    Stream(&'static [&'static str]),
    Cut(&'static [&'static str]),
    /// The head of a stream, and nothing behind it.
    Silence,
}

use Does::{
    After, Answer, Break, CannotDo, Cut, Hang, Refuse, Silence, Status, StatusWith, Stream,
    Swallow, Told, Unreached,
};

/// An upstream that does what it is told, the last thing again and again.
struct Scripted {
    does: Mutex<VecDeque<Does>>,
    seen: Mutex<Vec<Seen>>,
}

struct Seen {
    at: Instant,
    model: Option<String>,
    credential: Option<HeaderValue>,
    deadline: Instant,
    overdue: Instant,
}

impl Scripted {
    fn new(does: &[Does]) -> Arc<Self> {
        Arc::new(Self {
            does: Mutex::new(does.iter().cloned().collect()),
            seen: Mutex::default(),
        })
    }

    fn now_does(&self, does: Does) {
        *self.does.lock().unwrap() = [does].into();
    }

    fn calls(&self) -> usize {
        self.seen.lock().unwrap().len()
    }

    fn credentials(&self) -> Vec<HeaderValue> {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter_map(|s| s.credential.clone()).collect()
    }
}

fn advised(status: u16, name: &'static str, value: &'static str) -> Result<Reply, UpstreamError> {
    let status = StatusCode::from_u16(status).unwrap();
    let headers = HeaderMap::from_iter([(
        HeaderName::from_static(name),
        HeaderValue::from_static(value),
    )]);
    if matches!(status.as_u16(), 409 | 429) {
        return Ok(Reply::full(status, headers, Bytes::from_static(b"{}")));
    }
    let advice = Advice::read(&headers, std::time::SystemTime::UNIX_EPOCH);
    Err(UpstreamError::Status { status, advice })
}

fn answer() -> Reply {
    Reply::full(StatusCode::OK, HeaderMap::new(), Bytes::from_static(b"{}"))
}

impl Upstream for Scripted {
    fn call(&self, attempt: Attempt) -> UpstreamFuture<Reply> {
        self.seen.lock().unwrap().push(Seen {
            at: Instant::now(),
            model: attempt.model.as_deref().map(str::to_owned),
            credential: attempt.credential.map(|credential| credential.value),
            deadline: attempt.deadline,
            overdue: attempt.overdue,
        });
        let mut does = self.does.lock().unwrap();
        let next = match does.len() {
            1 => does[0].clone(),
            _ => does.pop_front().unwrap(),
        };
        let is_cut = matches!(next, Cut(_));
        let (deadline, limit) = (attempt.deadline, attempt.timeouts.total);
        Box::pin(async move {
            match next {
                Answer => Ok(answer()),
                Status(status) => advised(status, "x-nothing", ""),
                StatusWith(status, name, value) => advised(status, name, value),
                Refuse => Err(UpstreamError::Refused(StatusCode::UNAUTHORIZED)),
                CannotDo => Err(UpstreamError::BadRequest {
                    message: "no tools".into(),
                    param: Some("tools"),
                    code: "unsupported_parameter",
                }),
                Told(status, code) => {
                    let status = StatusCode::from_u16(status).unwrap();
                    let body = format!("{{\"error\":{{\"code\":\"{code}\"}}}}");
                    Ok(Reply::full(status, HeaderMap::new(), body.into()))
                }
                Break => Err(UpstreamError::Broken(Box::new(StreamError::Broken))),
                Unreached => Err(UpstreamError::Connect(Box::new(StreamError::Broken))),
                Swallow => {
                    if let CallBody::Stream { body, .. } = attempt.call.body {
                        drop(body.take());
                    }
                    Err(UpstreamError::Connect(Box::new(StreamError::Broken)))
                }
                Hang => {
                    tokio::time::sleep_until(deadline).await;
                    Err(UpstreamError::Timeout {
                        phase: Phase::Total,
                        limit,
                    })
                }
                After(time) => {
                    tokio::time::sleep(time).await;
                    Ok(answer())
                }
                Stream(events) | Cut(events) => {
                    let frames = events.iter().map(|event| {
                        Ok(http_body::Frame::data(Bytes::from_static(event.as_bytes())))
                    });
                    let end = is_cut.then_some(Err(StreamError::Broken));
                    let frames: Vec<_> = frames.chain(end).collect();
                    let body: BoxBody =
                        Box::pin(StreamBody::new(futures_util::stream::iter(frames)));
                    Ok(Reply::events(StatusCode::OK, HeaderMap::new(), body))
                }
                Silence => {
                    let body: BoxBody = Box::pin(StreamBody::new(futures_util::stream::pending()));
                    Ok(Reply::events(StatusCode::OK, HeaderMap::new(), body))
                }
            }
        })
    }

    fn models(&self, _: Option<Credential>) -> UpstreamFuture<Vec<Model>> {
        let is_dead = matches!(self.does.lock().unwrap().front(), Some(Break));
        Box::pin(async move {
            match is_dead {
                true => Err(UpstreamError::Connect(Box::new(StreamError::Broken))),
                false => Ok(vec![Model::new("listed", "somebody")]),
            }
        })
    }

    fn probe(&self, _: &str, _: Option<Credential>) -> UpstreamFuture<()> {
        Box::pin(async { Ok(()) })
    }

    fn is_ready(&self) -> bool {
        true
    }
}

/// An upstream in the making.
struct Setup {
    name: &'static str,
    at: Vec<Arc<Scripted>>,
    keys: Vec<&'static str>,
    gate: Option<Arc<Gate>>,
    budget: f64,
    floor: usize,
    local: bool,
}

fn upstream(name: &'static str, at: &[&Arc<Scripted>]) -> Setup {
    Setup {
        name,
        at: at.iter().map(|at| Arc::clone(at)).collect(),
        keys: Vec::new(),
        gate: None,
        budget: 1.0,
        floor: 1,
        local: false,
    }
}

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new().unwrap())
}

impl Setup {
    fn build(self) -> Arc<Member> {
        let endpoint = |(index, service): (usize, Arc<Scripted>)| {
            Arc::new(Endpoint {
                upstream: self.name.into(),
                label: index.to_string().into(),
                service,
                health: Arc::new(Health::new(health::Params {
                    failures: 5,
                    share: 1.0,
                    min_requests: 20,
                    window: 60 * SECOND,
                    base: 5 * SECOND,
                    max: 300 * SECOND,
                })),
                load: Arc::new(Load::default()),
                metrics: metrics(),
            })
        };
        let credential = |key: &'static str| Credential {
            name: header::AUTHORIZATION,
            value: HeaderValue::from_static(key),
        };
        Arc::new(Member {
            identity: 0,
            name: self.name.into(),
            models: vec![Pattern::any()],
            paths: Vec::new(),
            local: self.local,
            endpoints: self.at.into_iter().enumerate().map(endpoint).collect(),
            credentials: Credentials::new(self.keys.into_iter().map(credential).collect()),
            gate: self.gate,
            budget: Arc::new(RetryBudget::new(self.budget)),
            timeouts: Timeouts {
                first_byte: 60 * SECOND,
                first_content: 60 * SECOND,
                idle: 60 * SECOND,
                total: 600 * SECOND,
            },
            floor: self.floor,
            checks: None,
        })
    }
}

const RETRY: Retry = Retry {
    attempts: 2,
    base: Duration::from_millis(500),
    max: Duration::from_secs(8),
    max_retry_after: Duration::from_secs(30),
    hold: Duration::from_millis(100),
};

/// A route with these targets, each of a priority of its own.
fn in_turn(members: Vec<Arc<Member>>) -> Route {
    let targets = members.into_iter().zip(0..);
    let target = |(member, priority): (Arc<Member>, u32)| Target {
        degraded: member.local && priority > 0,
        member,
        model: None,
        priority,
        weight: 1,
    };
    Route {
        model: Pattern::parse("m").unwrap(),
        targets: targets.map(target).collect(),
        balance: Balance::P2c,
        affinity: None,
        retry: RETRY,
        budget: None,
        timeouts: Overrides::default(),
        hedge: None,
    }
}

/// A route with these targets, all alike.
fn side_by_side(members: Vec<Arc<Member>>) -> Route {
    let mut route = in_turn(members);
    for target in &mut route.targets {
        target.priority = 0;
    }
    route
}

fn dispatch(route: Route) -> Dispatch {
    let members = route
        .targets
        .iter()
        .map(|target| Arc::clone(&target.member));
    Dispatch::new(members.collect(), vec![route], RETRY, metrics())
}

fn call_with(body: &'static str, headers: HeaderMap) -> Call {
    let bytes = Bytes::from_static(body.as_bytes());
    let members = json::inspect(&bytes, 16).unwrap();
    Call {
        caller: Arc::new(Caller::configured("k")),
        endpoint: Path::ChatCompletions,
        model: Some("m".into()),
        stream: members.stream(&bytes).unwrap(),
        report_usage: false,
        upstream: None,
        estimate: None,
        room: None,
        looked: None,
        deadline: None,
        head: Head {
            method: Method::POST,
            target: "/v1/chat/completions".parse().unwrap(),
            headers,
        },
        body: CallBody::Json {
            bytes,
            members: Box::new(members),
        },
        upgrade: None,
        record: Arc::new(Record::new(RequestId::fresh(), std::time::Instant::now())),
    }
}

fn call() -> Call {
    call_with(r#"{"model":"m"}"#, HeaderMap::new())
}

fn streamed() -> Call {
    call_with(r#"{"model":"m","stream":true}"#, HeaderMap::new())
}

async fn ask(dispatch: &Dispatch) -> Result<Reply, DispatchError> {
    dispatch.clone().oneshot(call()).await
}

async fn succeeds(dispatch: &Dispatch) -> bool {
    ask(dispatch).await.is_ok_and(|reply| reply.status == 200)
}

fn should_retry(reply: &Reply) -> Option<&HeaderValue> {
    reply.headers.get("x-should-retry")
}

const ERROR: &str = "data: {\"error\":{\"message\":\"overloaded\"}}\n\n";
const WORD: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

fn hurried(time: Duration) -> Call {
    Call {
        deadline: Some(Instant::now() + time),
        ..call()
    }
}

/// An upstream of three endpoints, the budget of its retries, and what happens to it.
fn three(does: [Does; 3]) -> ([Arc<Scripted>; 3], Setup) {
    let at = does.map(|does| Scripted::new(&[does]));
    let refs: Vec<_> = at.iter().collect();
    let setup = upstream("three", &refs);
    (at, setup)
}

fn eject(endpoint: &Endpoint) {
    for _ in 0..5 {
        endpoint.observe(health::Seen::Failed, Instant::now());
    }
}

fn calls_of(at: &[Arc<Scripted>]) -> usize {
    at.iter().map(|at| at.calls()).sum()
}
