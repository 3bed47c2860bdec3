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
mod tests;
