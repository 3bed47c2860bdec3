//! The console: a page at `/` with all that it is made of, held in the binary.
//!
//! What is served here is the same for everyone and knows nothing: whatever the page shows it asks the admin API for, with
//! the token that its user types in, as a header. There is no cookie that another page could have sent along.

use std::sync::LazyLock;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, Request, StatusCode, header};

use super::answer::{Answer, not_allowed, text};
use crate::keys as secrets;

/// What the page may do: run its own scripts, be styled by its own sheet, and ask its own gateway; nothing written into it
/// runs, no text can become markup, nothing leaves it, and nobody frames it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
    img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; \
    require-trusted-types-for 'script'; trusted-types 'none'";

const HTML: &str = "text/html; charset=utf-8";
const ICON: &str = "image/svg+xml";
const CSS: &str = "text/css; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";

/// A part of the page.
struct Asset {
    path: &'static str,
    content_type: &'static str,
    body: &'static str,
}

macro_rules! assets {
    ($($name:literal),+) => {
        [
            Asset { path: "/", content_type: HTML, body: include_str!("console/index.html") },
            // Browsers ask for it by this name, too, where no page says which: beside /metrics.
            Asset { path: "/favicon.ico", content_type: ICON, body: include_str!("console/icon.svg") },
            Asset { path: "/console/console.css", content_type: CSS, body: include_str!("console/console.css") },
            $(Asset {
                path: concat!("/console/", $name),
                content_type: SCRIPT,
                body: include_str!(concat!("console/", $name)),
            }),+
        ]
    };
}

const ASSETS: [Asset; 17] = assets!(
    "api.js",
    "chart.js",
    "dialog.js",
    "dom.js",
    "events.js",
    "explain.js",
    "keys.js",
    "main.js",
    "overview.js",
    "playground.js",
    "prometheus.js",
    "requests.js",
    "spend.js",
    "theme.js"
);

/// What each part is known by as long as it is the same, in their order.
static TAGS: LazyLock<[HeaderValue; ASSETS.len()]> = LazyLock::new(|| ASSETS.each_ref().map(tag));

/// Returns whether there is such a part.
pub(super) fn has(path: &str) -> bool {
    ASSETS.iter().any(|asset| asset.path == path)
}

/// Answers for the page and its parts; `None` for every other path.
pub(super) fn answer<B>(request: &Request<B>) -> Option<Answer> {
    let path = request.uri().path();
    let index = ASSETS.iter().position(|asset| asset.path == path)?;
    let (asset, tag) = (ASSETS.get(index)?, TAGS.get(index)?);
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Some(not_allowed("GET, HEAD"));
    }
    let mut answer = match is_known(request, tag) {
        true => text(StatusCode::NOT_MODIFIED, asset.content_type, Bytes::new()),
        false => text(
            StatusCode::OK,
            asset.content_type,
            Bytes::from_static(asset.body.as_bytes()),
        ),
    };
    let headers = answer.headers_mut();
    for (name, value) in [
        // Kept, and asked for anew each time: after an upgrade no page is half the old one.
        (header::CACHE_CONTROL, "no-cache"),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (
            HeaderName::from_static("cross-origin-opener-policy"),
            "same-origin",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(header::ETAG, tag.clone());
    Some(answer)
}

fn tag(asset: &Asset) -> HeaderValue {
    let [a, b, c, d, e, f, g, h, ..] = secrets::digest(asset.body.as_bytes());
    let number = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
    let tag = HeaderValue::try_from(format!("\"{number:016x}\""));
    // What is spelled there are digits and letters.
    tag.unwrap_or(HeaderValue::from_static("\"\""))
}

/// Returns whether the browser has it already (RFC 9110, section 13.1.2).
fn is_known<B>(request: &Request<B>, tag: &HeaderValue) -> bool {
    let known = request.headers().get_all(header::IF_NONE_MATCH).iter();
    let known = known.filter_map(|value| value.to_str().ok());
    let mut known = known.flat_map(|value| value.split(',')).map(str::trim);
    known.any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::path::Path;

    use super::*;

    fn ask(method: Method, path: &str, known: Option<&str>) -> Option<Answer> {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(known) = known {
            request = request.header("if-none-match", known);
        }
        answer(&request.body(()).unwrap())
    }

    #[test]
    fn every_part_is_served_and_kept_in_bounds() {
        for asset in &ASSETS {
            let answer = ask(Method::GET, asset.path, None).unwrap();
            assert_eq!(answer.status(), 200);
            let headers = answer.headers();
            assert_eq!(headers["content-type"], asset.content_type);
            assert_eq!(headers["cache-control"], "no-cache");
            assert_eq!(headers["x-content-type-options"], "nosniff");
            assert_eq!(headers["referrer-policy"], "no-referrer");
            let policy = headers["content-security-policy"].to_str().unwrap();
            assert!(
                policy.starts_with("default-src 'none';") && !policy.contains("unsafe"),
                "{policy}"
            );
            assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
        }
        let all: HashSet<_> = TAGS.iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(all.len(), ASSETS.len());
    }

    #[test]
    fn what_is_known_is_not_sent_again() {
        let first = ask(Method::GET, "/", None).unwrap();
        let tag = first.headers()["etag"].to_str().unwrap();
        for known in [
            tag.to_owned(),
            format!("W/{tag}"),
            format!("\"x\", {tag}"),
            "*".into(),
        ] {
            let again = ask(Method::GET, "/", Some(&known)).unwrap();
            assert_eq!(
                (again.status().as_u16(), again.headers()["etag"] == tag),
                (304, true),
                "{known}"
            );
        }
        assert_eq!(ask(Method::GET, "/", Some("\"x\"")).unwrap().status(), 200);
    }

    #[test]
    fn it_is_only_read_and_nothing_else_is_there() {
        assert_eq!(ask(Method::HEAD, "/", None).unwrap().status(), 200);
        assert_eq!(ask(Method::POST, "/", None).unwrap().status(), 405);
        for path in [
            "/console/",
            "/console/../main.js",
            "/console/main.js/",
            "/index.html",
            "//",
        ] {
            assert!(ask(Method::GET, path, None).is_none(), "{path}");
        }
    }

    #[test]
    fn the_folder_holds_nothing_that_is_not_served_and_the_page_nothing_that_would_be_blocked() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/admin/console");
        let files = std::fs::read_dir(folder).unwrap().count();
        assert_eq!(files, ASSETS.len());
        let html = ASSETS[0].body;
        for blocked in ["<style", " style=", "javascript:", " onclick=", "https://"] {
            assert!(!html.contains(blocked), "{blocked}");
        }
        for script in ASSETS.iter().filter(|asset| asset.content_type == SCRIPT) {
            for risky in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "document.cookie",
            ] {
                assert!(!script.body.contains(risky), "{}: {risky}", script.path);
            }
        }
    }
}
