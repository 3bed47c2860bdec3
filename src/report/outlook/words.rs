//! An outlook for a terminal: what the client would hear, why, and behind it one table each of limits, budgets and
//! targets.

use std::time::Duration;

use serde_json::Value;

use super::{Budget, Estimate, Key, Limit, Outlook, Request, Target, Verdict};
use crate::report::{Table, plain};
use crate::store::limits::Spelled;

/// Writes an outlook for people.
pub fn to_words(outlook: &Outlook) -> String {
    let Outlook {
        verdict,
        key,
        request,
        route,
        estimate,
        limits,
        budgets,
        cache,
        targets,
    } = outlook;
    let route = route.as_ref().map(|route| match &route.pattern {
        Some(pattern) => format!("{pattern}, shared by {}", route.balance),
        None => format!("by its path, shared by {}", route.balance),
    });
    let lines = [
        ("verdict", Some(of_verdict(verdict, targets))),
        ("key", Some(of_key(key))),
        ("request", Some(of_request(request))),
        ("route", route),
        ("estimate", estimate.as_ref().map(of_estimate)),
        (
            "cache",
            Some(format!("{}: {}", cache.decision, cache.reason)),
        ),
    ];
    let mut text = String::new();
    for (name, words) in lines {
        if let Some(words) = words {
            text += &format!("{name:<10}{}\n", plain(&words));
        }
    }
    let tables = [of_limits(limits), of_budgets(budgets), of_targets(targets)];
    for table in tables.into_iter().flatten() {
        text += "\n";
        text += &table.write();
    }
    text
}

fn of_verdict(verdict: &Verdict, targets: &[Target]) -> String {
    let Verdict {
        outcome,
        status,
        code,
        message,
        ..
    } = verdict;
    let mut words = format!("{outcome}, {status}");
    if let Some(code) = code {
        words += &format!(" {code}");
    }
    if let Some(message) = message {
        words += &format!(": {message}");
    }
    if let (None, Some(first)) = (code, targets.first()) {
        words += &match first.first_percent {
            100 => format!(", by {}", first.upstream),
            percent => format!(", by {} ({percent} %)", first.upstream),
        };
    }
    words
}

fn of_key(key: &Key) -> String {
    let mut words = Vec::new();
    words.extend(key.name.clone());
    words.extend(key.id.clone());
    words.extend(key.team.as_ref().map(|team| format!("team {team}")));
    words.extend(key.source.as_ref().map(|source| match source.as_str() {
        "config" => "of the configuration".to_owned(),
        _ => "made at run time".to_owned(),
    }));
    if key.found && key.opens {
        words.extend(key.expires.as_ref().map(|time| format!("until {time}")));
    }
    words.extend(key.reason.clone());
    for (may, what) in [(key.may_use_path, "path"), (key.may_use_model, "model")] {
        if may == Some(false) {
            words.push(format!("may not use the {what}"));
        }
    }
    words.join(", ")
}

fn of_request(request: &Request) -> String {
    let mut words = vec![format!("{} {}", request.method, request.path)];
    words.extend(request.model.as_ref().map(|model| format!("model {model}")));
    if request.stream {
        words.push("streamed".to_owned());
    }
    if request.answered_by.as_deref() == Some("gateway") {
        words.push("answered by the gateway itself".to_owned());
    }
    words.extend(
        request
            .error
            .as_ref()
            .map(|error| format!("faulty: {error}")),
    );
    words.join(", ")
}

fn of_estimate(estimate: &Estimate) -> String {
    let Estimate {
        prompt_tokens,
        prompt_from,
        completion_tokens,
        completion_from,
        choices,
        cost,
    } = estimate;
    let mut words = format!("{prompt_tokens} prompt tokens ({prompt_from})");
    if *choices > 0 {
        words += &format!(", {completion_tokens} generated ({completion_from}");
        if *choices > 1 {
            words += &format!(", {choices} choices");
        }
        words += ")";
    }
    match cost {
        Some(cost) => words += &format!(", {cost} USD"),
        None => words += ", no price is known",
    }
    words
}

fn of_limits(limits: &[Limit]) -> Option<Table> {
    let mut table = Table::new(&[
        ("LIMIT", false),
        ("OF", false),
        ("MODELS", false),
        ("SIZE", true),
        ("LEFT", true),
        ("TAKES", true),
        ("RESET", false),
        ("SAYS", false),
    ]);
    for limit in limits {
        let says = match (limit.refuses, limit.shadow, limit.retry_after_ms) {
            (false, true, _) => "room (shadow)".to_owned(),
            (false, false, _) => "room".to_owned(),
            (true, true, _) => "would refuse (shadow)".to_owned(),
            (true, false, Some(wait)) => format!("refuses for {}", spelled(wait)),
            (true, false, None) => "refuses, however long one waits".to_owned(),
        };
        table.row([
            limit.dimension.replace('_', " "),
            holder(&limit.of, limit.name.as_deref()),
            or_all(&limit.models),
            limit.limit.to_string(),
            limit.remaining.to_string(),
            limit.wanted.to_string(),
            spelled(limit.reset_ms),
            says,
        ]);
    }
    (!limits.is_empty()).then_some(table)
}

fn of_budgets(budgets: &[Budget]) -> Option<Table> {
    let mut table = Table::new(&[
        ("BUDGET", false),
        ("OF", false),
        ("UNIT", false),
        ("SIZE", true),
        ("USED", true),
        ("RESERVED", true),
        ("TAKES", true),
        ("RENEWED", false),
        ("SAYS", false),
    ]);
    for budget in budgets {
        let per = match budget.window.as_str() {
            "rolling" => format!("{}/rolling", budget.per),
            _ => budget.per.clone(),
        };
        table.row([
            per,
            holder(&budget.of, Some(&budget.name)),
            budget.unit.clone(),
            amount(&budget.limit),
            amount(&budget.used),
            amount(&budget.reserved),
            amount(&budget.wanted),
            budget.renewed.clone().unwrap_or_else(|| "-".to_owned()),
            if budget.refuses { "refuses" } else { "room" }.to_owned(),
        ]);
    }
    (!budgets.is_empty()).then_some(table)
}

fn of_targets(targets: &[Target]) -> Option<Table> {
    let mut table = Table::new(&[
        ("TARGET", false),
        ("ENDPOINT", false),
        ("MODEL", false),
        ("PRIORITY", true),
        ("STATE", false),
        ("TURN", false),
        ("FIRST", true),
    ]);
    for target in targets {
        let mut state = target.state.clone();
        if let Some(left) = target.ejected_for_ms {
            state += &format!(" for {}", spelled(left));
        }
        if let Some(aside) = &target.credentials_aside {
            state += &format!(", credentials {aside}");
        }
        table.row([
            target.upstream.clone(),
            target.endpoint.clone(),
            target.model.clone().unwrap_or_else(|| "-".to_owned()),
            target.priority.to_string(),
            state,
            target.turn.replace('_', " "),
            format!("{} %", target.first_percent),
        ]);
    }
    (!targets.is_empty()).then_some(table)
}

fn holder(of: &str, name: Option<&str>) -> String {
    match name {
        Some(name) => format!("{of} {name}"),
        None => of.to_owned(),
    }
}

fn or_all(patterns: &[String]) -> String {
    match patterns.is_empty() {
        true => "*".to_owned(),
        false => patterns.join(","),
    }
}

fn spelled(millis: u64) -> String {
    Spelled(Duration::from_millis(millis)).to_string()
}

fn amount(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
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
}
