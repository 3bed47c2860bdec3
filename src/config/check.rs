//! What the fields say of each other: names that must be unique, names that must exist, and what nothing can reach.

mod environment;
mod prices;
mod reach;
mod routes;

use std::collections::HashMap;
use std::net::SocketAddr;

use super::builtin;
use super::file::{Admin, File, Key, Kind, Route, Server, Team, Upstream};
use super::problem::At;
use super::reader::{Reader, Text, quote};
use super::types::{
    Config, KeyConfig, LocalModel, RemoteConfig, RouteConfig, TargetConfig, TeamConfig,
    UpstreamConfig, UpstreamKind,
};
use crate::keys;
use crate::pattern::Pattern;

/// Without keys in the file the environment's is the only one.
fn made_key(keys: &[Key], reader: &mut Reader<'_>) {
    let Some(key) =
        (reader.context.env)("WEIR_KEY").filter(|key| keys.is_empty() && !key.is_empty())
    else {
        return;
    };
    if let Err(error) = keys::check(&key) {
        let at = At {
            path: "WEIR_KEY".into(),
            offset: None,
        };
        reader.error(&at, format!("the key in this environment variable {error}"));
    }
}

/// Judges the file as a whole. What comes back counts only if nothing wrong was found.
pub(super) fn check(file: File, reader: &mut Reader<'_>) -> Config {
    addresses(&file.server, &file.admin, reader);
    unique(
        file.upstreams
            .iter()
            .flatten()
            .map(|upstream| &upstream.name),
        "upstream",
        reader,
    );
    unique(file.teams.iter().map(|team| &team.name), "team", reader);
    unique(file.keys.iter().map(|key| &key.name), "key", reader);
    digests(&file, reader);
    made_key(&file.keys, reader);
    routes::patterns(&file.routes, reader);
    routes::alike(&file.routes, reader);
    team_names(&file.keys, &file.teams, reader);
    expiries(&file.keys, reader);

    let mut built_in = Vec::new();
    let upstreams: Vec<UpstreamConfig> = match file.upstreams {
        Some(upstreams) => {
            if upstreams.is_empty() {
                let at = At {
                    path: "upstream".into(),
                    offset: None,
                };
                reader.error(
                    &at,
                    "is empty; write an [[upstream]], or none for the built-in ones",
                );
            }
            routes::upstreams(
                upstreams
                    .iter()
                    .map(|u| u.name.as_ref().map(|name| name.value.as_str())),
                &file.routes,
                reader,
            );
            reach::own_address(&upstreams, &file.server, reader);
            reach::reachable(&upstreams, &file.routes, reader);
            let mut first_remote = true;
            upstreams
                .into_iter()
                .filter_map(|upstream| typed(upstream, &mut first_remote))
                .collect()
        }
        None => {
            let defaults = builtin::upstreams(reader);
            routes::upstreams(
                defaults.iter().map(|u| Some(u.name.as_str())),
                &file.routes,
                reader,
            );
            built_in = builtin::routes(&defaults);
            defaults
        }
    };
    environment::proxies(&upstreams, reader);
    routes::renames(&upstreams, &file.routes, reader);
    let places = prices::places(&file.teams, &file.keys);
    // The file's own routes go before the built-in ones of the same name.
    let written: Vec<RouteConfig> = file.routes.into_iter().filter_map(route).collect();
    built_in.retain(|route| written.iter().all(|written| written.model != route.model));
    let config = Config {
        server: file.server.config,
        admin: file.admin.config,
        upstreams,
        routes: written.into_iter().chain(built_in).collect(),
        retry: file.retry,
        teams: file.teams.into_iter().filter_map(team).collect(),
        keys: file.keys.into_iter().filter_map(key).collect(),
        limits: file.limits,
        ledger: file.ledger,
        cache: file.cache,
        redis: file.redis,
        log: file.log,
        metrics: file.metrics,
        telemetry: file.telemetry,
    };
    prices::unpriced(&config, &places, reader);
    config
}

fn addresses(server: &Server, admin: &Admin, reader: &mut Reader<'_>) {
    let (data, control) = (server.config.listen, admin.config.listen);
    if collide(data, control) {
        // Whichever was written is to blame; the admin plane's where both were.
        let at = if admin.listen.path.ends_with("listen") {
            &admin.listen
        } else {
            &server.listen
        };
        reader.error(
            at,
            format!("the data plane listens on {data} and the admin plane on {control}; write another port"),
        );
    }
}

fn collide(one: SocketAddr, two: SocketAddr) -> bool {
    // A host of IPv4 is the same one when it is written as one of IPv6.
    let (host, other) = (one.ip().to_canonical(), two.ip().to_canonical());
    let same_host = host == other || host.is_unspecified() || other.is_unspecified();
    one.port() != 0 && one.port() == two.port() && same_host
}

fn unique<'t>(names: impl Iterator<Item = &'t Option<Text>>, what: &str, reader: &mut Reader<'_>) {
    let mut seen = Vec::new();
    for name in names.flatten() {
        if seen.contains(&name.value.as_str()) {
            let message = format!(
                "{} is the name of another {what} before it; write another name",
                quote(&name.raw)
            );
            reader.error(&name.at, message);
        }
        seen.push(&name.value);
    }
}

