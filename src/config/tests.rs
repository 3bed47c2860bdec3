//! Whole files: the examples load, the bad ones are told apart, and no text makes the reader panic.

mod routing;

use std::path::{Path, PathBuf};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::store::limits::limits_to_json;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// An environment in which only the key for OpenAI is set, as on a first try.
fn env(name: &str) -> Option<String> {
    (name == "OPENAI_API_KEY").then(|| "sk-a-very-secret-key".to_owned())
}

fn context() -> Context<'static> {
    Context {
        env: &env,
        check_model: &|_| Ok(()),
        now: "2026-12-01T00:00:00Z".parse().unwrap(),
    }
}

fn read(text: &str) -> Result<Loaded, Report> {
    parse(text, Path::new("weir.toml"), &context())
}

fn toml_files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "toml"))
        .collect();
    files.sort();
    assert!(!files.is_empty());
    files
}

#[test]
fn every_example_loads_without_a_warning() {
    let examples = toml_files(&root().join("config"));
    // The table of prices is a file of another kind, see `prices`.
    let examples = examples
        .iter()
        .filter(|path| !path.ends_with("prices.toml"));
    for path in examples {
        match load(Some(path), &context()) {
            Ok(loaded) => assert!(loaded.warnings.is_empty(), "{}", loaded.warnings),
            Err(report) => panic!("{report}"),
        }
    }
}

/// `UPDATE_GOLDEN=1 cargo test` writes the reports anew, to be read before they are committed.
#[test]
fn every_bad_file_has_its_report() {
    for path in toml_files(&root().join("tests/fixtures/config/bad")) {
        let text = std::fs::read_to_string(&path).unwrap();
        let name = Path::new(path.file_name().unwrap());
        let context = Context {
            check_model: &|_| Err("this build has no local models".into()),
            ..context()
        };
        let folder = path.parent().unwrap();
        let reported = match parse_in(&text, name, folder, &context) {
            Ok(loaded) => loaded.warnings,
            Err(report) => report,
        };
        let reported = format!("{reported}\n");
        assert!(!reported.contains("very-secret"), "{reported}");
        let golden = path.with_extension("txt");
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&golden, &reported).unwrap();
        }
        let expected = std::fs::read_to_string(&golden).unwrap_or_default();
        assert_eq!(reported, expected, "{}", path.display());
    }
}

#[test]
fn an_empty_file_is_complete() {
    let Loaded {
        config, warnings, ..
    } = read("").unwrap();
    assert!(warnings.is_empty());
    assert_eq!(config.server.listen, defaults::LISTEN);
    assert_eq!(config.server.max_body, 25 << 20);
    assert!(config.admin.token.is_none());
    let names: Vec<&str> = config.upstreams.iter().map(|u| u.name.as_str()).collect();
    assert_eq!(names, ["local", "openai"]);
    assert_eq!(config.routes.len(), 2);
    assert!(config.keys.is_empty());
    let ledger = &config.ledger;
    assert_eq!(ledger.path, Path::new("./weir.db"));
    assert_eq!(ledger.retention, Some(Duration::from_secs(400 * 86_400)));
    assert_eq!(
        ledger.audit_retention,
        Some(Duration::from_secs(1830 * 86_400))
    );
    assert_eq!(ledger.prices.tables().len(), 1);
    assert_eq!(ledger.client_gone, ClientGoneConfig::Cancel);
    let limits = &config.limits;
    assert!(limits.keys.is_empty() && limits.gateway.is_empty() && limits.stop_stream);
}

