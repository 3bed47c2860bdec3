//! Gateways that count their limits together, and what becomes of them while Redis is away.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::answers::{DONE, LAST_CHUNK, STREAM_HEAD, ask, ask_stream, chat, chunk, delta};
use crate::support::client::{Answer, Client};
use crate::support::gateway::{Config, Gateway, run, weir};
use crate::support::redis::{Redis, free_port};
use crate::support::upstream::{Script, Upstream};
use crate::support::{KEY, eventually};

/// A gateway with one key and its limits, which are counted in Redis.
fn sharing(upstream: &Upstream, limits: &str, redis: &str) -> Config {
    Config::over(upstream)
        .without_key()
        .table(&format!(
            "[[key]]\nname = \"alice\"\nsecret = \"{KEY}\"\nlimits = {limits}\n"
        ))
        .table(redis)
}

fn told(answer: &Answer, what: &str) -> Option<u32> {
    let value = answer.header(&format!("x-ratelimit-{what}"))?;
    Some(value.parse().unwrap())
}

fn asking_for(max_tokens: u64) -> String {
    json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "hi"}], "max_tokens": max_tokens})
        .to_string()
}

async fn is_up(gateway: &Gateway, up: u8) -> bool {
    let line = format!("\nweir_redis_up{{of=\"limits\"}} {up}\n");
    gateway.metrics().await.contains(&line)
}

/// So many calls, a few at a time, over several gateways; returns the statuses.
async fn storm(clients: &[Client], calls: usize) -> Vec<u16> {
    let workers = (0..16).map(|worker| async move {
        let mut codes = Vec::new();
        for call in (worker..calls).step_by(16) {
            codes.push(
                clients[call % clients.len()]
                    .chat(asking_for(50))
                    .await
                    .status,
            );
        }
        codes
    });
    join_all(workers).await.concat()
}

