//! `weir health`: what whatever watches a container is told by its exit code.

use crate::support::answers::{DONE, LAST_CHUNK, STREAM_HEAD, ask_stream, chat, chunk, delta};
use crate::support::eventually;
use crate::support::gateway::{Config, Ended, Gateway, run, weir};
use crate::support::redis::free_port;
use crate::support::upstream::{Gate, Script, Upstream};

/// Runs the command beside a gateway, and holds that it says one thing only.
async fn health(gateway: &Gateway, args: &[&str]) -> (Option<i32>, String) {
    let mut command = weir(gateway.dir.path());
    command.arg("health").args(args);
    let Ended {
        status,
        stdout,
        stderr,
    } = run(command).await;
    match status.success() {
        true => assert!(stderr.is_empty(), "{stderr}"),
        false => assert!(
            stdout.is_empty() && stderr.starts_with("weir: "),
            "{stdout}"
        ),
    }
    (status.code(), stdout + &stderr)
}

fn url(gateway: &Gateway) -> String {
    format!("http://{}", gateway.admin())
}

#[tokio::test]
async fn a_gateway_that_takes_calls_is_well_whatever_its_configuration_has_become() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let well = (Some(0), "ready\n".to_owned());
    assert_eq!(health(&gateway, &["--url", &url(&gateway)]).await, well);
    let slash = format!("{}/", url(&gateway));
    assert_eq!(health(&gateway, &["--admin", &slash]).await, well);
    // The gateway goes on with what it has read.
    let port = gateway.admin().port();
    let admin = format!("[admin]\nlisten = \"0.0.0.0:{port}\"\ntoken = \"file:gone\"\n");
    for rest in [
        "[[upstream]]\nname = 3\n",
        "[[key]]\nsecret = \"${GONE}\"\n",
        "[log\n",
    ] {
        let file = gateway.dir.path().join("other.toml");
        std::fs::write(&file, format!("{admin}{rest}")).unwrap();
        assert_eq!(
            health(&gateway, &["--config", "other.toml"]).await,
            well,
            "{rest}"
        );
    }
    // What cannot be read may be where it is.
    let file = gateway.dir.path().join("damaged.toml");
    std::fs::write(&file, format!("[admin\nlisten = \"0.0.0.0:{port}\"\n")).unwrap();
    let (code, text) = health(&gateway, &["--config", "damaged.toml"]).await;
    assert!(code == Some(1) && text.contains("damaged.toml:"), "{text}");
    let mut command = weir(gateway.dir.path());
    command.arg("health").env("WEIR_CONFIG", "other.toml");
    assert_eq!(run(command).await.status.code(), Some(0));
}

#[tokio::test]
async fn one_that_stops_or_has_no_upstream_is_not_and_says_why() {
    let gate = Gate::new();
    let held = gate.clone();
    let upstream = Upstream::start(move |_| {
        Script::new()
            .send(STREAM_HEAD)
            .send(chunk(delta("one")))
            .until(&held)
            .send(chunk(DONE))
            .send(LAST_CHUNK)
    })
    .await;
    let mut gateway = Gateway::over(&upstream).await;
    let mut stream = gateway
        .client()
        .stream("/v1/chat/completions", ask_stream())
        .await;
    stream.until("\n\n").await;
    gateway.signal("TERM");
    eventually("it says that it drains", async || {
        let (code, text) = health(&gateway, &["--url", &url(&gateway)]).await;
        (code == Some(1) && text == "weir: not ready: draining\n").then_some(())
    })
    .await;
    let live = ["--live", "--url", &url(&gateway)];
    let well = (Some(0), "live\n".to_owned());
    assert_eq!(health(&gateway, &live).await, well);
    gate.open();
    stream.rest().await;
    assert_eq!(gateway.exit().await.code(), Some(0));

    // Its health checks find nobody.
    let nobody = "eject = { failures = 1, base = \"1h\", max = \"1h\", floor = 0 }\nhealth = { path = \"/health\", interval = \"100ms\", timeout = \"80ms\" }";
    let upstream = Upstream::start(|_| Script::new().stall()).await;
    let gateway = Config::new()
        .upstream("gone", &upstream, nobody)
        .start()
        .await;
    eventually("it says that it has no upstream", async || {
        let (code, text) = health(&gateway, &["--url", &url(&gateway)]).await;
        (code == Some(1) && text == "weir: not ready: no upstream is ready\n").then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_configuration_beside_the_url_is_not_read_and_changes_nothing() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let url = url(&gateway);
    let closed = format!("http://127.0.0.1:{}", free_port());
    for (url, code) in [(&url, 0), (&closed, 1)] {
        let mut command = weir(gateway.dir.path());
        command.args(["health", "--live", "--url", url, "--config", "missing.toml"]);
        let told = run(command).await;
        assert_eq!(told.status.code(), Some(code), "{}", told.stderr);
        let warning = "weir: missing.toml is not read: --url says where to ask\n";
        assert!(told.stderr.starts_with(warning), "{}", told.stderr);
        assert_eq!(told.stderr == warning, code == 0, "{}", told.stderr);
    }
}

#[tokio::test]
async fn where_no_gateway_is_the_message_says_what_is_there() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Gateway::over(&upstream).await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = format!("http://{}", silent.local_addr().unwrap());
    let closed = format!("http://127.0.0.1:{}", free_port());
    let data = format!("http://{}", gateway.data());
    for (url, why) in [
        (&*closed, "cannot connect to"),
        (&*data, "answers 404 Not Found to /readyz"),
        (&*silent, "does not answer within 2 s"),
        ("nonsense", "is no base URL"),
        ("http://", "is no base URL"),
        (
            "http://127.0.0.1:1/readyz",
            "is no base URL, since it names more than the admin plane; write http://127.0.0.1:1\n",
        ),
    ] {
        let (code, text) = health(&gateway, &["--url", url]).await;
        assert!(
            code == Some(1) && text.contains(why),
            "{url}: {code:?} {text}"
        );
    }
    let file = gateway.dir.path().join("other.toml");
    for (config, why) in [
        ("[admin]\nlisten = \"nowhere\"\n", "other.toml:2:"),
        ("[admin]\nlisten = \"127.0.0.1:0\"\n", "name the --url"),
    ] {
        std::fs::write(&file, config).unwrap();
        let (code, text) = health(&gateway, &["--config", "other.toml"]).await;
        assert!(code == Some(1) && text.contains(why), "{code:?} {text}");
    }
    let (code, text) = health(&gateway, &["--config", "none.toml"]).await;
    assert!(code == Some(1) && text.contains("cannot be read"), "{text}");
}
