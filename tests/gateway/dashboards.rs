//! Whatever dashboards and rules ask Prometheus for is declared: names, and the labels of each.
//!
//! Expressions are scanned, not evaluated: a metric and the braces behind it, and what is grouped by.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;
use weir::metrics::Metrics;

/// What every series has that was scraped, and what functions of PromQL make.
const ANYWHERE: [&str; 5] = ["job", "instance", "le", "__name__", "alertname"];

/// What is declared: the labels of each metric by its name.
struct Registry {
    labels: BTreeMap<String, BTreeSet<String>>,
}

/// What an expression asks for that nobody declares.
type Slips = Vec<String>;

impl Registry {
    fn new() -> Self {
        let metrics = Metrics::new().unwrap();
        let mut labels = BTreeMap::new();
        for declared in metrics.declared() {
            let of: BTreeSet<String> = declared.labels.iter().map(|l| (*l).to_owned()).collect();
            if declared.kind == "histogram" {
                for suffix in ["_bucket", "_sum", "_count"] {
                    labels.insert(format!("{}{suffix}", declared.name), of.clone());
                }
            } else {
                labels.insert(declared.name.clone(), of);
            }
        }
        Self { labels }
    }

    fn knows_label(&self, label: &str) -> bool {
        ANYWHERE.contains(&label) || self.labels.values().any(|labels| labels.contains(label))
    }

    /// Looks through an expression.
    fn check(&self, expression: &str) -> Slips {
        let mut slips = Vec::new();
        let tokens = tokens(expression);
        for (index, token) in tokens.iter().enumerate() {
            let rest = &tokens[index + 1..];
            let is_ours = token.starts_with("weir_") || token.starts_with("process_");
            match (token.as_str(), self.labels.get(token)) {
                (_, Some(labels)) => {
                    for label in matched(rest) {
                        if !labels.contains(&label) && !ANYWHERE.contains(&&*label) {
                            slips.push(format!("{token} has no label {label}"));
                        }
                    }
                }
                (_, None) if is_ours && !token.contains(':') => {
                    slips.push(format!("{token} is not declared"));
                }
                ("by" | "without" | "on" | "ignoring" | "group_left" | "group_right", _)
                    if rest.first().is_some_and(|next| next == "(") =>
                {
                    let labels = rest[1..].iter().take_while(|label| *label != ")");
                    for label in labels.filter(|label| *label != "," && !label.starts_with('$')) {
                        if !self.knows_label(label) {
                            slips.push(format!("nothing has the label {label} of a {token}"));
                        }
                    }
                }
                _ => {}
            }
        }
        slips
    }
}

/// Splits an expression: names with their colons and dollars, and single characters. Quoted texts are one token, quotes and
/// all.
fn tokens(expression: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut chars = expression.chars().peekable();
    let is_of_name = |c: char| c.is_ascii_alphanumeric() || "_:$".contains(c);
    while let Some(first) = chars.next() {
        let mut token = String::from(first);
        if matches!(first, '"' | '\'' | '`') {
            while let Some(next) = chars.next() {
                token.push(next);
                if next == '\\' && first != '`' {
                    token.extend(chars.next());
                } else if next == first {
                    break;
                }
            }
        } else if is_of_name(first) {
            while let Some(next) = chars.next_if(|c| is_of_name(*c)) {
                token.push(next);
            }
        } else if first.is_whitespace() {
            continue;
        }
        tokens.push(token);
    }
    tokens
}

/// Returns the labels that stand in the braces right behind a metric.
fn matched(rest: &[String]) -> Vec<String> {
    if rest.first().is_none_or(|next| next != "{") {
        return Vec::new();
    }
    let inside = rest[1..].iter().take_while(|token| *token != "}");
    let inside: Vec<_> = inside.collect();
    let mut labels = Vec::new();
    for pair in inside.windows(2) {
        let is_name = pair[0].starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
        if is_name && matches!(pair[1].as_str(), "=" | "!") {
            labels.push(pair[0].clone());
        }
    }
    labels
}

