use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::*;
use crate::call::{CallBody, Caller, Head, Record, RequestId, Sharing, StreamError, Try};
use crate::error::GatewayError;
use crate::metrics::Metrics;
use crate::middleware::admission::{AdmissionLayer, Rules, Ways};
use crate::money::Nanos;
use crate::openai::endpoint::Endpoint;
use crate::openai::json::inspect;
use crate::pattern::Pattern;
use crate::prices::{Price, PriceTable, Prices};
use crate::store::budgets::{Budget, Budgets, Holder, Limit, Period, Window};
use crate::store::ledger::{Ledger, Params, Sync};
use crate::tokens::Encodings;

/// Every model goes somewhere, under its own name.
struct Anywhere;

impl Ways for Anywhere {
    fn label(&self, _: &str) -> Option<Arc<str>> {
        Some("*".into())
    }

    fn only_upstream(&self, _: &Call) -> Option<Arc<str>> {
        None
    }

    fn each_name(&self, model: &str, see: &mut dyn FnMut(&str)) {
        see(model);
    }
}

/// Books in a folder of their own; a token costs a nano-dollar, a generated one two.
struct Kept {
    rules: Arc<Rules>,
    books: Arc<Books>,
    _folder: tempfile::TempDir,
}

impl Kept {
    fn new() -> Self {
        Self::with(ClientGone::Cancel, &[])
    }

