//! The command line and the start: mistakes are told at once, all of them, with their place.

use std::io::Write as _;
use std::process::Stdio;

use tokio::net::TcpListener;

use crate::support::answers::{ask, chat};
use crate::support::gateway::{Config, Ended, run, weir};
use crate::support::upstream::Upstream;
use crate::support::{ADMIN_TOKEN, eventually};

/// Runs `weir COMMAND --config FILE` on this text, to its end.
async fn with_config(command: &str, text: &str) -> Ended {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("weir.toml");
    std::fs::write(&file, text).unwrap();
    let mut weir = weir(dir.path());
    weir.arg(command).arg("--config").arg(&file);
    run(weir).await
}

/// Checks that both commands refuse this text with exit code 1 and name each of these.
async fn refused(text: &str, names: &[&str]) {
    for command in ["serve", "check"] {
        let ended = with_config(command, text).await;
        let report = format!("{}{}", ended.stdout, ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{command}: {text}\n{report}");
        for name in names {
            assert!(report.contains(name), "{command}: no {name:?} in\n{report}");
        }
        assert!(!report.contains("panicked"), "{report}");
    }
}

const REMOTE: &str = "[[upstream]]\nname = \"a\"\nkind = \"openai\"\nbase_url = \"http://127.0.0.1:1/v1\"\napi_keys = [\"sk-12345678\"]\n";

#[tokio::test]
async fn every_mistake_is_reported_at_once_with_its_line() {
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nmax_bdy = \"1MiB\"\nheader_timeout = \"5 parsecs\"\n{REMOTE}[[route]]\nmodel = \"x\"\ntargets = [{{ upstream = \"nobody\" }}]\n"
    );
    refused(
        &text,
        &[
            "weir.toml:3",
            "max_bdy",
            "max_body",
            "weir.toml:4",
            "header_timeout",
            "nobody",
        ],
    )
    .await;
}

#[tokio::test]
async fn each_bad_config_is_refused() {
    let cases: &[(&str, &[&str])] = &[
        ("this is no toml", &["weir.toml:1"]),
        ("[sever]\n", &["sever", "server"]),
        ("[server]\nworkers = \"two\"\n", &["workers"]),
        ("[server]\nmax_body = \"1 elephant\"\n", &["max_body"]),
        ("[server]\nlisten = \"nowhere\"\n", &["listen"]),
        (
            "[server]\ntls = { cert = \"none.crt\", key = \"none.key\" }\n",
            &["tls.cert", "tls.key"],
        ),
        (
            "[[upstream]]\nname = \"a\"\nkind = \"openai\"\nbase_url = \"not a url\"\n",
            &["base_url"],
        ),
        (
            "[[upstream]]\nname = \"a\"\nkind = \"openai\"\nbase_url = \"ftp://x/v1\"\n",
            &["base_url"],
        ),
        (
            "[[upstream]]\nname = \"a\"\nkind = \"telepathy\"\n",
            &["kind", "telepathy"],
        ),
        (
            "[[upstream]]\nname = \"a\"\nkind = \"local\"\nmodel = \"none.gguf\"\n",
            &["none.gguf"],
        ),
        (
            "[[upstream]]\nname = \"a\"\nkind = \"local\"\nmodel = \"bundled:nobody\"\n",
            &["nobody"],
        ),
        (
            "[[upstream]]\nname = \"a\"\nkind = \"openai\"\nbase_url = \"http://127.0.0.1:1/v1\"\napi_keys = [\"${NOT_SET_ANYWHERE}\"]\n",
            &["NOT_SET_ANYWHERE"],
        ),
        (
            "[[upstream]]\nname = \"a\"\nkind = \"openai\"\nbase_url = \"http://127.0.0.1:1/v1\"\napi_keys = [\"file:none.txt\"]\n",
            &["none.txt"],
        ),
        ("[[key]]\nname = \"k\"\nsecret = \"short\"\n", &["secret"]),
        ("[[key]]\nname = \"k\"\nhash = \"md5:abc\"\n", &["hash"]),
        ("[[key]]\nname = \"k\"\nhash = \"sha256:abc\"\n", &["hash"]),
        ("[[key]]\nname = \"k\"\n", &["k"]),
        (
            "[[key]]\nname = \"k\"\nsecret = \"12345678\"\nteam = \"nobody\"\n",
            &["nobody"],
        ),
        (
            "[[key]]\nname = \"k\"\nsecret = \"12345678\"\n[[key]]\nname = \"k\"\nsecret = \"87654321\"\n",
            &["k"],
        ),
        (
            "[[key]]\nname = \"k\"\nsecret = \"12345678\"\n[[key]]\nname = \"l\"\nsecret = \"12345678\"\n",
            &["l"],
        ),
        (
            "[[key]]\nname = \"k\"\nsecret = \"12345678\"\nexpires = \"tomorrow\"\n",
            &["expires"],
        ),
        ("[log]\nformat = \"xml\"\n", &["format"]),
        ("[cache]\nttl = \"0s\"\n", &["cache.ttl"]),
        ("[redis]\ntimeout = \"50ms\"\n", &["redis", "url"]),
        (
            "[redis]\nurl = \"http://:s3cret@127.0.0.1\"\n",
            &["redis.url", "redis://"],
        ),
        ("[limits]\nrequests_per_minute = 0\n", &["limits"]),
        ("[retry]\nattempts = 50\n", &["retry"]),
        ("[ledger]\nsync = \"sometimes\"\n", &["ledger.sync"]),
        ("[ledger]\nprices = \"none.toml\"\n", &["none.toml"]),
        (
            "[[key]]\nname = \"k\"\nsecret = \"12345678\"\nbudgets = [{ amount = \"50 EUR\", per = \"day\" }]\n",
            &["amount", "USD"],
        ),
    ];
    for (text, names) in cases {
        refused(
            &format!(
                "{text}{}",
                if text.contains("[[upstream]]") {
                    ""
                } else {
                    REMOTE
                }
            ),
            names,
        )
        .await;
    }
    refused(&format!("{REMOTE}{REMOTE}"), &["a"]).await;
    let route = "[[route]]\nmodel = \"x\"\ntargets = [{ upstream = \"a\" }]\n";
    refused(&format!("{REMOTE}{route}{route}"), &["x"]).await;
    refused(
        &format!("{REMOTE}[[route]]\nmodel = \"x\"\ntargets = []\n"),
        &["targets"],
    )
    .await;
}

