//! `proxy` of a remote upstream.

use http::uri::{Scheme, Uri};

use super::super::reader::{Field, Reader};
use super::super::types::ProxyConfig;

const EXAMPLE: &str = "write \"none\", or such as \"http://user:password@proxy.example.org:3128\"";

pub(super) fn proxy(field: &Field<'_, '_>, reader: &mut Reader<'_>) -> ProxyConfig {
    let Some(secret) = reader.secret(field) else {
        return ProxyConfig::Environment;
    };
    match secret.value.expose() {
        // `${PROXY:-}` is how a file says that the variable may be absent.
        "" => ProxyConfig::Environment,
        "none" => ProxyConfig::Direct,
        url => match fault(url) {
            None => ProxyConfig::Http(secret.value),
            Some(fault) => {
                reader.error(&secret.at, format!("{fault}; {EXAMPLE}"));
                ProxyConfig::Environment
            }
        },
    }
}

/// Says what is wrong with a proxy's URL, without a word of it.
fn fault(url: &str) -> Option<&'static str> {
    const ESCAPE: &str = "is no URL; a password's own / ? # @ : are written %2F %3F %23 %40 %3A";
    let Ok(uri) = url.parse::<Uri>() else {
        return Some(ESCAPE);
    };
    if uri.path().contains('@') || uri.query().is_some_and(|query| query.contains('@')) {
        return Some(ESCAPE);
    }
    let Some((scheme, authority)) = uri.scheme().zip(uri.authority()) else {
        return Some("is no URL of a proxy");
    };
    if *scheme != Scheme::HTTP {
        Some("has a scheme other than http, which is all that can be spoken with a proxy")
    } else if authority.host().is_empty() {
        Some("has no host")
    } else if authority.port_u16().is_none_or(|port| port == 0) {
        Some("has no port")
    } else if uri.path() != "/" || uri.query().is_some() || url.contains('#') {
        Some("has a path, which no proxy has")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_http_proxies_with_a_port() {
        for (url, fine) in [
            ("http://proxy:3128", true),
            ("http://user:pa%40ss@proxy:3128/", true),
            ("http://[::1]:3128", true),
            ("https://proxy:3128", false),
            ("socks5://proxy:1080", false),
            ("proxy:3128", false),
            ("http://proxy", false),
            ("http://proxy:0", false),
            ("http://proxy:3128/path", false),
            ("http://proxy:3128#x", false),
            ("http://user:a/b@proxy:3128", false),
            ("direct", false),
        ] {
            assert_eq!(fault(url).is_none(), fine, "{url}: {:?}", fault(url));
        }
    }
}
