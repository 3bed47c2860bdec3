//! The layer over an upstream that answers as it is told.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use http_body_util::BodyExt;
use tokio::sync::mpsc;
use tower::service_fn;
use tower::util::BoxCloneSyncService;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::{Body, Frame};
use rustc_hash::FxHashMap;
use tower::ServiceExt;

use super::*;
use crate::call::{
    Cached, CallBody, Caller, Head as CallHead, Record, ReplyBody, RequestId, StreamError, Try,
};
use crate::openai::endpoint::Endpoint;
use crate::openai::json::inspect;
use crate::store::cache::Bounds;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Cache(#[from] CacheError),
    #[error("the upstream failed")]
    Upstream,
}

/// What the upstream says next.
type Script = mpsc::UnboundedSender<Result<Bytes, StreamError>>;

/// An upstream whose answers the test writes.
#[derive(Default)]
struct Upstream {
    calls: AtomicUsize,
    cancelled: AtomicUsize,
    scripts: Mutex<Vec<Script>>,
    fails: AtomicUsize,
    /// Who says to have answered.
    name: Mutex<&'static str>,
}

struct Scripted {
    frames: mpsc::UnboundedReceiver<Result<Bytes, StreamError>>,
    upstream: Arc<Upstream>,
    ended: bool,
}

