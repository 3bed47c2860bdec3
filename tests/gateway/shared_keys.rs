//! Keys and teams that are made at one of several gateways, each with a ledger of its own, and count at all of them.

use futures_util::future::join_all;
use http::Method;
use serde_json::{Value, json};

use crate::support::answers::{DONE, LAST_CHUNK, STREAM_HEAD, ask, ask_stream, chat, chunk, delta};
use crate::support::client::Answer;
use crate::support::eventually;
use crate::support::gateway::{Config, Gateway, run, weir};
use crate::support::redis::Redis;
use crate::support::upstream::{Gate, Script, Upstream};

const RECORDS: &str = "weir:{keys}:1:records";
const ORDER: &str = "weir:{keys}:1:order";
const STATE: &str = "weir:{keys}:1:state";

async fn on(upstream: &Upstream, redis: &Redis) -> Gateway {
    // On a machine that is busy enough, anything may take longer than usual.
    let table = redis.table("timeout = \"10s\"");
    Config::over(upstream).table(&table).start().await
}

async fn house() -> (Upstream, Redis, [Gateway; 2]) {
    let upstream = Upstream::answering(chat()).await;
    let redis = Redis::start().await;
    let gateways = [on(&upstream, &redis).await, on(&upstream, &redis).await];
    (upstream, redis, gateways)
}

async fn act(gateway: &Gateway, method: Method, path: &str, body: Value) -> Answer {
    let client = gateway
        .operator()
        .with_header("content-type", "application/json");
    let path = format!("/admin/v1/{path}");
    let answer = match body {
        Value::Null => client.request(method, &path, "").await,
        body => client.request(method, &path, body).await,
    };
    assert!(answer.status < 300, "{}", answer.text());
    answer
}

/// Makes a key and returns its secret.
async fn make(gateway: &Gateway, body: Value) -> String {
    let made = act(gateway, Method::POST, "keys", body).await.json();
    made["key"].as_str().unwrap().to_owned()
}

async fn call(gateway: &Gateway, secret: &str) -> Answer {
    let authorization = format!("Bearer {secret}");
    let client = gateway.stranger();
    client
        .with_header("authorization", &authorization)
        .chat(ask())
        .await
}

async fn comes_to(gateway: &Gateway, secret: &str, status: u16) {
    eventually(&format!("{status}"), async || {
        (call(gateway, secret).await.status == status).then_some(())
    })
    .await;
}

/// Everything that a gateway says of keys and teams made at run time.
async fn says(gateway: &Gateway) -> [Value; 2] {
    let mut said = Vec::new();
    for path in ["/admin/v1/keys", "/admin/v1/teams"] {
        let listed = gateway.operator().get(path).await.json();
        let all = listed["data"].as_array().unwrap().iter();
        let made = all.filter(|one| one["source"] == "admin").cloned();
        said.push(Value::Array(made.collect()));
    }
    said.try_into().unwrap()
}

async fn agree(gateways: &[Gateway]) -> [Value; 2] {
    eventually("all gateways say the same", async || {
        let first = says(&gateways[0]).await;
        for other in &gateways[1..] {
            if says(other).await != first {
                return None;
            }
        }
        Some(first)
    })
    .await
}