#[tokio::test]
async fn a_config_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for command in ["serve", "check"] {
        let mut weir = weir(dir.path());
        weir.args([command, "--config", "missing.toml"]);
        let ended = run(weir).await;
        assert_eq!(ended.status.code(), Some(1));
        assert!(format!("{}{}", ended.stdout, ended.stderr).contains("missing.toml"));
    }
}

#[tokio::test]
async fn no_secret_stands_in_a_report() {
    let secret = "wk-secret-Zt6yPq9LmN3vB8xW";
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nmax_bdy = 1\n{REMOTE}[[key]]\nname = \"k\"\nsecret = \"{secret}\"\nteam = \"nobody\"\n"
    );
    for command in ["serve", "check"] {
        let ended = with_config(command, &text).await;
        assert!(!format!("{}{}", ended.stdout, ended.stderr).contains(secret));
    }
}

#[tokio::test]
async fn check_is_content_with_a_good_config() {
    let upstream = Upstream::answering(chat()).await;
    let config = Config::over(&upstream).table("[[team]]\nname = \"t\"\nmodels = [\"*\"]");
    let ended = with_config("check", &config.text()).await;
    assert_eq!(
        ended.status.code(),
        Some(0),
        "{}{}",
        ended.stdout,
        ended.stderr
    );
    assert_eq!(upstream.connections(), 0, "a check sends nothing");
}