#[test]
fn the_admin_token_is_the_environments_where_the_file_has_none() {
    let read = |text: &str, token: &str| {
        let env = |name: &str| (name == "WEIR_ADMIN_TOKEN").then(|| token.to_owned());
        let context = Context {
            env: &env,
            ..context()
        };
        parse(text, Path::new("weir.toml"), &context)
    };
    let token = |text: &str, token: &str| {
        let loaded = read(text, token).unwrap();
        loaded
            .config
            .admin
            .token
            .map(|token| token.expose().to_owned())
    };
    let environments = Some("of-the-environment".to_owned());
    for text in ["", "[admin]", "[admin]\ntoken = \"${NOTHING:-}\""] {
        assert_eq!(token(text, "of-the-environment"), environments, "{text}");
        assert_eq!(token(text, ""), None);
    }
    let own = "[admin]\ntoken = \"of-the-file\"";
    assert_eq!(
        token(own, "of-the-environment").as_deref(),
        Some("of-the-file")
    );
    let report = read("", "tiny-1").unwrap_err().to_string();
    assert!(
        report.contains("WEIR_ADMIN_TOKEN") && !report.contains("tiny-1"),
        "{report}"
    );
}

#[test]
fn state_is_kept_where_the_environment_says() {
    let folder = |variables: &[(&str, &str)]| {
        let env = |name: &str| {
            let found = variables.iter().find(|(variable, _)| *variable == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        data_dir(&env)
    };
    let everything = [
        ("HOME", "/home/me"),
        ("XDG_DATA_HOME", "/data"),
        ("STATE_DIRECTORY", "/var/lib/weir:/var/lib/other"),
        ("WEIR_DATA_DIR", "state"),
    ];
    for (count, expected) in [
        (0, "."),
        (1, "/home/me/.local/share/weir"),
        (2, "/data/weir"),
        (3, "/var/lib/weir"),
        (4, "state"),
    ] {
        assert_eq!(folder(&everything[..count]), Path::new(expected));
    }
    let unset = [
        ("WEIR_DATA_DIR", ""),
        ("STATE_DIRECTORY", ""),
        ("XDG_DATA_HOME", "relative"),
        ("HOME", "/home/me"),
    ];
    assert_eq!(folder(&unset), Path::new("/home/me/.local/share/weir"));
}

#[test]
fn prices_of_ones_own_go_before_the_built_in_ones_and_are_watched() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    let table = |price: &str| {
        format!(
            "date = \"2026-11-25\"\n[[price]]\nmodel = \"gpt-4o\"\ninput = {price}\noutput = 1\n"
        )
    };
    write("own.toml", &table("0.1"));
    write("weir.toml", "[ledger]\nprices = \"own.toml\"\n");
    let path = folder.path().join("weir.toml");
    let first = load(Some(&path), &context()).unwrap();
    assert!(paths(&first.warnings).contains(&folder.path().join("own.toml")));
    let prices = &first.config.ledger.prices;
    let input = |model| prices.of(model).unwrap().input.to_string();
    assert_eq!(input("gpt-4o"), "0.10");
    assert_eq!(input("gpt-4o-mini"), "0.15");

    write("own.toml", &table("0.2"));
    let second = load(Some(&path), &context()).unwrap();
    let changes = changes(&first.config, &first.config, &second.config);
    assert_eq!(changes.applied, ["ledger: changed (prices)"]);

    write("own.toml", &table("1e3"));
    let report = load(Some(&path), &context()).unwrap_err().to_string();
    assert!(
        report.ends_with("weir.toml:2:10: ledger.prices: own.toml:4:9: price[gpt-4o].input: 1e3 is no decimal number; write dollars per million tokens, such as 0.15"),
        "{report}"
    );
}

#[test]
fn without_a_key_for_openai_only_the_bundled_model_serves() {
    let context = Context {
        env: &|_| None,
        ..context()
    };
    let config = load(None, &context).unwrap().config;
    assert_eq!(config.upstreams.len(), 1);

    let nothing = Context {
        check_model: &|_| Err("this build has no local models".into()),
        ..context
    };
    let report = load(None, &nothing).unwrap_err();
    assert_eq!(
        report.to_string(),
        "built-in defaults: upstream: there is none, and the bundled model cannot be served: this build has no local \
         models; set OPENAI_API_KEY, or write an [[upstream]]"
    );
}

#[test]
fn a_proxy_of_the_environment_that_cannot_be_used_is_doubted_with_its_variable() {
    let env = |name: &str| (name == "HTTPS_PROXY").then(|| "socks5://me:word@proxy:1080".into());
    let context = Context {
        env: &env,
        ..context()
    };
    let upstream = |name: &str, more: &str| {
        format!(
            "[[upstream]]\nname = \"{name}\"\nkind = \"openai\"\nmodels = [\"{name}\"]\n{more}\n"
        )
    };
    let text = [
        upstream("away", "base_url = \"https://example.org/v1\""),
        upstream("plain", "base_url = \"http://10.0.0.1/v1\""),
        upstream("here", "base_url = \"https://localhost/v1\""),
        upstream(
            "none",
            "base_url = \"https://b.example/v1\"\nproxy = \"none\"",
        ),
        upstream("too", "base_url = \"https://c.example/v1\""),
    ];
    let warnings = |text: &str| {
        let loaded = parse(text, Path::new("weir.toml"), &context).unwrap();
        loaded.warnings.to_string()
    };
    let found = warnings(&text.concat());
    let expected = "weir.toml: warning: HTTPS_PROXY: this environment variable names no http:// proxy with a host and a port and is passed over, by \"away\", \"too\"; ";
    assert!(found.contains(expected), "{found}");
    assert_eq!(found.matches("PROXY").count(), 1, "{found}");
    assert!(!found.contains("word"), "{found}");
    let without = [&text[1], &text[2], &text[3]].map(String::as_str);
    assert_eq!(warnings(&without.concat()), "");
}

#[test]
fn a_key_in_the_environment_is_held_to_the_same_rules() {
    for (key, fine) in [
        ("sk-good-0123", true),
        ("short", false),
        ("        ", false),
        ("", true),
    ] {
        let env = |name: &str| (name == "WEIR_KEY").then(|| key.to_owned());
        let context = Context {
            env: &env,
            ..context()
        };
        let loaded = load(None, &context);
        assert_eq!(loaded.is_ok(), fine, "{key:?}");
        if let Err(report) = loaded {
            assert!(report.to_string().contains("WEIR_KEY"), "{report}");
        }
    }
}

#[test]
fn a_route_of_the_file_goes_before_the_built_in_one() {
    let config =
        read("[[route]]\nmodel = \"text-davinci-003\"\ntargets = [{ upstream = \"openai\" }]\n");
    let config = config.unwrap().config;
    assert_eq!(config.routes.len(), 2);
    assert_eq!(config.routes[0].targets[0].upstream, "openai");
}

#[test]
fn every_field_arrives() {
    let text = r#"
        [server]
        listen = "0.0.0.0:80"
        workers = 2
        max_connections = 3
        max_body = "4KiB"
        max_upload = "5MiB"
        max_answer = "6MB"
        max_head = "16KiB"
        max_headers = 50
        max_uri = "1KiB"
        max_json_depth = 20
        header_timeout = "1s"
        body_idle_timeout = "2s"
        body_timeout = "3s"
        write_timeout = "4s"
        keep_alive = "5s"
        drain_timeout = "0s"
        [admin]
        listen = "127.0.0.1:81"
        token = "a-token-of-mine"
        [[upstream]]
        name = "vllm"
        kind = "openai"
        base_url = "http://gpu-${NODE:-1}:8000/v1/"
        api_keys = ["${OPENAI_API_KEY}"]
        models = ["a*", "b"]
        paths = ["/v1/files*"]
        headers = { X-Org = "me" }
        timeouts = { connect = "1s", first_byte = "2s", idle = "3s", total = "4s" }
        max_concurrent = 0
        queue = 0
        [[upstream]]
        name = "own"
        kind = "local"
        model = "bundled:poet"
        queue = 7
        [[upstream]]
        name = "rest"
        kind = "openai"
        base_url = "https://example.org/openai"
        [[route]]
        model = "gpt-*"
        targets = [{ upstream = "own", model = "poet", priority = 0, weight = 1 }]
        balance = "p2c"
        limits = { tokens_per_minute = 600_000_000 }
        [[team]]
        name = "research"
        models = ["a*"]
        budgets = [{ tokens = 5_000_000, per = "day", window = "rolling", warn_at = 0.5 }]
        limits = [{ input_tokens_per_minute = 1, output_tokens_per_minute = 2 }, { concurrent = 3, models = ["a*"] }]
        [[key]]
        name = "alice"
        team = "research"
        secret = "12345678"
        models = ["a1"]
        paths = ["/v1/chat/*"]
        expires = 2027-12-31T00:00:00+01:00
        budgets = [{ amount = "0.15 USD", per = "total" }, { amount = "50USD", per = "month" }]
        limits = { requests_per_minute = 60, requests_per_day = 10_000, burst = 10, shadow = true }
        [[key]]
        name = "bob"
        hash = "sha256:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
        [ledger]
        path = "/var/lib/weir/book.db"
        sync = "always"
        on_failure = "serve"
        retention = "forever"
        audit_retention = "90d"
        vacuum = false
        client_gone = "drain"
        drain_tokens = 10
        max_open = 100
        encodings = { "z*" = "cl100k_base", "a-model" = "o200k_base" }
        [limits]
        requests_per_minute = 600
        burst = 600
        stop_stream = true
        stop_overshoot = 9
        gateway = { input_tokens_per_day = 4_294_967_295, output_tokens_per_day = 4 }
        [cache]
        enabled = false
        [retry]
        attempts = 0
        [log]
        format = "json"
        level = "debug"
        access = false
        sample = 0.25
        queue = 1024
        [metrics]
        max_series = 200
        [telemetry]
        otlp = "http://collector:4318/"
        headers = { Authorization = "Bearer ${OPENAI_API_KEY}" }
        timeout = "1s"
        queue = 2
        batch = 3
        interval = "4s"
        sample = 0.5
        service_name = "mine"
        resource = { "host.name" = "here" }
        content = true
        content_max = "1KiB"
        redact = ['\d{4}$']
    "#;
    let Loaded {
        config, warnings, ..
    } = read(text).unwrap();
    let doubted = warnings
        .problems
        .iter()
        .map(|problem| problem.path.as_str());
    // Its models have no price.
    assert_eq!(
        doubted.collect::<Vec<_>>(),
        ["key[alice].budgets"],
        "{warnings}"
    );
    let server = &config.server;
    assert_eq!(
        (
            server.workers,
            server.max_connections,
            server.max_headers,
            server.max_json_depth
        ),
        (2, 3, 50, 20)
    );
    assert_eq!(
        (server.max_body, server.max_upload, server.max_answer),
        (4096, 5 << 20, 6_000_000)
    );
    assert_eq!((server.max_head, server.max_uri), (16 << 10, 1 << 10));
    let timeouts = [
        server.drain_timeout,
        server.header_timeout,
        server.body_idle_timeout,
        server.body_timeout,
        server.write_timeout,
        server.keep_alive,
    ];
    assert_eq!(
        timeouts.map(|timeout| timeout.as_secs()),
        [0, 1, 2, 3, 4, 5]
    );
    assert_eq!(
        config.admin.token.as_ref().map(Secret::expose),
        Some("a-token-of-mine")
    );

    let [vllm, own, rest] = config.upstreams.as_slice() else {
        panic!("{:?}", config.upstreams);
    };
    let UpstreamKind::Remote(remote) = &vllm.kind else {
        panic!("{vllm:?}");
    };
    let [EndpointConfig::Http(uri)] = remote.endpoints.as_slice() else {
        panic!("{remote:?}");
    };
    assert_eq!(uri, "http://gpu-1:8000/v1");
    assert_eq!(remote.api_keys, [Secret::new("sk-a-very-secret-key")]);
    assert_eq!(remote.headers["x-org"], "me");
    assert_eq!(remote.timeouts.total.as_secs(), 4);
    assert!(remote.paths[0].matches("/v1/files/1"));
    assert!(vllm.models[1].matches("b"));
    let UpstreamKind::Local(local) = &own.kind else {
        panic!("{own:?}");
    };
    assert_eq!(
        (&local.model, local.queue),
        (&LocalModel::Bundled("poet".into()), 7)
    );
    assert_eq!(own.models[0].as_str(), "poet");
    let UpstreamKind::Remote(remote) = &rest.kind else {
        panic!("{rest:?}");
    };
    // Another upstream came first, so this one takes no path unasked.
    assert!(remote.paths.is_empty() && remote.api_keys.is_empty());

    assert_eq!(config.routes[0].targets[0].model.as_deref(), Some("poet"));
    let [alice, bob] = config.keys.as_slice() else {
        panic!("{:?}", config.keys);
    };
    assert_eq!(alice.digest, crate::keys::digest(b"12345678"));
    assert_eq!(alice.expires.unwrap().to_string(), "2027-12-30T23:00:00Z");
    assert!(bob.models[0].matches("anything") && bob.paths[0].matches("/v1/files"));
    let budget = |limit, per, window, warn_at_thousandths| BudgetConfig {
        limit,
        per,
        window,
        warn_at_thousandths,
    };
    let money = |text: &str| BudgetLimit::Money(text.parse().unwrap());
    assert_eq!(
        alice.budgets,
        [
            budget(money("0.15"), Period::Total, Window::Calendar, 800),
            budget(money("50"), Period::Month, Window::Calendar, 800),
        ]
    );
    assert_eq!(alice.budgets[0].warn_limit(), money("0.12"));
    let tokens = BudgetLimit::Tokens(5_000_000);
    assert_eq!(
        config.teams[0].budgets,
        [budget(tokens, Period::Day, Window::Rolling, 500)]
    );
    assert!(bob.budgets.is_empty() && bob.limits.is_empty());
    let limits = [
        &alice.limits,
        &config.teams[0].limits,
        &config.routes[0].limits,
        &config.limits.keys,
        &config.limits.gateway,
    ];
    assert_eq!(
        limits.map(|limits| limits_to_json(limits)),
        [
            json!([{ "requests_per_minute": 60, "requests_per_day": 10_000, "burst": 10, "shadow": true }]),
            json!([
                { "input_tokens_per_minute": 1, "output_tokens_per_minute": 2 },
                { "concurrent": 3, "models": ["a*"] },
            ]),
            json!([{ "tokens_per_minute": 600_000_000 }]),
            json!([{ "requests_per_minute": 600, "burst": 600 }]),
            json!([{ "input_tokens_per_day": 4_294_967_295u32, "output_tokens_per_day": 4 }]),
        ]
    );
    assert_eq!(
        (config.limits.stop_stream, config.limits.stop_overshoot),
        (true, 9)
    );
    let telemetry = config.telemetry.as_ref().unwrap();
    assert_eq!(telemetry.endpoint, "http://collector:4318/v1/traces");
    assert!(telemetry.headers["authorization"].is_sensitive());
    assert_eq!((telemetry.queue, telemetry.batch), (2, 3));
    assert_eq!(
        (telemetry.timeout.as_secs(), telemetry.interval.as_secs()),
        (1, 4)
    );
    assert_eq!(telemetry.sample, 0.5);
    let resource = telemetry.resource.iter();
    let resource: Vec<_> = resource.map(|(name, value)| (&**name, &**value)).collect();
    let version = ("service.version", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        resource,
        [("service.name", "mine"), version, ("host.name", "here")]
    );
    let content = telemetry.content.as_ref().unwrap();
    assert_eq!(content.max, 1024);
    assert_eq!(content.redact, [r"\d{4}$"]);
    let ledger = &config.ledger;
    assert_eq!(ledger.path, Path::new("/var/lib/weir/book.db"));
    assert_eq!(
        (ledger.sync, ledger.on_failure, ledger.client_gone),
        (
            SyncConfig::Always,
            LedgerFailureConfig::Serve,
            ClientGoneConfig::Drain
        )
    );
    assert_eq!(
        (
            ledger.retention,
            ledger.audit_retention,
            ledger.vacuum,
            ledger.drain_tokens,
            ledger.max_open
        ),
        (None, Some(Duration::from_secs(90 * 86_400)), false, 10, 100)
    );
    let encodings = ledger.encodings.iter();
    assert_eq!(
        encodings
            .map(|(pattern, encoding)| (pattern.as_str(), *encoding))
            .collect::<Vec<_>>(),
        [
            ("z*", EncodingConfig::Cl100k),
            ("a-model", EncodingConfig::O200k)
        ]
    );
    assert_eq!(
        (config.log.format, config.log.access),
        (LogFormat::Json, false)
    );
    assert_eq!(config.log.level, tracing::Level::DEBUG);
    assert_eq!((config.log.sample, config.log.queue), (0.25, 1024));
    assert_eq!(config.metrics.max_series, 200);

    let shown = format!("{config:?}");
    for secret in ["very-secret", "a-token-of-mine", "12345678\"", "\"me\""] {
        assert!(!shown.contains(secret), "{secret} in {shown}");
    }
}

/// The files that were read, or should have been.
fn paths(report: &Report) -> Vec<PathBuf> {
    let files = report.files.iter();
    files.map(|file| file.path.clone()).collect()
}

#[test]
fn a_refusal_names_the_files_that_it_needs() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weir.toml");
    std::fs::write(&path, "[admin]\ntoken = \"file:later\"\n").unwrap();
    let report = load(Some(&path), &context()).unwrap_err();
    assert_eq!(paths(&report), [path.clone(), folder.path().join("later")]);
    assert!(report.files[0].stamp.is_some() && report.files[1].stamp.is_none());
    std::fs::write(&path, "[admin").unwrap();
    assert_eq!(paths(&load(Some(&path), &context()).unwrap_err()), [path]);
}

