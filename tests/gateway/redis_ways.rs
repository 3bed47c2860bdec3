//! The ways to a shared Redis: over TLS, with certificates on both sides; and by Sentinels, that have a password of their
//! own, to whichever server they have made the first.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::support::answers::{ask, chat};
use crate::support::client::Answer;
use crate::support::gateway::{Config, Gateway, run, weir};
use crate::support::redis::{Redis, free_port};
use crate::support::tls::Identity;
use crate::support::upstream::Upstream;
use crate::support::{KEY, eventually};

/// A gateway whose key has four requests a day, counted in Redis.
fn sharing(upstream: &Upstream) -> Config {
    Config::over(upstream).without_key().table(&format!(
        "[[key]]\nname = \"alice\"\nsecret = \"{KEY}\"\nlimits = {{ requests_per_day = 4 }}\n"
    ))
}

fn remaining(answer: &Answer) -> Option<u32> {
    let value = answer.header("x-ratelimit-remaining-requests")?;
    value.parse().ok()
}

async fn is_up(gateway: &Gateway) -> bool {
    let metrics = gateway.metrics().await;
    metrics.contains("\nweir_redis_up{of=\"limits\"} 1\n")
}

async fn up(gateway: &Gateway) {
    eventually("redis is found", async || {
        is_up(gateway).await.then_some(())
    })
    .await;
}

/// A Redis that speaks TLS alone, and only with who shows the certificate of `client`, where there is one.
async fn over_tls(server: &Identity, client: Option<&Identity>) -> Redis {
    Redis::on_port(|port, folder| {
        server.write(folder);
        let mut arguments = vec![
            "--port".to_owned(),
            "0".to_owned(),
            "--tls-port".to_owned(),
            port.to_string(),
            "--tls-cert-file".to_owned(),
            "tls.crt".to_owned(),
            "--tls-key-file".to_owned(),
            "tls.key".to_owned(),
        ];
        let authority = match client {
            Some(client) => {
                let theirs = folder.join("client");
                std::fs::create_dir(&theirs).unwrap();
                client.write(&theirs);
                "client/tls.crt"
            }
            None => {
                arguments.extend(["--tls-auth-clients".to_owned(), "no".to_owned()]);
                "tls.crt"
            }
        };
        arguments.extend(["--tls-ca-cert-file".to_owned(), authority.to_owned()]);
        arguments
    })
    .await
}

#[tokio::test]
async fn limits_are_shared_over_tls_with_an_authority_of_ones_own() {
    let upstream = Upstream::answering(chat()).await;
    let identity = Identity::new();
    let redis = over_tls(&identity, None).await;
    let url = format!("rediss://localhost:{}", redis.port());
    let trusting = || {
        let config = sharing(&upstream);
        identity.write(config.path());
        config.table(&format!(
            "[redis]\nurl = \"{url}\"\ntimeout = \"10s\"\ntls = {{ ca = \"tls.crt\" }}\n"
        ))
    };
    let (one, other) = (trusting().start().await, trusting().start().await);
    up(&one).await;
    up(&other).await;
    assert_eq!(remaining(&one.client().chat(ask()).await), Some(3));
    assert_eq!(remaining(&other.client().chat(ask()).await), Some(2));
    // Who trusts the system's authorities alone does not trust this one.
    let wary = sharing(&upstream)
        .table(&format!("[redis]\nurl = \"{url}\"\n"))
        .start()
        .await;
    let away = wary
        .logged("it says why", |line| line["message"] == "redis is away")
        .await;
    assert!(away.to_string().contains("certificate"), "{away}");
    assert_eq!(wary.client().chat(ask()).await.status, 200, "alone");
}

