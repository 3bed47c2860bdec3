//! What counts where nothing is written: the bundled model, and OpenAI where there is a key for it.

use http::Uri;

use super::defaults;
use super::problem::At;
use super::reader::Reader;
use super::types::{
    ApiConfig, BalanceConfig, EndpointConfig, LocalConfig, LocalModel, RemoteConfig, RouteConfig,
    TargetConfig, TimeoutOverrides, UpstreamConfig, UpstreamKind,
};
use crate::pattern::Pattern;
use crate::secret::Secret;

/// The name of the built-in upstream that serves the bundled model.
const LOCAL: &str = "local";

/// Returns the upstreams of a configuration without any.
pub(super) fn upstreams(reader: &mut Reader<'_>) -> Vec<UpstreamConfig> {
    let mut upstreams = Vec::new();
    let at = At {
        path: "upstream".into(),
        offset: None,
    };
    let bundled = LocalModel::Bundled(defaults::BUNDLED_MODEL.to_owned());
    let openai = openai(reader, &at);
    match (reader.context.check_model)(&bundled) {
        Ok(()) => upstreams.push(UpstreamConfig {
            name: LOCAL.to_owned(),
            models: Pattern::parse(defaults::BUNDLED_MODEL).into_iter().collect(),
            kind: UpstreamKind::Local(LocalConfig {
                model: bundled,
                queue: defaults::LOCAL_QUEUE,
            }),
        }),
        Err(why) if openai.is_some() => {
            reader.warning(&at, format!("the bundled model cannot be served: {why}"));
        }
        Err(why) => reader.error(
            &at,
            format!("there is none, and the bundled model cannot be served: {why}; set OPENAI_API_KEY, or write an [[upstream]]"),
        ),
    }
    upstreams.extend(openai);
    upstreams
}

/// Returns the routes of a configuration without upstreams: names of old examples, answered by the bundled model.
pub(super) fn routes(upstreams: &[UpstreamConfig]) -> Vec<RouteConfig> {
    if upstreams.iter().all(|upstream| upstream.name != LOCAL) {
        return Vec::new();
    }
    let aliases = defaults::BUNDLED_ALIASES.iter();
    let patterns = aliases.filter_map(|alias| Pattern::parse(alias).ok());
    let route = |model| RouteConfig {
        model,
        targets: vec![TargetConfig {
            upstream: LOCAL.to_owned(),
            model: Some(defaults::BUNDLED_MODEL.to_owned()),
            priority: 0,
            weight: 1,
        }],
        balance: BalanceConfig::default(),
        affinity: None,
        retry: None,
        timeouts: TimeoutOverrides::default(),
        hedge: None,
        limits: Vec::new(),
        cache: None,
    };
    patterns.map(route).collect()
}

fn openai(reader: &mut Reader<'_>, at: &At) -> Option<UpstreamConfig> {
    let key = (reader.context.env)("OPENAI_API_KEY").filter(|key| !key.is_empty())?;
    if !key.bytes().all(|b| b.is_ascii_graphic()) {
        reader.error(
            at,
            "OPENAI_API_KEY holds white space or characters outside ASCII; set it to the key alone",
        );
        return None;
    }
    let endpoint = EndpointConfig::Http(Uri::from_static(defaults::OPENAI_BASE_URL));
    Some(UpstreamConfig {
        name: "openai".to_owned(),
        models: vec![Pattern::any()],
        kind: UpstreamKind::Remote(RemoteConfig {
            api_keys: vec![Secret::new(key)],
            paths: vec![Pattern::any()],
            ..defaults::remote(ApiConfig::OpenAi, vec![endpoint])
        }),
    })
}
