use serde_json::json;

use super::*;
use crate::report::outlook::{Cache, Route};

fn outlook() -> Outlook {
    Outlook {
        verdict: Verdict {
            outcome: "refused".into(),
            status: 429,
            kind: Some("requests".into()),
            code: Some("rate_limit_exceeded".into()),
            param: None,
            message: Some("Rate limit reached.".into()),
            retry_after_ms: Some(8640),
        },
        key: Key {
            found: true,
            opens: true,
            name: Some("alice".into()),
            id: Some("wr-aaaaaaaa".into()),
            team: Some("research".into()),
            source: Some("admin".into()),
            state: Some("active".into()),
            may_use_path: Some(true),
            may_use_model: Some(true),
            ..Key::default()
        },
        request: Request {
            method: "POST".into(),
            path: "/v1/chat/completions".into(),
            endpoint: Some("/v1/chat/completions".into()),
            answered_by: Some("upstream".into()),
            model: Some("gpt\x1b-4o".into()),
            stream: true,
            well_formed: true,
            error: None,
        },
        route: Some(Route {
            pattern: Some("gpt-*".into()),
            balance: "p2c".into(),
        }),
        estimate: Some(Estimate {
            prompt_tokens: 9,
            prompt_from: "estimated".into(),
            completion_tokens: 200,
            completion_from: "max_tokens".into(),
            choices: 2,
            cost: Some("0.002".into()),
        }),
        limits: vec![Limit {
            of: "key".into(),
            name: Some("alice".into()),
            dimension: "requests_per_minute".into(),
            models: Vec::new(),
            shadow: false,
            limit: 6,
            burst: 2,
            remaining: 0,
            reset_ms: 20_000,
            wanted: 1,
            refuses: true,
            retry_after_ms: Some(8640),
        }],
        budgets: vec![Budget {
            of: "team".into(),
            name: "research".into(),
            unit: "usd".into(),
            per: "month".into(),
            window: "calendar".into(),
            limit: json!("50.00"),
            used: json!("1.25"),
            reserved: json!("0.00"),
            wanted: json!("0.002"),
            refuses: false,
            renewed: Some("2026-12-01T00:00:00Z".into()),
        }],
        cache: Cache {
            decision: "off".into(),
            reason: "there is none".into(),
        },
        targets: vec![Target {
            upstream: "openai".into(),
            endpoint: "api.openai.com".into(),
            model: Some("gpt-4o".into()),
            priority: 0,
            weight: 1,
            state: "ejected".into(),
            ejected_for_ms: Some(5000),
            credentials_aside: Some("limited".into()),
            turn: "last_resort".into(),
            first_percent: 100,
        }],
    }
}

#[test]
fn everything_stands_in_its_column_and_nothing_moves_the_cursor() {
    let expected = "\
verdict   refused, 429 rate_limit_exceeded: Rate limit reached.
key       alice, wr-aaaaaaaa, team research, made at run time
request   POST /v1/chat/completions, model gpt\\u{1b}-4o, streamed
route     gpt-*, shared by p2c
estimate  9 prompt tokens (estimated), 200 generated (max_tokens, 2 choices), 0.002 USD
cache     off: there is none

LIMIT                OF         MODELS  SIZE  LEFT  TAKES  RESET  SAYS
requests per minute  key alice  *          6     0      1  20s    refuses for 8.64s

BUDGET  OF             UNIT   SIZE  USED  RESERVED  TAKES  RENEWED               SAYS
month   team research  usd   50.00  1.25      0.00  0.002  2026-12-01T00:00:00Z  room

TARGET  ENDPOINT        MODEL   PRIORITY  STATE                                TURN         FIRST
openai  api.openai.com  gpt-4o         0  ejected for 5s, credentials limited  last resort  100 %
";
    assert_eq!(to_words(&outlook()), expected);
}

#[test]
fn what_is_not_there_is_not_told() {
    let outlook = Outlook {
        verdict: Verdict {
            outcome: "served".into(),
            status: 200,
            code: None,
            message: None,
            ..outlook().verdict
        },
        route: None,
        estimate: None,
        limits: Vec::new(),
        budgets: Vec::new(),
        ..outlook()
    };
    let words = to_words(&outlook);
    assert!(
        words.starts_with("verdict   served, 200, by openai\n"),
        "{words}"
    );
    for absent in ["route", "estimate", "LIMIT", "BUDGET"] {
        assert!(!words.contains(absent), "{words}");
    }
}

#[test]
fn what_is_written_reads_the_same() {
    let json = serde_json::to_string(&outlook()).unwrap();
    let read: Outlook = serde_json::from_str(&json).unwrap();
    assert_eq!(read, outlook());
}