#[tokio::test]
async fn what_is_made_at_one_gateway_counts_at_the_other() {
    let (_upstream, redis, [one, two]) = house().await;
    let team = json!({ "name": "t", "limits": { "requests_per_day": 5 } });
    act(&one, Method::POST, "teams", team).await;
    let secret = make(
        &one,
        json!({ "name": "bob: {x}", "team": "t", "limits": { "requests_per_day": 3 } }),
    )
    .await;
    comes_to(&two, &secret, 200).await;
    // Its limits hold for both together.
    assert_eq!(call(&one, &secret).await.status, 200);
    assert_eq!(call(&two, &secret).await.status, 200);
    assert_eq!(call(&one, &secret).await.status, 429);
    assert_eq!(call(&two, &secret).await.status, 429);
    let path = "keys/bob%3A%20%7Bx%7D";
    let edit = json!({ "limits": null });
    act(&two, Method::PATCH, path, edit).await;
    comes_to(&one, &secret, 200).await;
    // The team's limit holds too.
    comes_to(&one, &secret, 429).await;
    let edit = json!({ "limits": null });
    act(&one, Method::PATCH, "teams/t", edit).await;
    comes_to(&two, &secret, 200).await;
    let rotated = act(
        &two,
        Method::POST,
        &format!("{path}/rotate"),
        json!({ "grace": "1h" }),
    )
    .await;
    let next = rotated.json()["key"].as_str().unwrap().to_owned();
    comes_to(&one, &next, 200).await;
    assert_eq!(call(&one, &secret).await.status, 200, "it has its time");
    act(&one, Method::DELETE, path, Value::Null).await;
    for secret in [&secret, &next] {
        comes_to(&two, secret, 401).await;
    }
    act(&two, Method::DELETE, "teams/t", Value::Null).await;
    let [keys, teams] = agree(&[one, two]).await;
    assert_eq!((&keys[0]["state"], &teams), (&json!("revoked"), &json!([])));
    let held = redis.ask(&["HGETALL", RECORDS]);
    for hidden in [&secret, &next] {
        assert!(!held.contains(&**hidden), "{held}");
    }
}

#[tokio::test]
async fn what_others_did_is_in_the_audit() {
    let (_upstream, _redis, [one, two]) = house().await;
    let secret = make(&one, json!({ "name": "bob" })).await;
    comes_to(&two, &secret, 200).await;
    act(&two, Method::DELETE, "keys/bob", Value::Null).await;
    comes_to(&one, &secret, 401).await;
    let told = async |gateway: &Gateway| {
        let audit = gateway.operator().get("/admin/v1/audit").await.json();
        let rows = audit["data"].as_array().unwrap().iter();
        let told = rows.map(|row| format!("{} {}", row["actor"], row["action"]).replace('"', ""));
        told.collect::<Vec<_>>()
    };
    assert_eq!(told(&one).await, ["replica key.revoke", "admin key.create"]);
    assert_eq!(told(&two).await, ["admin key.revoke", "replica key.create"]);
}

#[tokio::test]
async fn a_gateway_that_comes_later_knows_all_keys_from_its_first_request_on() {
    let (upstream, redis, [one, mut two]) = house().await;
    let mut secrets = Vec::new();
    // More than go one way at a time.
    for key in 0..150 {
        secrets.push(make(&one, json!({ "name": format!("key-{key:03}") })).await);
    }
    act(&one, Method::DELETE, "keys/key-007", Value::Null).await;
    comes_to(&two, &secrets[149], 200).await;
    let three = on(&upstream, &redis).await;
    for (key, secret) in secrets.iter().enumerate() {
        let status = call(&three, secret).await.status;
        assert_eq!(status, if key == 7 { 401 } else { 200 }, "{key}");
    }
    // What is revoked while a gateway is away opens nothing when it is back.
    two.signal("TERM");
    assert!(two.exit().await.success());
    act(&three, Method::DELETE, "keys/key-008", Value::Null).await;
    comes_to(&one, &secrets[8], 401).await;
    two.restart().await;
    assert_eq!(call(&two, &secrets[8]).await.status, 401);
    assert_eq!(call(&two, &secrets[9]).await.status, 200);
}

