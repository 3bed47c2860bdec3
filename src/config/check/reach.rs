//! What can lead to an upstream, and where an upstream must not lead: back to Weir itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::Uri;

use super::super::file::{Kind, Route, Server, Upstream};
use super::super::reader::{Reader, quote};
use super::super::types::EndpointConfig;
use super::models_of;
use crate::pattern::{self, Pattern};

/// Doubts patterns that an upstream before, or a route, takes all of, and refuses upstreams that nothing can lead to.
pub(super) fn reachable(upstreams: &[Upstream], routes: &[Route], reader: &mut Reader<'_>) {
    let mut first_remote = true;
    for (i, upstream) in upstreams.iter().enumerate() {
        let Some(kind) = &upstream.kind else {
            continue;
        };
        let takes_paths = match kind {
            Kind::Remote { paths, .. } => {
                let is_first = std::mem::take(&mut first_remote);
                paths.as_ref().map_or(is_first, |paths| !paths.is_empty())
            }
            Kind::Local(_) => false,
        };
        let before = &upstreams[..i];
        let models = models_of(upstream, kind);
        let is_named = routes.iter().any(|route| names(route, upstream));
        let all_taken = models.iter().all(|model| taking(before, model).is_some());
        if all_taken && !is_named && !takes_paths {
            reader.error(
                &upstream.at,
                "is never used: upstreams before it take all of its `models`; put it before them, or write a [[route]] to it",
            );
            continue;
        }
        let written = !upstream.models.is_empty();
        if !is_named && (written || !takes_paths) && shadowed(upstream, &models, routes, reader) {
            continue;
        }
        doubtful(upstream, before, routes, reader);
    }
}

/// Doubts single patterns that go to an upstream before.
fn doubtful(upstream: &Upstream, before: &[Upstream], routes: &[Route], reader: &mut Reader<'_>) {
    for pattern in &upstream.models {
        // Where a route decides, the order of upstreams does not.
        if covering(routes, &pattern.value).is_some() {
            continue;
        }
        if let Some(other) = taking(before, &pattern.value) {
            let name = other.name.as_ref().map_or("?", |name| name.raw.as_str());
            let message = format!(
                "goes to the upstream {} before it, which takes it too; put this upstream first, or write a [[route]]",
                quote(name)
            );
            reader.warning(&pattern.at, message);
        }
    }
}

/// Doubts an upstream all of whose models go where routes say, none of which names it.
fn shadowed(
    upstream: &Upstream,
    models: &[Pattern],
    routes: &[Route],
    reader: &mut Reader<'_>,
) -> bool {
    let by: Option<Vec<&Pattern>> = models.iter().map(|model| covering(routes, model)).collect();
    let Some(&[first, ..]) = by.as_deref() else {
        return false;
    };
    let at = upstream
        .models
        .first()
        .map_or(&upstream.at, |pattern| &pattern.at);
    let message = format!(
        "none of its `models` leads here: the [[route]] {} goes before them and does not name this upstream; add it to the route's `targets`, or leave one out",
        quote(first.as_str())
    );
    reader.warning(at, message);
    true
}

/// Returns the upstream that takes all that a pattern stands for.
fn taking<'u>(upstreams: &'u [Upstream], pattern: &Pattern) -> Option<&'u Upstream> {
    upstreams.iter().find(|upstream| {
        let kind = upstream.kind.as_ref();
        let models = kind.map(|kind| models_of(upstream, kind));
        let mut models = models.unwrap_or_default().into_iter();
        models.any(|other| other.covers(pattern))
    })
}

/// Returns the most specific route that takes all that a pattern stands for.
fn covering<'r>(routes: &'r [Route], pattern: &Pattern) -> Option<&'r Pattern> {
    let models = routes.iter().filter_map(|route| route.model.as_ref());
    let patterns = models.map(|model| (&model.value, &model.value));
    // A pattern covers another by matching its text.
    pattern::most_specific(patterns, pattern.as_str())
}

fn names(route: &Route, upstream: &Upstream) -> bool {
    let Some(name) = &upstream.name else {
        return false;
    };
    let mut wanted = route.targets.iter().filter_map(|t| t.upstream.as_ref());
    wanted.any(|wanted| wanted.value == name.value)
}

/// Reports upstreams that are Weir's own data plane: every call would come back until no connection is left.
pub(super) fn own_address(upstreams: &[Upstream], server: &Server, reader: &mut Reader<'_>) {
    let listen = server.config.listen;
    for upstream in upstreams {
        let Some(Kind::Remote { config, places, .. }) = &upstream.kind else {
            continue;
        };
        for (endpoint, at) in config.endpoints.iter().zip(places) {
            let EndpointConfig::Http(uri) = endpoint else {
                continue;
            };
            if leads_to(uri, listen) {
                let message = format!(
                    "is the address that Weir itself listens on ({listen}), so that it would call itself; write the server's own, or another [server] `listen`"
                );
                reader.error(at, message);
            }
        }
    }
}

/// Returns whether a URL is surely the address of a listener.
fn leads_to(uri: &Uri, listen: SocketAddr) -> bool {
    let default = match uri.scheme_str() {
        Some("https") => 443,
        _ => 80,
    };
    if listen.port() == 0 || uri.port_u16().unwrap_or(default) != listen.port() {
        return false;
    }
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let hosts: Vec<IpAddr> = if host.eq_ignore_ascii_case("localhost") {
        vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
    } else {
        host.parse::<IpAddr>().into_iter().collect()
    };
    // What connects to the unspecified address comes to this machine.
    let own = |host: &IpAddr| host.is_loopback() || host.is_unspecified();
    hosts.iter().any(|host| {
        let everywhere = listen.ip().is_unspecified() && own(host);
        let here = host.is_unspecified() && own(&listen.ip());
        *host == listen.ip() || everywhere || here
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weir_knows_its_own_address() {
        for (url, listen, expected) in [
            ("http://127.0.0.1:8080/v1", "127.0.0.1:8080", true),
            ("http://localhost:8080/v1", "127.0.0.1:8080", true),
            ("http://LOCALHOST:8080/v1", "[::1]:8080", true),
            ("http://localhost:8080/v1", "0.0.0.0:8080", true),
            ("http://[::1]:8080/v1", "[::]:8080", true),
            ("http://0.0.0.0:8080/v1", "127.0.0.1:8080", true),
            ("https://10.0.0.1/v1", "10.0.0.1:443", true),
            ("http://10.0.0.1/v1", "10.0.0.1:80", true),
            ("http://localhost:8081/v1", "127.0.0.1:8080", false),
            ("http://localhost:8080/v1", "127.0.0.2:8080", false),
            ("http://10.0.0.1:8080/v1", "127.0.0.1:8080", false),
            ("http://10.0.0.1:8080/v1", "0.0.0.0:8080", false),
            ("http://example.org:8080/v1", "127.0.0.1:8080", false),
            ("http://127.0.0.1:8080/v1", "127.0.0.1:0", false),
        ] {
            let uri = url.parse().unwrap();
            assert_eq!(
                leads_to(&uri, listen.parse().unwrap()),
                expected,
                "{url} {listen}"
            );
        }
    }
}
