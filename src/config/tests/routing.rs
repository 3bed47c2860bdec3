//! Upstreams, routes, and what is done about failures.

use std::time::Duration;

use super::*;

fn config(text: &str) -> Config {
    match read(text) {
        Ok(loaded) => {
            assert!(loaded.warnings.is_empty(), "{}", loaded.warnings);
            loaded.config
        }
        Err(report) => panic!("{report}"),
    }
}

fn remote(config: &Config, index: usize) -> &RemoteConfig {
    match &config.upstreams[index].kind {
        UpstreamKind::Remote(remote) => remote,
        UpstreamKind::Local(local) => panic!("{local:?}"),
    }
}

const TWO: &str = r#"
    [[upstream]]
    name = "a"
    kind = "openai"
    base_urls = ["http://10.0.0.1:8000/v1", "http://10.0.0.2:8000/v1/"]
    models = ["a"]
    [[upstream]]
    name = "b"
    kind = "openai"
    base_url = "https://example.org/v1"
    models = ["b"]
"#;

#[test]
fn every_field_of_an_upstream_arrives() {
    let config = config(
        r#"
        [server]
        stream_ping = "15s"
        [[upstream]]
        name = "a"
        kind = "openai"
        base_urls = ["http://10.0.0.1:8000/v1", "http://10.0.0.2:8000/v1/"]
        api_keys = ["sk-one", "${NOT_SET:-}", "sk-two"]
        timeouts = { connect = "1s", tls = "2s", first_byte = "3s", first_content = "4s", idle = "5s", total = "6s" }
        max_concurrent = 16
        queue = 32
        eject = { failures = 3, share = 0.5, min_requests = 10, window = "30s", base = "1s", max = "1m", floor = 2 }
        health = { path = "/health?full=1", interval = "5s", timeout = "1s" }
        proxy = "http://me:word@proxy:3128"
        [[upstream]]
        name = "b"
        kind = "azure"
        base_url = "https://name.openai.azure.com"
        models = ["b"]
        paths = ["/v1/files*"]
        api_version = "2024-10-21"
        eject = { share = 1 }
        health = { interval = "1s" }
        proxy = "none"
        [[route]]
        model = "b"
        targets = [{ upstream = "b" }]
        "#,
    );
    assert_eq!(config.server.stream_ping, Some(Duration::from_secs(15)));
    let a = remote(&config, 0);
    let uri = |text: &'static str| EndpointConfig::Http(http::Uri::from_static(text));
    assert_eq!(a.api, ApiConfig::OpenAi);
    assert_eq!(
        a.endpoints,
        [
            uri("http://10.0.0.1:8000/v1"),
            uri("http://10.0.0.2:8000/v1")
        ]
    );
    assert_eq!(a.api_keys, [Secret::new("sk-one"), Secret::new("sk-two")]);
    let timeouts = [
        a.timeouts.connect,
        a.timeouts.tls,
        a.timeouts.first_byte,
        a.timeouts.first_content,
        a.timeouts.idle,
        a.timeouts.total,
    ];
    assert_eq!(timeouts.map(|t| t.as_secs()), [1, 2, 3, 4, 5, 6]);
    assert_eq!((a.max_concurrent.map(usize::from), a.queue), (Some(16), 32));
    let eject = EjectConfig {
        failures: 3,
        share: 0.5,
        min_requests: 10,
        window: Duration::from_secs(30),
        base: Duration::from_secs(1),
        max: Duration::from_secs(60),
        floor: 2,
    };
    assert_eq!(a.eject, eject);
    let health = a.health.as_ref().unwrap();
    assert_eq!(health.path, "/health?full=1");
    assert_eq!(
        (health.interval.as_secs(), health.timeout.as_secs()),
        (5, 1)
    );
    assert_eq!(
        a.proxy,
        ProxyConfig::Http(Secret::new("http://me:word@proxy:3128"))
    );

    let b = remote(&config, 1);
    let version = Some("2024-10-21".to_owned());
    assert_eq!(b.api, ApiConfig::Azure { version });
    assert_eq!(b.endpoints, [uri("https://name.openai.azure.com/openai")]);
    assert_eq!((b.eject.share, b.eject.failures), (1.0, 5));
    // The default would outlast the interval.
    let health = b.health.as_ref().unwrap();
    assert_eq!(health.timeout, health.interval);
    assert_eq!((&b.proxy, b.max_concurrent), (&ProxyConfig::Direct, None));
    assert!(!format!("{config:?}").contains("word@"));
}

