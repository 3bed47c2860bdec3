//! The ledger: one row for every request, whatever way it ends, and nothing served that is not in it.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::Method;
use serde_json::json;

use crate::support::answers::{
    DONE, LAST_CHUNK, STREAM_HEAD, USAGE, answer, ask, chat, chunk, delta, json_answer,
};
use crate::support::eventually;
use crate::support::gateway::{Config, Gateway, run, weir};
use crate::support::upstream::{Gate, Script, Upstream};

const PRICED: &str = "[ledger]\nprices = \"own.toml\"\n";
const PRICES: &str =
    "date = \"2026-11-25\"\n[[price]]\nmodel = \"gpt-4o\"\ninput = 1\noutput = 2.5\n";

fn priced(upstream: &Upstream) -> Config {
    let config = Config::over(upstream).table(PRICED);
    std::fs::write(config.path().join("own.toml"), PRICES).unwrap();
    config
}

fn stream(events: &[&str]) -> Vec<u8> {
    let mut bytes = STREAM_HEAD.as_bytes().to_vec();
    for event in events {
        bytes.extend(chunk(event));
    }
    bytes
}

fn whole_stream() -> Vec<u8> {
    let mut bytes = stream(&[&delta("Hello"), USAGE, DONE]);
    bytes.extend(LAST_CHUNK.as_bytes());
    bytes
}

fn ask_stream() -> String {
    json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "hello"}], "stream": true})
        .to_string()
}

/// Waits until no row is open any more, and returns these columns of all of them.
async fn settled(gateway: &Gateway, columns: &str) -> Vec<String> {
    eventually("no row is open", async || {
        let open = gateway.ledger("SELECT count(*) FROM request WHERE status = 'open'");
        (open == ["0"]).then_some(())
    })
    .await;
    gateway.ledger(&format!("SELECT {columns} FROM request ORDER BY id"))
}