#[tokio::test]
async fn what_is_changed_while_redis_is_away_counts_everywhere_when_it_is_back() {
    let (_upstream, mut redis, gateways) = house().await;
    let [one, two] = &gateways;
    let team = json!({ "name": "t" });
    act(one, Method::POST, "teams", team).await;
    let shared = make(one, json!({ "name": "shared", "team": "t" })).await;
    let revoked = make(one, json!({ "name": "revoked" })).await;
    comes_to(two, &revoked, 200).await;
    redis.kill();
    act(one, Method::DELETE, "keys/revoked", Value::Null).await;
    // Revoked here, and edited there by somebody who does not know it.
    act(
        two,
        Method::PATCH,
        "keys/revoked",
        json!({ "models": ["gpt-*"] }),
    )
    .await;
    act(
        one,
        Method::PATCH,
        "keys/shared",
        json!({ "models": ["poet"] }),
    )
    .await;
    act(
        two,
        Method::PATCH,
        "keys/shared",
        json!({ "models": ["*"], "team": null }),
    )
    .await;
    act(two, Method::DELETE, "teams/t", Value::Null).await;
    let lonely = make(two, json!({ "name": "lonely" })).await;
    assert_eq!(call(one, &revoked).await.status, 401);
    assert_eq!(call(two, &revoked).await.status, 200);
    assert_eq!(call(two, &lonely).await.status, 200);
    redis.restart().await;
    comes_to(two, &revoked, 401).await;
    comes_to(one, &lonely, 200).await;
    comes_to(one, &shared, 200).await;
    let [keys, teams] = agree(&gateways).await;
    assert_eq!((keys.as_array().unwrap().len(), teams), (3, json!([])));
    assert_eq!(call(one, &revoked).await.status, 401, "and it stays so");
}

#[tokio::test]
async fn a_name_that_two_gateways_gave_away_has_one_key() {
    let (_upstream, mut redis, gateways) = house().await;
    let [one, two] = &gateways;
    redis.kill();
    let older = make(one, json!({ "name": "bob" })).await;
    let younger = make(two, json!({ "name": "bob", "models": ["gpt-*"] })).await;
    assert_eq!(call(two, &younger).await.status, 200);
    redis.restart().await;
    comes_to(two, &younger, 401).await;
    comes_to(two, &older, 200).await;
    let [keys, _] = agree(&gateways).await;
    assert_eq!(keys.as_array().unwrap().len(), 1);
    assert_eq!(call(one, &older).await.status, 200);
    assert_eq!(call(one, &younger).await.status, 401);
    let audit = two.operator().get("/admin/v1/audit").await.json();
    assert_eq!(audit["data"][0]["action"], "key.replace");
    let words = "two gateways have made a key of one name";
    two.logged("it is told", |line| line.to_string().contains(words))
        .await;
}

#[tokio::test]
async fn changes_at_all_gateways_at_once_come_to_the_same_everywhere() {
    let (upstream, redis, [one, two]) = house().await;
    let gateways = [one, two, on(&upstream, &redis).await];
    for name in ["a", "b", "c", "d"] {
        make(&gateways[0], json!({ "name": name })).await;
    }
    agree(&gateways).await;
    let changing = gateways.iter().enumerate().map(|(at, gateway)| async move {
        for round in 0..15 {
            for name in ["a", "b", "c"] {
                let edit = json!({ "models": [format!("{at}-{round}")] });
                act(gateway, Method::PATCH, &format!("keys/{name}"), edit).await;
            }
            // Whether they know of each other's or not.
            let fresh = json!({ "name": format!("{at}-{round}") });
            make(gateway, fresh).await;
            if (at, round) == (1, 7) {
                act(gateway, Method::DELETE, "keys/d", Value::Null).await;
            }
        }
    });
    join_all(changing).await;
    let complete = eventually("everything is everywhere", async || {
        let [keys, _] = agree(&gateways).await;
        (keys.as_array().unwrap().len() == 4 + 3 * 15).then_some(keys)
    })
    .await;
    assert_eq!(
        complete.as_array().unwrap().last().unwrap()["state"],
        "revoked"
    );
    // That another one was faster is no failure.
    for gateway in &gateways {
        let log = gateway.log();
        let failed = |line: &&Value| line["message"] == "keys cannot be shared with other gateways";
        assert_eq!(log.iter().find(failed), None);
    }
}