#[test]
fn every_field_of_a_route_arrives() {
    let config = config(&format!(
        r#"
        {TWO}
        [retry]
        attempts = 4
        backoff = {{ base = "1s", max = "4s" }}
        budget = 1
        max_retry_after = "0s"
        hold = "0s"
        [[route]]
        model = "a"
        targets = [
            {{ upstream = "a", weight = 3 }},
            {{ upstream = "a", model = "a2" }},
            {{ upstream = "b", priority = 1 }},
        ]
        balance = "weighted"
        affinity = {{ header = "X-Session-Id" }}
        retry = {{ attempts = 0, backoff = {{ max = "2s" }} }}
        timeouts = {{ first_byte = "1s", first_content = "2s", idle = "3s", total = "4s" }}
        hedge = {{ budget = 0.5, after = "1s" }}
        [[route]]
        model = "b*"
        targets = [{{ upstream = "b" }}, {{ upstream = "b", model = "b" }}]
        balance = "order"
        affinity = {{ prompt_prefix = "1KiB" }}
        hedge = {{}}
        "#
    ));
    let retry = RetryConfig {
        attempts: 4,
        backoff_base: Duration::from_secs(1),
        backoff_max: Duration::from_secs(4),
        budget: 1.0,
        max_retry_after: Duration::ZERO,
        hold: Duration::ZERO,
    };
    assert_eq!(config.retry, retry);
    let [a, b] = config.routes.as_slice() else {
        panic!("{:?}", config.routes);
    };
    let target = |upstream: &str, model: Option<&str>, priority, weight| TargetConfig {
        upstream: upstream.to_owned(),
        model: model.map(str::to_owned),
        priority,
        weight,
    };
    let expected = [
        target("a", None, 0, 3),
        target("a", Some("a2"), 0, 1),
        target("b", None, 1, 1),
    ];
    assert_eq!(a.targets, expected);
    assert_eq!(a.balance, BalanceConfig::Weighted);
    let header = http::HeaderName::from_static("x-session-id");
    assert_eq!(a.affinity, Some(AffinityConfig::Header(header)));
    let own = RetryConfig {
        attempts: 0,
        backoff_max: Duration::from_secs(2),
        ..retry
    };
    assert_eq!(a.retry, Some(own));
    let seconds = |n| Some(Duration::from_secs(n));
    let timeouts = TimeoutOverrides {
        first_byte: seconds(1),
        first_content: seconds(2),
        idle: seconds(3),
        total: seconds(4),
    };
    assert_eq!(a.timeouts, timeouts);
    let hedge = |budget, after| Some(HedgeConfig { budget, after });
    assert_eq!(a.hedge, hedge(0.5, seconds(1)));

    assert_eq!((b.balance, &b.retry), (BalanceConfig::Order, &None));
    assert_eq!(b.affinity, Some(AffinityConfig::PromptPrefix(1024)));
    assert_eq!(b.timeouts, TimeoutOverrides::default());
    assert_eq!(b.hedge, hedge(0.05, None));
}

#[test]
fn without_a_word_about_failures_the_defaults_hold() {
    let config = config(TWO);
    assert_eq!(config.retry, defaults::RETRY);
    let b = remote(&config, 1);
    let expected = RemoteConfig {
        paths: Vec::new(),
        ..defaults::remote(ApiConfig::OpenAi, b.endpoints.clone())
    };
    assert_eq!(*b, expected);
    assert_eq!(config.server.stream_ping, None);
}

#[test]
fn sockets_and_certificates_are_found_beside_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let pair = rcgen::generate_simple_self_signed(["client".to_owned()]).unwrap();
    std::fs::write(path("c.pem"), pair.cert.pem()).unwrap();
    std::fs::write(path("c.key"), pair.signing_key.serialize_pem()).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(path("llama.sock")).unwrap();
    let text = r#"
        [[upstream]]
        name = "socket"
        kind = "openai"
        base_urls = ["unix:llama.sock", "unix:llama.sock:/", "unix://FOLDER/llama.sock:/api/v1/"]
        [[upstream]]
        name = "private"
        kind = "openai"
        base_url = "https://example.org/v1"
        models = ["private"]
        paths = ["/v1/files*"]
        tls = { ca = "c.pem", cert = "c.pem", key = "c.key" }
    "#;
    let text = text.replace("FOLDER", &folder.path().display().to_string());
    std::fs::write(path("weir.toml"), text).unwrap();
    let loaded = load(Some(&path("weir.toml")), &context()).unwrap();
    let shown = loaded.warnings.to_string();
    assert_eq!(loaded.warnings.problems.len(), 1, "{shown}");
    assert_eq!(
        paths(&loaded.warnings),
        [path("weir.toml"), path("c.pem"), path("c.key")]
    );
    let unix = |prefix: &str| EndpointConfig::Unix {
        socket: path("llama.sock"),
        prefix: prefix.to_owned(),
    };
    assert_eq!(
        remote(&loaded.config, 0).endpoints,
        [unix("/v1"), unix(""), unix("/api/v1")]
    );
    let identity = TlsConfig {
        cert: path("c.pem"),
        key: path("c.key"),
    };
    let expected = ClientTlsConfig {
        ca: Some(path("c.pem")),
        identity: Some(identity),
        digest: remote(&loaded.config, 1).tls.digest,
    };
    assert_eq!(remote(&loaded.config, 1).tls, expected);
    std::fs::copy(path("weir.toml"), path("again.toml")).unwrap();
    let again = |pem: &str| {
        std::fs::write(path("c.pem"), pem).unwrap();
        let loaded = load(Some(&path("again.toml")), &context()).unwrap();
        remote(&loaded.config, 1).tls == expected
    };
    assert!(again(&pair.cert.pem()));
    assert!(!again(&format!("# renewed\n{}", pair.cert.pem())));
}

#[test]
fn a_local_model_is_renamed_to_a_name_that_it_has() {
    let with = |rename: &str, upstreams: &str| {
        let route = format!(
            "[[route]]\nmodel = \"x\"\ntargets = [{{ upstream = \"local\", model = \"{rename}\" }}]\n"
        );
        read(&format!("{upstreams}{route}")).map_err(|report| report.to_string())
    };
    let own = "[[upstream]]\nname = \"local\"\nkind = \"local\"\nmodel = \"bundled:poet\"\nmodels = [\"poet\", \"bard\"]\n";
    for upstreams in ["", own] {
        assert!(with("poet", upstreams).is_ok());
        let report = with("pote", upstreams).unwrap_err();
        let expected = "the local upstream \"local\" has no model \"pote\"; did you mean `poet`?";
        assert!(report.ends_with(expected), "{report}");
    }
    assert!(with("bard", own).is_ok());
}
