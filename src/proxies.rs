//! What the environment says of HTTP proxies.

use std::net::IpAddr;

use http::Uri;
use http::uri::{Authority, Scheme};
use hyper_util::client::proxy::matcher::Matcher;

const HTTP: [&str; 2] = ["HTTP_PROXY", "http_proxy"];
const HTTPS: [&str; 2] = ["HTTPS_PROXY", "https_proxy"];
const ALL: [&str; 2] = ["ALL_PROXY", "all_proxy"];
const NONE: [&str; 2] = ["NO_PROXY", "no_proxy"];

/// Returns the variables that name a proxy for an address, but none that can be used: only HTTP is spoken with proxies.
/// It is read as hyper's own matcher reads the environment.
pub fn unusable(uri: &Uri, env: &dyn Fn(&str) -> Option<String>) -> Vec<&'static str> {
    // In CGI the first of them would be a header of the client's.
    if is_loopback(uri) || env("REQUEST_METHOD").is_some() {
        return Vec::new();
    }
    let first = |names: [&'static str; 2]| {
        let mut names = names.into_iter();
        names.find_map(|name| Some((name, env(name)?)))
    };
    let none = first(NONE).map(|(_, value)| value).unwrap_or_default();
    let read = |value: &str| {
        let matcher = Matcher::builder().all(value).no(none.as_str()).build();
        matcher.intercept(uri)
    };
    if read("http://proxy").is_none() {
        return Vec::new();
    }
    let own = match uri.scheme() == Some(&Scheme::HTTPS) {
        true => HTTPS,
        false => HTTP,
    };
    let mut unusable = Vec::new();
    for (name, value) in [own, ALL].into_iter().filter_map(first) {
        let found = read(&value);
        let names_one = found.as_ref().is_some_and(|found| is_proxy(found.uri()));
        if !value.is_empty() && !names_one {
            unusable.push(name);
        }
        // What names no proxy at all leaves it to the next.
        if found.is_some() {
            break;
        }
    }
    unusable
}

/// Returns whether a proxy can stand at an address: one of HTTP, with a host, and a port where there is a colon.
pub fn is_proxy(uri: &Uri) -> bool {
    let authority = uri.authority().map_or("", Authority::as_str);
    let (_, place) = authority.rsplit_once('@').unwrap_or(("", authority));
    let host = uri.host().unwrap_or_default();
    let port = place.strip_prefix(host).unwrap_or(place);
    let has_port = match port.strip_prefix(':') {
        Some(number) => number.parse::<u16>().is_ok_and(|number| number != 0),
        None => port.is_empty(),
    };
    uri.scheme() == Some(&Scheme::HTTP) && !host.is_empty() && has_port
}

/// Returns whether an address is on this machine, where a proxy's loopback is not ours (Go's net/http thinks so too).
pub fn is_loopback(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let address = host.parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_is_reached_without_the_environments_proxy() {
        for (uri, expected) in [
            ("http://localhost:8000/v1", true),
            ("http://127.8.0.1/v1", true),
            ("http://[::1]:8000/v1", true),
            ("http://10.0.0.1/v1", false),
            ("http://localhost.example/v1", false),
        ] {
            assert_eq!(is_loopback(&Uri::from_static(uri)), expected, "{uri}");
        }
    }

    #[test]
    fn a_variable_that_names_no_http_proxy_is_found_where_it_would_count() {
        let (secure, plain) = ("https://api.openai.com/v1", "http://10.0.0.1/v1");
        let socks = "socks5://user:word@proxy:1080";
        for (uri, env, expected) in [
            (secure, &[][..], &[][..]),
            (secure, &[("HTTPS_PROXY", "http://proxy:3128")], &[]),
            (secure, &[("HTTPS_PROXY", "proxy:3128")], &[]),
            (secure, &[("HTTPS_PROXY", "")], &[]),
            (secure, &[("HTTPS_PROXY", ":3128")], &["HTTPS_PROXY"]),
            (secure, &[("HTTPS_PROXY", "http://:3128")], &["HTTPS_PROXY"]),
            (secure, &[("HTTPS_PROXY", "proxy:65536")], &["HTTPS_PROXY"]),
            (secure, &[("HTTPS_PROXY", "proxy:0")], &["HTTPS_PROXY"]),
            (
                secure,
                &[("HTTPS_PROXY", "http://u:w@proxy:99999")],
                &["HTTPS_PROXY"],
            ),
            (secure, &[("HTTPS_PROXY", "http://u:w@[::2]:3128/")], &[]),
            (plain, &[("HTTP_PROXY", "proxy:x")], &["HTTP_PROXY"]),
            (secure, &[("https_proxy", socks)], &["https_proxy"]),
            (secure, &[("HTTPS_PROXY", "ftp://proxy")], &["HTTPS_PROXY"]),
            (secure, &[("HTTPS_PROXY", "not a URL")], &["HTTPS_PROXY"]),
            (
                secure,
                &[("HTTPS_PROXY", "https://proxy")],
                &["HTTPS_PROXY"],
            ),
            (secure, &[("ALL_PROXY", socks)], &["ALL_PROXY"]),
            (secure, &[("HTTP_PROXY", socks)], &[]),
            (plain, &[("HTTP_PROXY", socks)], &["HTTP_PROXY"]),
            (plain, &[("HTTPS_PROXY", socks)], &[]),
            (
                secure,
                &[("HTTPS_PROXY", "http://proxy:1"), ("ALL_PROXY", socks)],
                &[],
            ),
            (
                secure,
                &[("HTTPS_PROXY", "ftp://proxy"), ("ALL_PROXY", socks)],
                &["HTTPS_PROXY", "ALL_PROXY"],
            ),
            (secure, &[("HTTPS_PROXY", socks), ("NO_PROXY", "*")], &[]),
            (
                secure,
                &[("HTTPS_PROXY", socks), ("NO_PROXY", "api.openai.com")],
                &[],
            ),
            ("http://127.0.0.1:1/v1", &[("HTTP_PROXY", socks)], &[]),
            (
                plain,
                &[("HTTP_PROXY", socks), ("REQUEST_METHOD", "GET")],
                &[],
            ),
        ] {
            let read = |name: &str| {
                let found = env.iter().find(|(variable, _)| *variable == name);
                found.map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(unusable(&Uri::from_static(uri), &read), expected, "{env:?}");
        }
    }
}
