//! What a client is told of the cache: `Cache-Status` (RFC 9211).

use std::time::Duration;

use http::HeaderValue;

use super::judge::Ask;

/// `weir; hit; ttl=3599`
pub(super) fn hit(left: Option<Duration>) -> HeaderValue {
    let left = left.unwrap_or_default().as_secs();
    value(format!("weir; hit; ttl={left}"))
}

/// `weir; fwd=miss`; or `fwd=request`, where the client wants no answer that is there already.
pub(super) fn miss(ask: &Ask) -> HeaderValue {
    HeaderValue::from_static(match ask.control.no_cache {
        true => "weir; fwd=request",
        false => "weir; fwd=miss",
    })
}

/// `weir; fwd=miss; collapsed; detail=joined`
pub(super) fn joined() -> HeaderValue {
    HeaderValue::from_static("weir; fwd=miss; collapsed; detail=joined")
}

/// `weir; hit; ttl=42; detail=retry`: the answer that the client did not get the first time.
pub(super) fn hit_again(left: Option<Duration>) -> HeaderValue {
    let left = left.unwrap_or_default().as_secs();
    value(format!("weir; hit; ttl={left}; detail=retry"))
}

/// `weir; fwd=bypass; collapsed; detail=retry`: the call that the client has made before is still under way. Like
/// [`miss`] where it is one that is looked up.
pub(super) fn joined_again(ask: Option<&Ask>) -> HeaderValue {
    HeaderValue::from_static(match ask.map(|ask| ask.control.no_cache) {
        None => "weir; fwd=bypass; collapsed; detail=retry",
        Some(false) => "weir; fwd=miss; collapsed; detail=retry",
        Some(true) => "weir; fwd=request; collapsed; detail=retry",
    })
}

/// `weir; hit; ttl=-30; detail=stale-if-error`
pub(super) fn stale(since: Duration) -> HeaderValue {
    // Upwards: nothing is stale by none at all.
    let since = since.as_millis().div_ceil(1000).max(1);
    value(format!("weir; hit; ttl=-{since}; detail=stale-if-error"))
}

/// `weir; fwd=bypass; detail=not-deterministic`
pub(super) fn bypass(why: &str) -> HeaderValue {
    value(format!("weir; fwd=bypass; detail={why}"))
}

fn value(text: String) -> HeaderValue {
    // Words and numbers: there is nothing in it that a header cannot have.
    HeaderValue::try_from(text).unwrap_or_else(|_| HeaderValue::from_static("weir"))
}
