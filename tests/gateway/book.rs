//! An upstream that keeps a book of its own, clients that leave, cuts, and a gateway that is killed and stopped in the
//! middle: whatever happens, the ledger has each request once, and the tokens that were really used.
//!
//! `WEIR_TRIALS=1000 cargo test --test gateway book::` runs the long one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::Method;
use serde_json::json;

use crate::support::answers::{DONE, LAST_CHUNK, STREAM_HEAD, chunk, delta, json_answer};
use crate::support::client::whole;
use crate::support::eventually;
use crate::support::gateway::{Config, Gateway};
use crate::support::upstream::{Script, Upstream};

/// Requests under way at once in a trial.
const AT_ONCE: u64 = 4;

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Plain,
    Stream,
    /// A stream of an upstream that does not tell its usage.
    Untold,
    /// The upstream breaks its stream off.
    Cut,
    /// The client leaves its stream.
    Left,
    /// The upstream says nothing until somebody goes.
    Silent,
}

/// A line of the book: how many tokens of a request's answer were generated.
#[derive(Clone, Copy, Debug)]
struct Line {
    fate: Fate,
    prompt: u64,
    generated: u64,
}

type Book = Arc<Mutex<HashMap<String, Line>>>;

fn usage(prompt: u64, generated: u64) -> String {
    format!(
        "{{\"prompt_tokens\":{prompt},\"completion_tokens\":{generated},\"total_tokens\":{}}}",
        prompt + generated
    )
}

/// Answers as the request's fate is, and writes it into the book.
fn answer(fate: Fate, prompt: u64, generated: u64) -> Script {
    let usage = usage(prompt, generated);
    if fate == Fate::Plain {
        let body = format!(
            "{{\"choices\":[{{\"index\":0,\"message\":{{\"content\":\"a\"}}}}],\"usage\":{usage}}}"
        );
        return Script::new().send(json_answer("200 OK", body));
    }
    let mut script = Script::new();
    if fate == Fate::Silent {
        return script.stall();
    }
    script = script.send(STREAM_HEAD);
    for _ in 0..generated {
        // One token each, of which a tokenizer makes one as well: " a a a".
        script = script
            .send(chunk(delta(" a")))
            .pause(Duration::from_millis(1));
    }
    let end = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    let told = format!("data: {{\"choices\":[],\"usage\":{usage}}}\n\n");
    match fate {
        Fate::Cut => script.cut(),
        Fate::Left => script.stall(),
        Fate::Untold => script.send(chunk(end)).send(chunk(DONE)).send(LAST_CHUNK),
        _ => script
            .send(chunk(end))
            .send(chunk(told))
            .send(chunk(DONE))
            .send(LAST_CHUNK),
    }
}

