//! A key as an operator names it: by its name, its id, or the key itself.

use jiff::Timestamp;

use super::{Directory, Entries, KeyView};
use crate::keys;
use crate::store::keys::Previous;

/// A key that was found, whether it opens anything or not.
#[derive(Clone, Debug)]
pub struct Found {
    /// What may be shown of it.
    pub view: KeyView,
    /// SHA-256 of the secret that was meant, by which the ring knows it.
    pub digest: [u8; 32],
    /// Whether that is the secret that it had before it was rotated.
    pub is_previous: bool,
}

impl Directory {
    /// Returns the key of a name, of an id, or of a secret, the one before its rotation too; the configuration's, where
    /// both have the name.
    pub fn find(&self, which: &str) -> Option<Found> {
        let (entries, now) = (self.entries(), Timestamp::now());
        let named = entries.find_named(which, now);
        named.or_else(|| entries.find_secret(&keys::digest(which.as_bytes()), now))
    }
}

impl Entries {
    fn find_named(&self, which: &str, now: Timestamp) -> Option<Found> {
        let is_previous = |previous: &&Previous| *previous.id == *which;
        let digest = match (self.configured_key(which), self.made_key(which)) {
            (Some(key), _) => key.digest,
            (None, Some(key)) => match key.previous.as_ref().filter(is_previous) {
                Some(previous) => return self.find_secret(&previous.digest, now),
                None => key.digest,
            },
            (None, None) => return None,
        };
        Some(Found {
            view: self.key_view(which, now)?,
            digest,
            is_previous: false,
        })
    }

    fn find_secret(&self, digest: &[u8; 32], now: Timestamp) -> Option<Found> {
        let mut configured = self.configured.keys.iter();
        if let Some(key) = configured.find(|key| key.digest == *digest) {
            return self.find_named(&key.terms.name, now);
        }
        let is_previous = |previous: &Previous| previous.digest == *digest;
        let mut made = self.made.keys.values();
        let key = made
            .find(|key| key.digest == *digest || key.previous.as_ref().is_some_and(is_previous))?;
        Some(Found {
            view: self.view_of(key, now),
            digest: *digest,
            is_previous: key.digest != *digest,
        })
    }
}