#[tokio::test]
async fn a_redis_that_is_emptied_brings_nothing_down_and_is_filled_again() {
    let (upstream, redis, [one, two]) = house().await;
    let secret = make(&one, json!({ "name": "bob" })).await;
    comes_to(&two, &secret, 200).await;
    for lost in [
        &["FLUSHALL"][..],
        &["DEL", STATE],
        // Of another type, by somebody else.
        &["SET", RECORDS, "x"],
        &["LPUSH", STATE, "x"],
        &["DEL", ORDER, RECORDS],
        &["DEL", RECORDS],
        &["DEL", ORDER],
        // Changes that are not in the order, and more than can be counted.
        &["SET", STATE, "00:99"],
        &["SET", STATE, "00:99999999999999999999"],
    ] {
        redis.ask(lost);
        assert_eq!(call(&one, &secret).await.status, 200);
        eventually("it is filled again", async || {
            let state = redis.ask(&["GET", STATE]);
            let is_begun = state.contains(':') && !state.starts_with("00:");
            let has = redis.ask(&["HEXISTS", RECORDS, "key:bob"]);
            let order = redis.ask(&["ZSCORE", ORDER, "key:bob"]);
            (is_begun && has.starts_with('1') && !order.trim().is_empty()).then_some(())
        })
        .await;
        let three = on(&upstream, &redis).await;
        assert_eq!(call(&three, &secret).await.status, 200);
    }
}

#[tokio::test]
async fn garbage_opens_nothing_and_closes_nothing() {
    let (upstream, redis, [one, two]) = house().await;
    let secret = make(&one, json!({ "name": "bob" })).await;
    comes_to(&two, &secret, 200).await;
    let record = redis.ask(&["HGET", RECORDS, "key:bob"]);
    let mut record: Value = serde_json::from_str(record.trim()).unwrap();
    // Newer, revoked, and with something that this Weir does not know.
    record["version"] = json!(record["version"].as_i64().unwrap() + 1);
    record["revoked"] = record["created"].clone();
    record["rank"] = json!(1);
    let put = |field: &str, text: &str| {
        let state = redis.ask(&["GET", STATE]);
        let (epoch, changes) = state.trim().split_once(':').unwrap();
        let changes = changes.parse::<u64>().unwrap() + 1;
        redis.ask(&["HSET", RECORDS, field, text]);
        redis.ask(&["ZADD", ORDER, &changes.to_string(), field]);
        redis.ask(&["SET", STATE, &format!("{epoch}:{changes}")]);
    };
    put("key:bob", &record.to_string());
    put("key:eve", "{}");
    put("team:eve", "\u{1}garbage");
    put("what is this", "");
    let last = make(&one, json!({ "name": "last" })).await;
    comes_to(&two, &last, 200).await;
    let three = on(&upstream, &redis).await;
    for gateway in [&one, &two] {
        // That it is revoked can be read.
        comes_to(gateway, &secret, 401).await;
        eventually("all of it is told once", async || {
            let log = gateway.log();
            let message = "what is shared in Redis cannot be used, and is left alone";
            let unusable = log.iter().filter(|line| line["message"] == message);
            (unusable.count() == 4).then_some(())
        })
        .await;
    }
    // A gateway that has nothing else to go by does not know the key, and the others do not take it for theirs to mend.
    assert_eq!(call(&three, &secret).await.status, 401);
    assert_eq!(call(&three, &last).await.status, 200);
    let kept = redis.ask(&["HGET", RECORDS, "key:bob"]);
    assert_eq!(serde_json::from_str::<Value>(kept.trim()).unwrap(), record);
    // Revoked here, it is so everywhere that it was known.
    let mut record: Value =
        serde_json::from_str(redis.ask(&["HGET", RECORDS, "key:last"]).trim()).unwrap();
    record["version"] = json!(record["version"].as_i64().unwrap() + 1);
    record["rank"] = json!(1);
    put("key:last", &record.to_string());
    let mark = make(&one, json!({ "name": "mark" })).await;
    comes_to(&two, &mark, 200).await;
    assert_eq!(call(&two, &last).await.status, 200);
    act(&one, Method::DELETE, "keys/last", Value::Null).await;
    comes_to(&two, &last, 401).await;
}

