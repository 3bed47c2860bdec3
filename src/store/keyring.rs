//! The keys that open the gateway, by their digests. A ring never changes: where keys change while requests go on, a
//! new ring takes the place of the old one, and a lookup waits for nobody.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use subtle::ConstantTimeEq;

use crate::call::Caller;
use crate::pattern::Pattern;

/// The ring that counts at the moment, for all who look at it.
pub type CurrentKeyring = Arc<ArcSwap<Keyring>>;

/// What the gateway knows of one key.
#[derive(Clone, Debug)]
pub struct KeyParams {
    /// SHA-256 of the key.
    pub digest: [u8; 32],
    /// Whose it is.
    pub caller: Arc<Caller>,
    /// The paths that it may use.
    pub paths: Arc<[Pattern]>,
    /// When it stops being good.
    pub expires: Option<SystemTime>,
    /// Whether it ends because another secret has taken its place.
    pub is_replaced: bool,
}

/// All keys, by digest.
#[derive(Debug, Default)]
pub struct Keyring {
    /// Found by the first half of the digest; the whole is compared in constant time then. What a lookup's timing
    /// could tell is about digests, from which no key follows.
    keys: HashMap<[u8; 16], KeyParams>,
}

impl Keyring {
    /// Collects the keys. Of two with one digest the later one counts.
    pub fn new(keys: impl IntoIterator<Item = KeyParams>) -> Self {
        let keys = keys.into_iter();
        Self {
            keys: keys.map(|key| (half(&key.digest), key)).collect(),
        }
    }

    /// Returns the key that has a digest.
    pub fn find(&self, digest: &[u8; 32]) -> Option<&KeyParams> {
        let known = self.keys.get(&half(digest))?;
        bool::from(known.digest.ct_eq(digest)).then_some(known)
    }

    /// Returns whose keys there are.
    pub fn callers(&self) -> impl Iterator<Item = &Caller> {
        self.keys.values().map(|key| &*key.caller)
    }
}

fn half(digest: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|i| digest[i])
}
