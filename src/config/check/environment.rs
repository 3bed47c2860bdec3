//! What the environment says that cannot be done.

use super::super::problem::At;
use super::super::reader::{Reader, quote};
use super::super::types::{EndpointConfig, ProxyConfig, UpstreamConfig, UpstreamKind};
use crate::proxies;

/// Doubts variables that name a proxy which cannot be used: the upstreams that would go by it are reached without one.
pub(super) fn proxies(upstreams: &[UpstreamConfig], reader: &mut Reader<'_>) {
    let mut doubted: Vec<(&str, Vec<String>)> = Vec::new();
    for upstream in upstreams {
        let UpstreamKind::Remote(remote) = &upstream.kind else {
            continue;
        };
        if remote.proxy != ProxyConfig::Environment {
            continue;
        }
        let endpoints = remote.endpoints.iter();
        let uris = endpoints.filter_map(|endpoint| match endpoint {
            EndpointConfig::Http(uri) => Some(uri),
            EndpointConfig::Unix { .. } => None,
        });
        for name in uris.flat_map(|uri| proxies::unusable(uri, reader.context.env)) {
            let shown = quote(&upstream.name);
            match doubted.iter_mut().find(|(other, _)| *other == name) {
                None => doubted.push((name, vec![shown])),
                Some((_, upstreams)) if upstreams.contains(&shown) => {}
                Some((_, upstreams)) => upstreams.push(shown),
            }
        }
    }
    for (name, upstreams) in doubted {
        let at = At {
            path: name.to_owned(),
            offset: None,
        };
        let message = format!(
            "this environment variable names no http:// proxy with a host and a port and is passed over, by {}; set it to such as http://proxy.example.org:3128, or write `proxy = \"none\"` there",
            upstreams.join(", ")
        );
        reader.warning(&at, message);
    }
}
