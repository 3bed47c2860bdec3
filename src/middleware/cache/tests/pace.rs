//! Streams that come again as fast as they came.

use tokio::time::Instant as Moment;

use super::*;
use crate::middleware::cache::replay::replay;
use crate::store::cache::{Entry, Shape, Stored, Tags};

fn entry(offsets: &[u32]) -> Entry {
    let blocks: Vec<Bytes> = (0..offsets.len()).map(event).collect();
    Entry {
        headers: HeaderMap::new(),
        body: Stored::events(&blocks),
        usage: None,
        served_model: None,
        tags: Tags {
            key: "alice".into(),
            team: None,
            model: "m".into(),
            endpoint: "/v1/chat/completions",
        },
        shape: Shape::default(),
        stored: Instant::now(),
        ttl: Duration::from_secs(60),
        stale: Duration::ZERO,
        pace: offsets.into(),
    }
}

/// Returns after how many milliseconds which events came.
async fn played(entry: &Entry, paced: bool) -> Vec<(u64, Bytes)> {
    let began = Moment::now();
    let mut body = replay(entry, paced).body;
    let mut pieces = Vec::new();
    while let Some(piece) = next(&mut body).await {
        let at = u64::try_from(began.elapsed().as_millis()).unwrap();
        pieces.push((at, piece.unwrap()));
    }
    pieces
}

fn joined(events: std::ops::Range<usize>) -> Bytes {
    events.map(event).collect::<Vec<_>>().concat().into()
}

#[tokio::test(start_paused = true)]
async fn a_stream_comes_again_as_fast_as_it_came() {
    let entry = entry(&[100, 100, 250, 251]);
    let expected = [
        (100, joined(0..2)),
        (250, joined(2..3)),
        (251, joined(3..4)),
    ];
    assert_eq!(played(&entry, true).await, expected);
    assert_eq!(played(&entry, false).await, [(0, joined(0..4))]);
}

#[tokio::test(start_paused = true)]
async fn no_pause_is_longer_than_its_bound() {
    let entry = entry(&[0, 600_000, 600_010]);
    let expected = [(0, event(0)), (5000, event(1)), (5010, event(2))];
    assert_eq!(played(&entry, true).await, expected);
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_is_not_kept_waiting_for_what_is_due() {
    let entry = entry(&[10, 20, 30, 1000]);
    let mut body = replay(&entry, true).body;
    tokio::time::advance(Duration::from_millis(500)).await;
    assert_eq!(next(&mut body).await, Some(Ok(joined(0..3))));
    assert_eq!(next(&mut body).await, Some(Ok(event(3))));
    assert_eq!(next(&mut body).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_kept_with_its_pace() {
    let terms = Terms {
        paced: true,
        ..TERMS
    };
    let (calls, upstream, _) = gateway_of(terms, 1 << 16);
    let (reply, _) = ask(&calls, streamed()).await;
    let mut body = reply.unwrap().body;
    let script = upstream.script();
    for number in 0..3 {
        tokio::time::advance(Duration::from_millis(100)).await;
        script.send(Ok(event(number))).unwrap();
        assert_eq!(next(&mut body).await, Some(Ok(event(number))));
    }
    script.send(Ok(DONE.into())).unwrap();
    drop(script);
    upstream.end();
    assert!(body.collect().await.is_ok());
    let (reply, record) = ask(&calls, streamed()).await;
    assert_eq!(record.facts().cached, Cached::Hit);
    let began = Moment::now();
    let mut body = reply.unwrap().body;
    for number in 0..2 {
        assert_eq!(next(&mut body).await, Some(Ok(event(number))));
        let at = began.elapsed().as_millis();
        assert_eq!(at, 100 * (number as u128 + 1));
    }
}
