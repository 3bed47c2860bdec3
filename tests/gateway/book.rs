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

/// A request as its client knows it.
struct Asked {
    id: String,
    line: Line,
    /// Whether nobody ended the gateway while it was under way.
    calm: bool,
    /// How many pieces of its answer its client took.
    taken: u64,
}

/// One client's part of a trial: asks, leaves when it is fated to, and returns how many pieces of the answer it took.
async fn ask(gateway: &Gateway, id: &str, fate: Fate, patience: u64) -> u64 {
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
        return 0;
    };
    let mut taken = 0;
    if fate == Fate::Left {
        while taken < patience && matches!(stream.next().await, Ok(Some(_))) {
            taken += 1;
        }
    } else {
        let _ = stream.rest().await;
    }
    taken
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
    let mut asked = Vec::new();
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
        let calm = blow > 1;
        let requests: Vec<_> = (0..AT_ONCE)
            .map(|number| {
                let silent = !calm && number == 0;
                let fate = if silent {
                    Fate::Silent
                } else {
                    fates[random.usize(..fates.len())]
                };
                let (prompt, generated) = (random.u64(1..500), random.u64(1..9));
                let id = format!("t{trial}x{number}-{fate:?}-{prompt}-{generated}");
                let line = Line {
                    fate,
                    prompt,
                    generated,
                };
                (id, line, random.u64(1..=generated))
            })
            .collect();
        let asking = requests
            .iter()
            .map(|(id, line, patience)| ask(&gateway, id, line.fate, *patience));
        let asking = futures_util::future::join_all(asking);
        let taken = if calm {
            let taken = asking.await;
            // Those whose clients have left are on their way to their end.
            settled(&gateway).await;
            taken
        } else {
            let pause = Duration::from_micros(random.u64(0..12_000));
            let _ = tokio::time::timeout(pause, asking).await;
            gateway.signal(if blow == 0 { "KILL" } else { "TERM" });
            gateway.restart().await;
            killed += 1;
            vec![0; requests.len()]
        };
        let ended = requests.into_iter().zip(taken);
        asked.extend(ended.map(|((id, line, _), taken)| Asked {
            id,
            line,
            calm,
            taken,
        }));
    }
    settled(&gateway).await;
    println!("{trials} trials, {killed} of them killed or stopped");
    compare(&gateway, &asked, &book.lock().unwrap());
}

async fn settled(gateway: &Gateway) {
    eventually("no row is open", async || {
        let open = gateway.ledger("SELECT count(*) FROM request WHERE status = 'open'");
        (open == ["0"]).then_some(())
    })
    .await;
}

/// What the ledger says of a request.
struct Row<'a> {
    status: &'a str,
    error: &'a str,
    provenance: &'a str,
    input: u64,
    output: u64,
}

/// A price of the built-in table: nano-dollars for a token of gpt-4o's prompt, and for a generated one.
const PRICE: (u64, u64) = (2_500, 10_000);

fn compare(gateway: &Gateway, asked: &[Asked], book: &HashMap<String, Line>) {
    let rows = gateway.ledger(
        "SELECT request_id, status, coalesce(error, '-'), coalesce(provenance, '-'), input_tokens, output_tokens,
            coalesce(cost, 0) FROM request",
    );
    let mut written = HashMap::new();
    for row in &rows {
        let columns: Vec<&str> = row.split(' ').collect();
        let [id, status, error, provenance, input, output, cost] = columns[..] else {
            panic!("{row}");
        };
        let [input, output, cost]: [u64; 3] =
            [input, output, cost].map(|number| number.parse().unwrap());
        let found = Row {
            status,
            error,
            provenance,
            input,
            output,
        };
        assert!(written.insert(id, found).is_none(), "doubled: {row}");
        assert_eq!(cost, input * PRICE.0 + output * PRICE.1, "{row}");
    }
    for request in asked {
        let Asked { id, line, calm, .. } = request;
        let is_in_book = book.contains_key(id);
        let Some(row) = written.remove(id.as_str()) else {
            assert!(!is_in_book && !calm, "lost: {id}");
            continue;
        };
        let told = (row.input, row.output) == (line.prompt, line.generated);
        if *calm {
            assert!(is_in_book, "invented: {id}");
            let counted = row.provenance == "counted" && row.input > 0;
            let is_right = match line.fate {
                Fate::Plain | Fate::Stream => row.provenance == "upstream" && told,
                Fate::Untold => counted && row.status == "complete" && row.output == line.generated,
                Fate::Cut => {
                    counted && row.error == "upstream_broken" && row.output == line.generated
                }
                // The gateway may have taken more of it than the client did.
                Fate::Left => {
                    let taken = request.taken..=line.generated;
                    counted && row.status == "client_gone" && taken.contains(&row.output)
                }
                Fate::Silent => false,
            };
            assert!(is_right, "{} of {id}", row.words());
            continue;
        }
        // Whatever was cut off by the end of the gateway: exact where the upstream had told, never more than was
        // generated where it was counted, and nothing that was asked for is free.
        let is_right = match row.provenance {
            "upstream" => told,
            "counted" => row.output <= line.generated && row.input > 0,
            "estimated" => row.status != "complete" && row.input > 0,
            _ => !is_in_book && row.status != "complete",
        };
        assert!(
            is_right,
            "{} of {id}, in the book: {is_in_book}",
            row.words()
        );
    }
    assert!(written.is_empty(), "invented: {:?}", written.keys());
}

impl Row<'_> {
    fn words(&self) -> String {
        let Self {
            status,
            error,
            provenance,
            input,
            output,
            ..
        } = self;
        format!("{status} {error} {provenance} {input} {output}")
    }
}
