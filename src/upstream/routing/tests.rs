//! Calls on their way through routes of scripted upstreams, in paused time.

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
        caller: Arc::new(Caller {
            key: "k".into(),
            team: None,
            models: Vec::new(),
        }),
        endpoint: Path::ChatCompletions,
        model: Some("m".into()),
        stream: members.stream(&bytes).unwrap(),
        report_usage: false,
        deadline: None,
        head: Head {
            method: Method::POST,
            target: "/v1/chat/completions".parse().unwrap(),
            headers,
        },
        body: CallBody::Json { bytes, members },
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

#[tokio::test(start_paused = true)]
async fn a_failure_is_tried_twice_more_after_growing_pauses() {
    let one = Scripted::new(&[Status(500), Break, Answer]);
    let dispatch = dispatch(in_turn(vec![upstream("one", &[&one]).build()]));
    let began = Instant::now();
    assert!(succeeds(&dispatch).await);
    assert_eq!(one.calls(), 3);
    assert!(began.elapsed() <= SECOND / 2 + SECOND);
}

#[tokio::test(start_paused = true)]
async fn when_the_tries_are_spent_the_client_is_told_not_to_try_itself() {
    let one = Scripted::new(&[Status(503)]);
    let dispatch = dispatch(in_turn(vec![upstream("one", &[&one]).build()]));
    let error = ask(&dispatch).await.err();
    let Some(DispatchError::Upstream { spent, .. }) = error else {
        panic!("{error:?}");
    };
    assert!(spent);
    assert_eq!(one.calls(), 3);
    let limited = Scripted::new(&[Status(429)]);
    let dispatch = self::dispatch(in_turn(vec![upstream("one", &[&limited]).build()]));
    let reply = ask(&dispatch).await.unwrap();
    assert_eq!(reply.status, 429);
    assert_eq!(should_retry(&reply).unwrap(), "false");
    assert_eq!(limited.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_stays_down_is_replaced_by_the_next() {
    let (one, two) = (Scripted::new(&[Status(500)]), Scripted::new(&[Answer]));
    let members = vec![
        upstream("one", &[&one]).build(),
        upstream("two", &[&two]).build(),
    ];
    let dispatch = dispatch(in_turn(members));
    let call = call();
    let record = Arc::clone(&call.record);
    let reply = dispatch.clone().oneshot(call).await.unwrap();
    assert_eq!(reply.status, 200);
    assert_eq!((one.calls(), two.calls()), (3, 1));
    let facts = record.facts();
    assert_eq!(facts.upstream.as_deref(), Some("two"));
    let results: Vec<_> = facts
        .attempts
        .iter()
        .map(|a| (a.result, a.status))
        .collect();
    let failed = ("upstream_status", Some(500));
    assert_eq!(results, [failed, failed, failed, ("answered", Some(200))]);
}

#[tokio::test(start_paused = true)]
async fn without_retries_the_next_target_is_still_asked() {
    let (one, two) = (Scripted::new(&[Break]), Scripted::new(&[Answer]));
    for make in [in_turn, side_by_side] {
        let members = vec![
            upstream("one", &[&one]).build(),
            upstream("two", &[&two]).build(),
        ];
        let mut route = make(members);
        route.retry.attempts = 0;
        let dispatch = dispatch(route);
        let began = Instant::now();
        for _ in 0..4 {
            assert!(succeeds(&dispatch).await);
        }
        assert_eq!(began.elapsed(), Duration::ZERO, "nobody waits");
    }
}

#[tokio::test(start_paused = true)]
async fn retry_after_is_the_least_wait_and_a_long_one_goes_to_the_client() {
    for status in [429, 503] {
        for (name, value, millis) in [
            ("retry-after", "7", 7000),
            ("retry-after", "0.9", 900),
            ("retry-after-ms", "650", 650),
        ] {
            let one = Scripted::new(&[StatusWith(status, name, value), Answer]);
            let dispatch = dispatch(in_turn(vec![upstream("one", &[&one]).build()]));
            let began = Instant::now();
            assert!(succeeds(&dispatch).await);
            // The pause of our own is up to half a second.
            let waited = began.elapsed().as_millis();
            assert!((millis..millis + 10).contains(&waited), "{value}: {waited}");
        }
    }

    let long = Scripted::new(&[StatusWith(429, "retry-after", "31")]);
    let dispatch = dispatch(in_turn(vec![upstream("one", &[&long]).build()]));
    let began = Instant::now();
    let reply = ask(&dispatch).await.unwrap();
    assert_eq!(reply.status, 429);
    assert_eq!(reply.headers["retry-after"], "31");
    assert_eq!(should_retry(&reply), None, "the client may wait");
    assert_eq!((long.calls(), began.elapsed()), (1, Duration::ZERO));
}

#[tokio::test(start_paused = true)]
async fn no_wait_goes_beyond_the_clients_deadline() {
    let one = Scripted::new(&[StatusWith(503, "retry-after", "7")]);
    let dispatch = dispatch(in_turn(vec![upstream("one", &[&one]).build()]));
    let mut hurried = call();
    hurried.deadline = Some(Instant::now() + 5 * SECOND);
    let error = dispatch.clone().oneshot(hurried).await.err();
    assert!(matches!(
        error,
        Some(DispatchError::Upstream { spent: false, .. })
    ));
    assert_eq!(one.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_clients_deadline_is_for_the_beginning_of_an_answer() {
    let one = Scripted::new(&[Answer]);
    let dispatch = dispatch(in_turn(vec![upstream("one", &[&one]).build()]));
    let began = Instant::now();
    let mut hurried = call();
    hurried.deadline = Some(began + 5 * SECOND);
    assert!(dispatch.clone().oneshot(hurried).await.is_ok());
    let seen = one.seen.lock().unwrap();
    let times = (seen[0].deadline - began, seen[0].overdue - began);
    assert_eq!(times, (5 * SECOND, 600 * SECOND));
}

#[tokio::test(start_paused = true)]
async fn a_stream_without_a_word_is_not_held_beyond_the_clients_deadline() {
    let one = Scripted::new(&[Silence]);
    let dispatch = dispatch(in_turn(vec![upstream("one", &[&one]).build()]));
    let began = Instant::now();
    let mut hurried = streamed();
    hurried.deadline = Some(began + 5 * SECOND);
    let error = dispatch.clone().oneshot(hurried).await.err();
    let Some(DispatchError::Upstream { source, .. }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(source.cause(), "client_deadline", "{source}");
    assert_eq!(began.elapsed(), 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn refused_credentials_are_put_aside_and_the_next_is_shown_at_once() {
    let one = Scripted::new(&[Refuse, Answer]);
    let mut setup = upstream("one", &[&one]);
    setup.keys = vec!["a", "b"];
    let dispatch = dispatch(in_turn(vec![setup.build()]));
    let began = Instant::now();
    for _ in 0..3 {
        assert!(succeeds(&dispatch).await);
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(one.credentials(), ["a", "b", "b", "b"]);
}

#[tokio::test(start_paused = true)]
async fn all_refused_is_an_error_that_no_retry_mends() {
    let one = Scripted::new(&[Refuse]);
    let mut setup = upstream("one", &[&one]);
    setup.keys = vec!["a", "b"];
    let dispatch = dispatch(in_turn(vec![setup.build()]));
    let error = ask(&dispatch).await.err();
    assert!(matches!(
        error,
        Some(DispatchError::Upstream {
            source: UpstreamError::Refused(_),
            spent: true,
            ..
        })
    ));
    assert_eq!(one.credentials(), ["a", "b"]);
}

#[tokio::test(start_paused = true)]
async fn a_limited_credential_makes_room_for_the_next() {
    let one = Scripted::new(&[StatusWith(429, "retry-after", "20"), Answer]);
    let mut setup = upstream("one", &[&one]);
    setup.keys = vec!["a", "b"];
    let dispatch = dispatch(in_turn(vec![setup.build()]));
    let began = Instant::now();
    assert!(succeeds(&dispatch).await);
    assert!(succeeds(&dispatch).await);
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(one.credentials(), ["a", "b", "b"]);
    tokio::time::advance(20 * SECOND).await;
    assert!(succeeds(&dispatch).await);
    assert!(succeeds(&dispatch).await);
    assert!(one.credentials()[3..].contains(&HeaderValue::from_static("a")));
}

#[tokio::test(start_paused = true)]
async fn the_budget_keeps_an_outage_from_being_amplified() {
    let one = Scripted::new(&[Status(500)]);
    let mut setup = upstream("one", &[&one]);
    setup.budget = 0.2;
    let mut route = in_turn(vec![setup.build()]);
    // No pauses, so that all of it happens within one window of the budget.
    (route.retry.base, route.retry.max) = (Duration::ZERO, Duration::ZERO);
    let dispatch = dispatch(route);
    for _ in 0..500 {
        assert!(!succeeds(&dispatch).await);
    }
    assert!(one.calls() <= 500 + 100 + 30, "{}", one.calls());
    assert!(one.calls() >= 600);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_fails_is_left_out_and_comes_back_by_one_trial() {
    let (bad, good) = (Scripted::new(&[Break]), Scripted::new(&[Answer]));
    let member = upstream("bad", &[&bad]).build();
    let members = vec![Arc::clone(&member), upstream("good", &[&good]).build()];
    let mut route = side_by_side(members);
    // Latency alone would keep calls away from it.
    route.balance = Balance::Weighted;
    let dispatch = dispatch(route);
    for _ in 0..100 {
        assert!(succeeds(&dispatch).await);
    }
    assert_eq!(bad.calls(), 5);
    assert_eq!(member.snapshot().ejected, 1);
    tokio::time::advance(5 * SECOND).await;
    for _ in 0..10 {
        assert!(succeeds(&dispatch).await);
    }
    assert_eq!(bad.calls(), 6, "one trial, and out for ten seconds");
    bad.now_does(Answer);
    tokio::time::advance(10 * SECOND).await;
    for _ in 0..40 {
        assert!(succeeds(&dispatch).await);
    }
    assert!(bad.calls() > 7);
    assert_eq!(member.snapshot().ejected, 0);
}

#[tokio::test(start_paused = true)]
async fn the_last_one_is_kept_unless_the_floor_is_none() {
    let one = Scripted::new(&[Status(520)]);
    let dispatch_of = |floor| {
        let mut setup = upstream("one", &[&one]);
        setup.floor = floor;
        dispatch(in_turn(vec![setup.build()]))
    };
    let kept = dispatch_of(1);
    for _ in 0..20 {
        assert!(!succeeds(&kept).await);
    }
    assert_eq!(one.calls(), 20);
    one.now_does(Answer);
    assert!(succeeds(&kept).await, "it is back as soon as it is well");

    one.now_does(Status(520));
    let left_out = dispatch_of(0);
    for _ in 0..20 {
        assert!(!succeeds(&left_out).await);
    }
    assert_eq!(one.calls(), 21 + 5);
    let error = ask(&left_out).await.err();
    let Some(DispatchError::NothingWell { retry_after }) = error else {
        panic!("{error:?}");
    };
    assert_eq!(retry_after, 5 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn the_local_model_stands_in_and_says_so() {
    let (remote, local) = (Scripted::new(&[Status(500)]), Scripted::new(&[Answer]));
    let mut poet = upstream("poet", &[&local]);
    poet.local = true;
    let dispatch = dispatch(in_turn(vec![
        upstream("remote", &[&remote]).build(),
        poet.build(),
    ]));
    let call = call();
    let record = Arc::clone(&call.record);
    let reply = dispatch.clone().oneshot(call).await.unwrap();
    assert_eq!(reply.headers["x-weir-degraded"], "true");
    assert!(record.facts().degraded);
    remote.now_does(Answer);
    let reply = ask(&dispatch).await.unwrap();
    assert!(!reply.headers.contains_key("x-weir-degraded"));
}

#[tokio::test(start_paused = true)]
async fn a_full_upstream_makes_room_for_the_next_target() {
    let (one, two) = (Scripted::new(&[Hang]), Scripted::new(&[Answer]));
    let mut setup = upstream("one", &[&one]);
    setup.gate = Some(Arc::new(Gate::new(1, 0)));
    let dispatch = dispatch(in_turn(vec![
        setup.build(),
        upstream("two", &[&two]).build(),
    ]));
    let hanging = tokio::spawn(dispatch.clone().oneshot(call()));
    tokio::task::yield_now().await;
    assert!(succeeds(&dispatch).await);
    assert_eq!((one.calls(), two.calls()), (1, 1));
    hanging.abort();
    let _ = hanging.await;
    assert_eq!(
        dispatch
            .snapshots()
            .map(|(_, s)| s.in_flight)
            .sum::<usize>(),
        0
    );
}

const ERROR: &str = "data: {\"error\":{\"message\":\"overloaded\"}}\n\n";
const WORD: &str = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n";
const DONE: &str = "data: [DONE]\n\n";

#[tokio::test(start_paused = true)]
async fn a_stream_that_begins_with_an_error_is_asked_for_again() {
    let one = Scripted::new(&[Stream(&[ERROR]), Stream(&[]), Stream(&[WORD, DONE])]);
    let dispatch = dispatch(in_turn(vec![upstream("one", &[&one]).build()]));
    let reply = dispatch.clone().oneshot(streamed()).await.unwrap();
    let whole = reply.body.collect().await.unwrap().to_bytes();
    assert_eq!(whole, [WORD, DONE].concat());
    assert_eq!(one.calls(), 3);

    let bad = Scripted::new(&[Stream(&[ERROR])]);
    let dispatch = self::dispatch(in_turn(vec![upstream("one", &[&bad]).build()]));
    let error = dispatch.clone().oneshot(streamed()).await.err();
    let Some(DispatchError::Upstream {
        source: UpstreamError::ErrorEvent { message },
        spent: true,
        ..
    }) = error
    else {
        panic!("{error:?}");
    };
    assert_eq!(message.as_deref(), Some("overloaded"), "its own words");
    assert_eq!(bad.calls(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_breaks_after_its_first_word_is_not_asked_for_again() {
    let one = Scripted::new(&[Stream(&[WORD, ERROR])]);
    let dispatch = dispatch(in_turn(vec![upstream("one", &[&one]).build()]));
    let reply = dispatch.clone().oneshot(streamed()).await.unwrap();
    let whole = reply.body.collect().await.unwrap().to_bytes();
    assert_eq!(whole, [WORD, ERROR].concat());
    assert_eq!(one.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_slow_answer_is_overtaken_within_the_budget() {
    let (slow, fast) = (
        Scripted::new(&[After(20 * SECOND)]),
        Scripted::new(&[Answer]),
    );
    let mut route = side_by_side(vec![
        upstream("slow", &[&slow]).build(),
        upstream("fast", &[&fast]).build(),
    ]);
    route.balance = Balance::Order;
    route.hedge = Some(Arc::new(Hedge::new(1.0, Some(SECOND))));
    let dispatch = dispatch(route);
    let began = Instant::now();
    let call = call();
    let record = Arc::clone(&call.record);
    assert!(dispatch.clone().oneshot(call).await.is_ok());
    assert_eq!(began.elapsed(), SECOND);
    assert_eq!((slow.calls(), fast.calls()), (1, 1));
    let facts = record.facts();
    let results: Vec<_> = facts.attempts.iter().map(|a| a.result).collect();
    assert_eq!(results, ["abandoned", "answered"]);
    assert_eq!(facts.upstream.as_deref(), Some("fast"));
    assert_eq!(
        dispatch
            .snapshots()
            .map(|(_, s)| s.in_flight)
            .sum::<usize>(),
        0
    );
}

#[tokio::test(start_paused = true)]
async fn calls_of_one_session_stay_at_one_endpoint() {
    let at = [0; 5].map(|_| Scripted::new(&[Answer]));
    let refs: Vec<_> = at.iter().collect();
    let mut route = in_turn(vec![upstream("one", &refs).build()]);
    route.affinity = Some(Affinity::Header(HeaderName::from_static("x-session-id")));
    let dispatch = dispatch(route);
    let of_session = |session: &'static str| {
        let name = HeaderName::from_static("x-session-id");
        let headers = HeaderMap::from_iter([(name, HeaderValue::from_static(session))]);
        call_with(r#"{"model":"m"}"#, headers)
    };
    let mut homes = std::collections::HashSet::new();
    for session in ["a", "b", "c", "d", "e", "f", "g", "h"] {
        let before: Vec<_> = at.iter().map(|at| at.calls()).collect();
        for _ in 0..10 {
            dispatch.clone().oneshot(of_session(session)).await.unwrap();
        }
        let grown: Vec<_> = (0..5).filter(|i| at[*i].calls() > before[*i]).collect();
        assert_eq!(grown.len(), 1, "{session}");
        homes.insert(grown[0]);
    }
    assert!(homes.len() > 1, "sessions are spread");
}

#[tokio::test(start_paused = true)]
async fn weights_and_renames_of_targets_hold() {
    let (one, two) = (Scripted::new(&[Answer]), Scripted::new(&[Answer]));
    let mut route = side_by_side(vec![
        upstream("one", &[&one]).build(),
        upstream("two", &[&two]).build(),
    ]);
    route.balance = Balance::Weighted;
    route.targets[1].weight = 9;
    route.targets[1].model = Some("renamed".into());
    let dispatch = dispatch(route);
    for _ in 0..1000 {
        assert!(succeeds(&dispatch).await);
    }
    assert!((820..980).contains(&two.calls()), "{}", two.calls());
    let seen = two.seen.lock().unwrap();
    assert!(seen.iter().all(|s| s.model.as_deref() == Some("renamed")));
    assert!(seen.windows(2).all(|pair| pair[0].at <= pair[1].at));
}

#[tokio::test(start_paused = true)]
async fn a_rolling_failure_of_three_endpoints_is_nobodys_concern() {
    let at = [0; 3].map(|_| Scripted::new(&[Answer]));
    let members = ["a", "b", "c"].into_iter().zip(&at);
    let members = members.map(|(name, at)| upstream(name, &[at]).build());
    let dispatch = dispatch(side_by_side(members.collect()));
    for round in 0..30 {
        at[round % 3].now_does(Break);
        at[(round + 2) % 3].now_does(Answer);
        let calls = (0..50).map(|_| ask(&dispatch));
        let answers = futures_util::future::join_all(calls).await;
        assert!(answers.iter().all(Result::is_ok), "round {round}");
        tokio::time::advance(SECOND).await;
    }
}

fn hurried(time: Duration) -> Call {
    Call {
        deadline: Some(Instant::now() + time),
        ..call()
    }
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_hangs_is_left_out_though_only_its_clients_give_up() {
    for client_leaves in [false, true] {
        let (hung, good) = (Scripted::new(&[Hang]), Scripted::new(&[Answer]));
        let mut route = side_by_side(vec![
            upstream("hung", &[&hung]).build(),
            upstream("good", &[&good]).build(),
        ]);
        route.balance = Balance::Order;
        let dispatch = dispatch(route);
        for _ in 0..5 {
            let (patience, deadline) = match client_leaves {
                true => (20 * SECOND, 600 * SECOND),
                false => (600 * SECOND, 20 * SECOND),
            };
            let asked = dispatch.clone().oneshot(hurried(deadline));
            let left = tokio::time::timeout(patience, asked).await;
            assert!(left.is_err() || left.is_ok_and(|result| result.is_err()));
        }
        assert!(succeeds(&dispatch).await);
        assert_eq!((hung.calls(), good.calls()), (5, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn clients_in_a_hurry_say_nothing_of_an_endpoint() {
    let slow = Scripted::new(&[Hang]);
    let member = upstream("slow", &[&slow]).build();
    let dispatch = dispatch(in_turn(vec![Arc::clone(&member)]));
    for _ in 0..20 {
        let asked = dispatch.clone().oneshot(hurried(SECOND));
        assert!(asked.await.is_err());
    }
    assert_eq!(member.snapshot().ejected, 0);
}

#[tokio::test(start_paused = true)]
async fn a_trial_that_hangs_until_the_clients_deadline_brings_nothing_back() {
    let one = Scripted::new(&[Break]);
    let mut setup = upstream("one", &[&one]);
    setup.floor = 0;
    let member = setup.build();
    let mut route = in_turn(vec![Arc::clone(&member)]);
    route.retry.attempts = 0;
    let dispatch = dispatch(route);
    for _ in 0..5 {
        assert!(!succeeds(&dispatch).await);
    }
    one.now_does(Hang);
    for deadline in [SECOND, 20 * SECOND] {
        tokio::time::advance(5 * SECOND).await;
        assert!(dispatch.clone().oneshot(hurried(deadline)).await.is_err());
        assert_eq!(member.snapshot().ejected, 1);
    }
    assert_eq!(one.calls(), 7);
    assert!(
        matches!(ask(&dispatch).await, Err(DispatchError::NothingWell { .. })),
        "twenty seconds of silence are a failed trial"
    );
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_cuts_its_streams_is_left_out() {
    let one = Scripted::new(&[Cut(&[WORD])]);
    let mut setup = upstream("one", &[&one]);
    setup.floor = 0;
    let member = setup.build();
    let dispatch = dispatch(in_turn(vec![Arc::clone(&member)]));
    let streamed = async || dispatch.clone().oneshot(streamed()).await;
    for _ in 0..5 {
        let reply = streamed().await.unwrap();
        assert!(reply.body.collect().await.is_err());
    }
    assert_eq!(member.snapshot().ejected, 1);
    tokio::time::advance(5 * SECOND).await;
    let reply = streamed().await.unwrap();
    assert_eq!(member.snapshot().ejected, 0, "it has begun");
    assert!(reply.body.collect().await.is_err());
    assert_eq!(member.snapshot().ejected, 1);
}

#[tokio::test(start_paused = true)]
async fn what_an_upstream_does_not_offer_is_no_failure() {
    let one = Scripted::new(&[Status(501)]);
    let member = upstream("one", &[&one]).build();
    let dispatch = dispatch(in_turn(vec![Arc::clone(&member)]));
    for _ in 0..20 {
        assert!(!succeeds(&dispatch).await);
    }
    assert_eq!(member.snapshot().ejected, 0);
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

#[tokio::test(start_paused = true)]
async fn an_outage_of_several_endpoints_is_not_amplified_either() {
    let (at, mut setup) = three([Status(500), Status(500), Status(500)]);
    setup.budget = 0.2;
    let mut route = in_turn(vec![setup.build()]);
    (route.retry.base, route.retry.max) = (Duration::ZERO, Duration::ZERO);
    let dispatch = dispatch(route);
    for _ in 0..500 {
        assert!(!succeeds(&dispatch).await);
    }
    let calls = calls_of(&at);
    assert!(calls <= 500 + 100 + 30, "{calls}");
}

#[tokio::test(start_paused = true)]
async fn fall_backs_are_requests_of_the_upstream_that_they_reach() {
    let (down, two) = (Scripted::new(&[Status(501)]), Scripted::new(&[Status(500)]));
    let mut setup = upstream("two", &[&two]);
    setup.budget = 1.0;
    let mut route = in_turn(vec![upstream("down", &[&down]).build(), setup.build()]);
    route.retry.attempts = 1;
    (route.retry.base, route.retry.max) = (Duration::ZERO, Duration::ZERO);
    let dispatch = dispatch(route);
    for _ in 0..200 {
        assert!(!succeeds(&dispatch).await);
    }
    assert_eq!(two.calls(), 400, "a retry for each, as the budget allows");
}

#[tokio::test(start_paused = true)]
async fn the_floor_is_a_number_of_endpoints() {
    for (attempts, floor) in [(0, 1), (2, 1), (0, 2), (2, 3)] {
        let (at, mut setup) = three([Status(520), Status(520), Status(520)]);
        setup.floor = floor;
        let member = setup.build();
        let mut route = in_turn(vec![Arc::clone(&member)]);
        route.retry.attempts = attempts;
        let dispatch = dispatch(route);
        while member.snapshot().ejected < 3 {
            assert!(!succeeds(&dispatch).await);
        }
        let before = calls_of(&at);
        assert!(!succeeds(&dispatch).await);
        let asked = calls_of(&at) - before;
        let expected = floor.min(attempts as usize + 1);
        assert_eq!(asked, expected, "{floor}, {attempts}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_trial_never_costs_a_call_its_answer() {
    for attempts in [0, 1, 2] {
        let (at, setup) = three([Break, Break, Answer]);
        let member = setup.build();
        let mut route = in_turn(vec![Arc::clone(&member)]);
        route.retry.attempts = attempts;
        let dispatch = dispatch(route);
        member.endpoints[..2].iter().for_each(|at| eject(at));
        let before = calls_of(&at);
        for _ in 0..10 {
            tokio::time::advance(300 * SECOND).await;
            for _ in 0..4 {
                assert!(succeeds(&dispatch).await, "{attempts}");
            }
        }
        assert_eq!(calls_of(&at) - before, 10 * (4 + 2), "each trial once");
        assert_eq!(member.snapshot().ejected, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_trial_is_not_taken_with_the_last_try() {
    for _ in 0..20 {
        let (at, setup) = three([Break, Break, Answer]);
        let member = setup.build();
        eject(&member.endpoints[0]);
        tokio::time::advance(5 * SECOND).await;
        let mut route = in_turn(vec![member]);
        route.retry.attempts = 1;
        assert!(succeeds(&dispatch(route)).await);
        assert_eq!(at[0].calls(), 1);
    }
}

fn upload() -> Call {
    let body = http_body_util::Empty::new().map_err(|never| -> UploadError { match never {} });
    Call {
        body: CallBody::Stream {
            body: Upload::new(Box::pin(body)),
            length: None,
        },
        ..call()
    }
}

fn without_body(method: Method) -> Call {
    let mut call = Call {
        body: CallBody::Empty,
        ..call()
    };
    call.head.method = method;
    call
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_repeated_is_tried_again_only_if_nothing_was_sent() {
    let to_switch = || Call {
        upgrade: Some(hyper::upgrade::on(http::Request::new(()))),
        ..without_body(Method::GET)
    };
    let calls: [&dyn Fn() -> Call; 4] = [
        &upload,
        &|| without_body(Method::DELETE),
        &|| without_body(Method::POST),
        &to_switch,
    ];
    for (index, call) in calls.into_iter().enumerate() {
        for (first, again) in [
            (Unreached, true),
            (Break, false),
            (Status(503), false),
            (StatusWith(429, "retry-after", "1"), false),
        ] {
            let (one, two) = (Scripted::new(&[first]), Scripted::new(&[Answer]));
            let one_member = upstream("one", &[&one]).build();
            let two_member = upstream("two", &[&two]).build();
            let _ = dispatch(in_turn(vec![one_member, two_member]))
                .oneshot(call())
                .await;
            let expected = if again { (3, 1) } else { (1, 0) };
            assert_eq!((one.calls(), two.calls()), expected, "{index}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_that_was_taken_is_not_sent_again_whatever_the_failure_says() {
    let (one, two) = (Scripted::new(&[Swallow]), Scripted::new(&[Answer]));
    let members = [("one", &one), ("two", &two)].map(|(name, at)| upstream(name, &[at]).build());
    let dispatch = dispatch(in_turn(members.into()));
    assert!(dispatch.oneshot(upload()).await.is_err());
    assert_eq!((one.calls(), two.calls()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn uploads_bring_an_endpoint_back_when_nothing_else_does() {
    let (one, two) = (Scripted::new(&[Break]), Scripted::new(&[Answer]));
    let mut setup = upstream("one", &[&one, &two]);
    setup.floor = 0;
    let member = setup.build();
    let dispatch = dispatch(in_turn(vec![Arc::clone(&member)]));
    let upload = async || dispatch.clone().oneshot(upload()).await.is_ok();
    eject(&member.endpoints[0]);
    one.now_does(Answer);
    for (secs, calls) in [(5, 0), (4, 0), (1, 1)] {
        tokio::time::advance(secs * SECOND).await;
        assert!(upload().await);
        assert_eq!(one.calls(), calls);
    }
    assert_eq!(member.snapshot().ejected, 0);
    // Where nobody else is there, none waits for that.
    member.endpoints.iter().for_each(|at| eject(at));
    assert!(!upload().await);
    tokio::time::advance(6 * SECOND).await;
    assert!(upload().await);
}

#[tokio::test(start_paused = true)]
async fn affinity_keeps_to_the_order_and_to_the_weights() {
    for balance in [Balance::Order, Balance::Weighted] {
        let at = [0; 2].map(|_| Scripted::new(&[Answer]));
        let mut route = side_by_side(vec![
            upstream("one", &[&at[0]]).build(),
            upstream("two", &[&at[1]]).build(),
        ]);
        route.balance = balance;
        route.targets[0].weight = 9;
        let name = HeaderName::from_static("x-session-id");
        route.affinity = Some(Affinity::Header(name.clone()));
        let dispatch = dispatch(route);
        for session in 0..400 {
            let value = HeaderValue::from(session);
            let headers = HeaderMap::from_iter([(name.clone(), value)]);
            let call = call_with(r#"{"model":"m"}"#, headers);
            assert!(dispatch.clone().oneshot(call).await.is_ok());
        }
        let first = at[0].calls();
        match balance {
            Balance::Order => assert_eq!(first, 400),
            Balance::P2c | Balance::Weighted => {
                assert!((330..390).contains(&first), "{first} of 400");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn no_second_attempt_goes_to_a_lower_priority() {
    let (slow, local) = (
        Scripted::new(&[After(20 * SECOND)]),
        Scripted::new(&[Answer]),
    );
    let mut poet = upstream("poet", &[&local]);
    poet.local = true;
    let mut route = in_turn(vec![upstream("slow", &[&slow]).build(), poet.build()]);
    let hedge = Arc::new(Hedge::new(1.0, Some(SECOND)));
    route.hedge = Some(Arc::clone(&hedge));
    let dispatch = dispatch(route);
    let reply = ask(&dispatch).await.unwrap();
    assert!(!reply.headers.contains_key("x-weir-degraded"));
    assert_eq!((slow.calls(), local.calls()), (1, 0));
    assert!(hedge.withdraw(), "nothing was taken for it");
}

#[tokio::test(start_paused = true)]
async fn second_attempts_start_at_the_percentile_of_good_answers() {
    let (one, two) = (Scripted::new(&[Status(501)]), Scripted::new(&[Status(501)]));
    let mut route = side_by_side(vec![
        upstream("one", &[&one]).build(),
        upstream("two", &[&two]).build(),
    ]);
    route.balance = Balance::Order;
    route.hedge = Some(Arc::new(Hedge::new(1.0, None)));
    let dispatch = dispatch(route);
    // Failures come at once, and are no measure of an answer.
    for _ in 0..20 {
        assert!(!succeeds(&dispatch).await);
    }
    one.now_does(After(2 * SECOND));
    two.now_does(Answer);
    let before = two.calls();
    for _ in 0..20 {
        assert!(succeeds(&dispatch).await);
    }
    assert_eq!(two.calls(), before, "nothing is known yet");
    one.now_does(After(20 * SECOND));
    let began = Instant::now();
    assert!(succeeds(&dispatch).await);
    assert_eq!(began.elapsed(), 2 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_wait_is_kept_though_another_place_has_been_asked_since() {
    let at = [
        Scripted::new(&[StatusWith(503, "retry-after", "20"), Answer]),
        Scripted::new(&[StatusWith(500, "x-should-retry", "false")]),
    ];
    let mut route = side_by_side(vec![
        upstream("a", &[&at[0]]).build(),
        upstream("b", &[&at[1]]).build(),
    ]);
    route.balance = Balance::Order;
    let dispatch = dispatch(route);
    let began = Instant::now();
    assert!(succeeds(&dispatch).await);
    assert_eq!(began.elapsed(), 20 * SECOND);
    assert_eq!((at[0].calls(), at[1].calls()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_place_that_wants_no_retry_gets_none_though_another_fails_after_it() {
    let at = [
        Scripted::new(&[StatusWith(500, "x-should-retry", "false")]),
        Scripted::new(&[Status(501)]),
    ];
    let mut route = side_by_side(vec![
        upstream("a", &[&at[0]]).build(),
        upstream("b", &[&at[1]]).build(),
    ]);
    route.balance = Balance::Order;
    let dispatch = dispatch(route);
    let Some(DispatchError::Upstream { spent, .. }) = ask(&dispatch).await.err() else {
        panic!("no error of an upstream");
    };
    assert!(spent, "no retry of the client's could mend it");
    assert_eq!((at[0].calls(), at[1].calls()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_limited_credential_is_not_shown_at_the_next_endpoint_before_its_time() {
    let at = [
        Scripted::new(&[StatusWith(429, "retry-after", "20"), Answer]),
        Scripted::new(&[StatusWith(429, "retry-after", "20"), Answer]),
    ];
    let mut setup = upstream("one", &[&at[0], &at[1]]);
    setup.keys = vec!["a"];
    let dispatch = dispatch(in_turn(vec![setup.build()]));
    let began = Instant::now();
    let _ = ask(&dispatch).await;
    let mut seen: Vec<Instant> = Vec::new();
    for at in &at {
        seen.extend(at.seen.lock().unwrap().iter().map(|seen| seen.at));
    }
    seen.sort();
    let waits: Vec<_> = seen.iter().map(|at| *at - began).collect();
    assert!(
        waits[1..].iter().all(|wait| *wait >= 20 * SECOND),
        "{waits:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn nothing_is_asked_after_the_deadline() {
    let (one, two) = (Scripted::new(&[Hang]), Scripted::new(&[Hang]));
    let mut setup = upstream("one", &[&one]);
    setup.gate = Some(Arc::new(Gate::new(1, 5)));
    let members = vec![setup.build(), upstream("two", &[&two]).build()];
    let dispatch = dispatch(in_turn(members));
    let _hanging = tokio::spawn(dispatch.clone().oneshot(call()));
    tokio::task::yield_now().await;
    let error = dispatch.clone().oneshot(hurried(SECOND)).await.err();
    assert!(
        matches!(
            error,
            Some(DispatchError::Upstream {
                source: UpstreamError::NoPlace { .. },
                ..
            })
        ),
        "{error:?}"
    );
    assert_eq!(two.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_cannot_serve_a_call_does_not_hide_that_another_has_failed() {
    for unable in [
        CannotDo,
        Told(404, "model_not_found"),
        Told(400, "context_length_exceeded"),
    ] {
        let (down, other) = (
            Scripted::new(&[Status(503)]),
            Scripted::new(std::slice::from_ref(&unable)),
        );
        let setups = [upstream("down", &[&down]), upstream("other", &[&other])];
        let dispatch = dispatch(in_turn(setups.map(Setup::build).into()));
        let call = call();
        let record = Arc::clone(&call.record);
        let error = dispatch.clone().oneshot(call).await.err();
        let Some(DispatchError::Upstream {
            name,
            source: UpstreamError::Status { status, .. },
            spent,
        }) = error
        else {
            panic!("{error:?}");
        };
        assert_eq!((&*name, status.as_u16(), spent), ("down", 503, true));
        assert_eq!(record.facts().upstream.as_deref(), Some("down"));
        assert_eq!(other.calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_is_told_where_nobody_after_it_can_serve_the_call() {
    let limited = Scripted::new(&[StatusWith(429, "retry-after", "60")]);
    let local = Scripted::new(&[CannotDo]);
    let setups = [
        upstream("limited", &[&limited]),
        upstream("local", &[&local]),
    ];
    let dispatch = dispatch(in_turn(setups.map(Setup::build).into()));
    let reply = ask(&dispatch).await.unwrap();
    assert_eq!(reply.status, 429);
    assert_eq!(reply.headers["retry-after"], "60");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_nobody_has_failed_is_told_what_is_wrong_with_it() {
    let (one, two) = (
        Scripted::new(&[Told(404, "model_not_found")]),
        Scripted::new(&[Answer]),
    );
    let setups = [upstream("one", &[&one]), upstream("two", &[&two])];
    let dispatch = dispatch(in_turn(setups.map(Setup::build).into()));
    assert_eq!(ask(&dispatch).await.unwrap().status, 404);
    assert_eq!(two.calls(), 0);
    // What is wrong wherever it is asked stays the client's.
    let (down, two) = (
        Scripted::new(&[Status(503)]),
        Scripted::new(&[Told(400, "invalid_json")]),
    );
    let setups = [upstream("down", &[&down]), upstream("two", &[&two])];
    let dispatch = self::dispatch(in_turn(setups.map(Setup::build).into()));
    assert_eq!(ask(&dispatch).await.unwrap().status, 400);
}

#[tokio::test(start_paused = true)]
async fn a_third_target_is_asked_where_the_second_cannot_serve() {
    let at = [
        Scripted::new(&[Status(503)]),
        Scripted::new(&[CannotDo]),
        Scripted::new(&[Answer]),
    ];
    let members = ["a", "b", "c"].into_iter().zip(&at);
    let members = members.map(|(name, at)| upstream(name, &[at]).build());
    assert!(succeeds(&dispatch(in_turn(members.collect()))).await);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_hangs_gets_no_more_calls_than_it_takes_to_notice() {
    let (hung, good) = (Scripted::new(&[Hang]), Scripted::new(&[After(SECOND / 5)]));
    let dispatch = dispatch(side_by_side(vec![
        upstream("hung", &[&hung]).build(),
        upstream("good", &[&good]).build(),
    ]));
    for _ in 0..200 {
        tokio::spawn(dispatch.clone().oneshot(call()));
        tokio::time::sleep(SECOND / 10).await;
    }
    assert!(hung.calls() <= 3, "{} of 200", hung.calls());
}

#[tokio::test(start_paused = true)]
async fn a_target_whose_credentials_are_aside_is_asked_last() {
    for refuses in [Refuse, StatusWith(429, "retry-after", "40")] {
        let (bad, good) = (
            Scripted::new(std::slice::from_ref(&refuses)),
            Scripted::new(&[Answer]),
        );
        let mut setup = upstream("bad", &[&bad]);
        setup.keys = vec!["a"];
        let mut route = side_by_side(vec![setup.build(), upstream("good", &[&good]).build()]);
        route.balance = Balance::Order;
        let dispatch = dispatch(route);
        for _ in 0..10 {
            assert!(succeeds(&dispatch).await);
        }
        assert_eq!((bad.calls(), good.calls()), (1, 10));
        good.now_does(Status(501));
        assert!(!succeeds(&dispatch).await);
        assert_eq!(bad.calls(), 2, "for want of a better one");
        bad.now_does(Answer);
        tokio::time::advance(60 * SECOND).await;
        assert!(succeeds(&dispatch).await);
        assert_eq!(bad.calls(), 3, "its time is over");
    }
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_will_be_over_soon_asks_nobody_whom_the_operator_likes_less() {
    let (one, poet) = (
        Scripted::new(&[Status(429), Answer]),
        Scripted::new(&[Answer]),
    );
    let mut first = upstream("one", &[&one]);
    first.keys = vec!["a"];
    let dispatch = dispatch(in_turn(vec![
        first.build(),
        upstream("poet", &[&poet]).build(),
    ]));
    let calls = (0..5).map(|_| ask(&dispatch));
    let answers = futures_util::future::join_all(calls).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(poet.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_credential_that_is_free_first_is_waited_for() {
    let one = Scripted::new(&[
        StatusWith(429, "retry-after", "1"),
        StatusWith(429, "retry-after", "60"),
        Answer,
    ]);
    let mut setup = upstream("one", &[&one]);
    setup.keys = vec!["a", "b"];
    let dispatch = dispatch(in_turn(vec![setup.build()]));
    let began = Instant::now();
    assert!(succeeds(&dispatch).await);
    assert_eq!(began.elapsed(), SECOND);
    assert_eq!(one.credentials(), ["a", "b", "a"]);
}

#[tokio::test(start_paused = true)]
async fn each_target_has_its_own_time_and_the_call_that_of_the_most_patient() {
    let (slow, good) = (Scripted::new(&[Hang]), Scripted::new(&[After(50 * SECOND)]));
    let make = |name, at, total| {
        let mut member = upstream(name, &[at]).build();
        Arc::get_mut(&mut member).unwrap().timeouts.total = total;
        member
    };
    let members = vec![
        make("slow", &slow, 10 * SECOND),
        make("good", &good, 100 * SECOND),
    ];
    let dispatch = dispatch(in_turn(members));
    let began = Instant::now();
    assert!(succeeds(&dispatch).await);
    assert_eq!(began.elapsed(), 60 * SECOND);
    let seen = good.seen.lock().unwrap();
    assert_eq!(seen[0].overdue - began, 100 * SECOND, "the call's own");
}

#[tokio::test(start_paused = true)]
async fn a_call_without_a_place_is_no_try() {
    let one = Scripted::new(&[Hang]);
    let mut setup = upstream("one", &[&one]);
    setup.gate = Some(Arc::new(Gate::new(1, 0)));
    let dispatch = dispatch(in_turn(vec![setup.build()]));
    let _hanging = tokio::spawn(dispatch.clone().oneshot(call()));
    tokio::task::yield_now().await;
    let call = call();
    let record = Arc::clone(&call.record);
    assert!(dispatch.clone().oneshot(call).await.is_err());
    assert!(record.facts().attempts.is_empty());
    assert_eq!(record.facts().upstream.as_deref(), Some("one"));
}

#[tokio::test(start_paused = true)]
async fn an_upstream_is_ready_as_long_as_its_floor_lets_calls_in() {
    for floor in [0, 1] {
        let one = Scripted::new(&[Break]);
        let mut setup = upstream("one", &[&one]);
        setup.floor = floor;
        let member = setup.build();
        eject(&member.endpoints[0]);
        assert_eq!(member.is_ready(), floor > 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_spent_budget_leaves_a_trace() {
    let one = Scripted::new(&[Status(500)]);
    let mut setup = upstream("one", &[&one]);
    setup.budget = 0.0;
    let member = setup.build();
    let metrics = Arc::clone(&member.endpoints[0].metrics);
    assert!(!succeeds(&dispatch(in_turn(vec![member]))).await);
    let text = metrics.render().unwrap();
    let text = String::from_utf8_lossy(text.as_ref()).into_owned();
    assert!(
        text.contains("weir_retry_budget_exhausted_total{upstream=\"one\"} 1"),
        "{text}"
    );
}

#[tokio::test(start_paused = true)]
async fn models_are_asked_for_at_each_endpoint() {
    let (dead, well) = (Scripted::new(&[Break]), Scripted::new(&[Answer]));
    let dispatch = dispatch(in_turn(vec![upstream("one", &[&dead, &well]).build()]));
    for (endpoint, told) in [
        (Path::Models, "\"listed\""),
        (Path::Model("listed".into()), "\"listed\""),
    ] {
        let call = Call { endpoint, ..call() };
        let reply = dispatch.clone().oneshot(call).await.unwrap();
        let body = reply.body.collect().await.unwrap().to_bytes();
        assert!(String::from_utf8_lossy(&body).contains(told));
    }
}