/// One secret stands for one caller, and for the admin or a caller, never both.
fn digests(file: &File, reader: &mut Reader<'_>) {
    let mut seen: HashMap<[u8; 32], String> = HashMap::new();
    if let Some(token) = &file.admin.token {
        let digest = keys::digest(token.value.expose().as_bytes());
        seen.insert(digest, "the admin token".to_owned());
    }
    for key in &file.keys {
        let Some(digest) = &key.digest else {
            continue;
        };
        let name = key
            .name
            .as_ref()
            .map_or("another", |name| name.raw.as_str());
        if let Some(other) = seen.insert(digest.value, format!("key {}", quote(name))) {
            reader.error(
                &digest.at,
                format!("is the same secret as {other}; make one with `weir keys hash --new`"),
            );
        }
    }
}

fn team_names(keys: &[Key], teams: &[Team], reader: &mut Reader<'_>) {
    let names = teams
        .iter()
        .map(|team| team.name.as_ref().map(|name| name.value.as_str()));
    let names: Vec<Option<&str>> = names.collect();
    for text in keys.iter().filter_map(|key| key.team.as_ref()) {
        if !names.contains(&Some(&text.value)) {
            routes::unknown(&names, text, "team", reader);
        }
    }
}

fn expiries(keys: &[Key], reader: &mut Reader<'_>) {
    for expires in keys.iter().filter_map(|key| key.expires.as_ref()) {
        if expires.value <= reader.context.now {
            reader.warning(
                &expires.at,
                "has passed, and the key is refused; write a later time, or remove the key",
            );
        }
    }
}

/// Returns the models that an upstream serves, written or by default.
fn models_of(upstream: &Upstream, kind: &Kind) -> Vec<Pattern> {
    if !upstream.models.is_empty() {
        return upstream
            .models
            .iter()
            .map(|pattern| pattern.value.clone())
            .collect();
    }
    let own = match kind {
        Kind::Remote { .. } => None,
        Kind::Local(local) => match &local.model {
            LocalModel::Bundled(name) => Some(name.as_str()),
            LocalModel::Folder(path) => path.file_name().and_then(|name| name.to_str()),
            LocalModel::Gguf(path) => path.file_stem().and_then(|name| name.to_str()),
        },
    };
    let own = own.and_then(|name| Pattern::parse(name).ok());
    vec![own.unwrap_or_else(Pattern::any)]
}

fn typed(upstream: Upstream, first_remote: &mut bool) -> Option<UpstreamConfig> {
    let name = upstream.name.as_ref().map(|name| name.value.clone())?;
    let models = models_of(&upstream, upstream.kind.as_ref()?);
    let kind = match upstream.kind? {
        Kind::Remote { config, paths, .. } => {
            let default = match std::mem::take(first_remote) {
                true => vec![Pattern::any()],
                false => Vec::new(),
            };
            let written = paths.map(|paths| paths.into_iter().map(|path| path.value).collect());
            UpstreamKind::Remote(RemoteConfig {
                paths: written.unwrap_or(default),
                ..config
            })
        }
        Kind::Local(local) => UpstreamKind::Local(local),
    };
    Some(UpstreamConfig { name, models, kind })
}

fn route(route: Route) -> Option<RouteConfig> {
    let targets = route.targets.into_iter().filter_map(|target| {
        Some(TargetConfig {
            upstream: target.upstream?.value,
            model: target.rename.map(|text| text.value),
            priority: target.priority,
            weight: target.weight,
        })
    });
    Some(RouteConfig {
        model: route.model?.value,
        targets: targets.collect(),
        balance: route.balance,
        affinity: route.affinity,
        retry: route.retry,
        timeouts: route.timeouts,
        hedge: route.hedge,
        limits: route.limits,
        cache: route.cache,
    })
}

fn team(team: Team) -> Option<TeamConfig> {
    Some(TeamConfig {
        name: team.name?.value,
        models: team.models,
        budgets: team.budgets,
        limits: team.limits,
        cache: team.cache,
    })
}

fn key(key: Key) -> Option<KeyConfig> {
    Some(KeyConfig {
        name: key.name?.value,
        team: key.team.map(|team| team.value),
        digest: key.digest?.value,
        models: key.models,
        paths: key.paths,
        expires: key.expires.map(|expires| expires.value),
        budgets: key.budgets,
        limits: key.limits,
        cache: key.cache,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_collide_on_one_port_of_one_host() {
        for (one, two, expected) in [
            ("127.0.0.1:80", "127.0.0.1:80", true),
            ("0.0.0.0:80", "127.0.0.1:80", true),
            ("127.0.0.1:80", "[::]:80", true),
            ("[::ffff:127.0.0.1]:80", "127.0.0.1:80", true),
            ("[::ffff:0.0.0.0]:80", "127.0.0.2:80", true),
            ("[::ffff:127.0.0.1]:80", "127.0.0.2:80", false),
            ("[::1]:80", "127.0.0.1:80", false),
            ("127.0.0.1:80", "127.0.0.2:80", false),
            ("127.0.0.1:80", "127.0.0.1:81", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
        ] {
            let (one, two) = (one.parse().unwrap(), two.parse().unwrap());
            assert_eq!(collide(one, two), expected, "{one} {two}");
        }
    }
}