impl Body for Scripted {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        let frame = std::task::ready!(self.frames.poll_recv(cx));
        self.ended |= !matches!(frame, Some(Ok(_)));
        Poll::Ready(frame.map(|frame| frame.map(Frame::data)))
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        if !self.ended {
            self.upstream.cancelled.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Upstream {
    async fn answer(self: Arc<Self>, call: Call) -> Result<Reply, Failed> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        // Some turns in which others can come.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        let fails = self.fails.load(Ordering::SeqCst);
        if fails > 0 {
            self.fails.store(fails - 1, Ordering::SeqCst);
            return Err(Failed::Upstream);
        }
        call.record.facts().attempts.push(Try {
            upstream: (*self.name.lock().unwrap()).into(),
            endpoint: "e".into(),
            model: call.model.clone(),
            began: Duration::ZERO,
            time: None,
            result: Try::ANSWERED,
            status: Some(200),
            sent: true,
            counted: None,
        });
        let mut headers = HeaderMap::new();
        headers.insert("x-of-the-call", HeaderValue::from_static("1"));
        headers.insert("openai-model", HeaderValue::from_static("m"));
        if !call.stream {
            let number = self.calls.load(Ordering::SeqCst);
            let text =
                format!(r#"{{"number":{number},"usage":{{"prompt_tokens":3,"total_tokens":3}}}}"#);
            return Ok(Reply::full(StatusCode::OK, headers, text.into()));
        }
        let (script, frames) = mpsc::unbounded_channel();
        self.scripts.lock().unwrap().push(script);
        let body = Box::pin(Scripted {
            frames,
            upstream: Arc::clone(&self),
            ended: false,
        });
        Ok(Reply::events(StatusCode::OK, headers, body))
    }

    /// Returns what the answer that began last is written with.
    fn script(&self) -> Script {
        self.scripts.lock().unwrap().last().unwrap().clone()
    }

    /// Ends all answers in order.
    fn end(&self) {
        self.scripts.lock().unwrap().clear();
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

/// All calls go to one upstream.
struct One;

impl Ways for One {
    fn label(&self, _: &Call) -> Option<Arc<str>> {
        Some("*".into())
    }

    fn each_primary(&self, _: &Call, see: &mut dyn FnMut(&[u8])) {
        see(b"first");
    }

    fn primaries(&self, _: &Call) -> Vec<(Arc<str>, Arc<str>)> {
        vec![("first".into(), "m".into())]
    }
}

type Calls = BoxCloneSyncService<Call, Reply, Failed>;

const TERMS: Terms = Terms {
    enabled: true,
    when: When::Deterministic,
    scope: Scope::Team,
    ttl: Duration::from_secs(3600),
    tools: true,
};

fn gateway_of(terms: Terms, entry: u64) -> (Calls, Arc<Upstream>, Arc<Cache>) {
    let upstream = Arc::new(Upstream::default());
    *upstream.name.lock().unwrap() = "first";
    let cache = Arc::new(Cache::new(Bounds {
        bytes: 1 << 20,
        entry,
    }));
    let params = Params {
        rules: Arc::new(Rules {
            terms,
            routes: FxHashMap::default(),
            max_ttl: Duration::from_secs(86_400),
        }),
        cache: Arc::clone(&cache),
        shared: None,
    };
    let answering = Arc::clone(&upstream);
    let inner = service_fn(move |call| Arc::clone(&answering).answer(call));
    let layer = CacheLayer::new(params, Arc::new(One));
    (Calls::new(layer.layer(inner)), upstream, cache)
}

fn gateway() -> (Calls, Arc<Upstream>) {
    let (calls, upstream, _) = gateway_of(TERMS, 1 << 16);
    (calls, upstream)
}

fn call_of(team: &str, body: &str, control: Option<&'static str>) -> Call {
    let bytes = Bytes::copy_from_slice(body.as_bytes());
    let members = inspect(&bytes, 128).unwrap();
    let stream = members.stream(&bytes).unwrap();
    let mut headers = HeaderMap::new();
    if let Some(control) = control {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(control));
    }
    Call {
        caller: Arc::new(Caller {
            key: "alice".into(),
            team: Some(team.into()),
            models: Vec::new(),
        }),
        endpoint: Endpoint::ChatCompletions,
        model: Some("m".into()),
        stream,
        report_usage: false,
        upstream: None,
        estimate: None,
        room: None,
        deadline: None,
        head: CallHead {
            method: Method::POST,
            target: "/v1/chat/completions".parse().unwrap(),
            headers,
        },
        body: CallBody::Json { bytes, members },
        upgrade: None,
        record: Arc::new(Record::new(RequestId::fresh(), Instant::now())),
    }
}

const STREAM: &str = r#"{"model":"m","seed":1,"stream":true,"messages":[]}"#;
const TEXT: &str = r#"{"model":"m","seed":1,"messages":[]}"#;

fn streamed() -> Call {
    call_of("a", STREAM, None)
}

const DONE: &str = "data: [DONE]\n\n";

fn event(number: usize) -> Bytes {
    format!("data: {{\"choices\":[{{\"index\":0,\"delta\":{{\"content\":\"{number}\"}}}}]}}\n\n")
        .into()
}

async fn ask(calls: &Calls, call: Call) -> (Result<Reply, Failed>, Arc<Record>) {
    let record = Arc::clone(&call.record);
    (calls.clone().oneshot(call).await, record)
}

async fn text(calls: &Calls, call: Call) -> (Bytes, Cached) {
    let (reply, record) = ask(calls, call).await;
    let bytes = reply.unwrap().body.collect().await.unwrap().to_bytes();
    let cached = record.facts().cached;
    (bytes, cached)
}

async fn next(body: &mut ReplyBody) -> Option<Result<Bytes, StreamError>> {
    let frame = body.frame().await?;
    Some(frame.map(|frame| frame.into_data().unwrap()))
}

#[tokio::test]
async fn an_answer_is_kept_for_the_next_call_like_it() {
    let (calls, upstream) = gateway();
    let (first, cached) = text(&calls, call_of("a", TEXT, None)).await;
    assert_eq!(cached, Cached::Miss);
    let again = r#"{ "messages": [], "seed": 1, "user": "bob", "model": "m", "stream": false }"#;
    let (reply, record) = ask(&calls, call_of("a", again, None)).await;
    let reply = reply.unwrap();
    assert_eq!(reply.headers["age"], "0");
    assert_eq!(reply.headers["openai-model"], "m");
    assert!(!reply.headers.contains_key("x-of-the-call"));
    let status = record.facts().cache_status.clone().unwrap();
    assert!(
        status.to_str().unwrap().starts_with("weir; hit; ttl=35"),
        "{status:?}"
    );
    assert_eq!(reply.body.collect().await.unwrap().to_bytes(), first);
    assert_eq!(record.facts().cached, Cached::Hit);
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn whatever_could_change_the_answer_is_another_call() {
    let (calls, upstream) = gateway();
    let bodies = [
        TEXT,
        r#"{"model":"m","seed":2,"messages":[]}"#,
        r#"{"model":"m","seed":1,"messages":[{"role":"user","content":"a"}]}"#,
        r#"{"model":"m","seed":1,"messages":[],"unknown":1}"#,
        r#"{"model":"m","seed":1,"messages":[],"temperature":0}"#,
    ];
    for body in bodies {
        text(&calls, call_of("a", body, None)).await;
    }
    text(&calls, call_of("b", TEXT, None)).await;
    let mut other = call_of("a", TEXT, None);
    other.model = Some("n".into());
    text(&calls, other).await;
    let mut header = call_of("a", TEXT, None);
    let headers = &mut header.head.headers;
    headers.insert("openai-beta", HeaderValue::from_static("x"));
    text(&calls, header).await;
    let mut query = call_of("a", TEXT, None);
    query.head.target = "/v1/chat/completions?x=1".parse().unwrap();
    text(&calls, query).await;
    assert_eq!(upstream.calls(), bodies.len() + 4);
}

#[tokio::test]
async fn what_is_not_deterministic_goes_its_way() {
    let (calls, upstream) = gateway();
    let body = r#"{"model":"m","messages":[]}"#;
    for _ in 0..2 {
        let (reply, record) = ask(&calls, call_of("a", body, None)).await;
        assert!(reply.is_ok());
        let status = record.facts().cache_status.clone().unwrap();
        assert_eq!(status, "weir; fwd=bypass; detail=not-deterministic");
    }
    assert_eq!(upstream.calls(), 2);
    // Unless it asks.
    for _ in 0..2 {
        text(&calls, call_of("a", body, Some("max-age=60"))).await;
    }
    assert_eq!(upstream.calls(), 3);
}

#[tokio::test]
async fn a_client_says_what_it_wants_of_the_cache() {
    let (calls, upstream) = gateway();
    let (failed, record) = ask(&calls, call_of("a", TEXT, Some("only-if-cached"))).await;
    assert_eq!(failed.err(), Some(Failed::Cache(CacheError::NotKept)));
    assert_eq!(
        record.facts().cache_status.clone().unwrap(),
        "weir; fwd=miss"
    );
    let (_, cached) = text(&calls, call_of("a", TEXT, Some("no-store"))).await;
    assert_eq!((cached, upstream.calls()), (Cached::Bypass, 1));
    let (first, _) = text(&calls, call_of("a", TEXT, None)).await;
    let (newer, cached) = text(&calls, call_of("a", TEXT, Some("no-cache"))).await;
    assert_eq!((cached, upstream.calls()), (Cached::Miss, 3));
    assert_ne!(first, newer);
    // The newer one has taken its place.
    let (kept, cached) = text(&calls, call_of("a", TEXT, Some("only-if-cached"))).await;
    assert_eq!((kept, cached), (newer, Cached::Hit));
}

#[tokio::test]
async fn a_body_with_a_key_twice_is_not_guessed_at() {
    let (calls, upstream) = gateway();
    let body = r#"{"model":"m","seed":1,"messages":[],"top_p":0.1,"top_p":0.2}"#;
    for _ in 0..2 {
        let (_, record) = ask(&calls, call_of("a", body, None)).await;
        let status = record.facts().cache_status.clone().unwrap();
        assert_eq!(status, "weir; fwd=bypass; detail=ambiguous");
    }
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn an_answer_from_elsewhere_is_not_kept_as_the_first_ones() {
    let (calls, upstream) = gateway();
    *upstream.name.lock().unwrap() = "fallback";
    text(&calls, call_of("a", TEXT, None)).await;
    text(&calls, call_of("a", TEXT, None)).await;
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn a_stream_is_replayed_with_the_same_bytes_in_few_pieces() {
    let (calls, upstream) = gateway();
    let (reply, _) = ask(&calls, streamed()).await;
    let script = upstream.script();
    let mut sent = Vec::new();
    for number in 0..100 {
        sent.extend_from_slice(&event(number));
        script.send(Ok(event(number))).unwrap();
    }
    sent.extend_from_slice(DONE.as_bytes());
    script.send(Ok(DONE.into())).unwrap();
    drop(script);
    upstream.end();
    let got = reply.unwrap().body.collect().await.unwrap().to_bytes();
    assert_eq!(got, sent);
    let (reply, record) = ask(&calls, streamed()).await;
    let mut body = reply.unwrap().body;
    assert!(body.is_events());
    let mut pieces = Vec::new();
    while let Some(piece) = next(&mut body).await {
        pieces.push(piece.unwrap());
    }
    assert_eq!(pieces.concat(), sent);
    assert!(pieces.len() <= 2, "{}", pieces.len());
    assert_eq!(record.facts().cached, Cached::Hit);
    // What is asked for as one text is not answered by a stream.
    let (_, cached) = text(&calls, call_of("a", TEXT, None)).await;
    assert_eq!(cached, Cached::Miss);
}

#[tokio::test]
async fn a_stream_that_was_cut_is_not_kept() {
    for cut in [None, Some(StreamError::Broken)] {
        let (calls, upstream, cache) = gateway_of(TERMS, 1 << 16);
        let (reply, _) = ask(&calls, streamed()).await;
        let script = upstream.script();
        script.send(Ok(event(1))).unwrap();
        if let Some(error) = cut {
            script.send(Err(error)).unwrap();
        }
        drop(script);
        upstream.end();
        let _ = reply.unwrap().body.collect().await;
        assert_eq!(cache.snapshot().stored, 0);
    }
}

#[tokio::test]
async fn a_thousand_like_calls_are_one() {
    let (calls, upstream) = gateway();
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let (calls, tell) = (calls.clone(), tell.clone());
        asking.spawn(async move {
            let (reply, _) = ask(&calls, streamed()).await;
            tell.send(()).unwrap();
            reply.unwrap().body.collect().await.unwrap().to_bytes()
        });
    }
    // Half of them listen when the first words come, the others join on the way.
    for _ in 0..500 {
        told.recv().await;
    }
    let script = upstream.script();
    let mut sent = Vec::new();
    for number in 0..50 {
        sent.extend_from_slice(&event(number));
        script.send(Ok(event(number))).unwrap();
        tokio::task::yield_now().await;
    }
    for _ in 500..1000 {
        told.recv().await;
    }
    sent.extend_from_slice(DONE.as_bytes());
    script.send(Ok(DONE.into())).unwrap();
    drop(script);
    upstream.end();
    for got in asking.join_all().await {
        assert_eq!(got, sent);
    }
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn a_leader_that_leaves_anywhere_takes_nobody_along() {
    for read in 0..4 {
        let (calls, upstream) = gateway();
        let (leader, record) = ask(&calls, streamed()).await;
        let mut leader = leader.unwrap().body;
        let (joiner, joined) = ask(&calls, streamed()).await;
        let mut joiner = joiner.unwrap().body;
        assert_eq!(joined.facts().cached, Cached::Joined);
        let script = upstream.script();
        for number in 0..3 {
            script.send(Ok(event(number))).unwrap();
        }
        for number in 0..read {
            assert_eq!(next(&mut leader).await, Some(Ok(event(number))));
        }
        assert!(record.goes_on_without_client());
        drop(leader);
        script.send(Ok(DONE.into())).unwrap();
        drop(script);
        upstream.end();
        for number in 0..3 {
            assert_eq!(next(&mut joiner).await, Some(Ok(event(number))));
        }
        assert_eq!(next(&mut joiner).await, Some(Ok(DONE.into())));
        assert_eq!(next(&mut joiner).await, None);
        assert_eq!(upstream.cancelled.load(Ordering::SeqCst), 0);
    }
}

#[tokio::test]
async fn a_leader_that_leaves_before_there_is_a_head_takes_nobody_along() {
    let (calls, upstream) = gateway();
    let mut leader = Box::pin(ask(&calls, streamed()));
    assert!(futures_util::poll!(&mut leader).is_pending());
    let mut joiner = Box::pin(ask(&calls, streamed()));
    assert!(futures_util::poll!(&mut joiner).is_pending());
    drop(leader);
    let (joiner, _) = joiner.await;
    let mut joiner = joiner.unwrap().body;
    upstream.script().send(Ok(event(1))).unwrap();
    assert_eq!(next(&mut joiner).await, Some(Ok(event(1))));
    assert_eq!(upstream.calls(), 1);
}

#[tokio::test]
async fn with_the_last_listener_the_upstream_goes() {
    let (calls, upstream) = gateway();
    let (leader, record) = ask(&calls, streamed()).await;
    let (joiner, _) = ask(&calls, streamed()).await;
    let (mut leader, mut joiner) = (leader.unwrap().body, joiner.unwrap().body);
    upstream.script().send(Ok(event(1))).unwrap();
    // The leader's client leaves; its books read on, but only what others ask for.
    assert!(record.goes_on_without_client());
    assert!(futures_util::poll!(Box::pin(next(&mut leader))).is_pending());
    assert_eq!(next(&mut joiner).await, Some(Ok(event(1))));
    assert_eq!(next(&mut leader).await, Some(Ok(event(1))));
    assert_eq!(upstream.cancelled.load(Ordering::SeqCst), 0);
    drop(joiner);
    assert_eq!(upstream.cancelled.load(Ordering::SeqCst), 1);
    assert_eq!(next(&mut leader).await, Some(Err(StreamError::Abandoned)));
    // The next one like it begins anew.
    let _ = ask(&calls, streamed()).await;
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn a_leader_alone_does_not_go_on() {
    let (calls, upstream) = gateway();
    let (leader, record) = ask(&calls, streamed()).await;
    assert!(!record.goes_on_without_client());
    drop(leader);
    assert_eq!(upstream.cancelled.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_failure_before_the_first_byte_is_the_leaders_alone() {
    let (calls, upstream) = gateway();
    upstream.fails.store(1, Ordering::SeqCst);
    let leader = ask(&calls, call_of("a", TEXT, None));
    let joiner = ask(&calls, call_of("a", TEXT, None));
    let ((leader, _), (joiner, record)) = tokio::join!(leader, joiner);
    assert_eq!(leader.err(), Some(Failed::Upstream));
    assert!(joiner.is_ok());
    assert_eq!(record.facts().cached, Cached::Miss);
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn a_failure_on_the_way_is_everybodys() {
    let (calls, upstream) = gateway();
    let (leader, _) = ask(&calls, streamed()).await;
    let (joiner, _) = ask(&calls, streamed()).await;
    let script = upstream.script();
    script.send(Ok(event(1))).unwrap();
    script.send(Err(StreamError::Broken)).unwrap();
    for reply in [leader, joiner] {
        let mut body = reply.unwrap().body;
        assert_eq!(next(&mut body).await, Some(Ok(event(1))));
        assert_eq!(next(&mut body).await, Some(Err(StreamError::Broken)));
        assert_eq!(next(&mut body).await, None);
    }
}

#[tokio::test]
async fn a_slow_listener_delays_nobody_and_holds_no_more_than_the_bound() {
    let (calls, upstream, cache) = gateway_of(TERMS, 1000);
    let (fast, _) = ask(&calls, streamed()).await;
    let (slow, _) = ask(&calls, streamed()).await;
    let (mut fast, mut slow) = (fast.unwrap().body, slow.unwrap().body);
    let script = upstream.script();
    for number in 0..100 {
        script.send(Ok(event(number))).unwrap();
        assert_eq!(next(&mut fast).await, Some(Ok(event(number))));
    }
    assert_eq!(next(&mut slow).await, Some(Err(StreamError::Behind)));
    // Nobody joins what has no beginning any more.
    let _ = ask(&calls, streamed()).await;
    assert_eq!(upstream.calls(), 2);
    script.send(Ok(DONE.into())).unwrap();
    assert_eq!(next(&mut fast).await, Some(Ok(DONE.into())));
    assert_eq!(cache.snapshot().stored, 0);
}

#[tokio::test]
async fn two_teams_never_share_an_answer_under_way() {
    let (calls, upstream) = gateway();
    let (_one, _) = ask(&calls, streamed()).await;
    let (_other, record) = ask(&calls, call_of("b", STREAM, None)).await;
    assert_eq!(record.facts().cached, Cached::Miss);
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn a_body_that_is_larger_than_an_answer_may_be_is_not_looked_at() {
    let (calls, upstream, cache) = gateway_of(TERMS, 1000);
    let body = format!(
        r#"{{"model":"m","seed":1,"messages":[{{"role":"user","content":"{}"}}]}}"#,
        "x".repeat(1000)
    );
    for _ in 0..2 {
        let (_, record) = ask(&calls, call_of("a", &body, None)).await;
        let status = record.facts().cache_status.clone().unwrap();
        assert_eq!(status, "weir; fwd=bypass; detail=too-large");
    }
    assert_eq!((upstream.calls(), cache.snapshot().stored), (2, 0));
}
