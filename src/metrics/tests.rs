use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::*;
use crate::call::{Cause, Facts, Outcome, Try};
use crate::money::Nanos;
use crate::openai::usage::Usage;

fn finished(facts: &Facts, status: Option<u16>) -> Finished<'_> {
    Finished {
        facts,
        status,
        duration: Duration::from_secs(3),
        sent: 1,
    }
}

#[test]
fn names_follow_the_convention() {
    let metrics = Metrics::new().unwrap();
    for Declared {
        name, kind, help, ..
    } in metrics.declared()
    {
        assert!(name.starts_with("weir_") || name.starts_with("process_"));
        assert_eq!(*kind == "counter", name.ends_with("_total"), "{name}");
        assert!(help.ends_with('.'), "{name}: {help}");
    }
    let names: HashSet<_> = metrics.declared().iter().map(|d| &d.name).collect();
    assert_eq!(names.len(), metrics.declared().len());
}

#[test]
fn what_is_shown_is_declared() {
    let metrics = Metrics::new().unwrap();
    metrics.request_finished(&finished(&Facts::default(), None));
    for family in metrics.registry.gather() {
        let declared = metrics.declared().iter().find(|d| d.name == family.name());
        let declared = declared.unwrap_or_else(|| panic!("{} is not declared", family.name()));
        let labels: HashSet<_> = declared.labels.iter().copied().collect();
        for metric in family.get_metric() {
            let shown = metric.get_label().iter().map(|label| label.name());
            assert_eq!(shown.collect::<HashSet<_>>(), labels, "{}", declared.name);
        }
    }
}