#[test]
fn secrets_and_paths_are_found_beside_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &[u8]| std::fs::write(folder.path().join(name), text).unwrap();
    write("token", b"from-a-file\r\n");
    write("model.gguf", b"");
    write(
        "weir.toml",
        b"[admin]\ntoken = \"file:token\"\n[[upstream]]\nname = \"l\"\nkind = \"local\"\nmodel = \"model.gguf\"\n",
    );
    let path = folder.path().join("weir.toml");
    let Loaded { config, warnings } = load(Some(&path), &context()).unwrap();
    assert_eq!(config.admin.token.unwrap().expose(), "from-a-file");
    assert_eq!(
        paths(&warnings),
        [path.clone(), folder.path().join("token")]
    );
    assert!(warnings.files.iter().all(|file| file.stamp.is_some()));
    assert_eq!(config.upstreams[0].models[0].as_str(), "model");

    write("weir.toml", b"# caf\xe9\n");
    let report = load(Some(&path), &context()).unwrap_err();
    assert_eq!(report.problems[0].position, Some((1, 6)));
    let report = load(Some(&folder.path().join("none.toml")), &context()).unwrap_err();
    assert!(report.to_string().ends_with(
        "none.toml: cannot be read: no such file or directory; write the path of a TOML file"
    ));
}