#[tokio::test]
async fn check_looks_at_the_ledger_and_makes_none() {
    let dir = tempfile::tempdir().unwrap();
    let check = async |path: &std::path::Path| {
        let file = dir.path().join("weir.toml");
        std::fs::write(&file, format!("[ledger]\npath = {path:?}\n{REMOTE}")).unwrap();
        let mut weir = weir(dir.path());
        weir.arg("check").arg("--config").arg(&file);
        let ended = run(weir).await;
        (ended.status.code(), ended.stdout)
    };
    let place = |name: &str| dir.path().join(name);
    assert_eq!(check(&place("none.db")).await.0, Some(0));
    assert!(!place("none.db").exists());
    std::fs::write(place("empty.db"), "").unwrap();
    assert_eq!(check(&place("empty.db")).await.0, Some(0));
    std::fs::create_dir(place("folder")).unwrap();
    std::fs::write(
        place("text.db"),
        "This is a text and no ledger. ".repeat(40),
    )
    .unwrap();
    let version = |name: &str, application: u32, version: u32| {
        let file = rusqlite::Connection::open(place(name)).unwrap();
        let sql = format!(
            "CREATE TABLE t (x); PRAGMA application_id = {application}; PRAGMA user_version = {version}"
        );
        file.execute_batch(&sql).unwrap();
    };
    version("other.db", 7, 1);
    version("newer.db", 0x5765_6972, 99);
    for (name, words) in [
        ("folder", "is no file; set [ledger] path to one"),
        ("text.db", "is no ledger of Weir's"),
        ("other.db", "is no ledger of Weir's"),
        ("newer.db", "was written by a newer Weir"),
    ] {
        let (code, report) = check(&place(name)).await;
        assert_eq!(code, Some(1), "{name}: {report}");
        assert!(
            report.contains("ledger.path") && report.contains(words),
            "{report}"
        );
    }
    let mut files: Vec<_> = std::fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    files.sort();
    let there = [
        "empty.db",
        "folder",
        "newer.db",
        "other.db",
        "text.db",
        "weir.toml",
    ];
    assert_eq!(files, there, "something was made");
}

#[tokio::test]
async fn a_folder_in_the_place_of_the_ledger_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!("[ledger]\npath = {:?}\n{REMOTE}", dir.path());
    refused(&text, &["is no file; set [ledger] path to one"]).await;
}

#[tokio::test]
async fn the_admin_token_comes_from_the_environment_too() {
    let upstream = Upstream::answering(chat()).await;
    let config = Config::over(&upstream).without_admin_token();
    let gateway = config.env("WEIR_ADMIN_TOKEN", ADMIN_TOKEN).start().await;
    let answer = gateway.operator().get("/admin/v1/keys").await;
    assert_eq!(answer.status, 200);
}

#[tokio::test]
async fn check_is_content_with_the_files_of_the_repository() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let home = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let file = file.unwrap().path();
        // Prices are a file of their own kind, which a configuration names.
        let is_config = !file.ends_with("prices.toml");
        if is_config && file.extension().is_some_and(|e| e == "toml") {
            let mut weir = weir(home.path());
            weir.args(["check", "--config"]).arg(&file);
            for name in [
                "OPENAI_API_KEY",
                "WEIR_KEY",
                "WEIR_ADMIN_TOKEN",
                "ALICE_KEY",
                "VLLM_API_KEY",
            ] {
                weir.env(name, format!("sk-of-a-test-{name}"));
            }
            let ended = run(weir).await;
            let needs_local = std::fs::read_to_string(&file)
                .unwrap()
                .contains("kind = \"local\"");
            if cfg!(feature = "local") || !needs_local {
                assert_eq!(
                    ended.status.code(),
                    Some(0),
                    "{}: {}{}",
                    file.display(),
                    ended.stdout,
                    ended.stderr
                );
            }
            seen += 1;
        }
    }
    assert!(seen >= 4, "only {seen} files in config/");
}

#[tokio::test]
async fn a_port_in_use_is_named_and_nothing_is_made() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = taken.local_addr().unwrap().port();
    for (data, admin, field) in [(port, 0, "[server] listen"), (0, port, "[admin] listen")] {
        let text = format!(
            "[server]\nlisten = \"127.0.0.1:{data}\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"\ntoken = \"admin-token-12345\"\n{REMOTE}[[key]]\nname = \"k\"\nsecret = \"12345678\"\n"
        );
        let (dir, data_dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let file = dir.path().join("weir.toml");
        std::fs::write(&file, text).unwrap();
        let mut weir = weir(dir.path());
        weir.env("WEIR_DATA_DIR", data_dir.path());
        weir.arg("serve").arg("--config").arg(&file);
        let ended = run(weir).await;
        assert_eq!(ended.status.code(), Some(1), "{}", ended.stderr);
        let told = format!("cannot listen on 127.0.0.1:{port} ({field}): ");
        assert!(ended.stderr.contains(&told), "{}", ended.stderr);
        for (folder, files) in [(&dir, 1), (&data_dir, 0)] {
            let found: Vec<_> = std::fs::read_dir(folder.path()).unwrap().collect();
            assert_eq!(found.len(), files, "{found:?}");
        }
    }
}