    fn with(client_gone: ClientGone, budgets: &[Budget]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(&Params {
            path: folder.path().join("weir.db"),
            sync: Sync::Never,
            max_open: 10,
            retention: Default::default(),
        })
        .unwrap();
        let all = Budgets::default();
        let holders = vec![(Holder::Key("alice".into()), budgets.to_vec())];
        let replace = |c: &rusqlite::Connection| all.replace(holders, c, jiff::Timestamp::now());
        ledger.reader().read_now(replace).unwrap();
        let million = |nanos: u64| Nanos::new(nanos * 1_000_000);
        let table = PriceTable {
            date: "2026-11-25".parse().unwrap(),
            prices: vec![(
                Pattern::parse("gpt-4o").unwrap(),
                Price::plain(million(1), million(2)),
            )],
        };
        let (prices, means) = (Arc::new(Prices::new(vec![table])), Arc::default());
        let rules = Rules {
            shared: None,
            metrics: Arc::new(Metrics::new().unwrap()),
            limits: Arc::default(),
            budgets: Arc::new(all),
            prices: Arc::clone(&prices),
            means: Arc::clone(&means),
            stop: None,
        };
        let books = Books {
            ledger,
            prices,
            encodings: Encodings::new(Vec::new()),
            means,
            metrics: Arc::new(Metrics::new().unwrap()),
            on_failure: OnFailure::Refuse,
            client_gone,
            deadline: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        Self {
            rules: Arc::new(rules),
            books: Arc::new(books),
            _folder: folder,
        }
    }

    /// Has a call answered by `inner`.
    async fn ask<F, A>(&self, call: Call, inner: F) -> Result<Reply, GatewayError>
    where
        F: Fn(Call) -> A + Clone + Send + 'static,
        A: Future<Output = Result<Reply, GatewayError>> + Send + 'static,
    {
        let inner = tower::service_fn(inner);
        let accounted = AccountingLayer::new(Arc::clone(&self.books)).layer(inner);
        let admission = AdmissionLayer::new(Arc::clone(&self.rules), Arc::new(Anywhere));
        admission.layer(accounted).oneshot(call).await
    }

    /// Returns the settled row, each column as text.
    fn row(&self, columns: &str) -> String {
        self.books.ledger.close();
        let columns: Vec<_> = columns
            .split(' ')
            .map(|column| format!("coalesce({column}, '-')"))
            .collect();
        let sql = format!("SELECT {} FROM request", columns.join(" || ' ' || "));
        let read = |c: &rusqlite::Connection| {
            let mut select = c.prepare(&sql)?;
            let rows = select.query_map([], |row| row.get::<_, String>(0))?;
            rows.collect::<Result<Vec<_>, _>>()
        };
        let rows = self.books.ledger.reader().read_now(read).unwrap();
        assert_eq!(rows.len(), 1, "{rows:?}");
        rows.into_iter().next().unwrap()
    }
}

fn call(endpoint: Endpoint, body: &'static str) -> Call {
    let bytes = Bytes::from_static(body.as_bytes());
    let members = inspect(&bytes, 128).unwrap();
    let caller = Caller {
        team: Some("research".into()),
        ..Caller::configured("alice")
    };
    Call {
        caller: Arc::new(caller),
        model: Some("gpt-4o".into()),
        stream: body.contains("\"stream\":true"),
        report_usage: false,
        upstream: None,
        estimate: None,
        room: None,
        looked: None,
        deadline: None,
        head: Head {
            method: Method::POST,
            target: endpoint
                .canonical_path()
                .unwrap_or("/v1/x")
                .parse()
                .unwrap(),
            headers: HeaderMap::new(),
        },
        endpoint,
        body: CallBody::Json {
            bytes,
            members: Box::new(members),
        },
        upgrade: None,
        record: Arc::new(Record::new(RequestId::fresh(), Instant::now())),
    }
}

fn chat(stream: bool) -> Call {
    let body = match stream {
        true => {
            r#"{"model":"gpt-4o","messages":[{"role":"user","content":"hello"}],"stream":true}"#
        }
        false => r#"{"model":"gpt-4o","messages":[{"role":"user","content":"hello"}]}"#,
    };
    call(Endpoint::ChatCompletions, body)
}

/// Notes a try that was answered, as dispatch does.
fn tried(record: &Record) {
    let mut facts = record.facts();
    facts.upstream = Some("openai".into());
    facts.attempts.push(Try {
        upstream: "openai".into(),
        endpoint: "api.openai.com".into(),
        model: Some("gpt-4o".into()),
        began: Duration::ZERO,
        time: Some(Duration::from_millis(1)),
        result: "answered",
        status: Some(200),
        sent: true,
        counted: None,
    });
}

/// Notes a try that brought no answer.
fn failed(record: &Record, result: &'static str, sent: bool) {
    tried(record);
    if let Some(attempt) = record.facts().attempts.last_mut() {
        attempt.result = result;
        attempt.status = None;
        attempt.sent = sent;
    }
}

async fn plain(call: Call, body: &'static str) -> Result<Reply, GatewayError> {
    tried(&call.record);
    let body = Bytes::from_static(body.as_bytes());
    Ok(Reply::full(StatusCode::OK, HeaderMap::new(), body))
}

type Frames = Vec<Result<&'static str, StreamError>>;

async fn events(call: Call, frames: Frames) -> Result<Reply, GatewayError> {
    tried(&call.record);
    let frames = frames
        .into_iter()
        .map(|frame| frame.map(|text| Frame::data(Bytes::from_static(text.as_bytes()))));
    let body = StreamBody::new(futures_util::stream::iter(frames));
    Ok(Reply::events(
        StatusCode::OK,
        HeaderMap::new(),
        Box::pin(body),
    ))
}

const HELLO: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hello world\"},\"finish_reason\":null}],\"usage\":null}\n\n";
const FINISH: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}],\"usage\":null}\n\n";
const USAGE: &str =
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":30,\"completion_tokens\":20}}\n\n";
const DONE: &str = "data: [DONE]\n\n";

#[tokio::test]
async fn the_upstreams_usage_counts_and_is_taken_out_of_a_stream_that_did_not_ask() {
    let kept = Kept::new();
    let record = chat(true);
    let facts = Arc::clone(&record.record);
    let reply = kept
        .ask(record, |call| {
            assert!(call.report_usage);
            events(call, vec![Ok(HELLO), Ok(FINISH), Ok(USAGE), Ok(DONE)])
        })
        .await
        .unwrap();
    let sent = reply.body.collect().await.unwrap().to_bytes();
    assert!(
        !String::from_utf8_lossy(&sent).contains("usage"),
        "{sent:?}"
    );
    assert!(sent.ends_with(DONE.as_bytes()));
    assert!(facts.facts().first_token.is_some());
    assert_eq!(
        kept.row(
            "status provenance input_tokens output_tokens cost http_status attempts served_from"
        ),
        "complete upstream 30 20 70 200 1 upstream"
    );
}

