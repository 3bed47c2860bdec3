//! Answers that several gateways keep together, and get for each other.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::support::answers::{
    DONE, LAST_CHUNK, STREAM_HEAD, USAGE, chat, chunk, delta, json_answer,
};
use crate::support::client::{Answer, whole};
use crate::support::gateway::{Config, Gateway};
use crate::support::redis::Redis;
use crate::support::upstream::{Gate, Script, Upstream};
use crate::support::{KEY, eventually, within};

const PATH: &str = "/v1/chat/completions";

/// Calls wait for other gateways for as long as any test does.
const CACHE: &str = "[cache]\nredis_wait = \"60s\"\n";

/// A gateway that shares its answers; on a machine that is busy enough, anything may take longer than usual.
fn sharing(upstream: &Upstream, redis: &Redis) -> Config {
    Config::over(upstream)
        .table(CACHE)
        .table(&redis.table("timeout = \"10s\""))
}

async fn two(upstream: &Upstream, redis: &Redis) -> [Gateway; 2] {
    [
        sharing(upstream, redis).start().await,
        sharing(upstream, redis).start().await,
    ]
}

fn ask(seed: u64) -> Value {
    json!({"model": "gpt-4o", "seed": seed, "messages": [{"role": "user", "content": "hi"}]})
}

fn ask_stream() -> Value {
    let mut body = ask(7);
    body["stream"] = true.into();
    body
}

/// An upstream whose answers say which they are.
async fn counting() -> Upstream {
    let count = AtomicUsize::new(0);
    Upstream::start(move |_| Script::new().send(numbered(&count))).await
}

