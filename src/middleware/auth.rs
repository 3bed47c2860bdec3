//! Finds out who calls. Costs the same for every request and reads the head alone: nothing of the body has been read
//! when a caller is turned away.
//!
//! The presented key is hashed first; only the digest is ever looked up, compared (in constant time) and kept. The
//! headers that carry keys end here.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::SystemTime;

use futures_util::future::Either;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use tower::{Layer, Service};

use crate::call::{Authenticated, Caller, Record, Routed};
use crate::keys;
use crate::openai::endpoint::Target;
use crate::store::keyring::{CurrentKeyring, KeyParams, Keyring};

/// Why a caller is turned away.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// No key.
    #[error("no key")]
    Missing,
    /// Several Authorization headers.
    #[error("several Authorization headers")]
    Ambiguous,
    /// A key that nobody has.
    #[error("unknown key")]
    Unknown {
        /// The part of the key that is public, where it has our form.
        prefix: Option<String>,
    },
    /// A key whose time is over.
    #[error("expired key")]
    Expired,
    /// Another secret of the same key has taken its place, and its grace is over.
    #[error("replaced key")]
    Replaced,
    /// The key may not use this path.
    #[error("path not allowed")]
    Path {
        /// The path.
        path: String,
        /// Who asked for it.
        caller: Arc<Caller>,
    },
}

/// Builds [`Auth`].
#[derive(Clone, Debug)]
pub struct AuthLayer {
    keyring: CurrentKeyring,
}

/// The service of this layer.
#[derive(Clone, Debug)]
pub struct Auth<S> {
    inner: S,
    keyring: CurrentKeyring,
}

const API_KEY_HEADERS: [HeaderName; 2] = [
    HeaderName::from_static("api-key"),
    HeaderName::from_static("x-api-key"),
];

/// Browsers cannot set headers on a WebSocket; OpenAI's realtime clients name the key as a subprotocol instead.
const KEY_SUBPROTOCOL: &[u8] = b"openai-insecure-api-key.";

/// Returns who presents `key` at the time `now`, asking for what lies at `target`.
fn authenticate(
    ring: &Keyring,
    key: &[u8],
    now: SystemTime,
    target: &Target,
    path: &str,
) -> Result<Arc<Caller>, AuthError> {
    let Some(known) = ring.find(&keys::digest(key)) else {
        let prefix = std::str::from_utf8(key)
            .ok()
            .and_then(keys::public_prefix)
            .map(str::to_owned);
        return Err(AuthError::Unknown { prefix });
    };
    admit(known, now, target, path)?;
    Ok(Arc::clone(&known.caller))
}

/// Returns whether the holder of a key may ask at the time `now` for what lies at `target`.
///
/// # Errors
/// [`AuthError`]
pub fn admit(
    known: &KeyParams,
    now: SystemTime,
    target: &Target,
    path: &str,
) -> Result<(), AuthError> {
    if known.expires.is_some_and(|expires| expires <= now) {
        return Err(match known.is_replaced {
            true => AuthError::Replaced,
            false => AuthError::Expired,
        });
    }
    // The legacy engine routes are other names of paths: a key that may use either may use both.
    let canonical = target.endpoint.canonical_path().unwrap_or(path);
    if !known
        .paths
        .iter()
        .any(|pattern| pattern.matches(path) || pattern.matches(canonical))
    {
        return Err(AuthError::Path {
            path: path.to_owned(),
            caller: Arc::clone(&known.caller),
        });
    }
    Ok(())
}