/// Returns the files of a folder of the repository with this ending; none where there is no folder.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let Ok(entries) = std::fs::read_dir(folder) else {
        return Vec::new();
    };
    let paths = entries.map(|entry| entry.unwrap().path());
    let wanted = paths.filter(|path| path.to_string_lossy().ends_with(ending));
    wanted.collect()
}

/// Returns every expression of a dashboard: of panels, of annotations, of variables.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                if let ("expr" | "query" | "definition", Some(text)) = (&**name, value.as_str()) {
                    found.push(text.to_owned());
                }
                expressions(value, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| expressions(item, found)),
        _ => {}
    }
}

/// Returns what is recorded under a name of its own.
fn recorded(rules: &str) -> impl Iterator<Item = &str> {
    let lines = rules
        .lines()
        .map(|line| line.trim().trim_start_matches("- "));
    lines.filter_map(|line| Some(line.strip_prefix("record:")?.trim().trim_matches('"')))
}

#[test]
fn dashboards_use_what_is_declared() {
    let registry = Registry::new();
    let known: BTreeSet<String> = files("deploy/prometheus", ".yml")
        .iter()
        .flat_map(|path| {
            let rules = std::fs::read_to_string(path).unwrap();
            recorded(&rules).map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    for path in files("dashboards", ".json") {
        let text = std::fs::read_to_string(&path).unwrap();
        let dashboard: Value = serde_json::from_str(&text).unwrap();
        let mut found = Vec::new();
        expressions(&dashboard, &mut found);
        for expression in found {
            let slips = registry.check(&expression);
            assert!(slips.is_empty(), "{path:?}: {slips:?} in {expression}");
            let rules = tokens(&expression).into_iter();
            for rule in rules.filter(|token| token.starts_with("weir") && token.contains(':')) {
                assert!(known.contains(&rule), "{path:?}: nobody records {rule}");
            }
        }
    }
}

#[test]
fn rules_use_what_is_declared_or_recorded() {
    let registry = Registry::new();
    for path in files("deploy/prometheus", ".yml") {
        let rules = std::fs::read_to_string(&path).unwrap();
        // Names are looked for in all of the file, so that what annotations tell people is right, too; what is quoted there
        // may be a whole expression.
        let slips = registry.check(&rules.replace(['"', '\''], " "));
        assert!(slips.is_empty(), "{path:?}: {slips:?}");
    }
}

#[test]
fn the_scan_finds_slips() {
    let registry = Registry::new();
    for fine in [
        r#"sum by (team, le) (rate(weir_key_request_duration_seconds_bucket{team=~"$team", job="weir"}[5m]))"#,
        r#"label_values(weir_requests_total{endpoint!="none"}, key)"#,
        r#"1 - sum(rate(weir_requests_total{cause=~"upstream_.*|gateway_.*"}[$__rate_interval]))"#,
        "process_resident_memory_bytes / 1e6",
        r#"weir:requests:rate5m{team="weir_nothing"}"#,
        "histogram_quantile(0.95, sum without (instance) (rate(weir_request_overhead_seconds_bucket[5m])))",
    ] {
        assert_eq!(registry.check(fine), Vec::<String>::new(), "{fine}");
    }
    for (wrong, slip) in [
        (
            "rate(weir_nothing_total[5m])",
            "weir_nothing_total is not declared",
        ),
        (
            "weir_request_duration_seconds",
            "weir_request_duration_seconds is not declared",
        ),
        (r#"weir_ready{team="a"}"#, "weir_ready has no label team"),
        (
            r#"weir_requests_total{a="}", keys="b"}"#,
            "weir_requests_total has no label a",
        ),
        (
            "sum by (colour) (weir_ready)",
            "nothing has the label colour of a by",
        ),
    ] {
        assert_eq!(
            registry.check(wrong).first().map(String::as_str),
            Some(slip)
        );
    }
}
