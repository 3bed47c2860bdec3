//! The layer over an upstream that answers as it is told.

mod holders;
mod joining;
mod keys;
mod pace;
mod retries;
mod stale;

use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use http_body_util::BodyExt;
use tokio::sync::{Notify, mpsc};
use tower::service_fn;
use tower::util::BoxCloneSyncService;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body::{Body, Frame};
use rustc_hash::FxHashMap;
use tower::ServiceExt;

use super::*;
use crate::call::{
    Cached, CallBody, Caller, Cause, Head as CallHead, Record, ReplyBody, RequestId, StreamError,
    Try,
};
use crate::middleware::explain::Explanation;
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

impl Explain for Failed {
    fn explain(&self) -> Explanation {
        let status = match self {
            Self::Cache(CacheError::NotKept | CacheError::TooLate) => StatusCode::GATEWAY_TIMEOUT,
            Self::Cache(CacheError::KeyReused) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Cache(CacheError::KeyAmbiguous) => StatusCode::BAD_REQUEST,
            Self::Upstream => StatusCode::BAD_GATEWAY,
        };
        Explanation {
            status,
            kind: "",
            code: "",
            param: None,
            message: String::new(),
            cause: Cause::UpstreamStatus,
            detail: None,
            headers: Vec::new(),
            close: false,
        }
    }
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
    panics: AtomicBool,
    /// What it waits for before it answers.
    gate: Mutex<Option<Arc<Notify>>>,
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

/// Counts a call that is left before it is answered.
struct OnDrop {
    upstream: Option<Arc<Upstream>>,
}

impl Drop for OnDrop {
    fn drop(&mut self) {
        if let Some(upstream) = &self.upstream {
            upstream.cancelled.fetch_add(1, Ordering::SeqCst);
        }
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
        let mut waiting = OnDrop {
            upstream: Some(Arc::clone(&self)),
        };
        let gate = self.gate.lock().unwrap().clone();
        if let Some(gate) = gate {
            let open = gate.notified();
            match call.deadline {
                Some(deadline) => tokio::time::timeout_at(deadline, open)
                    .await
                    .map_err(|_| Failed::Upstream)?,
                None => open.await,
            }
        }
        waiting.upstream = None;
        // Some turns in which others can come.
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
        assert!(!self.panics.load(Ordering::SeqCst), "as told");
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
    stale_if_error: Duration::ZERO,
    paced: false,
    finish: false,
};

fn gateway_of(terms: Terms, entry: u64) -> (Calls, Arc<Upstream>, Arc<Cache>) {
    let upstream = Arc::new(Upstream::default());
    *upstream.name.lock().unwrap() = "first";
    let cache = Arc::new(Cache::new(Bounds {
        bytes: 1 << 20,
        entry,
    }));
    let params = params_of(terms, &cache);
    let calls = serving(params, &upstream);
    (calls, upstream, cache)
}

fn params_of(terms: Terms, cache: &Arc<Cache>) -> Params {
    Params {
        rules: Arc::new(Rules {
            terms,
            routes: FxHashMap::default(),
            max_ttl: Duration::from_secs(86_400),
        }),
        cache: Arc::clone(cache),
        shared: None,
        retries: None,
        counts_saved: false,
    }
}

/// Returns the layer over an upstream, which looks calls up by itself.
fn serving(params: Params, upstream: &Arc<Upstream>) -> Calls {
    let answering = Arc::clone(upstream);
    let inner = service_fn(move |call| Arc::clone(&answering).answer(call));
    Calls::new(CacheLayer::new(params, Arc::new(One)).layer(inner))
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
            team: Some(team.into()),
            ..Caller::configured("alice")
        }),
        endpoint: Endpoint::ChatCompletions,
        model: Some("m".into()),
        stream,
        report_usage: false,
        upstream: None,
        estimate: None,
        room: None,
        looked: None,
        deadline: None,
        head: CallHead {
            method: Method::POST,
            target: "/v1/chat/completions".parse().unwrap(),
            headers,
        },
        body: CallBody::Json {
            bytes,
            members: Box::new(members),
        },
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
    // What an upstream sees that may change its answer.
    for name in ["openai-beta", "accept-language"] {
        let mut header = call_of("a", TEXT, None);
        let headers = &mut header.head.headers;
        headers.insert(name, HeaderValue::from_static("x"));
        text(&calls, header).await;
    }
    let mut query = call_of("a", TEXT, None);
    query.head.target = "/v1/chat/completions?x=1".parse().unwrap();
    text(&calls, query).await;
    assert_eq!(upstream.calls(), bodies.len() + 5);
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