#[test]
fn check_says_fine_or_how_much_is_wrong() {
    let (text, fine) = check_command(None, &context(), &|_| Vec::new());
    assert!(fine);
    assert_eq!(
        text,
        "built-in defaults: fine: 2 upstreams, 2 routes, 0 teams, 0 keys\n"
    );
    let bad = root().join("tests/fixtures/config/bad/syntax.toml");
    let (text, fine) = check_command(Some(&bad), &context(), &|_| Vec::new());
    assert!(!fine && text.contains("errors\n"), "{text}");
}

#[test]
fn the_environment_describes_what_the_file_does_not() {
    let env = |name: &str| {
        let value = match name {
            "OTEL_SERVICE_NAME" => "theirs",
            "OTEL_RESOURCE_ATTRIBUTES" => "service.name=no, k8s.pod.name=weir%2D1,odd,=x",
            _ => return env(name),
        };
        Some(value.to_owned())
    };
    let context = Context {
        env: &env,
        ..context()
    };
    let read = |text: &str| {
        let loaded = parse(text, Path::new("weir.toml"), &context).unwrap();
        loaded.config.telemetry
    };
    let telemetry = read("[telemetry]\notlp = \"http://c\"\n").unwrap();
    let resource = telemetry.resource.iter();
    let resource: Vec<_> = resource.map(|(name, value)| (&**name, &**value)).collect();
    let version = ("service.version", env!("CARGO_PKG_VERSION"));
    assert_eq!(
        resource,
        [
            ("service.name", "theirs"),
            version,
            ("k8s.pod.name", "weir-1")
        ]
    );
    // An address that is empty is none, and so is one that nobody has written.
    assert_eq!(
        read("[telemetry]\notlp = \"${COLLECTOR:-}\"\nsample = 0.5\n"),
        None
    );
    assert_eq!(read(""), None);
}

