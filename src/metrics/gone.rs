//! Series of what is no longer there: keys that were revoked, upstreams that a reload took out.
//!
//! They stay for an hour, so that the last of them is scraped and seen, and then make room for others.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::NONE;
use super::family::{Forget, OTHER};

/// How long series stay: longer than anybody waits between two scrapes, or looks back for a rate.
const STAY: Duration = Duration::from_secs(3600);
/// How often is looked whether some are gone.
const PERIOD: Duration = Duration::from_secs(60);

/// The names that there are now.
#[derive(Clone, Debug, Default)]
pub struct Known<'a> {
    /// Of keys.
    pub keys: HashSet<&'a str>,
    /// Of teams.
    pub teams: HashSet<&'a str>,
    /// The configured patterns of models.
    pub models: HashSet<&'a str>,
    /// Of upstreams.
    pub upstreams: HashSet<&'a str>,
}

/// Since when names are gone.
#[derive(Default)]
pub(super) struct Gone {
    since: HashMap<(&'static str, Box<str>), Instant>,
    swept: Option<Instant>,
}

impl Known<'_> {
    fn has(&self, label: &str, value: &str) -> bool {
        let is_one = |names: &HashSet<&str>| names.contains(value);
        if matches!(value, NONE | OTHER) {
            return true;
        }
        match label {
            "key" => is_one(&self.keys),
            "team" => is_one(&self.teams),
            "model" => is_one(&self.models),
            "upstream" => is_one(&self.upstreams),
            "name" => is_one(&self.keys) || is_one(&self.teams) || is_one(&self.models),
            _ => true,
        }
    }
}

impl Gone {
    pub(super) fn sweep(&mut self, families: &[Box<dyn Forget>], known: &Known<'_>, now: Instant) {
        let is_early = |swept: Instant| now.saturating_duration_since(swept) < PERIOD;
        if self.swept.is_some_and(is_early) {
            return;
        }
        self.swept = Some(now);
        let mut missing = HashMap::new();
        for family in families {
            family.each_open(&mut |label, value| {
                if !known.has(label, value) {
                    let name = (label, Box::from(value));
                    let since = self.since.get(&name).copied().unwrap_or(now);
                    missing.insert(name, since);
                }
            });
        }
        let is_long = |since: Instant| now.saturating_duration_since(since) >= STAY;
        let (gone, missing): (HashMap<_, _>, HashMap<_, _>) = missing
            .into_iter()
            .partition(|(_, since): &(_, Instant)| is_long(*since));
        self.since = missing;
        if gone.is_empty() {
            return;
        }
        for family in families {
            family.forget(&|label, value| gone.contains_key(&(label, Box::from(value))));
        }
    }
}