#[tokio::test]
async fn gateways_with_one_ledger_may_share_it_by_redis_too() {
    let upstream = Upstream::answering(chat()).await;
    let redis = Redis::start().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weir.db");
    let start = async || {
        let table = redis.table("timeout = \"10s\"");
        let ledger = format!("[ledger]\npath = {path:?}\n");
        let config = Config::over(&upstream).table(&table).table(&ledger);
        config.start().await
    };
    let gateways = [start().await, start().await, on(&upstream, &redis).await];
    let [one, two, three] = &gateways;
    let secret = make(one, json!({ "name": "bob" })).await;
    comes_to(two, &secret, 200).await;
    comes_to(three, &secret, 200).await;
    // At the file itself, beside them.
    let mut command = weir(folder.path());
    command.args(["keys", "new", "carol", "--json", "--ledger"]);
    command.arg(&path);
    let made = run(command).await;
    let made: Value = serde_json::from_str(&made.stdout).unwrap();
    comes_to(three, made["key"].as_str().unwrap(), 200).await;
    act(three, Method::DELETE, "keys/bob", Value::Null).await;
    comes_to(one, &secret, 401).await;
    comes_to(two, &secret, 401).await;
    agree(&gateways).await;
    let audit = one.operator().get("/admin/v1/audit").await.json();
    assert_eq!(audit["data"].as_array().unwrap().len(), 3, "{audit}");
}

#[tokio::test]
async fn keys_are_shared_until_a_gateway_has_ended() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| {
        let begun = Script::new().send(STREAM_HEAD).send(chunk(delta("one")));
        begun.until(&held).send(chunk(DONE)).send(LAST_CHUNK)
    })
    .await;
    let redis = Redis::start().await;
    let [mut one, two] = [on(&upstream, &redis).await, on(&upstream, &redis).await];
    let client = one.client();
    let mut stream = client.stream("/v1/chat/completions", ask_stream()).await;
    stream.until("\n\n").await;
    one.signal("TERM");
    let is_draining = |line: &Value| line.to_string().contains("draining");
    one.logged("it drains", is_draining).await;
    let knows = async |gateway: &Gateway, name: &str, state: &str| {
        eventually(&format!("{name} is {state}"), async || {
            let [keys, _] = says(gateway).await;
            let mut keys = keys.as_array().unwrap().iter();
            keys.find(|key| key["name"] == name && key["state"] == state)
                .map(drop)
        })
        .await;
    };
    make(&one, json!({ "name": "bob" })).await;
    knows(&two, "bob", "active").await;
    act(&two, Method::DELETE, "keys/bob", Value::Null).await;
    knows(&one, "bob", "revoked").await;
    // What nobody has looked for yet is told at the end.
    for key in 0..20 {
        make(&one, json!({ "name": format!("key-{key}") })).await;
    }
    one.signal("TERM");
    gate.open();
    assert!(one.exit().await.success());
    knows(&two, "key-19", "active").await;
}

#[tokio::test]
async fn a_start_without_redis_says_that_keys_may_be_unknown() {
    let upstream = Upstream::answering(chat()).await;
    let mut redis = Redis::start().await;
    redis.kill();
    let one = on(&upstream, &redis).await;
    let words = "keys of other gateways are not all known yet";
    one.logged("it is told", |line| line["message"] == words)
        .await;
    redis.restart().await;
    let two = on(&upstream, &redis).await;
    let secret = make(&one, json!({ "name": "bob" })).await;
    comes_to(&two, &secret, 200).await;
    let log = two.log();
    assert!(log.iter().all(|line| line["message"] != words));
}

#[tokio::test]
async fn keys_are_shared_more_slowly_than_requests_may_be_asked_about() {
    let upstream = Upstream::answering(chat()).await;
    let redis = Redis::with(&["--enable-debug-command", "yes"]).await;
    let table = redis.table("timeout = \"100ms\"");
    let one = Config::over(&upstream).table(&table).start().await;
    let joined = || redis.ask(&["EXISTS", STATE]);
    make(&one, json!({ "name": "bob" })).await;
    eventually("it is shared", async || {
        joined().starts_with('1').then_some(())
    })
    .await;
    for _ in 0..8 {
        assert_eq!(redis.ask(&["DEBUG", "SLEEP", "0.7"]).trim(), "OK");
    }
    let log = one.log();
    let away = |line: &&Value| line["message"] == "redis is away";
    assert_eq!(log.iter().find(away), None);
}
