//! The scheduler's promises, kept by the bundled model.

use std::time::{Duration, Instant};

use super::*;

const SPRING: &str = "写一首关于春天的诗";

fn engine(params: Params) -> Engine {
    Engine::start(&Source::Poet, params, None).unwrap()
}

/// A request that goes on for `max_tokens`.
fn long(engine: &Engine, caller: &str, max_tokens: usize) -> Request {
    Request {
        max_tokens,
        ignore_end: true,
        ..Request::new(caller, engine.encode_prompt(SPRING).unwrap())
    }
}

fn submit(engine: &Engine, request: Request) -> Events {
    engine.submit(vec![request]).unwrap().remove(0)
}

async fn text(events: &mut Events) -> String {
    let mut all = String::new();
    while let Some(event) = events.next().await {
        match event {
            Event::Text { text, .. } => all.push_str(&text),
            Event::End { .. } => return all,
            other => panic!("{other:?}"),
        }
    }
    panic!("it ended without an end")
}

async fn eventually(mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(Instant::now() < deadline, "it never came to be");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

#[tokio::test]
async fn a_seed_gives_the_same_answer_in_any_company() {
    let engine = engine(Params::default());
    let request = |seed| Request {
        sampling: Sampling {
            seed,
            top_p: 0.95,
            ..Sampling::default()
        },
        ..long(&engine, "a", 40)
    };
    let alone = text(&mut submit(&engine, request(7))).await;
    let mut company = engine
        .submit(
            (0..12)
                .map(|i| request(if i == 9 { 7 } else { 100 + i }))
                .collect(),
        )
        .unwrap();
    let mut texts = Vec::new();
    for events in &mut company {
        texts.push(text(events).await);
    }
    assert_eq!(texts[9], alone);
    assert_ne!(texts[0], alone);
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_when_to_come_back() {
    let engine = engine(Params {
        queue: 2,
        max_running: 1,
        ..Params::default()
    });
    let _held: Vec<Events> = (0..3)
        .map(|_| submit(&engine, long(&engine, "a", 240)))
        .collect();
    match engine.submit(vec![long(&engine, "b", 1)]) {
        Err(SubmitError::Full { retry_after }) => assert!(retry_after >= Duration::from_secs(1)),
        _ => panic!("it was taken"),
    }
}

#[tokio::test]
async fn a_request_for_several_answers_is_taken_whole_or_not_at_all() {
    let engine = engine(Params {
        queue: 2,
        max_running: 1,
        ..Params::default()
    });
    let four = (0..4).map(|_| long(&engine, "a", 5)).collect();
    assert!(matches!(engine.submit(four), Err(SubmitError::Full { .. })));
    assert_eq!(engine.status().queued, 0);
}

#[tokio::test]
async fn callers_with_one_request_do_not_wait_for_those_with_many() {
    let engine = engine(Params {
        max_running: 1,
        ..Params::default()
    });
    let mut first = submit(&engine, long(&engine, "greedy", 60));
    let greedy: Vec<Events> = (0..6)
        .map(|_| submit(&engine, long(&engine, "greedy", 60)))
        .collect();
    let mut modest = submit(&engine, long(&engine, "modest", 5));
    text(&mut first).await;
    text(&mut modest).await;
    assert!(engine.status().queued >= 4, "the others still wait");
    drop(greedy);
}

#[tokio::test]
async fn dropping_the_events_frees_the_place() {
    let engine = engine(Params {
        max_running: 1,
        ..Params::default()
    });
    let mut running = submit(&engine, long(&engine, "a", 240));
    assert!(running.next().await.is_some());
    let waiting = submit(&engine, long(&engine, "b", 240));
    eventually(|| engine.status().queued == 1).await;
    drop(waiting);
    eventually(|| engine.status().queued == 0).await;
    drop(running);
    eventually(|| engine.status().running == 0).await;
    text(&mut submit(&engine, long(&engine, "c", 3))).await;
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_up_nobody() {
    let engine = engine(Params {
        max_running: 1,
        ..Params::default()
    });
    let mut lazy = submit(&engine, long(&engine, "lazy", 200));
    // Its channel is full before its answer is whole, and its place goes to the next.
    for _ in 0..3 {
        text(&mut submit(&engine, long(&engine, "keen", 100))).await;
    }
    let whole = text(&mut lazy).await;
    assert_eq!(
        whole,
        text(&mut submit(&engine, long(&engine, "keen", 200))).await
    );
}

#[tokio::test]
async fn the_cache_bounds_what_runs_together() {
    let per_token = 5 * 2 * 64 * 2 * 4;
    let engine = engine(Params {
        cache_bytes: 100 * per_token,
        ..Params::default()
    });
    assert_eq!(engine.context(), 100);
    let mut all: Vec<Events> = (0..4)
        .map(|_| submit(&engine, long(&engine, "a", 60)))
        .collect();
    assert!(all[0].next().await.is_some());
    assert_eq!(engine.status().running, 1);
    for events in &mut all {
        text(events).await;
    }
}

#[tokio::test]
async fn a_panic_ends_what_runs_and_the_engine_goes_on() {
    let engine = engine(Params::default());
    let expected = text(&mut submit(&engine, long(&engine, "a", 10))).await;
    for _ in 0..4 {
        let mut victim = submit(&engine, long(&engine, "a", 240));
        assert!(victim.next().await.is_some());
        let mut culprit = submit(
            &engine,
            Request {
                panics: true,
                ..long(&engine, "b", 5)
            },
        );
        assert_eq!(culprit.next().await, Some(Event::Failed));
        while let Some(event) = victim.next().await {
            assert!(!matches!(event, Event::End { .. }), "it was cut short");
        }
        eventually(|| engine.is_ready()).await;
        assert_eq!(
            text(&mut submit(&engine, long(&engine, "a", 10))).await,
            expected
        );
    }
}

#[tokio::test]
async fn an_engine_that_only_panics_is_given_up() {
    let engine = engine(Params::default());
    for _ in 0..3 {
        eventually(|| engine.is_ready()).await;
        let mut culprit = submit(
            &engine,
            Request {
                panics: true,
                ..long(&engine, "b", 5)
            },
        );
        assert_eq!(culprit.next().await, Some(Event::Failed));
    }
    eventually(|| !engine.is_ready()).await;
    assert!(matches!(
        engine.submit(vec![long(&engine, "a", 1)]),
        Err(SubmitError::NotLoaded)
    ));
}

#[tokio::test]
async fn dropping_the_engine_ends_everything() {
    let engine = engine(Params {
        max_running: 1,
        ..Params::default()
    });
    let mut running = submit(&engine, long(&engine, "a", 240));
    let mut waiting = submit(&engine, long(&engine, "a", 240));
    drop(engine);
    while running.next().await.is_some() {}
    assert_eq!(waiting.next().await, None);
}

#[test]
fn a_model_that_is_not_there_is_named() {
    for (model, expected) in [
        ("bundled:novelist", "bundled:poet"),
        ("hf://owner/name", "fetch it first"),
        ("/nowhere/model.gguf", "/nowhere/model.gguf"),
        ("/", "neither"),
    ] {
        let message = Source::parse(model).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
    check(&Source::parse("bundled:poet").unwrap()).unwrap();
}
