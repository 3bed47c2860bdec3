//! Which answers are to be forgotten.

use super::{Cache, Tags};
use crate::pattern::Pattern;
use crate::store::retries::Retries;

/// Which answers are to be forgotten: those that all of it is true of; with nothing in it, all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Purge {
    /// Of the gateway keys of such names.
    pub key: Option<Pattern>,
    /// Of these teams.
    pub team: Option<Pattern>,
    /// Of the models that were asked for by such names.
    pub model: Option<Pattern>,
}

impl Purge {
    /// Returns whether an answer is among them.
    pub fn takes(&self, tags: &Tags) -> bool {
        let is = |wanted: &Option<Pattern>, has: Option<&str>| {
            wanted
                .as_ref()
                .is_none_or(|pattern| has.is_some_and(|name| pattern.matches(name)))
        };
        is(&self.key, Some(&tags.key))
            && is(&self.team, tags.team.as_deref())
            && is(&self.model, Some(&tags.model))
    }

    /// Writes it for Redis: `["alice",null,"gpt-4o"]`.
    pub(super) fn field(&self) -> String {
        let parts =
            [&self.key, &self.team, &self.model].map(|part| part.as_ref().map(Pattern::as_str));
        // Texts and null are always JSON; what would not be forgets all.
        serde_json::to_string(&parts).unwrap_or_else(|_| "[null,null,null]".to_owned())
    }

    /// Reads what [`Purge::field`] has written. What cannot be read forgets all.
    pub(super) fn read(field: &str) -> Self {
        let parts: [Option<String>; 3] = serde_json::from_str(field).unwrap_or_default();
        let parsed = parts.map(|part| part.map(|text| Pattern::parse(&text)).transpose());
        match parsed {
            [Ok(key), Ok(team), Ok(model)] => Self { key, team, model },
            _ => Self::default(),
        }
    }
}

/// How many answers were forgotten. One that was kept in both places is in both numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Of those that are kept for all who may share them.
    pub shared: u64,
    /// Of those that are kept for clients that ask again.
    pub for_retries: u64,
}

/// Forgets the answers that `is_gone` says so of, those for clients that ask again too.
pub fn purge(cache: &Cache, retries: &Retries, is_gone: impl Fn(&Tags) -> bool) -> Forgotten {
    // The cache first: it counts purges, and what was under way before is kept nowhere any more.
    let shared = cache.purge(&is_gone);
    Forgotten {
        shared,
        for_retries: retries.purge(&is_gone),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(key: &str, team: Option<&str>, model: &str) -> Tags {
        Tags {
            key: key.into(),
            team: team.map(Into::into),
            model: model.into(),
            endpoint: "/v1/embeddings",
        }
    }

    fn pattern(text: &str) -> Option<Pattern> {
        Some(Pattern::parse(text).unwrap())
    }

    #[test]
    fn all_that_is_said_must_be_true() {
        let alice = Purge {
            key: pattern("alice"),
            ..Purge::default()
        };
        let red = Purge {
            team: pattern("r*"),
            model: pattern("m"),
            ..Purge::default()
        };
        for (purge, tags, takes) in [
            (&Purge::default(), tags("bob", None, "n"), true),
            (&alice, tags("alice", Some("red"), "n"), true),
            (&alice, tags("bob", Some("red"), "n"), false),
            (&red, tags("bob", Some("red"), "m"), true),
            (&red, tags("bob", Some("red"), "n"), false),
            (&red, tags("bob", None, "m"), false),
        ] {
            assert_eq!(purge.takes(&tags), takes, "{purge:?} {tags:?}");
        }
    }

    #[test]
    fn it_is_read_as_it_was_written_and_all_is_forgotten_where_it_is_not() {
        let odd = Purge {
            key: pattern("a\"b,null"),
            team: None,
            model: pattern("gpt-*"),
        };
        for purge in [odd, Purge::default()] {
            assert_eq!(Purge::read(&purge.field()), purge);
        }
        for field in [
            "",
            "[1]",
            "[\"\",null,null]",
            "[null,null,null,null]",
            "null",
        ] {
            assert_eq!(Purge::read(field), Purge::default(), "{field}");
        }
    }
}
