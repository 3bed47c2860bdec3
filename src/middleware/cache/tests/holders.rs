//! Names that have another holder by now: what the one before left is not the next one's.

use super::retries::{RANDOM, named, retrying, tried};
use super::*;
use crate::call::Origin;

/// The call of a key named `alice`, of which there have been several.
fn by(key_origin: Origin, team: Option<Origin>, call: Call) -> Call {
    Call {
        caller: Arc::new(Caller {
            key_origin,
            team: team.map(|_| "a".into()),
            team_origin: team.unwrap_or(Origin::Configured),
            ..Caller::configured("alice")
        }),
        ..call
    }
}

const FORMER: Origin = Origin::Made(1);
const LATTER: Origin = Origin::Made(2);

#[tokio::test]
async fn a_team_gets_nothing_of_one_that_had_its_name() {
    let (calls, upstream) = gateway();
    let in_team = |key, team| by(key, Some(team), call_of("a", TEXT, None));
    let (first, _) = text(&calls, in_team(FORMER, FORMER)).await;
    // Another key of the same team does.
    let (again, cached) = text(&calls, in_team(LATTER, FORMER)).await;
    assert_eq!((again, cached), (first.clone(), Cached::Hit));
    for (number, team) in [LATTER, Origin::Configured].into_iter().enumerate() {
        let (other, cached) = text(&calls, in_team(FORMER, team)).await;
        assert_eq!((cached, upstream.calls()), (Cached::Miss, number + 2));
        assert_ne!(other, first);
    }
}

#[tokio::test]
async fn a_key_gets_nothing_of_one_that_had_its_name() {
    let of_keys = Terms {
        scope: Scope::Key,
        ..TERMS
    };
    // Without a team it is by itself in any case.
    for (terms, team) in [(of_keys, Some(FORMER)), (of_keys, None), (TERMS, None)] {
        let (calls, upstream, _) = gateway_of(terms, 1 << 16);
        let of_key = |key| by(key, team, call_of("a", TEXT, None));
        let (first, _) = text(&calls, of_key(FORMER)).await;
        assert_eq!(text(&calls, of_key(FORMER)).await.0, first);
        let (other, cached) = text(&calls, of_key(LATTER)).await;
        assert_eq!((cached, upstream.calls()), (Cached::Miss, 2));
        assert_ne!(other, first);
    }
}

#[tokio::test]
async fn what_is_under_way_for_a_former_holder_is_not_joined() {
    let (calls, upstream) = gateway();
    let in_team = |team| by(FORMER, Some(team), streamed());
    let (_first, _) = ask(&calls, in_team(FORMER)).await;
    let (_joined, record) = ask(&calls, in_team(FORMER)).await;
    assert_eq!(record.facts().cached, Cached::Joined);
    let (_other, record) = ask(&calls, in_team(LATTER)).await;
    assert_eq!(record.facts().cached, Cached::Miss);
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn a_retry_gets_nothing_of_a_former_key() {
    let gateway = retrying();
    let (calls, upstream) = (&gateway.calls, &gateway.upstream);
    let of_key = |key, times| by(key, Some(FORMER), tried(RANDOM, times));
    let (first, _) = text(calls, of_key(FORMER, "0")).await;
    assert_eq!(text(calls, of_key(FORMER, "1")).await.0, first);
    let (other, _) = text(calls, of_key(LATTER, "1")).await;
    assert_ne!(other, first);
    assert_eq!(upstream.calls(), 2);
}

#[tokio::test]
async fn an_idempotency_key_of_a_former_key_is_free() {
    const OTHER: &str = r#"{"model":"m","messages":[],"top_p":1}"#;
    let gateway = retrying();
    let calls = &gateway.calls;
    let of_key = |key, body| by(key, Some(FORMER), named(body, "k"));
    text(calls, of_key(FORMER, RANDOM)).await;
    let (refused, _) = ask(calls, of_key(FORMER, OTHER)).await;
    let error = Some(Failed::Cache(CacheError::KeyReused));
    assert_eq!(refused.err(), error);
    assert!(ask(calls, of_key(LATTER, OTHER)).await.0.is_ok());
    assert_eq!(gateway.upstream.calls(), 2);
}
