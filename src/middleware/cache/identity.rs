//! Which call a client has made before: the same caller, asking in the same words.
//!
//! It says so by an `Idempotency-Key`, or as the SDKs do by `x-stainless-retry-count`. What counts as the same is narrower
//! than for answers that are kept: the bytes of the body, all headers that may change the answer and `cache-control`.

use http::header;

use super::control::Control;
use super::key::counting_headers;
use super::{Params, Ways};
use crate::call::{Call, Caller, Keeps};
use crate::store::cache::Key;

/// Makes them others than all keys of answers, and than those of another version.
const VERSION: &[u8] = b"weir retry 2";
const NAME: &[u8] = b"weir idempotency 2";

/// How often the SDKs have tried before; the first time they say 0.
const RETRY_COUNT: &str = "x-stainless-retry-count";
/// <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// Which call it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) call: Key,
    /// What stands for its `Idempotency-Key`, which is this caller's alone.
    pub(super) name: Option<Key>,
    /// Whether the client says that it may have asked for it before.
    pub(super) asks_again: bool,
    /// Whether the client is one that asks again when it hears nothing.
    pub(super) may_ask_again: bool,
}

impl Identity {
    /// Returns which call it is.
    pub(super) fn of(call: &Call, body: &[u8]) -> Self {
        let headers = &call.head.headers;
        let name = headers.get(IDEMPOTENCY_KEY).map(|name| name.as_bytes());
        let name = name.filter(|name| !name.is_empty());
        let mut hasher = Hasher::of_caller(VERSION, &call.caller);
        hasher.add(call.head.target.as_str().as_bytes());
        hasher.add(name.unwrap_or_default());
        for value in headers.get_all(header::CACHE_CONTROL) {
            hasher.add(b"cache-control");
            hasher.add(value.as_bytes());
        }
        for (name, value) in counting_headers(call) {
            hasher.add(name.as_bytes());
            hasher.add(value);
        }
        // Behind it nothing follows: no header can be taken for it.
        hasher.add(b"");
        hasher.add(body);
        let count = headers.get(RETRY_COUNT);
        let tries = count.and_then(|count| count.to_str().ok()?.parse::<u32>().ok());
        Self {
            call: hasher.finish(),
            name: name.map(|name| {
                let mut hasher = Hasher::of_caller(NAME, &call.caller);
                hasher.add(name);
                hasher.finish()
            }),
            asks_again: name.is_some() || tries.is_some_and(|tries| tries > 0),
            may_ask_again: name.is_some() || count.is_some(),
        }
    }
}

impl Params {
    /// Returns which call it is, where its client may get its answer again.
    pub(super) fn identify(&self, call: &Call, ways: &dyn Ways) -> Option<Identity> {
        let _ = self.retries.as_ref()?;
        let (bytes, _) = call.json()?;
        let is_off =
            call.caller.keeps == Some(Keeps::Nothing) || self.rules.are_off_for(call, ways);
        let most = self.cache.bounds().entry;
        if is_off || bytes.len() as u64 > most || Control::of(&call.head.headers).no_store {
            return None;
        }
        Some(Identity::of(call, bytes))
    }
}

/// Hashes parts, each with its length: no two rows of parts are one text.
struct Hasher(blake3::Hasher);

impl Hasher {
    /// Begins with what is this key's alone, and not another one's that had its name before.
    fn of_caller(version: &[u8], caller: &Caller) -> Self {
        let mut hasher = Self(blake3::Hasher::new());
        hasher.add(version);
        hasher.add(caller.key.as_bytes());
        hasher.add(&caller.key_origin.to_bytes());
        hasher
    }

    fn add(&mut self, part: &[u8]) {
        self.0.update(&(part.len() as u64).to_le_bytes());
        self.0.update(part);
    }

    fn finish(&self) -> Key {
        Key(*self.0.finalize().as_bytes())
    }
}