/// Waits for so many rows: refusals are promised to nobody, and are written a moment later.
async fn written(gateway: &Gateway, rows: usize) {
    eventually(&format!("there are {rows} rows"), async || {
        let count = gateway.ledger("SELECT count(*) FROM request");
        (count[0].parse::<usize>().unwrap() >= rows).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_request_is_a_row_with_its_attempt_its_tokens_and_its_cost() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = priced(&upstream).start().await;
    let client = gateway.client().with_header("x-request-id", "mine-1");
    assert_eq!(client.chat(ask()).await.status, 200);
    // The row is there with the answer, not a moment later. 3 tokens at 1 and 2 at 2.5 dollars per million.
    assert_eq!(
        gateway.ledger(
            "SELECT request_id, key, team, endpoint, model, served_model, upstream, stream, status, http_status, error,
                input_tokens, output_tokens, provenance, cost, served_from, attempts FROM request"
        ),
        ["mine-1 alice - /v1/chat/completions gpt-4o gpt-4o upstream 0 complete 200 - 3 2 upstream 8000 upstream 1"]
    );
    assert_eq!(
        gateway.ledger(
            "SELECT number, upstream, model, result, http_status, input_tokens, cost FROM attempt"
        ),
        ["1 upstream gpt-4o answered 200 3 8000"]
    );
}

#[tokio::test]
async fn a_stream_is_settled_before_its_last_event() {
    let upstream = Upstream::answering(whole_stream()).await;
    let gateway = priced(&upstream).start().await;
    let mut stream = gateway
        .client()
        .stream("/v1/chat/completions", ask_stream())
        .await;
    stream.until(DONE).await;
    assert_eq!(
        gateway.ledger(
            "SELECT status, stream, input_tokens, output_tokens, provenance, cost FROM request"
        ),
        ["complete 1 7 3 upstream 14500"]
    );
}

#[tokio::test]
async fn a_call_stands_in_the_ledger_before_its_upstream_hears_of_it() {
    let gate = Gate::new();
    let script = gate.clone();
    let upstream = Upstream::start(move |_| Script::new().until(&script).send(chat())).await;
    let gateway = Gateway::over(&upstream).await;
    let asking = tokio::spawn({
        let client = gateway.client();
        async move { client.chat(ask()).await }
    });
    upstream.called(1).await;
    assert_eq!(
        gateway.ledger("SELECT status, provenance FROM request"),
        ["open estimated"]
    );
    gate.open();
    asking.await.unwrap();
    assert_eq!(gateway.ledger("SELECT status FROM request"), ["complete"]);
}

#[tokio::test]
async fn every_try_has_a_row_of_its_own() {
    let bad = Upstream::answering(json_answer("500 Oops", "{}")).await;
    let good = Upstream::answering(chat()).await;
    let gateway = Config::new()
        .upstream("bad", &bad, "")
        .upstream("good", &good, "")
        .routed("gpt-4o", "targets = [{ upstream = \"bad\" }, { upstream = \"good\", model = \"own\", priority = 1 }]")
        .start()
        .await;
    assert_eq!(gateway.client().chat(ask()).await.status, 200);
    assert_eq!(
        gateway.ledger(
            "SELECT upstream, model, result, http_status, provenance FROM attempt ORDER BY number"
        ),
        [
            "bad gpt-4o upstream_status 500 -",
            "good own answered 200 upstream"
        ]
    );
    assert_eq!(
        gateway.ledger("SELECT upstream, served_model, attempts, cost FROM request"),
        // The price of a name that only the upstream knows is that of the one asked for.
        ["good own 2 27500"]
    );
}

#[tokio::test]
async fn what_breaks_or_is_left_is_counted_as_far_as_it_came() {
    let upstream = Upstream::start(|call| {
        let head = stream(&[&delta("Hello"), &delta(" world")]);
        match call.header("x-request-id") {
            Some("cut") => Script::new().send(head).cut(),
            _ => Script::new().send(head).stall(),
        }
    })
    .await;
    let gateway = priced(&upstream).start().await;
    let cut = gateway.client().with_header("x-request-id", "cut");
    cut.stream("/v1/chat/completions", ask_stream())
        .await
        .rest()
        .await;
    let left = gateway.client().with_header("x-request-id", "left");
    let mut stream = left.stream("/v1/chat/completions", ask_stream()).await;
    stream.until(&delta(" world")).await;
    drop(stream);
    let columns = "request_id || ' ' || status, error, input_tokens, output_tokens, provenance, cost, http_status";
    assert_eq!(
        settled(&gateway, columns).await,
        [
            "cut failed upstream_broken 8 2 counted 13000 200",
            "left client_gone client_gone 8 2 counted 13000 200"
        ]
    );
}

#[tokio::test]
async fn what_an_upstream_would_compress_is_booked_with_its_usage() {
    let said = r#"{"data":[{"b64_json":"aaaa"}],"usage":{"input_tokens":14,"output_tokens":5,"total_tokens":19}}"#;
    let upstream = Upstream::start(move |request| {
        let asked = request.header("accept-encoding").unwrap_or_default();
        Script::new().send(match asked.contains("gzip") {
            true => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
                encoder.write_all(said.as_bytes()).unwrap();
                let head = "content-type: application/json\r\ncontent-encoding: gzip\r\n";
                answer("200 OK", head, encoder.finish().unwrap())
            }
            false => json_answer("200 OK", said),
        })
    })
    .await;
    let gateway = Gateway::over(&upstream).await;
    // What SDKs send.
    let client = gateway
        .client()
        .with_header("accept-encoding", "gzip, deflate");
    let answer = client.post("/v1/images/generations", "{}").await;
    assert_eq!((answer.status, answer.text().as_str()), (200, said));
    let file = client.get("/v1/files/f-1/content").await;
    assert_eq!(
        file.header("content-encoding"),
        Some("gzip"),
        "a file is as its client likes it"
    );
    assert_eq!(
        settled(
            &gateway,
            "endpoint, input_tokens, output_tokens, provenance"
        )
        .await,
        [
            "/v1/images/generations 14 5 upstream",
            "/v1/files/f-1/content 0 0 -"
        ]
    );
}

#[tokio::test]
async fn paths_that_pass_through_are_booked_with_their_usage_or_their_bytes() {
    let upstream = Upstream::start(|call| match call.target.as_str() {
        "/v1/audio/transcriptions" => Script::new().send(json_answer(
            "200 OK",
            r#"{"text":"hi","usage":{"type":"tokens","input_tokens":14,"output_tokens":5,"total_tokens":19}}"#,
        )),
        _ => Script::new().send(json_answer("200 OK", r#"{"object":"file"}"#)),
    })
    .await;
    let gateway = Gateway::over(&upstream).await;
    let client = gateway.client();
    client
        .request(Method::POST, "/v1/audio/transcriptions", "sound")
        .await;
    client.request(Method::GET, "/v1/files/f-1", "").await;
    assert_eq!(
        settled(
            &gateway,
            "endpoint, status, input_tokens, output_tokens, provenance, sent_bytes"
        )
        .await,
        [
            "/v1/audio/transcriptions complete 14 5 upstream 93",
            "/v1/files/f-1 complete 0 0 - 17"
        ]
    );
}

#[tokio::test]
async fn a_killed_process_leaves_nothing_open_and_nothing_free() {
    let upstream = Upstream::start(|_| Script::new().stall()).await;
    let mut gateway = priced(&upstream).start().await;
    let asking = tokio::spawn({
        let client = gateway.client();
        async move {
            client
                .try_open(
                    Method::POST,
                    "/v1/chat/completions",
                    crate::support::client::whole(ask()),
                )
                .await
                .is_ok()
        }
    });
    upstream.called(1).await;
    gateway.signal("KILL");
    gateway.restart().await;
    assert!(!asking.await.unwrap());
    let rows = gateway.ledger(
        "SELECT status, error, provenance, attempts, cost > 0, upstream, http_status FROM request",
    );
    assert_eq!(
        rows,
        ["interrupted gateway_interrupted estimated 1 1 upstream -"]
    );
    assert_eq!(
        gateway.ledger("SELECT upstream, result FROM attempt"),
        ["upstream interrupted"]
    );
    assert!(
        gateway
            .metrics()
            .await
            .contains("weir_ledger_interrupted_rows 1")
    );
    // Nothing counts twice.
    gateway.signal("KILL");
    gateway.restart().await;
    assert_eq!(gateway.ledger("SELECT count(*) FROM attempt"), ["1"]);
}

#[tokio::test]
async fn a_ledger_that_cannot_be_written_refuses_or_serves_as_it_was_told() {
    let upstream = Upstream::answering(chat()).await;
    for (policy, status) in [("refuse", 503), ("serve", 200)] {
        let gateway = Config::over(&upstream)
            .table(&format!("[ledger]\non_failure = \"{policy}\"\n"))
            .start()
            .await;
        let path = gateway.dir.path().join(".local/share/weir/weir.db");
        let away = gateway.dir.path().join("away.db");
        std::fs::rename(&path, &away).unwrap();
        let promised = gateway.client().chat(ask()).await;
        assert_eq!(promised.status, 200, "the journal holds it");
        eventually("the failure is noticed", async || {
            let metrics = gateway.metrics().await;
            metrics.contains("\nweir_ledger_failing 1\n").then_some(())
        })
        .await;
        let calls = upstream.calls().len();
        let answer = gateway.client().chat(ask()).await;
        assert_eq!(answer.status, status, "{policy}: {}", answer.text());
        if status == 503 {
            answer.error(503, "server_error", "ledger_unavailable");
            assert!(answer.header("retry-after").is_some());
            assert_eq!(
                upstream.calls().len(),
                calls,
                "nothing is used that is not written down"
            );
        }
        let ready = gateway.operator().get("/readyz").await.status;
        assert_eq!(ready, if status == 503 { 503 } else { 200 });
        std::fs::rename(&away, &path).unwrap();
        eventually("the ledger is well again", async || {
            gateway
                .metrics()
                .await
                .contains("\nweir_ledger_failing 0\n")
                .then_some(())
        })
        .await;
        assert_eq!(gateway.client().chat(ask()).await.status, 200);
        let rows = gateway.ledger("SELECT count(*) FROM request WHERE status = 'complete'");
        // What was served meanwhile has been written down since.
        assert_eq!(rows, [if status == 503 { "2" } else { "3" }], "{policy}");
    }
}

#[tokio::test]
async fn what_a_deleted_ledger_is_owed_stands_in_the_new_one_and_the_log_says_each_thing_once() {
    let upstream = Upstream::answering(chat()).await;
    let mut gateway = Config::over(&upstream)
        .table("[ledger]\non_failure = \"serve\"\n")
        .start()
        .await;
    let path = gateway.dir.path().join(".local/share/weir/weir.db");
    std::fs::remove_file(&path).unwrap();
    for _ in 0..3 {
        assert_eq!(gateway.client().chat(ask()).await.status, 200);
    }
    // Some rounds of those who look after it.
    eventually("it was tried again", async || {
        let metrics = gateway.metrics().await;
        let failures = metrics
            .lines()
            .find_map(|line| line.strip_prefix("weir_ledger_failures_total "))?;
        (failures.parse::<u32>().unwrap() > 5).then_some(())
    })
    .await;
    let of_the_ledger = |line: &serde_json::Value| {
        let is_told = ["ERROR", "WARN"].contains(&line["level"].as_str().unwrap_or_default());
        is_told && line.to_string().contains("ledger")
    };
    let told: Vec<_> = gateway.log().into_iter().filter(of_the_ledger).collect();
    let mut messages: Vec<_> = told.iter().map(|line| line["message"].as_str()).collect();
    assert!(
        messages.contains(&Some("the ledger cannot be written")),
        "{told:#?}"
    );
    // Who looks for what others change may find the file away before it was ever opened, and says so, once, too.
    messages.sort_unstable();
    assert!(messages.is_sorted_by(|one, next| one < next), "{told:#?}");
    gateway.signal("KILL");
    gateway.restart().await;
    assert_eq!(
        gateway.ledger("SELECT status, http_status, input_tokens, output_tokens FROM request"),
        ["complete 200 3 2"; 3]
    );
}

#[tokio::test]
async fn an_answer_that_is_refused_because_its_row_cannot_be_written_is_a_row_that_says_so() {
    let gate = Gate::new();
    let script = Script::new().until(&gate).send(chat());
    let upstream = Upstream::start(move |_| script.clone()).await;
    let gateway = Config::over(&upstream)
        .table("[ledger]\nsync = \"always\"\n")
        .start()
        .await;
    let client = gateway.client();
    let call = tokio::spawn(async move { client.chat(ask()).await });
    upstream.called(1).await;
    let path = gateway.dir.path().join(".local/share/weir/weir.db");
    let away = gateway.dir.path().join("away.db");
    std::fs::rename(&path, &away).unwrap();
    gate.open();
    let answer = call.await.unwrap();
    answer.error(503, "server_error", "ledger_unavailable");
    std::fs::rename(&away, &path).unwrap();
    assert_eq!(
        settled(&gateway, "status, http_status, error, input_tokens").await,
        ["failed 503 gateway_ledger 3"]
    );
}

#[tokio::test]
async fn a_ledger_that_is_deleted_under_a_gateway_is_noticed() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream).start().await;
    assert_eq!(gateway.client().chat(ask()).await.status, 200);
    let path = gateway.dir.path().join(".local/share/weir/weir.db");
    let away = gateway.dir.path().join("away.db");
    std::fs::rename(&path, &away).unwrap();
    // Also when nobody calls.
    let is_failing = async |failing: &str| {
        let metrics = gateway.metrics().await;
        let line = format!("\nweir_ledger_failing {failing}\n");
        metrics.contains(&line).then_some(())
    };
    eventually("it is noticed", async || is_failing("1").await).await;
    let refused = gateway.client().chat(ask()).await;
    refused.error(503, "server_error", "ledger_unavailable");
    assert_eq!(upstream.calls().len(), 1);
    assert_eq!(gateway.operator().get("/readyz").await.status, 503);
    std::fs::rename(&away, &path).unwrap();
    eventually("it is back", async || is_failing("0").await).await;
    assert_eq!(gateway.client().chat(ask()).await.status, 200);
    assert_eq!(gateway.ledger("SELECT count(*) FROM request"), ["2"]);
}

#[tokio::test]
async fn a_known_caller_who_is_refused_has_a_row_that_says_why() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .without_key()
        .table(&format!(
            "[[key]]\nname = \"alice\"\nsecret = \"{}\"\nmodels = [\"gpt-4o\"]\npaths = [\"/v1/chat/completions\"]\nlimits = [{{ requests_per_day = 1 }}]\n",
            crate::support::KEY
        ))
        .start()
        .await;
    let client = gateway.client();
    assert_eq!(client.chat(ask()).await.status, 200);
    assert_eq!(client.chat(ask()).await.status, 429);
    let mut other = ask();
    other["model"] = "gpt-5".into();
    assert_eq!(client.chat(other).await.status, 403);
    assert_eq!(client.chat("{".to_owned()).await.status, 400);
    let path = client.request(Method::GET, "/v1/files/f-1", "").await;
    assert_eq!(path.status, 403);
    let stranger = gateway.stranger().chat(ask()).await;
    assert_eq!(stranger.status, 401);
    let columns = "status, http_status, error, key, endpoint, model, tokens, cost, attempts";
    let chat = "alice /v1/chat/completions";
    written(&gateway, 5).await;
    assert_eq!(
        settled(&gateway, columns).await,
        [
            &*format!("complete 200 - {chat} gpt-4o 5 27500 1"),
            &*format!("refused 429 policy_limit {chat} gpt-4o 0 0 0"),
            &*format!("refused 403 policy_model {chat} gpt-5 0 0 0"),
            &*format!("refused 400 client_invalid_body {chat} - 0 0 0"),
            "refused 403 policy_path alice /v1/files/f-1 - 0 0 0",
        ]
    );
    for _ in 0..100 {
        assert_eq!(client.chat(ask()).await.status, 429);
    }
    written(&gateway, 61).await;
    assert_eq!(
        settled(&gateway, "count(*)").await,
        ["61"],
        "60 refusals in a minute, and what was served"
    );
    let metrics = gateway.metrics().await;
    assert!(metrics.contains("\nweir_ledger_left_out_rows_total 44\n"));
}