/// Takes the key out of the headers, and every header that could carry one with it.
fn take_key(headers: &mut HeaderMap) -> Result<Vec<u8>, AuthError> {
    let several = headers.get_all(header::AUTHORIZATION).iter().count() > 1;
    let authorization = headers.remove(header::AUTHORIZATION);
    let api_keys = API_KEY_HEADERS.map(|name| headers.remove(name));
    let subprotocol = take_subprotocol(headers);
    if several {
        return Err(AuthError::Ambiguous);
    }
    let bearer = authorization
        .as_ref()
        .and_then(|value| keys::bearer(value.as_bytes()));
    let api_key = api_keys
        .iter()
        .flatten()
        .map(HeaderValue::as_bytes)
        .map(<[u8]>::trim_ascii)
        .find(|k| !k.is_empty());
    bearer
        .or(api_key)
        .map(<[u8]>::to_vec)
        .or(subprotocol)
        .ok_or(AuthError::Missing)
}

/// Takes the key's tokens out of the list of subprotocols, which may stand on several lines (RFC 6455, section 11.3.4).
fn take_subprotocol(headers: &mut HeaderMap) -> Option<Vec<u8>> {
    let lines = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter();
    let tokens: Vec<&[u8]> = lines
        .flat_map(|line| line.as_bytes().split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|token| !token.is_empty())
        .collect();
    let key = tokens
        .iter()
        .find_map(|token| token.strip_prefix(KEY_SUBPROTOCOL))?
        .to_vec();
    let others: Vec<&[u8]> = tokens
        .into_iter()
        .filter(|token| !token.starts_with(KEY_SUBPROTOCOL))
        .collect();
    let others = HeaderValue::from_bytes(&others.join(&b", "[..])).ok();
    headers.remove(header::SEC_WEBSOCKET_PROTOCOL);
    if let Some(others) = others.filter(|others| !others.is_empty()) {
        headers.insert(header::SEC_WEBSOCKET_PROTOCOL, others);
    }
    Some(key)
}

// === impl AuthLayer ===

impl AuthLayer {
    /// Lets in who has a key on the ring that is current when they come.
    pub fn new(keyring: CurrentKeyring) -> Self {
        Self { keyring }
    }
}

impl<S> Layer<S> for AuthLayer {
    type Service = Auth<S>;

    fn layer(&self, inner: S) -> Auth<S> {
        Auth {
            inner,
            keyring: Arc::clone(&self.keyring),
        }
    }
}

impl<S, B> Service<Routed<B>> for Auth<S>
where
    S: Service<Authenticated<B>>,
    S::Error: From<AuthError>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<std::future::Ready<Result<S::Response, S::Error>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Routed<B>) -> Self::Future {
        let Routed {
            record,
            target,
            mut parts,
            body,
        } = request;
        let caller = take_key(&mut parts.headers).and_then(|key| {
            let ring = self.keyring.load();
            authenticate(&ring, &key, SystemTime::now(), &target, parts.uri.path())
        });
        match caller {
            Ok(caller) => {
                note(&record, &caller);
                Either::Right(self.inner.call(Authenticated {
                    caller,
                    record,
                    target,
                    parts,
                    body,
                }))
            }
            Err(error) => {
                if let AuthError::Path { caller, .. } = &error {
                    note(&record, caller);
                }
                Either::Left(std::future::ready(Err(error.into())))
            }
        }
    }
}