#[tokio::test]
async fn a_model_s_name_is_written_no_further_than_models_have_names() {
    let kept = Kept::new();
    let call = Call {
        model: Some("m".repeat(10_000).into()),
        ..chat(false)
    };
    let answer = |call: Call| async move {
        tried(&call.record);
        // Where a route gives no other name, the client's goes upstream.
        call.record.facts().attempts[0].model = call.model;
        Ok(Reply::full(
            StatusCode::OK,
            HeaderMap::new(),
            Bytes::from_static(b"{}"),
        ))
    };
    let reply = kept.ask(call, answer).await.unwrap();
    reply.body.collect().await.unwrap();
    assert_eq!(
        kept.row("length(model) length(served_model) (SELECT(length(model))FROM(attempt))"),
        "256 256 256"
    );
}

#[tokio::test]
async fn a_row_is_settled_before_the_last_byte_is_released() {
    let kept = Kept::new();
    let frames = || vec![Ok(HELLO), Ok(FINISH), Ok(USAGE), Ok(DONE)];
    let reply = kept
        .ask(chat(true), move |call| events(call, frames()))
        .await
        .unwrap();
    let mut body = reply.body;
    let status = |books: &Books| {
        let read = |c: &rusqlite::Connection| {
            c.query_row("SELECT status FROM request", [], |row| {
                row.get::<_, String>(0)
            })
        };
        books.ledger.reader().read_now(read).unwrap()
    };
    loop {
        let frame = body.frame().await.unwrap().unwrap().into_data().unwrap();
        if frame.ends_with(DONE.as_bytes()) {
            break;
        }
        assert_eq!(status(&kept.books), "open");
    }
    assert_eq!(status(&kept.books), "complete");
    drop(body);
    kept.books.ledger.close();
}

#[tokio::test]
async fn what_no_upstream_tells_is_counted_here() {
    let kept = Kept::new();
    let reply = kept
        .ask(chat(true), |call| {
            events(call, vec![Ok(HELLO), Ok(FINISH), Ok(DONE)])
        })
        .await
        .unwrap();
    reply.body.collect().await.unwrap();
    // "hello" is one token; a message has three around it and a role, and the answer three before it.
    assert_eq!(
        kept.row("status provenance input_tokens output_tokens"),
        "complete counted 8 2"
    );
}

#[tokio::test]
async fn plain_answers_count_with_usage_and_without() {
    let kept = Kept::new();
    let body = r#"{"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":3,"total_tokens":7,
        "prompt_tokens_details":{"cached_tokens":1}}}"#;
    kept.ask(chat(false), move |call| plain(call, body))
        .await
        .unwrap();
    assert_eq!(
        kept.row("status provenance input_tokens cached_input_tokens output_tokens cost"),
        "complete upstream 3 1 3 10"
    );
    let kept = Kept::new();
    let body = r#"{"choices":[{"message":{"role":"assistant","content":"hello world"}}]}"#;
    kept.ask(chat(false), move |call| plain(call, body))
        .await
        .unwrap();
    assert_eq!(
        kept.row("status provenance output_tokens"),
        "complete counted 2"
    );
}

