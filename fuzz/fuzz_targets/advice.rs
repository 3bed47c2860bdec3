//! Whatever an upstream writes into its headers, the wait is none or one with a bound.
#![no_main]

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use weir::upstream::advice::Advice;

fuzz_target!(|data: &[u8]| {
    let names = [
        "retry-after",
        "retry-after-ms",
        "x-ratelimit-reset-requests",
        "x-ratelimit-reset-tokens",
        "x-should-retry",
    ];
    let mut headers = HeaderMap::new();
    headers.insert("x-ratelimit-remaining-requests", HeaderValue::from(0));
    headers.insert("x-ratelimit-remaining-tokens", HeaderValue::from(0));
    for (name, value) in names.iter().zip(data.split(|byte| *byte == b'\n')) {
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.insert(*name, value);
        }
    }
    let advice = Advice::read(&headers, SystemTime::UNIX_EPOCH);
    assert!(advice.wait.unwrap_or_default() <= Duration::from_secs(366 * 24 * 3600));
});