#[test]
fn a_client_that_left_counts_as_499() {
    let metrics = Metrics::new().unwrap();
    metrics.request_started();
    let facts = Facts {
        endpoint: Some("/v1/models"),
        cause: Some(Cause::ClientGone),
        ..Facts::default()
    };
    metrics.request_finished(&finished(&facts, None));
    let text = metrics.render().unwrap();
    assert!(text.contains(r#"status="499""#), "{text}");
    assert!(text.contains(r#"cause="client_gone""#), "{text}");
    assert!(text.contains("weir_requests_in_flight 0"), "{text}");
}

#[test]
fn any_number_of_names_makes_no_more_series_than_there_may_be() {
    let metrics = Metrics::new().unwrap();
    metrics.set_max_series(100);
    let usage = Usage {
        input: 1,
        ..Usage::default()
    };
    for number in 0..100_000_u32 {
        let name: Arc<str> = format!("k{number}").into();
        let facts = Facts {
            key: Some(Arc::clone(&name)),
            team: Some(Arc::clone(&name)),
            route: Some(Arc::clone(&name)),
            first_token: Some(Duration::ZERO),
            ..Facts::default()
        };
        // All of it is slow in a build for tests; the bound is met long before.
        if number < 1000 || number % 1000 == 0 {
            metrics.request_finished(&finished(&facts, Some(200)));
            let whose = Whose {
                team: Some(&name),
                key: &name,
                model: None,
            };
            metrics.saved(&whose, &usage, Some(Nanos::ZERO));
        }
        metrics.charged(
            &Whose {
                team: None,
                key: &name,
                model: Some(&name),
            },
            None,
            &usage,
            Some(Nanos::new(1)),
        );
    }
    let text = metrics.render().unwrap();
    for Declared { name, buckets, .. } in metrics.declared() {
        let lines = text.lines().filter(|line| {
            let rest = line.strip_prefix(&**name);
            rest.is_some_and(|rest| rest.starts_with(['{', '_', ' ']))
        });
        let per_series = if buckets.is_empty() {
            1
        } else {
            buckets.len() + 3
        };
        assert!(lines.count() <= 101 * per_series, "{name}");
    }
    let cost = |line: &&str| line.starts_with("weir_cost_nanodollars_total{");
    let sum: u64 = text
        .lines()
        .filter(cost)
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum();
    assert_eq!(sum, 100_000, "nothing is lost");
    let folded = r#"weir_series_folded_total{metric="weir_cost_nanodollars_total"} 99900"#;
    assert!(text.contains(folded), "{text}");
}

#[test]
fn tries_after_the_first_are_told_apart() {
    let metrics = Metrics::new().unwrap();
    let attempt = |upstream: &str, began: u64, time: Option<u64>, result| Try {
        upstream: upstream.into(),
        endpoint: "e".into(),
        model: None,
        began: Duration::from_millis(began),
        time: time.map(Duration::from_millis),
        result,
        status: None,
        sent: true,
        counted: None,
    };
    let limited = Cause::UpstreamLimited.as_str();
    let facts = Facts {
        attempts: vec![
            attempt("a", 0, Some(10), limited),
            attempt("a", 20, Some(10), Cause::UpstreamConnect.as_str()),
            attempt("b", 30, None, Try::ABANDONED),
            attempt("c", 40, Some(5), Try::ANSWERED),
        ],
        ..Facts::default()
    };
    metrics.request_finished(&finished(&facts, Some(200)));
    let text = metrics.render().unwrap();
    for (upstream, kind, cause) in [
        ("a", "retry", limited),
        ("b", "fallback", "upstream_connect"),
        ("c", "hedge", "none"),
    ] {
        let line = format!(
            r#"weir_retries_total{{cause="{cause}",kind="{kind}",model="none",upstream="{upstream}"}} 1"#
        );
        assert!(text.contains(&line), "{line}\n{text}");
    }
}

#[test]
fn an_upstream_is_charged_with_the_time_of_its_own_answers() {
    let metrics = Metrics::new().unwrap();
    let attempt = |upstream: &str, seconds: u64, result| Try {
        upstream: upstream.into(),
        endpoint: "e".into(),
        model: None,
        began: Duration::ZERO,
        time: Some(Duration::from_secs(seconds)),
        result,
        status: None,
        sent: true,
        counted: None,
    };
    let facts = Facts {
        upstream: Some("quick".into()),
        queue_time: Duration::from_secs(60),
        upstream_time: Some(Duration::from_secs(92)),
        attempts: vec![
            attempt("slow", 30, Cause::UpstreamTimeout.as_str()),
            attempt("quick", 2, Try::ANSWERED),
        ],
        ..Facts::default()
    };
    metrics.answer_began(&facts, Duration::from_secs(93));
    metrics.request_finished(&finished(&facts, Some(200)));
    let text = metrics.render().unwrap();
    let sums: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("weir_upstream_duration_seconds_sum"))
        .collect();
    let quick = r#"weir_upstream_duration_seconds_sum{model="none",upstream="quick"} 2"#;
    assert_eq!(sums, [quick]);
}

#[test]
fn the_gateways_own_time_is_told_where_it_is_known() {
    let metrics = Metrics::new().unwrap();
    let known = Facts {
        endpoint: Some("known"),
        upload_time: Some(Duration::from_secs(1)),
        upstream_time: Some(Duration::from_secs(2)),
        ..Facts::default()
    };
    metrics.answer_began(&known, Duration::from_millis(3500));
    let unknown = Facts {
        endpoint: Some("unknown"),
        ..Facts::default()
    };
    for facts in [
        Facts {
            head_first: true,
            ..unknown.clone()
        },
        Facts {
            waited_for_others: true,
            ..unknown
        },
    ] {
        metrics.answer_began(&facts, Duration::from_secs(9));
    }
    let text = metrics.render().unwrap();
    let sums: Vec<_> = text
        .lines()
        .filter(|line| line.starts_with("weir_request_overhead_seconds_sum"))
        .collect();
    assert_eq!(
        sums,
        [r#"weir_request_overhead_seconds_sum{endpoint="known"} 0.5"#]
    );
}

#[test]
fn budgets_that_differ_by_their_window_alone_have_series_of_their_own() {
    use crate::store::budgets::{Budget, Limit, Period, Window};
    let metrics = Metrics::new().unwrap();
    let budget = |per, window| Budget {
        limit: Limit::Tokens(4),
        per,
        window,
        warn_at_thousandths: 800,
    };
    let all = [
        budget(Period::Day, Window::Calendar),
        budget(Period::Day, Window::Rolling),
        budget(Period::Month, Window::Calendar),
        budget(Period::Month, Window::Rolling),
        budget(Period::Total, Window::Calendar),
    ];
    let states = all.iter().zip(1_u32..).map(|(budget, used)| BudgetState {
        labels: BudgetLabels {
            holder: "key",
            name: "alice",
            is_money: false,
            per: budget.time(),
        },
        used: f64::from(used),
        limit: 4.0,
    });
    metrics.set_budgets(&states.collect::<Vec<_>>());
    let text = metrics.render().unwrap();
    for (per, used) in [
        ("day", 1),
        ("rolling day", 2),
        ("month", 3),
        ("rolling month", 4),
        ("total", 5),
    ] {
        let line =
            format!(r#"weir_budget_used_tokens{{holder="key",name="alice",per="{per}"}} {used}"#);
        assert!(text.contains(&line), "{line}\n{text}");
    }
}

#[test]
fn the_time_of_a_token_is_that_after_the_first() {
    let metrics = Metrics::new().unwrap();
    let facts = Facts {
        stream: true,
        outcome: Some(Outcome::Complete),
        first_token: Some(Duration::from_secs(1)),
        usage: Some(Usage {
            output: 5,
            ..Usage::default()
        }),
        ..Facts::default()
    };
    metrics.request_finished(&finished(&facts, Some(200)));
    let text = metrics.render().unwrap();
    let sum = text
        .lines()
        .find(|line| line.starts_with("weir_time_per_output_token_seconds_sum"));
    assert!(sum.unwrap().ends_with(" 0.5"), "{sum:?}");
}

#[test]
fn limits_and_budgets_that_are_gone_are_told_no_more() {
    let metrics = Metrics::new().unwrap();
    let limit = |name: &str| LimitState {
        holder: "key",
        name: Some(name.to_owned()),
        dimension: "requests_per_minute",
        models: String::new(),
        shadow: false,
        used: 0.25,
    };
    let budget = |name, is_money| BudgetState {
        labels: BudgetLabels {
            holder: "key",
            name,
            is_money,
            per: "day",
        },
        used: 1.0,
        limit: 4.0,
    };
    metrics.set_limits(&[limit("stays"), limit("goes")]);
    metrics.set_budgets(&[
        budget("stays", true),
        budget("goes", true),
        budget("stays", false),
    ]);
    metrics.set_limits(&[limit("stays")]);
    metrics.set_budgets(&[budget("stays", true)]);
    let text = metrics.render().unwrap();
    assert!(!text.contains("goes"), "{text}");
    assert!(!text.contains("weir_budget_used_tokens{"), "{text}");
    let shown = r#"weir_budget_used_ratio{holder="key",name="stays",per="day",unit="usd"} 0.25"#;
    assert!(text.contains(shown), "{text}");
    assert!(text.contains(r#"models="*",name="stays"} 0.25"#), "{text}");
}

#[test]
fn an_upstream_that_is_gone_leaves_no_gauges_and_the_others_keep_theirs() {
    let metrics = Metrics::new().unwrap();
    for name in ["stays", "goes"] {
        let snapshot = Snapshot {
            max_waiting: Some(1),
            engine: Some(EngineState::default()),
            ..Snapshot::default()
        };
        metrics.set_upstream(name, snapshot);
    }
    let gauges = |text: &str, name: &str| {
        let label = format!("upstream=\"{name}\"");
        let lines = text.lines().filter(|line| line.contains(&label));
        lines.filter(|line| !line.contains("_total")).count()
    };
    let before = gauges(&metrics.render().unwrap(), "stays");
    metrics.keep_upstreams(|name| name == "stays");
    let text = metrics.render().unwrap();
    assert_eq!(gauges(&text, "goes"), 0, "{text}");
    assert_eq!(gauges(&text, "stays"), before, "{text}");
}

#[test]
fn what_has_been_gone_for_an_hour_is_forgotten_and_what_came_back_is_not() {
    let metrics = Metrics::new().unwrap();
    for name in ["stays", "goes", "returns"] {
        let facts = Facts {
            key: Some(name.into()),
            ..Facts::default()
        };
        metrics.request_finished(&finished(&facts, Some(200)));
    }
    let known = |names: &[&'static str]| Known {
        keys: names.iter().copied().collect(),
        ..Known::default()
    };
    let (start, minute) = (Instant::now(), Duration::from_secs(60));
    metrics.forget_gone(&known(&["stays"]), start);
    metrics.forget_gone(&known(&["stays", "returns"]), start + 30 * minute);
    metrics.forget_gone(&known(&["stays"]), start + 59 * minute);
    let text = metrics.render().unwrap();
    assert!(
        text.contains("\"goes\""),
        "its last count may not have been scraped yet"
    );
    metrics.forget_gone(&known(&["stays"]), start + 61 * minute);
    let text = metrics.render().unwrap();
    assert!(!text.contains("\"goes\""), "{text}");
    for name in ["stays", "returns"] {
        assert!(text.contains(&format!("key=\"{name}\"")), "{name}");
    }
}

/// What the system tells of a process is told by Linux alone.
#[cfg(target_os = "linux")]
#[test]
fn the_page_lists_what_is_declared() {
    let page = Metrics::new().unwrap().page();
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("dashboards/METRICS.md");
    if std::env::var_os("WEIR_WRITE_METRICS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &page).unwrap();
    }
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(
        written == page,
        "dashboards/METRICS.md is not what is declared; write it anew by WEIR_WRITE_METRICS=1"
    );
}