/// One client's part of a trial. Whatever it sees, the book and the ledger must agree in the end.
async fn ask(gateway: &Gateway, id: &str, fate: Fate) {
    let client = gateway
        .client()
        .with_header("x-request-id", id)
        .with_header("content-type", "application/json");
    let body = json!({
        "model": "gpt-4o",
        "messages": [{"role": "user", "content": "a"}],
        "stream": fate != Fate::Plain && fate != Fate::Silent,
    });
    let opened = client.try_open(
        Method::POST,
        "/v1/chat/completions",
        whole(body.to_string()),
    );
    let Ok(mut stream) = opened.await else {
        return;
    };
    match fate {
        Fate::Left => {
            let _ = stream.next().await;
        }
        _ => {
            let _ = stream.rest().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_is_the_upstreams_book_whatever_happens() {
    let trials: u64 = std::env::var("WEIR_TRIALS").map_or(30, |number| number.parse().unwrap());
    let seed =
        std::env::var("WEIR_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap());
    println!("WEIR_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let book: Book = Arc::default();
    let kept = Arc::clone(&book);
    let upstream = Upstream::start(move |request| {
        let id = request.header("x-request-id").unwrap().to_owned();
        let [fate, prompt, generated] = [1, 2, 3].map(|part| id.split('-').nth(part).unwrap());
        let fate = match fate {
            "Plain" => Fate::Plain,
            "Stream" => Fate::Stream,
            "Untold" => Fate::Untold,
            "Cut" => Fate::Cut,
            "Left" => Fate::Left,
            _ => Fate::Silent,
        };
        let (prompt, generated) = (prompt.parse().unwrap(), generated.parse().unwrap());
        let line = Line {
            fate,
            prompt,
            generated,
        };
        assert!(
            kept.lock().unwrap().insert(id, line).is_none(),
            "asked twice"
        );
        answer(fate, prompt, generated)
    })
    .await;
    let mut gateway = Config::over(&upstream)
        .server("drain_timeout = \"300ms\"")
        .start()
        .await;

    let mut killed = 0;
    for trial in 0..trials {
        let fates = [
            Fate::Plain,
            Fate::Stream,
            Fate::Untold,
            Fate::Cut,
            Fate::Left,
        ];
        // How the trial ends: mostly by itself.
        let blow = random.u8(0..6);
        let mut ids = Vec::new();
        for number in 0..AT_ONCE {
            let silent = blow < 2 && number == 0;
            let fate = if silent {
                Fate::Silent
            } else {
                fates[random.usize(..fates.len())]
            };
            let (prompt, generated) = (random.u64(1..500), random.u64(1..9));
            ids.push((
                format!("t{trial}x{number}-{fate:?}-{prompt}-{generated}"),
                fate,
            ));
        }
        let asking =
            futures_util::future::join_all(ids.iter().map(|(id, fate)| ask(&gateway, id, *fate)));
        match blow {
            0 | 1 => {
                let pause = Duration::from_micros(random.u64(0..12_000));
                let _ = tokio::time::timeout(pause, asking).await;
                gateway.signal(if blow == 0 { "KILL" } else { "TERM" });
                gateway.restart().await;
                killed += 1;
            }
            _ => asking.await.into_iter().for_each(drop),
        }
    }
    eventually("no row is open", async || {
        let open = gateway.ledger("SELECT count(*) FROM request WHERE status = 'open'");
        (open == ["0"]).then_some(())
    })
    .await;
    println!("{trials} trials, {killed} of them killed or stopped");
    compare(&gateway, &book.lock().unwrap());
}

fn compare(gateway: &Gateway, book: &HashMap<String, Line>) {
    let rows = gateway.ledger(
        "SELECT request_id, status, error, coalesce(provenance, 'none'), input_tokens, output_tokens, attempts FROM request",
    );
    let mut seen = HashMap::new();
    let (mut tokens, mut booked) = (0, 0);
    for row in &rows {
        let columns: Vec<&str> = row.split(' ').collect();
        let [id, status, error, provenance, input, output, attempts] = columns[..] else {
            panic!("{row}");
        };
        assert!(seen.insert(id, row).is_none(), "doubled: {row}");
        let (input, output): (u64, u64) = (input.parse().unwrap(), output.parse().unwrap());
        let Some(line) = book.get(id) else {
            // Written down, and then never sent: killed in between, or its client had left.
            assert!(
                status == "interrupted" || provenance == "none" || attempts != "0",
                "invented: {row}"
            );
            continue;
        };
        match (line.fate, provenance) {
            (Fate::Plain | Fate::Stream, "upstream") => {
                assert_eq!((input, output), (line.prompt, line.generated), "{row}");
                tokens += input + output;
                booked += line.prompt + line.generated;
            }
            (Fate::Untold, "counted") if status == "complete" => {
                assert_eq!(output, line.generated, "{row}")
            }
            (Fate::Cut, "counted") if error == "upstream_broken" => {
                assert_eq!(output, line.generated, "{row}")
            }
            // Whoever leaves, or is stopped, pays for what came; the rest is estimated, and never free.
            (_, "counted") => assert!(output <= line.generated && input > 0, "{row}"),
            (_, "estimated") => assert!(input > 0, "{row}"),
            // A stream that was broken off by a stop before its first event was asked, and failed.
            (_, "none") => assert_ne!(status, "complete", "{row}"),
            _ => panic!("{row} is not {line:?}"),
        }
    }
    let lost: Vec<_> = book
        .keys()
        .filter(|id| !seen.contains_key(id.as_str()))
        .collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert_eq!(tokens, booked);
}
