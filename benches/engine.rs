//! How fast the engine is: `cargo bench --bench engine [-- MODEL]`, with the bundled model if none is named.
//!
//! Prints tokens per second for decoding at 1 and 8 sequences (greedy, and sampled as the model asks for), for prompts,
//! and what loading took.

use std::time::Instant;

use weir::upstream::transformer::{Engine, Event, Params, Request, Sampling, Source};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let named = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let source = Source::parse(named.as_deref().unwrap_or("bundled:poet"))?;
    let started = Instant::now();
    let engine = Engine::start(&source, Params::default(), None)?;
    while !engine.is_ready() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    report(
        "load",
        format!("{:.1} ms", started.elapsed().as_secs_f64() * 1e3),
    );

    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let greedy = Sampling {
        temperature: 0.0,
        ..Sampling::default()
    };
    let sampled = Sampling {
        temperature: 0.8,
        top_p: 0.95,
        ..Sampling::default()
    };
    let prompt = engine.encode_prompt("写一首关于春天的诗")?;
    let long = engine.context().min(512) - 2;
    let filler: Vec<u32> = prompt.iter().copied().cycle().take(long).collect();
    let answer = (engine.context() - prompt.len()).min(200);
    // The first round warms up: weights are repacked at their first use.
    for round in 0..4 {
        for (name, sampling) in [("greedy", &greedy), ("sampled", &sampled)] {
            for sequences in [1, 8] {
                let rate = measure(&engine, &runtime, &prompt, answer, sequences, sampling)?;
                if round > 0 {
                    report(
                        &format!("decode {name}, batch {sequences}"),
                        format!("{rate:.0} tok/s"),
                    );
                }
            }
        }
        let started = Instant::now();
        measure(&engine, &runtime, &filler, 1, 1, &greedy)?;
        if round > 0 {
            let rate = long as f64 / started.elapsed().as_secs_f64();
            report(&format!("prefill of {long}"), format!("{rate:.0} tok/s"));
        }
    }
    if let Ok(status) = std::fs::read_to_string("/proc/self/status") {
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        report("peak memory", peak.unwrap_or("unknown").trim().to_owned());
    }
    Ok(())
}

/// Returns how many tokens came per second, over all sequences.
fn measure(
    engine: &Engine,
    runtime: &tokio::runtime::Runtime,
    prompt: &[u32],
    max_tokens: usize,
    sequences: usize,
    sampling: &Sampling,
) -> Result<f64, Box<dyn std::error::Error>> {
    let requests = (0..sequences)
        .map(|seed| Request {
            max_tokens,
            sampling: Sampling {
                seed: seed as u64,
                ..sampling.clone()
            },
            ignore_end: true,
            ..Request::new("bench", prompt.to_vec())
        })
        .collect();
    let started = Instant::now();
    let all = engine.submit(requests)?;
    let mut tokens = 0;
    runtime.block_on(async {
        let readers = all.into_iter().map(|mut events| {
            tokio::spawn(async move {
                while let Some(event) = events.next().await {
                    if let Event::End { generated, .. } = event {
                        return generated;
                    }
                }
                0
            })
        });
        for reader in readers.collect::<Vec<_>>() {
            tokens += reader.await.unwrap_or(0);
        }
    });
    Ok(tokens as f64 / started.elapsed().as_secs_f64())
}

#[expect(clippy::print_stdout, reason = "a benchmark's output is its purpose")]
fn report(what: &str, value: String) {
    println!("{what:24} {value}");
}
