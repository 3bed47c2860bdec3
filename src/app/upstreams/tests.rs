//! What a reload takes over.

use std::path::Path;

use super::*;
use crate::config::{self, Context};
use crate::pattern::Pattern;

struct Setup {
    folder: tempfile::TempDir,
    drain: Drain,
    metrics: Arc<Metrics>,
}

impl Setup {
    fn new() -> Self {
        Self {
            folder: tempfile::tempdir().unwrap(),
            drain: Drain::default(),
            metrics: Arc::new(Metrics::new().unwrap()),
        }
    }

    fn config(&self, text: &str) -> Config {
        let context = Context {
            env: &|_| None,
            check_model: &|_| Ok(()),
            now: jiff::Timestamp::UNIX_EPOCH,
        };
        let file = self.folder.path().join("weir.toml");
        config::parse(text, &file, &context)
            .unwrap_or_else(|report| panic!("{report}"))
            .config
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn build(&self, config: &Config, previous: Option<Previous<'_>>) -> Dispatch {
        let builder = Builder {
            config,
            drain: &self.drain,
            metrics: &self.metrics,
            previous,
        };
        builder.dispatch().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Builds one configuration after the other, with what `between` changes around them.
    fn reload(&self, old: &str, between: impl FnOnce(), new: &str) -> [Dispatch; 2] {
        let old = self.config(old);
        let before = self.build(&old, None);
        between();
        let previous = Previous {
            config: &old,
            dispatch: &before,
        };
        let after = self.build(&self.config(new), Some(previous));
        [before, after]
    }
}

fn first(dispatch: &Dispatch) -> &Arc<Endpoint> {
    &dispatch.members()[0].endpoints[0]
}

/// Whether the endpoint's connections are those from before.
fn keeps_connections([before, after]: &[Dispatch; 2]) -> bool {
    Arc::ptr_eq(&first(before).service, &first(after).service)
}

const ONE: &str = r#"
    [[upstream]]
    name = "one"
    kind = "openai"
    base_url = "https://example.org/v1"
"#;

#[test]
fn connections_are_kept_unless_their_clients_are_built_from_something_else() {
    let setup = Setup::new();
    let kept = |more: &str| {
        let dispatches = setup.reload(ONE, || {}, &format!("{ONE}{more}"));
        keeps_connections(&dispatches)
    };
    assert!(kept(""));
    assert!(kept("[retry]\nbudget = 0.5\n"));
    assert!(kept("models = [\"a\"]\n"));
    assert!(!kept("headers = { x-team = \"a\" }\n"));
    assert!(!kept("[server]\nmax_answer = \"1MiB\"\n"));
}

#[test]
fn a_private_authority_keeps_connections_until_it_changes() {
    let setup = Setup::new();
    let pem = || {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
        made.unwrap().cert.pem()
    };
    let (one, two) = (pem(), pem());
    let text = format!("{ONE}tls = {{ ca = \"ca.pem\" }}\n");
    let changed = format!(
        "{text}[[upstream]]\nname = \"two\"\nkind = \"openai\"\nbase_url = \"https://example.com/v1\"\nmodels = [\"two\"]\npaths = [\"/v1/files*\"]\n"
    );
    setup.write("ca.pem", &one);
    assert!(keeps_connections(&setup.reload(&text, || {}, &changed)));
    let renewed = setup.reload(&text, || setup.write("ca.pem", &two), &changed);
    assert!(!keeps_connections(&renewed));
}

#[test]
fn a_routes_own_budget_is_kept_while_its_share_is_the_same() {
    let setup = Setup::new();
    let text = |share: &str| {
        format!(
            "{ONE}[[route]]\nmodel = \"m\"\ntargets = [{{ upstream = \"one\" }}]\nretry = {{ budget = {share} }}\n"
        )
    };
    let model = Pattern::parse("m").unwrap();
    let budgets = |new: &str| {
        let dispatches = setup.reload(&text("0.5"), || {}, new);
        dispatches.map(|dispatch| dispatch.budget(&model))
    };
    let [Some(before), Some(after)] = budgets(&format!("{}[log]\naccess = false\n", text("0.5")))
    else {
        panic!("a budget is missing");
    };
    assert!(Arc::ptr_eq(&before, &after));
    let [Some(before), Some(after)] = budgets(&text("0.6")) else {
        panic!("a budget is missing");
    };
    assert!(!Arc::ptr_eq(&before, &after));
    assert!(matches!(budgets(&text("0.2")), [Some(_), None]));
}

#[test]
fn labels_tell_all_endpoints_of_an_upstream_apart() {
    let http = |uri: &'static str| EndpointConfig::Http(uri.parse().unwrap());
    let unix = |prefix: &str| EndpointConfig::Unix {
        socket: Path::new("/run/llama.sock").into(),
        prefix: prefix.into(),
    };
    for (address, expected) in [
        (http("https://gw:8443/a/v1"), "https://gw:8443/a/v1"),
        (http("https://gw:8443/b/v1"), "https://gw:8443/b/v1"),
        (http("http://gw:8443/"), "http://gw:8443"),
        (unix("/v1"), "unix:/run/llama.sock:/v1"),
        (unix(""), "unix:/run/llama.sock"),
    ] {
        assert_eq!(&*label(&address), expected);
    }
}

#[test]
fn gateways_that_are_configured_alike_know_an_upstream_by_the_same_number() {
    let identity = |more: &str| {
        // Nothing of one setup is known to the other.
        let setup = Setup::new();
        let config = setup.config(&format!("{ONE}{more}"));
        setup.build(&config, None).members()[0].identity
    };
    let plain = identity("");
    for same in [
        "",
        "timeouts = { total = \"9s\" }\n",
        "max_concurrent = 3\n",
        "models = [\"a\"]\n",
    ] {
        assert_eq!(identity(same), plain, "{same}");
    }
    for other in [
        "headers = { x-team = \"a\" }\n",
        "api_keys = [\"sk-a-0123456789\"]\n",
    ] {
        assert_ne!(identity(other), plain, "{other}");
    }
    let keys =
        ["sk-a-0123456789", "sk-b-0123456789"].map(|key| format!("api_keys = [\"{key}\"]\n"));
    assert_ne!(identity(&keys[0]), identity(&keys[1]));
}