#[tokio::test]
async fn a_redis_is_shown_a_certificate() {
    let upstream = Upstream::answering(chat()).await;
    let (server, client) = (Identity::new(), Identity::new());
    let redis = over_tls(&server, Some(&client)).await;
    let url = format!("rediss://localhost:{}", redis.port());
    let config = sharing(&upstream);
    server.write(config.path());
    let own = config.path().join("own");
    std::fs::create_dir(&own).unwrap();
    client.write(&own);
    let gateway = config
        .table(&format!(
            "[redis]\nurl = \"{url}\"\ntimeout = \"10s\"\ntls = {{ ca = \"tls.crt\", cert = \"own/tls.crt\", key = \"own/tls.key\" }}\n"
        ))
        .start()
        .await;
    up(&gateway).await;
    assert_eq!(remaining(&gateway.client().chat(ask()).await), Some(3));
}

/// A Sentinel with a password. It dies with this value.
struct Sentinel {
    child: Child,
    port: u16,
}

impl Sentinel {
    async fn over(master: u16, folder: &Path) -> Self {
        let port = free_port();
        let file = folder.join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\nrequirepass watchword\nsentinel sentinel-pass watchword\n\
             sentinel monitor main 127.0.0.1 {master} 1\nsentinel down-after-milliseconds main 500\n\
             sentinel failover-timeout main 2000\n"
        );
        std::fs::write(&file, text).unwrap();
        let child = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .current_dir(folder)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let sentinel = Self { child, port };
        eventually("the sentinel listens", async || {
            std::net::TcpStream::connect(("127.0.0.1", port)).ok()
        })
        .await;
        sentinel
    }

    fn ask(&self, command: &[&str]) -> String {
        let output = Command::new("redis-cli")
            .args([
                "-p",
                &self.port.to_string(),
                "--no-auth-warning",
                "-a",
                "watchword",
            ])
            .args(command)
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn sentinels_that_have_a_password_lead_to_the_next_server() {
    let upstream = Upstream::answering(chat()).await;
    let mut first = Redis::on_port(|_, _| Vec::new()).await;
    let port = first.port();
    let second = Redis::on_port(|_, _| {
        ["--replicaof", "127.0.0.1"]
            .into_iter()
            .map(str::to_owned)
            .chain([port.to_string()])
            .collect()
    })
    .await;
    eventually("the replica follows", async || {
        let role = second.ask(&["ROLE"]);
        role.contains("connected").then_some(())
    })
    .await;
    let sentinel = Sentinel::over(port, first.dir()).await;
    eventually("the sentinel knows the replica", async || {
        let known = sentinel.ask(&["SENTINEL", "REPLICAS", "main"]);
        known.contains(&second.port().to_string()).then_some(())
    })
    .await;
    let url = format!("redis+sentinel://127.0.0.1:{}/main", sentinel.port);
    let without = sharing(&upstream).table(&format!("[redis]\nurl = \"{url}\"\n"));
    let file = without.path().join("weir.toml");
    std::fs::write(&file, without.text()).unwrap();
    let mut command = weir(without.path());
    command.args(["serve", "--config"]).arg(&file);
    let ended = run(command).await;
    assert_eq!(ended.status.code(), Some(1));
    let told = "refuses the user or the password";
    assert!(ended.stderr.contains(told), "{}", ended.stderr);
    let gateway = sharing(&upstream)
        .table(&format!(
            "[redis]\nurl = \"{url}\"\ntimeout = \"10s\"\nsentinel = {{ password = \"watchword\" }}\n"
        ))
        .start()
        .await;
    up(&gateway).await;
    assert_eq!(remaining(&gateway.client().chat(ask()).await), Some(3));
    // What was counted is with the second before the first one dies.
    assert_eq!(first.ask(&["WAIT", "1", "5000"]).trim(), "1");
    first.kill();
    eventually("the second one is the first", async || {
        let role = second.ask(&["ROLE"]);
        role.starts_with("master").then_some(())
    })
    .await;
    // A call that finds it away is counted here, and owed there.
    eventually("the gateway counts there", async || {
        gateway.client().get("/v1/models").await;
        (is_up(&gateway).await && second.function_calls() > 0).then_some(())
    })
    .await;
    let answer = gateway.client().chat(ask()).await;
    assert!(
        remaining(&answer).is_some_and(|left| left < 3),
        "{answer:?}"
    );
}