#[tokio::test]
async fn two_gateways_let_in_exactly_as_many_as_one() {
    let upstream = Upstream::answering(chat()).await;
    let redis = Redis::start().await;
    let limits = "{ requests_per_day = 200, tokens_per_day = 10_000 }";
    // On a machine that is busy enough, anything may take longer than usual.
    let table = redis.table("timeout = \"10s\"");
    let start = async || sharing(&upstream, limits, &table).start().await;
    let gateways = [start().await, start().await];
    let clients = gateways.each_ref().map(Gateway::client);
    let codes = storm(&clients, 600).await;
    let let_in = codes.iter().filter(|code| **code == 200).count();
    let refused = codes.iter().filter(|code| **code == 429).count();
    assert_eq!((let_in, refused), (200, 400));
    assert_eq!(upstream.calls().len(), 200);
    // Five tokens each, whatever was reserved, less what time restores: one in nine seconds.
    eventually("all is settled", async || {
        let answer = gateways[0].client().chat(asking_for(50)).await;
        answer.error(429, "requests", "rate_limit_exceeded");
        let left = told(&answer, "remaining-tokens").unwrap();
        (10_000 - 1000..10_000 - 1000 + 10)
            .contains(&left)
            .then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_request_asks_redis_once() {
    let upstream = Upstream::answering(chat()).await;
    let redis = Redis::start().await;
    let limits = "[{ requests_per_day = 10, tokens_per_day = 1000, concurrent = 5 }, { requests_per_minute = 10, models = [\"gpt-*\"] }]";
    let gateway = sharing(&upstream, limits, &redis.table("timeout = \"10s\""))
        .start()
        .await;
    // The gateway has tried the functions once.
    let start = redis.function_calls();
    for _ in 0..10 {
        assert_eq!(gateway.client().chat(asking_for(5)).await.status, 200);
    }
    // What they used is told off their path, at most once each.
    eventually("all is settled", async || {
        redis
            .ask(&["ZCARD", "weir:{limits}:1:key:alice:concurrent:"])
            .starts_with('0')
            .then_some(())
    })
    .await;
    let before = redis.function_calls();
    assert!(before - start <= 20, "{start}, {before}");
    for _ in 0..50 {
        let refused = gateway.client().chat(asking_for(5)).await;
        refused.error(429, "requests", "rate_limit_exceeded");
    }
    assert_eq!(redis.function_calls() - before, 50);
    // Without limits there is nothing to ask.
    assert_eq!(gateway.stranger().chat(ask()).await.status, 401);
    assert_eq!(redis.function_calls() - before, 50);
}

#[tokio::test]
async fn places_of_a_gateway_that_was_killed_come_back() {
    let upstream = Upstream::start(|_| {
        let mut head = STREAM_HEAD.as_bytes().to_vec();
        head.extend(chunk(delta("Hello")));
        Script::new().send(head).stall()
    })
    .await;
    let redis = Redis::start().await;
    let start = async || {
        let table = redis.table("timeout = \"10s\"");
        let config = sharing(&upstream, "{ concurrent = 2 }", &table);
        config.start().await
    };
    let (dying, living) = (start().await, start().await);
    let stream = async |gateway: &Gateway| {
        let client = gateway.client();
        client.stream("/v1/chat/completions", ask_stream()).await
    };
    let held = [stream(&dying).await, stream(&dying).await];
    assert!(held.iter().all(|stream| stream.status == 200));
    let refused = living.client().chat(ask_stream()).await;
    refused.error(429, "concurrency", "rate_limit_exceeded");
    dying.signal("KILL");
    let stream = eventually("the lease ends", async || {
        let stream = stream(&living).await;
        (stream.status == 200).then_some(stream)
    })
    .await;
    drop(stream);
}

#[tokio::test]
async fn a_frozen_redis_holds_nobody_up_and_is_told_of_what_it_missed() {
    let upstream = Upstream::answering(chat()).await;
    let redis = Redis::start().await;
    let limits = "{ requests_per_day = 1000, tokens_per_day = 100_000 }";
    let gateway = sharing(&upstream, limits, &redis.table("")).start().await;
    let client = gateway.client();
    assert_eq!(client.chat(asking_for(10)).await.status, 200);
    assert!(is_up(&gateway, 1).await);
    redis.signal("STOP");
    for _ in 0..20 {
        assert_eq!(client.chat(asking_for(10)).await.status, 200);
    }
    assert!(is_up(&gateway, 0).await);
    let ready = Client::new(gateway.admin()).get("/readyz").await;
    assert_eq!(ready.status, 200, "{}", ready.text());
    redis.signal("CONT");
    eventually("redis is noticed", async || {
        is_up(&gateway, 1).await.then_some(())
    })
    .await;
    // One before, and twenty that Redis did not see, or perhaps a few of them: those were asked for in vain.
    let answer = eventually("what it missed is told", async || {
        let answer = client.chat(asking_for(10)).await;
        assert_eq!(answer.status, 200);
        (told(&answer, "remaining-requests")? <= 1000 - 22).then_some(answer)
    })
    .await;
    assert!(told(&answer, "remaining-requests").unwrap() > 900);
    let changes = |message: &str| {
        let log = gateway.log();
        let lines = log.iter().filter(|line| line["message"] == message);
        lines.count()
    };
    assert_eq!(changes("redis is away"), 1);
    assert_eq!(changes("redis answers: limits and budgets are shared"), 2);
}

#[tokio::test]
async fn a_stream_without_a_pause_comes_whole_where_there_is_room() {
    let upstream = Upstream::start(|_| {
        let events = delta("one ").repeat(3000) + DONE;
        let mut stream = STREAM_HEAD.as_bytes().to_vec();
        stream.extend(chunk(events));
        stream.extend(LAST_CHUNK.as_bytes());
        Script::new().send(stream)
    })
    .await;
    let redis = Redis::start().await;
    for slice in [1, 10] {
        let table = redis.table(&format!("timeout = \"10s\"\nslice = {slice}"));
        let gateway = sharing(&upstream, "{ tokens_per_minute = 100_000 }", &table)
            .start()
            .await;
        for most in [None, Some(30)] {
            let mut body = ask_stream();
            if let Some(most) = most {
                body["max_tokens"] = json!(most);
            }
            let client = gateway.client();
            let mut stream = client.stream("/v1/chat/completions", body).await;
            let (text, whole) = stream.rest().await;
            assert!(whole);
            assert_eq!(text.matches("one ").count(), 3000, "{slice} {most:?}");
            assert!(!text.contains("\"length\""));
        }
    }
}

#[tokio::test]
async fn a_key_of_another_type_stops_no_settlement() {
    let upstream = Upstream::answering(chat()).await;
    let redis = Redis::start().await;
    let limits = "{ tokens_per_day = 1000, concurrent = 3 }";
    let table = redis.table("timeout = \"10s\"");
    let gateway = sharing(&upstream, limits, &table).start().await;
    assert_eq!(gateway.client().chat(asking_for(5)).await.status, 200);
    let replica = eventually("it has settled", async || {
        let keys = redis.ask(&["KEYS", "weir:{limits}:1:replica:*"]);
        (!keys.trim().is_empty()).then(|| keys.trim().to_owned())
    })
    .await;
    redis.ask(&["DEL", &replica]);
    redis.ask(&["LPUSH", &replica, "x"]);
    for _ in 0..10 {
        eventually("there is a place", async || {
            (gateway.client().chat(asking_for(5)).await.status == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_slow_redis_is_away_until_it_is_fast_again() {
    let upstream = Upstream::answering(chat()).await;
    let redis = Redis::start().await;
    let proxy = Delay::start(&redis).await;
    let table = format!(
        "[redis]\nurl = \"redis://{}\"\ntimeout = \"100ms\"\n",
        proxy.address
    );
    let gateway = sharing(&upstream, "{ requests_per_day = 1000 }", &table)
        .start()
        .await;
    eventually("redis is found", async || {
        is_up(&gateway, 1).await.then_some(())
    })
    .await;
    proxy.delay(300);
    eventually("it is too slow", async || {
        assert_eq!(gateway.client().chat(ask()).await.status, 200);
        is_up(&gateway, 0).await.then_some(())
    })
    .await;
    let outages = async || {
        let metrics = gateway.metrics().await;
        let line = metrics
            .lines()
            .find(|line| line.starts_with("weir_redis_outages_total"));
        line.map(str::to_owned)
    };
    let before = outages().await;
    for _ in 0..50 {
        assert_eq!(gateway.client().chat(ask()).await.status, 200);
    }
    assert_eq!(outages().await, before, "it stays away while it is slow");
    proxy.delay(0);
    eventually("it is fast again", async || {
        is_up(&gateway, 1).await.then_some(())
    })
    .await;
}

#[tokio::test]
async fn limits_hold_in_the_process_while_redis_is_away() {
    let upstream = Upstream::answering(chat()).await;
    let mut redis = Redis::start().await;
    let table = redis.table("local_share = 0.5");
    let gateway = sharing(&upstream, "{ requests_per_day = 40 }", &table)
        .start()
        .await;
    redis.kill();
    let codes = storm(&[gateway.client()], 60).await;
    let let_in = codes.iter().filter(|code| **code == 200).count();
    assert_eq!(let_in, 20, "{codes:?}");
    redis.restart().await;
    let answer = eventually("it is told", async || {
        let answer = gateway.client().chat(ask()).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(told(&answer, "limit-requests"), Some(40));
    let log = gateway.output();
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test]
async fn nobody_is_let_in_without_redis_where_that_is_configured() {
    let upstream = Upstream::answering(chat()).await;
    let mut redis = Redis::start().await;
    let table = redis.table("on_outage = \"reject\"");
    let gateway = sharing(&upstream, "{ requests_per_day = 40 }", &table)
        .start()
        .await;
    assert_eq!(gateway.client().chat(ask()).await.status, 200);
    redis.kill();
    for _ in 0..5 {
        let refused = gateway.client().chat(ask()).await;
        refused.error(503, "server_error", "limits_unavailable");
        assert_eq!(refused.header("retry-after"), Some("1"));
    }
    assert_eq!(upstream.calls().len(), 1);
    let metrics = gateway.metrics().await;
    let refused = r#"weir_requests_total{cause="gateway_limits""#;
    assert!(metrics.contains(refused), "{metrics}");
    redis.restart().await;
    eventually("it lets in again", async || {
        (gateway.client().chat(ask()).await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_is_not_there_yet_is_waited_for() {
    let upstream = Upstream::answering(chat()).await;
    let mut redis = Redis::start().await;
    redis.kill();
    let gateway = sharing(&upstream, "{ requests_per_day = 40 }", &redis.table(""))
        .start()
        .await;
    assert_eq!(gateway.client().chat(ask()).await.status, 200);
    redis.restart().await;
    eventually("it is found", async || {
        is_up(&gateway, 1).await.then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_is_explained_is_what_redis_says() {
    let upstream = Upstream::answering(chat()).await;
    let mut redis = Redis::start().await;
    let table = redis.table("timeout = \"10s\"\non_outage = \"reject\"");
    let start = async || {
        let config = sharing(&upstream, "{ requests_per_day = 2 }", &table);
        config.start().await
    };
    let (one, two) = (start().await, start().await);
    assert_eq!(one.client().chat(ask()).await.status, 200);
    let explain = async || {
        let question = json!({ "key": "alice", "body": ask() });
        let answer = two.operator().post("/admin/v1/explain", question).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    for _ in 0..3 {
        let outlook = explain().await;
        assert_eq!(outlook["limits"][0]["remaining"], 1, "{outlook}");
        assert_eq!(outlook["verdict"]["outcome"], "served");
    }
    assert_eq!(one.client().chat(ask()).await.status, 200);
    assert_eq!(explain().await["verdict"]["code"], "rate_limit_exceeded");
    redis.kill();
    assert_eq!(explain().await["verdict"]["code"], "limits_unavailable");
}

/// A door to a Redis that opens late.
struct Delay {
    address: std::net::SocketAddr,
    millis: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl Delay {
    async fn start(redis: &Redis) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let delay = Self {
            address: listener.local_addr().unwrap(),
            millis: Default::default(),
        };
        let (socket, millis) = (redis.socket(), std::sync::Arc::clone(&delay.millis));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (socket, millis) = (socket.clone(), std::sync::Arc::clone(&millis));
                tokio::spawn(async move {
                    let server = tokio::net::UnixStream::connect(socket).await.unwrap();
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) = server.into_split();
                    let asks = tokio::io::copy(&mut from_client, &mut to_server);
                    let answers = async {
                        let mut buffer = vec![0; 64 << 10];
                        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
                            let millis = millis.load(std::sync::atomic::Ordering::Relaxed);
                            tokio::time::sleep(Duration::from_millis(millis)).await;
                            if to_client.write_all(&buffer[..length]).await.is_err() {
                                break;
                            }
                        }
                    };
                    tokio::select! {
                        _ = asks => {}
                        () = answers => {}
                    }
                });
            }
        });
        delay
    }

    fn delay(&self, millis: u64) {
        self.millis
            .store(millis, std::sync::atomic::Ordering::Relaxed);
    }
}

/// The start is refused, for reasons that these words are in, and no password is shown.
async fn refused(upstream: &Upstream, redis: &str, words: &[&str]) {
    let config = sharing(upstream, "{ requests_per_day = 40 }", redis);
    std::fs::write(config.path().join("weir.toml"), config.text()).unwrap();
    let start = Instant::now();
    let mut command = weir(config.path());
    command.args(["serve", "--config", "weir.toml"]);
    let ended = run(command).await;
    assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
    for word in words {
        assert!(ended.stderr.contains(word), "{word}: {}", ended.stderr);
    }
    assert!(!ended.stderr.contains("s3cret"), "{}", ended.stderr);
    assert!(start.elapsed() < Duration::from_secs(20));
}

#[tokio::test]
async fn a_start_names_what_is_wrong_with_redis() {
    let upstream = Upstream::answering(chat()).await;
    // What the README says that its user needs.
    let needs = "+fcall +function|load +get +set +del +pexpire +zadd +zcard +zrem +zremrangebyscore +time +mget +hset +hget +hgetall +hdel +hlen +zrange +zscore +type";
    let guarded = Redis::on_port(|_, folder| {
        let users = format!(
            "user default on >other ~* +@all\nuser weir on >right ~weir:* {needs}\nuser narrow on >right ~weir:* +fcall\n"
        );
        let file = folder.join("users.acl");
        std::fs::write(&file, users).unwrap();
        vec!["--aclfile".to_owned(), file.to_str().unwrap().to_owned()]
    })
    .await;
    let port = guarded.port();
    let table = |user: &str| {
        format!("[redis]\nurl = \"redis://{user}127.0.0.1:{port}\"\ntimeout = \"10s\"\n")
    };
    let at = format!("127.0.0.1:{port}");
    refused(&upstream, &table("weir:s3cret@"), &[&at, "password"]).await;
    refused(&upstream, &table(""), &[&at, "password"]).await;
    refused(&upstream, &table("narrow:right@"), &[&at, "may not run"]).await;
    // Each of its rights is needed, and tried.
    let rights: Vec<&str> = needs.split(' ').collect();
    for left_out in &rights {
        let others = rights.iter().filter(|right| right != &left_out);
        let mut set = vec![
            "--user", "default", "--pass", "other", "ACL", "SETUSER", "narrow",
        ];
        set.extend(["reset", "on", ">right", "~weir:*"]);
        set.extend(others);
        assert!(guarded.ask(&set).contains("OK"));
        refused(&upstream, &table("narrow:right@"), &[&at, "may not run"]).await;
    }
    let gateway = sharing(&upstream, "{ requests_per_day = 4 }", &table("weir:right@"))
        .start()
        .await;
    let answer = gateway.client().chat(ask()).await;
    assert_eq!(
        (answer.status, told(&answer, "remaining-requests")),
        (200, Some(3))
    );

    let old = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = old.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = old.accept().await {
            tokio::spawn(async move {
                let mut buffer = vec![0; 64 << 10];
                while let Ok(1..) = stream.read(&mut buffer).await {
                    let asked = String::from_utf8_lossy(&buffer).to_ascii_uppercase();
                    let info = "# Server\r\nredis_version:6.2.14\r\n";
                    let reply = match asked.contains("\r\nINFO\r\n") {
                        true => format!("${}\r\n{info}\r\n", info.len()),
                        false => {
                            "-ERR unknown command\r\n".repeat(asked.matches('*').count().max(1))
                        }
                    };
                    buffer.fill(0);
                    let _ = stream.write_all(reply.as_bytes()).await;
                }
            });
        }
    });
    let table = format!("[redis]\nurl = \"redis://{address}\"\n");
    refused(&upstream, &table, &["6.2.14", "7.0"]).await;
}

#[tokio::test]
async fn a_cluster_holds_what_one_call_counts_towards_in_one_place() {
    let upstream = Upstream::answering(chat()).await;
    let cluster = Redis::on_port(|_, _| {
        let arguments = [
            "--cluster-enabled",
            "yes",
            "--cluster-config-file",
            "nodes.conf",
        ];
        arguments.map(str::to_owned).to_vec()
    })
    .await;
    cluster.ask(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    eventually("the cluster is whole", async || {
        let info = cluster.ask(&["CLUSTER", "INFO"]);
        info.contains("cluster_state:ok").then_some(())
    })
    .await;
    let limits = "[{ requests_per_day = 4, tokens_per_day = 1000, concurrent = 3 }, { requests_per_day = 3, models = [\"*4o\"] }]";
    let table = format!(
        "[redis]\nurls = [\"redis://127.0.0.1:{}\"]\ncluster = true\ntimeout = \"10s\"\n",
        cluster.port()
    );
    let gateway = sharing(&upstream, limits, &table).start().await;
    for left in [2, 1, 0] {
        let answer = gateway.client().chat(asking_for(5)).await;
        assert_eq!(
            (answer.status, told(&answer, "remaining-requests")),
            (200, Some(left))
        );
    }
    let refused = gateway.client().chat(asking_for(5)).await;
    refused.error(429, "requests", "rate_limit_exceeded");
    assert!(cluster.function_calls() >= 4);
    // Keys and teams are shared there too, in another place.
    let other = sharing(&upstream, limits, &table).start().await;
    for name in ["bob", "carol"] {
        let made = gateway
            .operator()
            .post("/admin/v1/keys", json!({ "name": name }))
            .await;
        assert_eq!(made.status, 201, "{}", made.text());
        eventually("it is known", async || {
            let found = other
                .operator()
                .get(&format!("/admin/v1/keys/{name}"))
                .await;
            (found.status == 200).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_sentinel_tells_where_redis_is() {
    let upstream = Upstream::answering(chat()).await;
    let redis = Redis::on_port(|_, _| Vec::new()).await;
    let port = redis.port();
    let sentinel_port = free_port();
    let file = redis.dir().join("sentinel.conf");
    let text =
        format!("port {sentinel_port}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {port} 1\n");
    std::fs::write(&file, text).unwrap();
    let mut sentinel = std::process::Command::new("redis-server")
        .arg(&file)
        .arg("--sentinel")
        .current_dir(redis.dir())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    eventually("the sentinel listens", async || {
        std::net::TcpStream::connect(("127.0.0.1", sentinel_port)).ok()
    })
    .await;
    let table = format!(
        "[redis]\nurl = \"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel_port}/main\"\ntimeout = \"10s\"\n"
    );
    let gateway = sharing(&upstream, "{ requests_per_day = 4 }", &table)
        .start()
        .await;
    eventually("redis is found", async || {
        is_up(&gateway, 1).await.then_some(())
    })
    .await;
    let answer = gateway.client().chat(ask()).await;
    assert_eq!(
        (answer.status, told(&answer, "remaining-requests")),
        (200, Some(3))
    );
    assert!(redis.function_calls() >= 1);
    let elsewhere =
        format!("[redis]\nurl = \"redis+sentinel://127.0.0.1:{sentinel_port}/other\"\n");
    let gateway = sharing(&upstream, "{ requests_per_day = 4 }", &elsewhere)
        .start()
        .await;
    assert_eq!(gateway.client().chat(ask()).await.status, 200, "alone");
    let away = gateway.logged("it says where it looked", |line| {
        line["message"] == "redis is away"
    });
    let away = away.await.to_string();
    assert!(away.contains("other at 127.0.0.1"), "{away}");
    sentinel.kill().unwrap();
    sentinel.wait().unwrap();
}

#[tokio::test]
async fn a_stream_ends_properly_when_limits_that_are_shared_run_out() {
    let upstream = Upstream::start(|_| {
        let mut script = Script::new().send(STREAM_HEAD.as_bytes());
        for _ in 0..400 {
            script = script
                .send(chunk(delta("one two three ")))
                .pause(Duration::from_millis(2));
        }
        script.stall()
    })
    .await;
    let redis = Redis::start().await;
    let gateway = sharing(
        &upstream,
        "{ tokens_per_day = 400 }",
        &redis.table("timeout = \"10s\""),
    )
    .start()
    .await;
    let client = gateway.client();
    let mut body = ask_stream();
    body["stream_options"] = json!({ "include_usage": true });
    let mut stream = client.stream("/v1/chat/completions", body).await;
    assert_eq!(stream.status, 200);
    let (text, whole) = stream.rest().await;
    assert!(whole && text.trim_end().ends_with("data: [DONE]"), "{text}");
    assert!(text.contains(r#""finish_reason":"length""#), "{text}");
    let usage = text.rsplit("\"usage\":").next().unwrap();
    let total: u64 = usage
        .split("\"total_tokens\":")
        .nth(1)
        .unwrap()
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .unwrap()
        .parse()
        .unwrap();
    assert!((300..=400 + 64 + 16).contains(&total), "{total}");
}
