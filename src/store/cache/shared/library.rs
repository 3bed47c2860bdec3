//! The functions that Redis has for it, and where everything lies there.

use std::fmt::Write as _;

use redis::Cmd;
use sha2::{Digest, Sha256};

use super::super::Key;
use super::super::record::{Stamp, VERSION};
use crate::store::redis::Library;

const CODE: &str = include_str!("cache.lua");
/// What stands for their name.
const LIBRARY: &str = "@LIBRARY@";

/// The functions' name, which is made of their code.
#[derive(Clone, Debug)]
pub(super) struct Functions(String);

/// Returns the functions that Redis is to have.
pub fn library() -> Library {
    let functions = Functions::new();
    let own = fastrand::u64(..);
    let mut probe = functions.call("probe");
    probe.arg(2);
    for name in ["purges", "lease"] {
        probe.arg(format!("weir:{{cache}}:{VERSION}:probe:{own:016x}:{name}"));
    }
    Library {
        code: CODE.replace(LIBRARY, &functions.0),
        home: "weir:{cache}:",
        probe,
    }
}

impl Functions {
    pub(super) fn new() -> Self {
        let digest = Sha256::digest(CODE);
        let mut name = "weir_cache_".to_owned();
        for byte in digest.iter().take(4) {
            let _ = write!(name, "{byte:02x}");
        }
        Self(name)
    }

    pub(super) fn call(&self, function: &str) -> Cmd {
        let mut command = redis::cmd("FCALL");
        command.arg(format!("{}_{function}", self.0));
        command
    }
}

/// Returns where purges lie: in a cluster with the functions.
pub(super) fn purges() -> String {
    format!("weir:{{cache}}:{VERSION}:purges")
}

/// Returns where the lease of a call lies: with the functions, too, and small. Nobody who asks after a purge waits for what
/// was asked for before it.
pub(super) fn lease(key: &Key, stamp: Stamp) -> String {
    format!(
        "weir:{{cache}}:{VERSION}:lease:{}:{}",
        hex(key),
        stamp.purges
    )
}

/// Returns where an answer lies: in a cluster anywhere.
pub(super) fn answer(key: &Key) -> String {
    format!("weir:cache:{VERSION}:{{{}}}", hex(key))
}

fn hex(key: &Key) -> String {
    let mut text = String::with_capacity(2 * key.0.len());
    for byte in key.0 {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_spread_and_all_else_lies_with_the_functions() {
        let key = Key([0xab; 32]);
        let digits = "ab".repeat(32);
        assert_eq!(answer(&key), format!("weir:cache:1:{{{digits}}}"));
        let stamp = Stamp {
            epoch: 9,
            purges: 3,
        };
        let wanted = format!("weir:{{cache}}:1:lease:{digits}:3");
        assert_eq!(lease(&key, stamp), wanted);
        assert!(purges().starts_with(library().home));
        assert!(!library().code.contains(LIBRARY));
    }
}
