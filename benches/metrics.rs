//! What measuring costs: a scrape of some two thousand series and of a hundred thousand, and one request's share.
//!
//! `cargo bench --no-default-features --bench metrics`

#![expect(clippy::unwrap_used, reason = "a benchmark is a test")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use weir::call::Facts;
use weir::metrics::{Finished, Metrics, Whose};
use weir::money::Nanos;
use weir::openai::usage::Usage;

/// What a request of one of these keys leaves behind.
fn facts(key: usize, models: usize) -> Facts {
    Facts {
        endpoint: Some("/v1/chat/completions"),
        key: Some(format!("key-{key}").into()),
        team: Some(format!("team-{}", key % 8).into()),
        route: Some(format!("model-{}", key % models).into()),
        upstream: Some("openai".into()),
        first_token: Some(Duration::from_millis(300)),
        upstream_time: Some(Duration::from_millis(200)),
        ..Facts::default()
    }
}

fn measure(metrics: &Metrics, facts: &Facts) {
    metrics.request_started();
    metrics.answer_began(facts, Duration::from_millis(201));
    metrics.request_finished(&Finished {
        facts,
        status: Some(200),
        duration: Duration::from_secs(2),
        sent: 4096,
    });
    let usage = Usage {
        input: 1000,
        cached_input: 200,
        output: 300,
        reasoning: 100,
        ..Usage::default()
    };
    let whose = Whose {
        team: facts.team.as_deref(),
        key: facts.key.as_deref().unwrap_or_default(),
        model: facts.route.as_deref(),
    };
    let upstream = facts.upstream.as_deref();
    metrics.charged(&whose, upstream, &usage, Some(Nanos::new(1)));
    metrics.sized(whose.model, &usage);
}

/// Metrics of so many keys and models, and how many series they have.
fn measured(keys: usize, models: usize) -> (Metrics, usize) {
    let metrics = Metrics::new().unwrap();
    for key in 0..keys {
        measure(&metrics, &facts(key, models));
    }
    let text = metrics.render().unwrap();
    let series = text.lines().filter(|line| !line.starts_with('#')).count();
    (metrics, series)
}

fn scraping(c: &mut Criterion) {
    for (keys, models) in [(60, 10), (3000, 50)] {
        let (metrics, series) = measured(keys, models);
        c.bench_function(&format!("scrape of {series} series"), |b| {
            b.iter(|| black_box(metrics.render().unwrap()));
        });
    }
}

fn measuring(c: &mut Criterion) {
    let (metrics, _) = measured(1000, 50);
    let known = facts(500, 50);
    c.bench_function("a request", |b| b.iter(|| measure(&metrics, &known)));
    let (full, _) = measured(100, 10);
    full.set_max_series(100);
    let mut junk = facts(0, 10);
    let mut number = 0_u64;
    c.bench_function("a request of a key that has found no place", |b| {
        b.iter(|| {
            number += 1;
            junk.key = Some(Arc::from(format!("junk-{number}")));
            measure(&full, &junk);
        });
    });
}

criterion_group!(benches, scraping, measuring);
criterion_main!(benches);