#[tokio::test]
async fn half_a_usage_is_none_and_of_two_the_last_counts() {
    for (usage, expected) in [
        (r#""usage":{"prompt_tokens":4}"#, "counted 8 2"),
        (r#""usage":{"completion_tokens":4}"#, "counted 8 2"),
        (
            r#""usage":{"prompt_tokens":1,"completion_tokens":1},"usage":{"prompt_tokens":4,"completion_tokens":3}"#,
            "upstream 4 3",
        ),
    ] {
        let kept = Kept::new();
        let body = r#"{"choices":[{"message":{"content":"hello world"}}],USAGE}"#;
        let body = &*body.replace("USAGE", usage).leak();
        kept.ask(chat(false), move |call| plain(call, body))
            .await
            .unwrap();
        assert_eq!(
            kept.row("provenance input_tokens output_tokens"),
            expected,
            "{usage}"
        );
    }
    let kept = Kept::new();
    let half = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":30}}\n\n";
    let frames = move || vec![Ok(HELLO), Ok(FINISH), Ok(half), Ok(DONE)];
    let reply = kept
        .ask(chat(true), move |call| events(call, frames()))
        .await
        .unwrap();
    reply.body.collect().await.unwrap();
    assert_eq!(
        kept.row("provenance input_tokens output_tokens"),
        "counted 8 2"
    );
}

#[tokio::test]
async fn what_was_not_billed_costs_nothing_and_what_was_not_told_is_not_known() {
    let kept = Kept::new();
    let refused = kept.ask(chat(false), |call| async move {
        failed(&call.record, "upstream_connect", false);
        Err(StreamError::Broken.into())
    });
    assert!(refused.await.is_err());
    assert_eq!(
        kept.row("status provenance tokens cost"),
        "failed - 0 0",
        "nobody was asked"
    );
    for (method, expected) in [
        (Method::POST, "complete - 0 - 200"),
        (Method::GET, "complete - 0 0 200"),
    ] {
        let kept = Kept::new();
        let mut call = call(Endpoint::PassThrough, r#"{"prompt":"a cat"}"#);
        call.head.method = method;
        kept.ask(call, |call| plain(call, r#"{"data":[]}"#))
            .await
            .unwrap();
        assert_eq!(
            kept.row("status provenance tokens cost http_status"),
            expected
        );
    }
}

#[tokio::test]
async fn zero_is_a_value_and_an_impossible_usage_is_none() {
    let kept = Kept::new();
    let body = r#"{"choices":[{"message":{"content":"hello world"}}],"usage":{"prompt_tokens":0,"completion_tokens":0}}"#;
    kept.ask(chat(false), move |call| plain(call, body))
        .await
        .unwrap();
    assert_eq!(
        kept.row("provenance input_tokens output_tokens"),
        "upstream 0 0"
    );
    let kept = Kept::new();
    let body = r#"{"choices":[{"message":{"content":"hello world"}}],"usage":{"prompt_tokens":-4,"completion_tokens":1e300}}"#;
    kept.ask(chat(false), move |call| plain(call, body))
        .await
        .unwrap();
    assert_eq!(kept.row("provenance output_tokens"), "counted 2");
}

#[tokio::test]
async fn a_client_that_leaves_a_stream_pays_for_what_came() {
    let kept = Kept::new();
    let reply = kept
        .ask(chat(true), |call| {
            events(
                call,
                vec![Ok(HELLO), Ok(HELLO), Ok(FINISH), Ok(USAGE), Ok(DONE)],
            )
        })
        .await
        .unwrap();
    let mut body = reply.body;
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert_eq!(
        kept.row("status provenance input_tokens output_tokens cost http_status"),
        "client_gone counted 8 2 12 200"
    );
}

#[tokio::test]
async fn the_upstream_of_a_client_that_left_can_be_read_to_its_end() {
    let kept = Kept::with(ClientGone::Drain { tokens: 10 }, &[]);
    let frames = || vec![Ok(HELLO), Ok(HELLO), Ok(FINISH), Ok(USAGE), Ok(DONE)];
    let reply = kept
        .ask(chat(true), move |call| events(call, frames()))
        .await
        .unwrap();
    let mut body = reply.body;
    body.frame().await.unwrap().unwrap();
    drop(body);
    kept.books.tasks.close();
    kept.books.tasks.wait().await;
    assert_eq!(
        kept.row("status provenance input_tokens output_tokens"),
        "client_gone drained 30 20"
    );
}

#[tokio::test]
async fn reading_on_is_bounded() {
    let kept = Kept::with(ClientGone::Drain { tokens: 1 }, &[]);
    let frames = || vec![Ok(HELLO), Ok(HELLO), Ok(HELLO), Ok(USAGE), Ok(DONE)];
    let reply = kept
        .ask(chat(true), move |call| events(call, frames()))
        .await
        .unwrap();
    let mut body = reply.body;
    body.frame().await.unwrap().unwrap();
    drop(body);
    kept.books.tasks.close();
    kept.books.tasks.wait().await;
    assert_eq!(kept.row("provenance output_tokens"), "counted 4");
}

/// An answer that goes on.
struct GoesOn {
    has_others: bool,
}

impl Sharing for GoesOn {
    fn goes_on_without_leader(&self, _: bool) -> bool {
        true
    }

    fn ends_without_leader(&self) -> bool {
        !self.has_others
    }

    fn closes(&self) -> bool {
        !self.has_others
    }
}

#[tokio::test]
async fn what_may_be_asked_for_again_is_read_no_further_unless_others_get_it() {
    for (has_others, expected) in [(false, "counted 4"), (true, "drained 20")] {
        let kept = Kept::with(ClientGone::Drain { tokens: 1 }, &[]);
        let frames = || vec![Ok(HELLO), Ok(HELLO), Ok(HELLO), Ok(USAGE), Ok(DONE)];
        let sharing: Arc<dyn Sharing> = Arc::new(GoesOn { has_others });
        let call = chat(true);
        call.record.share(Arc::downgrade(&sharing));
        let reply = kept.ask(call, move |call| events(call, frames())).await;
        let mut body = reply.unwrap().body;
        body.frame().await.unwrap().unwrap();
        drop(body);
        kept.books.tasks.close();
        kept.books.tasks.wait().await;
        assert_eq!(kept.row("provenance output_tokens"), expected);
    }
}

#[tokio::test]
async fn a_stop_waits_for_no_answer_that_does_not_begin_and_books_it() {
    let kept = Kept::new();
    let sharing: Arc<dyn Sharing> = Arc::new(GoesOn { has_others: false });
    let call = chat(false);
    call.record.share(Arc::downgrade(&sharing));
    let answering = kept.ask(call, |call| async move {
        failed(&call.record, Try::ABANDONED, true);
        std::future::pending().await
    });
    let left = tokio::time::timeout(Duration::from_millis(50), answering).await;
    assert!(left.is_err());
    assert_eq!(kept.books.tasks.len(), 1, "it goes on without its client");
    kept.books.tasks.close();
    kept.books.deadline.cancel();
    let ended = tokio::time::timeout(Duration::from_secs(10), kept.books.tasks.wait());
    assert!(ended.await.is_ok(), "the stop waits for it");
    assert_eq!(
        kept.row("status error provenance output_tokens attempts"),
        "failed gateway_drained estimated 1024 1"
    );
}

#[tokio::test]
async fn a_client_that_leaves_before_the_answer_pays_the_estimate_if_somebody_was_asked() {
    for (tries, sent, expected) in [
        (1, true, "client_gone estimated 1024 1"),
        (1, false, "client_gone - 0 1"),
        (0, false, "client_gone - 0 0"),
    ] {
        let kept = Kept::new();
        let answering = kept.ask(chat(false), move |call| async move {
            for _ in 0..tries {
                failed(&call.record, Try::ABANDONED, sent);
            }
            std::future::pending().await
        });
        let left = tokio::time::timeout(Duration::from_millis(50), answering).await;
        assert!(left.is_err());
        assert_eq!(
            kept.row("status provenance output_tokens attempts"),
            expected
        );
    }
}

#[tokio::test]
async fn a_try_that_may_have_been_billed_is_booked_and_one_that_failed_before_is_not() {
    let kept = Kept::new();
    let body = r#"{"choices":[],"usage":{"prompt_tokens":4,"completion_tokens":3}}"#;
    kept.ask(chat(false), move |call| {
        failed(&call.record, "upstream_connect", false);
        failed(&call.record, "upstream_timeout", true);
        failed(&call.record, "upstream_status", true);
        plain(call, body)
    })
    .await
    .unwrap();
    // 8 tokens are expected of the prompt and 1,024 of the answer.
    assert_eq!(
        kept.row("provenance input_tokens output_tokens tokens cost"),
        "upstream 4 3 1039 2066"
    );
}

#[tokio::test]
async fn a_request_whose_tries_all_timed_out_is_not_free() {
    let kept = Kept::new();
    let error = kept
        .ask(chat(false), |call| async move {
            failed(&call.record, "upstream_timeout", true);
            failed(&call.record, "upstream_timeout", true);
            Err(GatewayError::Panic)
        })
        .await;
    assert!(error.is_err());
    assert_eq!(
        kept.row("status provenance input_tokens output_tokens tokens"),
        "failed estimated 16 2048 2064"
    );
}

#[tokio::test]
async fn what_a_lost_try_in_this_process_counted_is_not_the_answers() {
    let kept = Kept::new();
    let reply = kept
        .ask(chat(true), |call| {
            failed(&call.record, Try::ABANDONED, false);
            let usage = Usage {
                input: 100,
                output: 50,
                ..Usage::default()
            };
            call.record.note_try(0, |noted| noted.counted = Some(usage));
            events(call, vec![Ok(HELLO), Ok(FINISH), Ok(DONE)])
        })
        .await
        .unwrap();
    reply.body.collect().await.unwrap();
    assert_eq!(
        kept.row("provenance input_tokens output_tokens tokens"),
        "counted 8 2 160"
    );
}

#[tokio::test]
async fn an_answer_that_a_stop_ends_is_not_its_clients_fault() {
    let kept = Kept::new();
    let frames = || vec![Ok(HELLO), Ok(HELLO), Ok(FINISH), Ok(USAGE), Ok(DONE)];
    let reply = kept
        .ask(chat(true), move |call| events(call, frames()))
        .await
        .unwrap();
    let mut body = reply.body;
    body.frame().await.unwrap().unwrap();
    kept.books.deadline.cancel();
    body.fail(StreamError::Drained);
    assert_eq!(
        kept.row("status error output_tokens"),
        "failed gateway_drained 2"
    );
}

#[tokio::test]
async fn a_stream_that_never_says_that_it_is_finished_is_broken() {
    let kept = Kept::new();
    let reply = kept
        .ask(chat(true), |call| events(call, vec![Ok(HELLO)]))
        .await
        .unwrap();
    assert_eq!(reply.body.collect().await.unwrap_err(), StreamError::Broken);
    assert_eq!(
        kept.row("status error output_tokens"),
        "failed upstream_broken 2"
    );
}

#[tokio::test]
async fn a_stream_without_done_is_whole_when_it_gave_its_reason_to_finish() {
    let kept = Kept::new();
    let reply = kept
        .ask(chat(true), |call| events(call, vec![Ok(HELLO), Ok(FINISH)]))
        .await
        .unwrap();
    assert!(reply.body.collect().await.is_ok());
    assert_eq!(kept.row("status"), "complete");
}

#[tokio::test]
async fn what_breaks_behind_the_last_event_is_not_told() {
    let kept = Kept::new();
    let reply = kept
        .ask(chat(true), |call| {
            events(call, vec![Ok(DONE), Err(StreamError::Broken)])
        })
        .await
        .unwrap();
    assert_eq!(reply.body.collect().await.unwrap().to_bytes(), DONE);
    assert_eq!(kept.row("status"), "complete");
}

#[tokio::test]
async fn an_upstreams_error_event_ends_the_stream_and_fails_the_request() {
    let kept = Kept::new();
    let error = "data: {\"error\":{\"message\":\"out of memory\"}}\n\n";
    let reply = kept
        .ask(chat(true), move |call| {
            events(call, vec![Ok(HELLO), Ok(error), Ok(DONE)])
        })
        .await
        .unwrap();
    let sent = reply.body.collect().await.unwrap().to_bytes();
    assert!(sent.ends_with(error.as_bytes()), "{sent:?}");
    assert_eq!(kept.row("status error"), "failed upstream_status");
}

#[tokio::test]
async fn a_spent_budget_refuses_and_asks_nobody() {
    let budget = Budget {
        limit: Limit::Tokens(1100),
        per: Period::Day,
        window: Window::Calendar,
        warn_at_thousandths: 800,
    };
    let kept = Kept::with(ClientGone::Cancel, &[budget]);
    let asked = Arc::new(Mutex::new(0));
    let count = Arc::clone(&asked);
    let body = r#"{"choices":[],"usage":{"prompt_tokens":900,"completion_tokens":100}}"#;
    let inner = move |call: Call| {
        *count.lock().unwrap() += 1;
        plain(call, body)
    };
    let first = kept.ask(chat(false), inner.clone()).await.unwrap();
    assert!(!first.headers.contains_key("x-weir-budget-warning"));
    let small = || {
        let body =
            r#"{"model":"gpt-4o","messages":[{"role":"user","content":"hello"}],"max_tokens":5}"#;
        call(Endpoint::ChatCompletions, body)
    };
    let second = kept.ask(small(), inner.clone()).await.unwrap();
    assert_eq!(
        second.headers["x-weir-budget-warning"],
        "key \"alice\" has used 90 % of 1100 tokens a day"
    );
    let refused = kept.ask(small(), inner).await.err().unwrap().explain();
    assert_eq!(
        (refused.status.as_u16(), refused.code),
        (429, "insufficient_quota")
    );
    assert!(
        refused
            .headers
            .iter()
            .any(|(name, value)| name == "x-should-retry" && value == "false")
    );
    assert!(
        refused.message.contains("1100 tokens a day"),
        "{}",
        refused.message
    );
    assert_eq!(*asked.lock().unwrap(), 2);
    kept.books.ledger.close();
}
