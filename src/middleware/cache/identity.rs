//! Which call a client has made before: the same caller, asking in the same words.
//!
//! It says so by an `Idempotency-Key`, or as the SDKs do by `x-stainless-retry-count`. What counts as the same is narrower
//! than for answers that are kept: the bytes of the body, all headers that may change the answer and `cache-control`.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::control::Control;
use super::key::{Pieces, counting_headers};
use super::{CacheError, Params, Ways};
use crate::call::{Call, Caller, Keeps};
use crate::store::cache::Key;

/// Makes them others than all keys of answers, and than those of another version.
const VERSION: &[u8] = b"weir retry 3";
const NAME: &[u8] = b"weir idempotency 3";

/// How often the SDKs have tried before; the first time they say 0.
const RETRY_COUNT: HeaderName = HeaderName::from_static("x-stainless-retry-count");
/// <https://datatracker.ietf.org/doc/draft-ietf-httpapi-idempotency-key-header/>
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

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
    ///
    /// # Errors
    /// [`CacheError::KeyAmbiguous`]
    pub(super) fn of(call: &Call, body: &[u8]) -> Result<Self, CacheError> {
        let headers = &call.head.headers;
        let name = idempotency_key(headers)?;
        let mut pieces = of_caller(VERSION, &call.caller);
        pieces.add(call.head.target.as_str().as_bytes());
        pieces.add(name.unwrap_or_default());
        for value in headers.get_all(header::CACHE_CONTROL) {
            pieces.add(b"cache-control");
            pieces.add(value.as_bytes());
        }
        for (name, value) in counting_headers(call) {
            pieces.add(name.as_bytes());
            pieces.add(value);
        }
        // Behind it nothing follows but the body: no header can be taken for that.
        pieces.add(b"");
        Ok(Self {
            call: pieces.digest_with(body),
            name: name.map(|name| of_caller(NAME, &call.caller).digest_with(name)),
            asks_again: asks_again(headers),
            may_ask_again: name.is_some() || headers.contains_key(RETRY_COUNT),
        })
    }
}

impl Params {
    /// Returns which call it is, where its client may get its answer again.
    ///
    /// # Errors
    /// [`CacheError::KeyAmbiguous`]
    pub(super) fn identify(
        &self,
        call: &Call,
        ways: &dyn Ways,
    ) -> Result<Option<Identity>, CacheError> {
        let (Some(_), Some((bytes, _))) = (&self.retries, call.json()) else {
            return Ok(None);
        };
        let is_off =
            call.caller.keeps == Some(Keeps::Nothing) || self.rules.are_off_for(call, ways);
        let most = self.cache.bounds().entry;
        if is_off || bytes.len() as u64 > most || Control::of(&call.head.headers).no_store {
            return Ok(None);
        }
        Identity::of(call, bytes).map(Some)
    }
}

/// Returns whether a client says that it may have asked before.
pub(super) fn asks_again(headers: &HeaderMap) -> bool {
    let count = headers.get(RETRY_COUNT);
    let tries = count.and_then(|count| count.to_str().ok()?.parse::<u32>().ok());
    names(headers).next().is_some() || tries.is_some_and(|tries| tries > 0)
}

/// Returns the client's name for its call. Of two names either could be the one that it asks again by.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<&[u8]>, CacheError> {
    let mut names = names(headers);
    let name = names.next();
    match names.next() {
        None => Ok(name),
        Some(_) => Err(CacheError::KeyAmbiguous),
    }
}

/// Returns the names that say something: an empty one is none.
fn names(headers: &HeaderMap) -> impl Iterator<Item = &[u8]> {
    let names = headers.get_all(IDEMPOTENCY_KEY).iter();
    let names = names.map(HeaderValue::as_bytes);
    names.filter(|name| !name.is_empty())
}

/// Begins with what is this key's alone, and not another one's that had its name before.
fn of_caller(version: &[u8], caller: &Caller) -> Pieces {
    let mut pieces = Pieces::new(version);
    pieces.add(caller.key.as_bytes());
    pieces.add(&caller.key_origin.to_bytes());
    pieces
}