#[tokio::test]
async fn a_file_that_is_no_ledger_is_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weir.db");
    std::fs::write(
        &path,
        "not a database, but longer than the header of one would have to be ".repeat(9),
    )
    .unwrap();
    let config = folder.path().join("weir.toml");
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n[ledger]\npath = {:?}\n[[key]]\nname = \"a\"\nsecret = \"12345678\"\n",
        path.display().to_string()
    );
    std::fs::write(&config, text).unwrap();
    let mut command = weir(folder.path());
    command.args(["serve", "--config"]).arg(&config);
    let ended = run(command).await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    assert!(
        ended.stderr.contains("no ledger of Weir's") && ended.stderr.contains("[ledger] path"),
        "{}",
        ended.stderr
    );
    assert!(
        std::fs::read_to_string(&path)
            .unwrap()
            .starts_with("not a database")
    );
}

#[tokio::test]
async fn a_spent_budget_is_told_so_that_no_client_tries_again_and_outlives_a_restart() {
    let upstream = Upstream::answering(chat()).await;
    let mut gateway = Config::over(&upstream)
        .without_key()
        .table(&format!(
            "[[key]]\nname = \"alice\"\nsecret = \"{}\"\nbudgets = [{{ tokens = 30, per = \"day\" }}]\n",
            crate::support::KEY
        ))
        .start()
        .await;
    let small = || {
        json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 2})
            .to_string()
    };
    let mut answered = 0;
    let refused = loop {
        let answer = gateway.client().chat(small()).await;
        if answer.status != 200 {
            break answer;
        }
        answered += 1;
        assert!(answered < 20);
        let warned = answer.headers.contains_key("x-weir-budget-warning");
        assert_eq!(warned, (answered - 1) * 5 >= 24, "call {answered}");
    };
    // Five tokens each; the next one is reserved at the eight of its prompt, by estimate, and the two it may have.
    assert!((3..=6).contains(&answered), "{answered}");
    refused.error(429, "insufficient_quota", "insufficient_quota");
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(upstream.calls().len(), answered);
    gateway.signal("TERM");
    assert!(gateway.restart().await.success());
    assert_eq!(gateway.client().chat(small()).await.status, 429);
    assert!(gateway.metrics().await.contains(
        "weir_budget_used_ratio{holder=\"key\",name=\"alice\",per=\"day\",unit=\"tokens\"}"
    ));
}

#[tokio::test]
async fn a_client_that_left_can_be_read_to_its_end() {
    let gate = Gate::new();
    let script = gate.clone();
    let upstream = Upstream::start(move |_| {
        let mut rest = chunk(USAGE);
        rest.extend(chunk(DONE));
        rest.extend(LAST_CHUNK.as_bytes());
        Script::new()
            .send(stream(&[&delta("Hello")]))
            .until(&script)
            .send(rest)
    })
    .await;
    let gateway = Config::over(&upstream)
        .table("[ledger]\nclient_gone = \"drain\"\n")
        .start()
        .await;
    let mut stream = gateway
        .client()
        .stream("/v1/chat/completions", ask_stream())
        .await;
    stream.until(&delta("Hello")).await;
    drop(stream);
    eventually("the request is over for its client", async || {
        let metrics = gateway.metrics().await;
        metrics.contains("weir_requests_in_flight 0").then_some(())
    })
    .await;
    gate.open();
    assert_eq!(
        settled(&gateway, "status, input_tokens, output_tokens, provenance").await,
        ["client_gone 7 3 drained"]
    );
}