fn note(record: &Record, caller: &Caller) {
    let mut facts = record.facts();
    facts.key = Some(Arc::clone(&caller.key));
    facts.team.clone_from(&caller.team);
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::openai::endpoint::Endpoint;
    use crate::pattern::Pattern;
    use crate::store::keyring::KeyParams;

    const KEY: &[u8] = b"sk-alice-0123456789";

    fn keyring(paths: &[&str], expires: Option<SystemTime>) -> Keyring {
        let caller = Caller::configured("alice");
        let paths = paths
            .iter()
            .map(|path| Pattern::parse(path).unwrap())
            .collect();
        Keyring::new([KeyParams {
            digest: keys::digest(KEY),
            caller: Arc::new(caller),
            paths,
            expires,
            is_replaced: false,
        }])
    }

    fn target(endpoint: Endpoint) -> Target {
        Target {
            endpoint,
            engine: None,
        }
    }

    fn headers(list: &[(&'static str, &str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_str(value).unwrap(),
                )
            })
            .collect()
    }

    #[test]
    fn keys_are_found_in_each_of_their_headers() {
        for (name, value) in [
            ("authorization", "Bearer k-1"),
            ("authorization", "bearer   k-1 "),
            ("api-key", "k-1"),
            ("x-api-key", "k-1"),
            (
                "sec-websocket-protocol",
                "realtime, openai-insecure-api-key.k-1",
            ),
        ] {
            let mut headers = headers(&[(name, value)]);
            assert_eq!(take_key(&mut headers).unwrap(), b"k-1", "{name}");
            assert!(!format!("{headers:?}").contains("k-1"), "{name} travels on");
        }
    }

    #[test]
    fn the_other_subprotocols_travel_on() {
        let mut headers = headers(&[(
            "sec-websocket-protocol",
            "realtime, openai-insecure-api-key.k, v1",
        )]);
        take_key(&mut headers).unwrap();
        assert_eq!(headers["sec-websocket-protocol"], "realtime, v1");
    }

    #[test]
    fn no_line_of_subprotocols_takes_the_key_along() {
        let mut headers = headers(&[("authorization", "Bearer k")]);
        for line in [
            "realtime",
            "v1, openai-insecure-api-key.k",
            "openai-insecure-api-key.k",
        ] {
            headers.append("sec-websocket-protocol", HeaderValue::from_static(line));
        }
        take_key(&mut headers).unwrap();
        assert_eq!(headers["sec-websocket-protocol"], "realtime, v1");
        assert_eq!(headers.get_all("sec-websocket-protocol").iter().count(), 1);
    }

    #[test]
    fn no_key_is_told_apart_from_two() {
        assert!(matches!(
            take_key(&mut headers(&[("authorization", "Basic abc")])),
            Err(AuthError::Missing)
        ));
        assert!(matches!(
            take_key(&mut headers(&[("authorization", "Bearer ")])),
            Err(AuthError::Missing)
        ));
        let mut two = headers(&[("authorization", "Bearer a")]);
        two.append("authorization", HeaderValue::from_static("Bearer b"));
        assert!(matches!(take_key(&mut two), Err(AuthError::Ambiguous)));
    }

    #[test]
    fn only_the_whole_key_opens() {
        let ring = keyring(&["/v1/*"], None);
        let open = |key| {
            authenticate(
                &ring,
                key,
                SystemTime::now(),
                &target(Endpoint::Models),
                "/v1/models",
            )
        };
        assert_eq!(&*open(KEY).unwrap().key, "alice");
        assert!(matches!(
            open(&KEY[..KEY.len() - 1]),
            Err(AuthError::Unknown { prefix: None })
        ));
    }

    #[test]
    fn a_key_ends_at_its_hour() {
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let ring = keyring(&["/v1/*"], Some(end));
        let open = |now| authenticate(&ring, KEY, now, &target(Endpoint::Models), "/v1/models");
        assert!(open(end - Duration::from_secs(1)).is_ok());
        assert!(matches!(open(end), Err(AuthError::Expired)));
    }

    #[test]
    fn who_holds_a_secret_that_was_replaced_is_told_so_when_its_time_is_over() {
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let known = KeyParams {
            is_replaced: true,
            ..keyring(&[], Some(end))
                .find(&keys::digest(KEY))
                .unwrap()
                .clone()
        };
        let told = admit(&known, end, &target(Endpoint::Models), "/v1/models");
        assert!(matches!(told, Err(AuthError::Replaced)));
    }

    #[test]
    fn paths_are_allowed_by_either_of_their_names() {
        let ring = keyring(&["/v1/completions"], None);
        let open =
            |endpoint, path| authenticate(&ring, KEY, SystemTime::now(), &target(endpoint), path);
        assert!(open(Endpoint::Completions, "/v1/engines/ada/completions").is_ok());
        assert!(matches!(
            open(Endpoint::PassThrough, "/v1/files"),
            Err(AuthError::Path { .. })
        ));
    }
}