/// Texts that between them walk every path of the reader, to be damaged.
fn sources() -> Vec<String> {
    let folders = ["config", "tests/fixtures/config/bad"];
    let files = folders
        .iter()
        .flat_map(|folder| toml_files(&root().join(folder)));
    files
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_truncated_file_never_panics(source: prop::sample::Index, at: prop::sample::Index) {
        let text = source.get(&sources()).clone();
        let length = at.index(text.chars().count());
        let _ = read(&text.chars().take(length).collect::<String>());
    }

    #[test]
    fn a_mutated_file_never_panics(
        source: prop::sample::Index,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<char>()), 1..6),
    ) {
        let mut text: Vec<char> = source.get(&sources()).chars().collect();
        for (index, c) in edits {
            let at = index.index(text.len());
            text[at] = c;
        }
        let _ = read(&text.into_iter().collect::<String>());
    }

    #[test]
    fn a_field_of_any_type_never_panics(
        source: prop::sample::Index,
        line: prop::sample::Index,
        value in prop::sample::select(&[
            "1", "-1.5", "nan", "-inf", "\"x\"", "\"unix:x\"", "\"${X\"", "true", "[]", "[[1]]", "{}", "[{}]", "1979-05-27", "99999999999999999999",
        ][..]),
    ) {
        let source = source.get(&sources()).clone();
        let fields = source.lines().filter(|line| line.contains(" = ")).count();
        let chosen = line.index(fields);
        let mut seen = 0;
        let lines = source.lines().map(|line| match line.split_once(" = ") {
            Some((name, _)) => {
                seen += 1;
                if seen == chosen + 1 { format!("{name} = {value}") } else { line.to_owned() }
            }
            None => line.to_owned(),
        });
        let _ = read(&lines.collect::<Vec<_>>().join("\n"));
    }

    #[test]
    fn any_text_never_panics(text in "(?s).{0,200}") {
        let _ = read(&text);
    }
}

#[test]
fn answers_are_shared_where_there_is_a_redis_unless_they_are_not_to_be() {
    const REDIS: &str = "[redis]\nurl = \"redis://127.0.0.1\"\n";
    for (text, shares) in [
        (format!("{REDIS}[cache]\n"), true),
        (format!("[cache]\nredis = true\n{REDIS}"), true),
        (format!("{REDIS}[cache]\nredis = false\n"), false),
        (REDIS.to_owned(), false),
        ("[cache]\n".to_owned(), false),
    ] {
        assert_eq!(read(&text).unwrap().config.cache.redis, shares, "{text}");
    }
    let text = format!("{REDIS}[cache]\nredis_wait = \"0s\"\nredis_queue = \"1MiB\"\n");
    let cache = read(&text).unwrap().config.cache;
    assert_eq!(
        (cache.redis_wait, cache.redis_queue),
        (Duration::ZERO, 1 << 20)
    );
    let report = read("[cache]\nredis = true\n").unwrap_err().to_string();
    assert!(
        report.contains("weir.toml:2:1: cache.redis: has no `[redis]` to keep answers in"),
        "{report}"
    );
}
