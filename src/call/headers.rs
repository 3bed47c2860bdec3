//! Headers that belong to one hop and never travel on (RFC 9110, section 7.6.1).

use http::{HeaderMap, HeaderName, header};

/// The hop's own headers. Framing is among them: each hop frames its messages anew.
static HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::CONTENT_LENGTH,
];

/// Removes the headers of the hop, those that `Connection` nominates, and `others`.
pub fn keep_end_to_end(headers: &mut HeaderMap, others: &[HeaderName]) {
    let nominated: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    // Most of these names are on no request: to remove each would cost more than a look at the headers that have come.
    let stays_here = |name: &&HeaderName| HOP_BY_HOP.contains(name) || others.contains(name);
    let gone: Vec<HeaderName> = headers.keys().filter(stays_here).cloned().collect();
    for name in gone.iter().chain(&nominated) {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn hop_by_hop_headers_stay_here() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, X-Mine"),
            ("x-mine", "1"),
            ("host", "a"),
            ("te", "x"),
            ("x-yours", "2"),
        ] {
            headers.insert(
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            );
        }
        keep_end_to_end(&mut headers, &[header::HOST]);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["x-yours"]);
    }
}