fn numbered(count: &AtomicUsize) -> Vec<u8> {
    let number = count.fetch_add(1, Ordering::SeqCst) + 1;
    let choice = json!({"index": 0, "message": {"role": "assistant", "content": number.to_string()}, "finish_reason": "stop"});
    let answer = json!({"id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}});
    json_answer("200 OK", answer.to_string())
}

fn number(answer: &Answer) -> usize {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let content = answer.json()["choices"][0]["message"]["content"].clone();
    content.as_str().unwrap().parse().unwrap()
}

fn status(answer: &Answer) -> &str {
    answer.headers["cache-status"].to_str().unwrap()
}

/// What lies in Redis.
fn answers(redis: &Redis) -> Vec<String> {
    let keys = redis.ask(&["KEYS", "weir:cache:*"]);
    keys.lines()
        .filter(|line| !line.is_empty())
        .map(str::to_owned)
        .collect()
}

/// Waits until so many answers lie in Redis.
async fn kept(redis: &Redis, count: usize) -> Vec<String> {
    eventually("redis has the answers", async || {
        let answers = answers(redis);
        (answers.len() == count).then_some(answers)
    })
    .await
}

async fn has(gateway: &Gateway, line: &str) -> bool {
    gateway.metrics().await.contains(&format!("\n{line}\n"))
}

async fn comes_to_have(gateway: &Gateway, line: &str) {
    eventually(line, async || has(gateway, line).await.then_some(())).await;
}

async fn purge(gateway: &Gateway, query: &str) -> Value {
    let path = format!("/admin/v1/cache?{query}");
    let operator = gateway.operator();
    operator.request(Method::DELETE, &path, "").await.json()
}

/// How often Redis was given such a command, by gateways and their functions.
fn count(redis: &Redis, command: &str) -> u64 {
    let stats = redis.ask(&["INFO", "commandstats"]);
    let prefix = format!("cmdstat_{command}:calls=");
    let calls = stats.lines().find_map(|line| line.strip_prefix(&prefix));
    calls.map_or(0, |calls| calls.split(',').next().unwrap().parse().unwrap())
}

/// How often it was asked for an answer, or for a lease.
fn asked(redis: &Redis) -> u64 {
    count(redis, "get") + count(redis, "set")
}

/// What tells one value from another one, in letters.
fn digest(redis: &Redis, key: &str) -> String {
    let script = "return redis.sha1hex(redis.call('DUMP', KEYS[1]) or '')";
    redis.ask(&["EVAL", script, "1", key])
}

#[tokio::test]
async fn what_one_gateway_has_got_the_other_has_too() {
    let upstream = counting().await;
    let redis = Redis::start().await;
    let [one, two] = two(&upstream, &redis).await;
    let first = one.client().chat(ask(7)).await;
    assert_eq!(status(&first), "weir; fwd=miss");
    let key = kept(&redis, 1).await.remove(0);
    eventually("it is older than a second", async || {
        let left: u64 = redis.ask(&["PTTL", &key]).trim().parse().unwrap();
        assert!(left <= 3_600_000);
        (left < 3_600_000 - 1_100).then_some(())
    })
    .await;
    let question = json!({"key": KEY, "path": PATH, "body": ask(7)});
    let outlook = two.operator().post("/admin/v1/explain", question).await;
    let cache = outlook.json()["cache"].clone();
    assert_eq!(cache["decision"], "hit", "{cache}");
    let reason = cache["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("an answer is kept in Redis for "),
        "{reason}"
    );
    let again = two.client().chat(ask(7)).await;
    assert_eq!(again.body, first.body);
    assert_eq!(again.headers["content-type"], "application/json");
    let age: u64 = again.headers["age"].to_str().unwrap().parse().unwrap();
    assert!((1..=30).contains(&age), "{age}");
    let said = status(&again);
    let left = said.strip_prefix("weir; hit; ttl=").unwrap();
    let left = left.strip_suffix("; detail=redis").unwrap();
    let left: u64 = left.parse().unwrap();
    assert!((3598..=3600).contains(&(age + left)), "{said}, age {age}");
    assert_eq!(upstream.calls().len(), 1);
    // From then on it is in memory too, and Redis is not asked.
    let before = asked(&redis);
    for _ in 0..5 {
        let again = two.client().chat(ask(7)).await;
        assert!(!status(&again).contains("redis"), "{}", status(&again));
        let later: u64 = again.headers["age"].to_str().unwrap().parse().unwrap();
        assert!(later >= age);
    }
    assert_eq!(asked(&redis), before);
    for line in [
        "weir_cache_hits_total{tier=\"memory\"} 5",
        "weir_cache_hits_total{tier=\"redis\"} 1",
        "weir_redis_up{of=\"cache\"} 1",
    ] {
        assert!(has(&two, line).await, "no {line}");
    }
    comes_to_have(&one, "weir_cache_redis_answers_total{result=\"stored\"} 1").await;
    let state = two.operator().get("/admin/v1/cache").await.json();
    assert_eq!(
        (&state["hits"], &state["redis"]["hits"]),
        (&json!(5), &json!(1))
    );
    assert_eq!(state["redis"]["up"], true);
    let rows = two.ledger("SELECT status, tokens, cost IS 0, served_from, cache, attempts FROM request ORDER BY id LIMIT 1");
    assert_eq!(rows, ["complete 0 1 cache hit 0"]);
    // Who wants no upstream is served by what lies in Redis, too.
    let three = sharing(&upstream, &redis).start().await;
    let wary = three
        .client()
        .with_header("cache-control", "only-if-cached");
    assert_eq!(wary.chat(ask(7)).await.body, first.body);
    assert_eq!(wary.chat(ask(8)).await.status, 504);
    let stranger = three.client().with_header("cache-control", "no-cache");
    assert_eq!(number(&stranger.chat(ask(7)).await), 2);
}

#[tokio::test]
async fn streams_are_shared_as_their_events_came() {
    let upstream = Upstream::start(|request| {
        if request.json()["stream"] != true {
            return Script::new().send(chat());
        }
        Script::new()
            .send(STREAM_HEAD)
            .send(chunk(delta("one")))
            .send(chunk(delta("two")))
            .send(chunk(USAGE))
            .send(chunk(DONE))
            .send(LAST_CHUNK)
    })
    .await;
    let redis = Redis::start().await;
    let [one, two] = two(&upstream, &redis).await;
    let plain = [delta("one"), delta("two"), DONE.into()].concat();
    let told = [delta("one"), delta("two"), USAGE.into(), DONE.into()].concat();
    let mut with_usage = ask_stream();
    with_usage["stream_options"] = json!({"include_usage": true});
    let mut first = one.client().stream(PATH, ask_stream()).await;
    assert_eq!(first.rest().await, (plain.clone(), true));
    kept(&redis, 1).await;
    for (body, wanted) in [(with_usage, told), (ask_stream(), plain)] {
        let mut stream = two.client().stream(PATH, body).await;
        assert_eq!(stream.headers["content-type"], "text/event-stream");
        assert!(stream.headers.contains_key("age"));
        assert_eq!(stream.rest().await, (wanted, true));
    }
    assert_eq!(upstream.calls().len(), 1);
    // One that is whole is another answer.
    let whole = two.client().chat(ask(7)).await;
    assert_eq!(status(&whole), "weir; fwd=miss");
}

/// What it is, and what puts it in an answer's place.
type Garbage<'a> = (&'a str, &'a dyn Fn(&str));

#[tokio::test]
async fn what_is_no_answer_of_this_version_is_none_and_goes() {
    let upstream = counting().await;
    let redis = Redis::start().await;
    let [one, two] = two(&upstream, &redis).await;
    one.client().chat(ask(0)).await;
    let other = kept(&redis, 1).await.remove(0);
    let mut known = vec![other.clone()];
    let garbage: [Garbage<'_>; 6] = [
        ("nothing", &|key| drop(redis.ask(&["SET", key, ""]))),
        ("a text", &|key| drop(redis.ask(&["SET", key, "weir? no."]))),
        ("another version", &|key| {
            drop(redis.ask(&["SETRANGE", key, "4", "\u{2}"]))
        }),
        ("damaged", &|key| {
            drop(redis.ask(&["SETRANGE", key, "60", "????"]))
        }),
        ("another call's", &|key| {
            drop(redis.ask(&["COPY", &other, key, "REPLACE"]))
        }),
        ("of another type", &|key| {
            redis.ask(&["DEL", key]);
            redis.ask(&["RPUSH", key, "x"]);
        }),
    ];
    for (place, (what, spoil)) in garbage.iter().enumerate() {
        let seed = place as u64 + 1;
        let first = number(&one.client().chat(ask(seed)).await);
        let mut keys = kept(&redis, known.len() + 1).await;
        keys.retain(|key| !known.contains(key));
        let key = keys.remove(0);
        known.push(key.clone());
        spoil(&key);
        let spoilt = digest(&redis, &key);
        let second = two.client().chat(ask(seed)).await;
        assert_eq!(status(&second), "weir; fwd=miss", "{what}");
        assert_eq!(number(&second), first + 1, "{what}");
        let line = format!("weir_cache_redis_answers_total{{result=\"unreadable\"}} {seed}");
        assert!(has(&two, &line).await, "{what}");
        eventually("it is gone, and another one there", async || {
            let now = digest(&redis, &key);
            let is_answer = redis.ask(&["GETRANGE", &key, "0", "3"]).trim() == "weir";
            (now != spoilt && is_answer).then_some(())
        })
        .await;
    }
    // Redis was there all the time.
    assert!(has(&two, "weir_redis_outages_total{of=\"cache\"} 0").await);
}

#[tokio::test]
async fn a_purge_reaches_redis_and_the_other_gateway() {
    let upstream = counting().await;
    let redis = Redis::start().await;
    let [one, two] = two(&upstream, &redis).await;
    assert_eq!(number(&one.client().chat(ask(7)).await), 1);
    kept(&redis, 1).await;
    assert_eq!(number(&two.client().chat(ask(7)).await), 1);
    for (query, purged) in [("team=research", 0), ("key=alice&model=gpt-4o", 1)] {
        let wanted = json!({"purged": purged, "purged_for_retries": 0, "shared": true});
        assert_eq!(purge(&one, query).await, wanted, "{query}");
    }
    // Neither this gateway's memory nor Redis has it any more.
    assert_eq!(number(&one.client().chat(ask(7)).await), 2);
    eventually("the other gateway follows", async || {
        (number(&two.client().chat(ask(7)).await) == 2).then_some(())
    })
    .await;
    assert_eq!(upstream.calls().len(), 2);
    // A gateway that comes later does not get it either.
    assert_eq!(purge(&two, "all=true").await["shared"], true);
    let three = sharing(&upstream, &redis).start().await;
    assert_eq!(number(&three.client().chat(ask(7)).await), 3);
}

#[tokio::test]
async fn a_purge_reaches_what_the_other_gateway_keeps_for_retries() {
    let upstream = counting().await;
    let redis = Redis::start().await;
    let [one, two] = two(&upstream, &redis).await;
    // Nobody else's answer, so it lies in no Redis.
    let mut body = ask(7);
    body.as_object_mut().unwrap().remove("seed");
    let client = |times: &str| {
        let client = two.client();
        client.with_header("x-stainless-retry-count", times)
    };
    assert_eq!(number(&client("0").chat(body.clone()).await), 1);
    assert_eq!(number(&client("1").chat(body.clone()).await), 1);
    assert_eq!(purge(&one, "key=alice").await["shared"], true);
    eventually("the other gateway follows", async || {
        (number(&client("1").chat(body.clone()).await) != 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_was_asked_for_before_a_purge_is_neither_joined_nor_kept_after_it() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| {
        Script::new()
            .send(STREAM_HEAD)
            .send(chunk(delta("one")))
            .until(&held)
            .send(chunk(USAGE))
            .send(chunk(DONE))
            .send(LAST_CHUNK)
    })
    .await;
    let redis = Redis::start().await;
    let [one, two] = two(&upstream, &redis).await;
    let mut early = two.client().stream(PATH, ask_stream()).await;
    early.until("\n\n").await;
    assert_eq!(purge(&one, "all=true").await["shared"], true);
    two.logged("the purge is known", |line| {
        line["message"] == "answers were purged at another gateway"
    })
    .await;
    let mut late = two.client().stream(PATH, ask_stream()).await;
    assert_eq!(late.headers["cache-status"], "weir; fwd=miss");
    late.until("\n\n").await;
    assert_eq!(upstream.calls().len(), 2);
    gate.open();
    early.rest().await;
    // What came of the early one is nowhere.
    let outlook = async || {
        let question = json!({"key": KEY, "path": PATH, "body": ask_stream()});
        let outlook = one.operator().post("/admin/v1/explain", question).await;
        outlook.json()["cache"]["decision"].clone()
    };
    assert_eq!(outlook().await, "miss");
    assert_eq!(answers(&redis), Vec::<String>::new());
    gate.open();
    late.rest().await;
    kept(&redis, 1).await;
    assert_eq!(outlook().await, "hit");
}

#[tokio::test]
async fn a_redis_that_was_emptied_is_filled_anew_and_what_was_purged_stays_so() {
    let upstream = counting().await;
    let redis = Redis::start().await;
    let [one, two] = two(&upstream, &redis).await;
    one.client().chat(ask(1)).await;
    let old = kept(&redis, 1).await.remove(0);
    let saved = old.replace("weir:cache", "kept");
    redis.ask(&["COPY", &old, &saved]);
    assert_eq!(purge(&one, "key=alice").await["shared"], true);
    let before = redis.ask(&["HGET", "weir:{cache}:1:purges", "epoch"]);
    redis.ask(&["DEL", "weir:{cache}:1:purges"]);
    eventually(
        "another epoch has begun, and knows of the purge",
        async || {
            let epoch = redis.ask(&["HGET", "weir:{cache}:1:purges", "epoch"]);
            let purges = redis.ask(&["HKEYS", "weir:{cache}:1:purges"]);
            (epoch.trim() != "" && epoch != before && purges.contains("alice")).then_some(())
        },
    )
    .await;
    redis.ask(&["COPY", &saved, &old, "REPLACE"]);
    // As many questions as it takes until both know of the epoch.
    let mut seeds = 1000..;
    eventually("answers are shared again", async || {
        let (seed, before) = (seeds.next().unwrap(), answers(&redis).len());
        let first = number(&one.client().chat(ask(seed)).await);
        kept(&redis, before + 1).await;
        (number(&two.client().chat(ask(seed)).await) == first).then_some(())
    })
    .await;
    let calls = upstream.calls().len();
    assert_eq!(number(&two.client().chat(ask(1)).await), calls + 1);
}

#[tokio::test]
async fn identical_calls_at_several_gateways_are_one_at_the_upstream() {
    let gate = Gate::new();
    let held = gate.clone();
    let count = AtomicUsize::new(0);
    let upstream =
        Upstream::start(move |_| Script::new().until(&held).send(numbered(&count))).await;
    let redis = Redis::start().await;
    let gateways = two(&upstream, &redis).await;
    let clients = gateways.each_ref().map(Gateway::client);
    let calls = (0..20).map(|call| clients[call % 2].chat(ask(7)));
    let opened = async {
        for gateway in &gateways {
            comes_to_have(gateway, "weir_requests_in_flight 10").await;
        }
        // Whoever leads, the other one waits for it.
        upstream.called(1).await;
        gate.open();
    };
    let (answers, ()) = tokio::join!(join_all(calls), opened);
    for answer in &answers {
        assert_eq!(number(answer), 1);
        assert_eq!(answer.body, answers[0].body);
    }
    assert_eq!(upstream.calls().len(), 1);
    let mut answered = 0;
    for gateway in &gateways {
        let line = "weir_cache_waits_total{result=\"answered\"} 1";
        answered += usize::from(has(gateway, line).await);
    }
    assert_eq!(answered, 1);
    // The lease is given back.
    eventually("no lease is held", async || {
        let leases = redis.ask(&["KEYS", "weir:{cache}:*:lease:*"]);
        leases.trim().is_empty().then_some(())
    })
    .await;
}

/// One gateway asks the upstream, which holds its answer, and the other one waits for it.
async fn waiting(gate: &Gate, timeout: &str) -> (Upstream, Redis, [Gateway; 2]) {
    let held = gate.clone();
    let count = AtomicUsize::new(0);
    let upstream =
        Upstream::start(move |_| Script::new().until(&held).send(numbered(&count))).await;
    let redis = Redis::start().await;
    let start = async || {
        let config = Config::over(&upstream).table(CACHE);
        let table = redis.table(&format!("timeout = \"{timeout}\""));
        config.table(&table).start().await
    };
    let gateways = [start().await, start().await];
    (upstream, redis, gateways)
}

#[tokio::test]
async fn when_the_gateway_that_asks_is_killed_another_one_does() {
    let gate = Gate::new();
    let (upstream, _redis, [one, two]) = waiting(&gate, "10s").await;
    let client = one.client().with_header("content-type", "application/json");
    let lost = tokio::spawn(async move {
        let asked = client.try_open(Method::POST, PATH, whole(ask(7))).await;
        asked.is_err()
    });
    upstream.called(1).await;
    let client = two.client();
    let answer = tokio::spawn(async move { client.chat(ask(7)).await });
    comes_to_have(&two, "weir_requests_in_flight 1").await;
    assert_eq!(upstream.calls().len(), 1);
    one.signal("KILL");
    assert!(lost.await.unwrap());
    upstream.called(2).await;
    // For the one that was given up, too.
    gate.open();
    gate.open();
    assert_eq!(answer.await.unwrap().status, 200);
    assert!(has(&two, "weir_cache_waits_total{result=\"led\"} 1").await);
}

#[tokio::test]
async fn nobody_waits_for_long_when_redis_is_frozen() {
    let gate = Gate::new();
    let (upstream, redis, [one, two]) = waiting(&gate, "500ms").await;
    let client = one.client();
    let first = tokio::spawn(async move { client.chat(ask(7)).await });
    upstream.called(1).await;
    let before = count(&redis, "set");
    let client = two.client();
    let second = tokio::spawn(async move { client.chat(ask(7)).await });
    eventually("it has asked for the lease more than once", async || {
        (count(&redis, "set") > before + 1).then_some(())
    })
    .await;
    redis.signal("STOP");
    // Who waits for another gateway goes alone.
    upstream.called(2).await;
    gate.open();
    gate.open();
    for answer in [first, second] {
        assert_eq!(answer.await.unwrap().status, 200);
    }
    assert!(has(&two, "weir_cache_waits_total{result=\"alone\"} 1").await);
    // And so does who comes later.
    gate.open();
    let bound = Duration::from_secs(10);
    let later = within(bound, "an upstream answers", two.client().chat(ask(8))).await;
    assert_eq!((later.status, status(&later)), (200, "weir; fwd=miss"));
    // Memory answers all the same, and what is purged meanwhile is told later.
    let kept_here = within(bound, "memory answers", two.client().chat(ask(8))).await;
    assert!(status(&kept_here).starts_with("weir; hit"));
    eventually("redis is away", async || {
        has(&two, "weir_redis_up{of=\"cache\"} 0")
            .await
            .then_some(())
    })
    .await;
    let purged = purge(&two, "all=true").await;
    assert_eq!(
        purged,
        json!({"purged": 2, "purged_for_retries": 0, "shared": false})
    );
    assert_eq!(number(&one.client().chat(ask(7)).await), 1);
    redis.signal("CONT");
    gate.open();
    one.logged("the purge is known", |line| {
        line["message"] == "answers were purged at another gateway"
    })
    .await;
    let anew = one.client().chat(ask(7)).await;
    assert_eq!(status(&anew), "weir; fwd=miss");
}

#[tokio::test]
async fn teams_do_not_share_across_gateways_either() {
    let upstream = counting().await;
    let redis = Redis::start().await;
    let key = |name: &str, team: &str| {
        format!("[[key]]\nname = \"{name}\"\nsecret = \"wk-{name}-0123456789abcdef\"\n{team}\n")
    };
    let start = async || {
        sharing(&upstream, &redis)
            .table("[[team]]\nname = \"red\"\n\n[[team]]\nname = \"blue\"\n")
            .table(&key("rita", "team = \"red\""))
            .table(&key("rob", "team = \"red\""))
            .table(&key("bea", "team = \"blue\""))
            .table(&key("red", ""))
            .start()
            .await
    };
    let gateways = [start().await, start().await];
    let by = async |gateway: &Gateway, name: &str| {
        let authorization = format!("Bearer wk-{name}-0123456789abcdef");
        let client = gateway.stranger();
        number(
            &client
                .with_header("authorization", &authorization)
                .chat(ask(7))
                .await,
        )
    };
    let [one, two] = &gateways;
    assert_eq!(by(one, "rita").await, 1);
    kept(&redis, 1).await;
    assert_eq!(by(two, "bea").await, 2);
    assert_eq!(by(two, "red").await, 3);
    assert_eq!(by(two, "rob").await, 1);
    kept(&redis, 3).await;
    assert_eq!(by(one, "bea").await, 2);
    assert_eq!(by(one, "red").await, 3);
    // Nothing of it is told in the clear where keys are named, or logged.
    for gateway in &gateways {
        assert!(!gateway.output().contains("weir:cache:"));
    }
    assert_eq!(upstream.calls().len(), 3);
}

/// A server of a cluster.
async fn node() -> Redis {
    Redis::on_port(|_, _| {
        let arguments = [
            "--cluster-enabled",
            "yes",
            "--cluster-config-file",
            "nodes.conf",
        ];
        arguments.map(str::to_owned).to_vec()
    })
    .await
}

#[tokio::test]
async fn answers_are_spread_over_a_cluster() {
    let upstream = counting().await;
    let nodes = [node().await, node().await];
    let ports = nodes.each_ref().map(|node| node.port().to_string());
    nodes[0].ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "8191"]);
    nodes[1].ask(&["CLUSTER", "ADDSLOTSRANGE", "8192", "16383"]);
    nodes[0].ask(&["CLUSTER", "MEET", "127.0.0.1", &ports[1]]);
    for node in &nodes {
        eventually("the cluster is whole", async || {
            let info = node.ask(&["CLUSTER", "INFO"]);
            let is_whole = info.contains("cluster_state:ok")
                && info.contains("cluster_slots_assigned:16384")
                && info.contains("cluster_known_nodes:2");
            is_whole.then_some(())
        })
        .await;
    }
    let [first, second] = &ports;
    let table = format!(
        "[redis]\nurls = [\"redis://127.0.0.1:{first}\", \"redis://127.0.0.1:{second}\"]\ncluster = true\ntimeout = \"10s\"\n"
    );
    let start = async || {
        let config = Config::over(&upstream).table(CACHE);
        config.table(&table).start().await
    };
    let [one, two] = [start().await, start().await];
    for seed in 0..16 {
        one.client().chat(ask(seed)).await;
    }
    eventually("each server has some, and none is left out", async || {
        let counts = nodes.each_ref().map(|node| answers(node).len());
        (counts[0] > 0 && counts[1] > 0 && counts[0] + counts[1] == 16).then_some(())
    })
    .await;
    for seed in 0..16 {
        let again = two.client().chat(ask(seed)).await;
        assert_eq!(number(&again), seed as usize + 1);
        assert!(status(&again).ends_with("detail=redis"));
    }
    assert_eq!(purge(&two, "all=true").await["shared"], true);
    assert_eq!(number(&two.client().chat(ask(0)).await), 17);
}

#[tokio::test]
async fn the_rights_that_are_asked_for_are_enough() {
    let upstream = counting().await;
    // What the README says that its user needs.
    let needs = "+fcall +function|load +get +set +del +pexpire +zadd +zcard +zrem +zremrangebyscore +time +mget +hset +hget +hgetall +hdel +hlen +zrange +zscore +type";
    let redis = Redis::on_port(|_, folder| {
        let users =
            format!("user default on nopass ~* +@all\nuser weir on >right ~weir:* {needs}\n");
        let file = folder.join("users.acl");
        std::fs::write(&file, users).unwrap();
        vec!["--aclfile".to_owned(), file.to_str().unwrap().to_owned()]
    })
    .await;
    let table = format!(
        "[redis]\nurl = \"redis://weir:right@127.0.0.1:{}\"\ntimeout = \"10s\"\n",
        redis.port()
    );
    let config = Config::over(&upstream).table(CACHE);
    let gateway = config.table(&table).start().await;
    gateway.client().chat(ask(7)).await;
    let key = kept(&redis, 1).await.remove(0);
    assert_eq!(purge(&gateway, "all=true").await["shared"], true);
    // Which deletes what it finds, and does not count as an outage.
    redis.ask(&["SET", &key, "garbage"]);
    assert_eq!(number(&gateway.client().chat(ask(7)).await), 2);
    eventually("the lease is given back", async || {
        let leases = redis.ask(&["KEYS", "weir:{cache}:*:lease:*"]);
        leases.trim().is_empty().then_some(())
    })
    .await;
    assert!(has(&gateway, "weir_redis_failures_total{of=\"cache\"} 0").await);
}