#[tokio::test]
async fn secrets_come_from_the_environment_and_from_files() {
    let upstream = Upstream::answering(chat()).await;
    let config = Config::new();
    std::fs::write(
        config.path().join("credential.txt"),
        "sk-from-a-file-0123\n",
    )
    .unwrap();
    let gateway = config
        .without_key()
        .env("THE_KEY", "wk-from-the-environment")
        .table(&format!("[[upstream]]\nname = \"a\"\nkind = \"openai\"\nbase_url = \"{}\"\napi_keys = [\"file:credential.txt\"]\n[[key]]\nname = \"k\"\nsecret = \"${{THE_KEY}}\"\n[[key]]\nname = \"l\"\nsecret = \"${{NOT_SET:-wk-the-default}}\"", upstream.base_url()))
        .start()
        .await;
    for key in ["wk-from-the-environment", "wk-the-default"] {
        let answer = gateway
            .stranger()
            .with_header("api-key", key)
            .chat(ask())
            .await;
        assert_eq!(answer.status, 200, "{}", answer.text());
    }
    assert_eq!(
        upstream.calls()[0].header("authorization"),
        Some("Bearer sk-from-a-file-0123")
    );
}

#[tokio::test]
async fn a_made_key_is_shown_with_a_line_that_works() {
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream).without_key().start().await;
    // No key in the file: one is made for this run and printed, with a curl line that can be pasted.
    // The lines that tell the addresses come first.
    let (output, line) = eventually("the curl line is printed", async || {
        let output = gateway.output();
        let line = output
            .lines()
            .skip_while(|l| !l.trim_start().starts_with("curl "))
            .take_while(|l| !l.trim().is_empty())
            .collect::<Vec<_>>()
            .join("\n");
        let is_whole = output.contains(&format!("{line}\n"));
        (!line.is_empty() && is_whole).then_some((output, line))
    })
    .await;
    assert!(
        output.contains(&gateway.admin().to_string()),
        "the admin address is told"
    );
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", &line]).stdin(Stdio::null());
    let ended = run(shell).await;
    assert!(
        ended.status.success(),
        "{line}\n{}{}",
        ended.stdout,
        ended.stderr
    );
    assert!(
        upstream.calls().len() == 1 || ended.stdout.contains("\"list\""),
        "{line}: {}",
        ended.stdout
    );
}

#[tokio::test]
async fn keys_hash_prints_what_the_config_takes() {
    let home = tempfile::tempdir().unwrap();
    let secret = "wk-hash-me-please-7f3a";
    let mut command = weir(home.path());
    command
        .args(["keys", "hash"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{secret}").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let printed = String::from_utf8(output.stdout).unwrap();
    let hash = printed
        .split_whitespace()
        .map(|w| w.trim_matches('"'))
        .find(|word| word.starts_with("sha256:"))
        .unwrap()
        .to_owned();
    let upstream = Upstream::answering(chat()).await;
    let gateway = Config::over(&upstream)
        .without_key()
        .table(&format!("[[key]]\nname = \"k\"\nhash = \"{hash}\""))
        .start()
        .await;
    assert_eq!(
        gateway
            .stranger()
            .with_header("api-key", secret)
            .chat(ask())
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn help_tells_the_commands() {
    let home = tempfile::tempdir().unwrap();
    for arguments in [
        &["--help"][..],
        &["serve", "--help"],
        &["check", "--help"],
        &["chat", "--help"],
        &["keys", "--help"],
        &["--version"],
    ] {
        let mut command = weir(home.path());
        command.args(arguments);
        let ended = run(command).await;
        assert_eq!(ended.status.code(), Some(0), "{arguments:?}");
        assert!(!ended.stdout.is_empty());
    }
    let mut command = weir(home.path());
    command.arg("frobnicate");
    assert_eq!(
        run(command).await.status.code(),
        Some(1),
        "a user's mistake"
    );
}

#[cfg(feature = "local")]
#[tokio::test]
async fn chat_writes_into_the_terminal() {
    let gateway = Config::new().local().start().await;
    let home = tempfile::tempdir().unwrap();
    let mut command = weir(home.path());
    command.args(["chat", "--url", &gateway.base_url()]);
    command.args(["poet", "写一首关于春天的诗"]);
    command.env("WEIR_KEY", crate::support::KEY);
    let ended = run(command).await;
    assert_eq!(
        ended.status.code(),
        Some(0),
        "{}{}",
        ended.stdout,
        ended.stderr
    );
    let chinese = ended
        .stdout
        .chars()
        .filter(|c| ('\u{4e00}'..='\u{9fff}').contains(c))
        .count();
    assert!(chinese >= 5, "{}", ended.stdout);
}
