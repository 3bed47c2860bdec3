//! Which answers are to be forgotten.

use std::sync::Arc;

use super::Tags;

/// Which answers are to be forgotten: those that all of it is true of; with nothing in it, all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Purge {
    /// Of the gateway key of this name.
    pub key: Option<Arc<str>>,
    /// Of this team.
    pub team: Option<Arc<str>>,
    /// Of the model that was asked for by this name.
    pub model: Option<Arc<str>>,
}

impl Purge {
    /// Returns whether an answer is among them.
    pub fn takes(&self, tags: &Tags) -> bool {
        let is = |wanted: &Option<Arc<str>>, has: Option<&str>| {
            wanted.is_none() || wanted.as_deref() == has
        };
        is(&self.key, Some(&tags.key))
            && is(&self.team, tags.team.as_deref())
            && is(&self.model, Some(&tags.model))
    }

    /// Writes it for Redis: `["alice",null,"gpt-4o"]`.
    pub(super) fn field(&self) -> String {
        let parts = [&self.key, &self.team, &self.model].map(|part| part.as_deref());
        // Texts and null are always JSON; what would not be forgets all.
        serde_json::to_string(&parts).unwrap_or_else(|_| "[null,null,null]".to_owned())
    }

    /// Reads what [`Purge::field`] has written. What cannot be read forgets all.
    pub(super) fn read(field: &str) -> Self {
        let [key, team, model] = serde_json::from_str(field).unwrap_or_default();
        Self { key, team, model }
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

    #[test]
    fn all_that_is_said_must_be_true() {
        let alice = Purge {
            key: Some("alice".into()),
            ..Purge::default()
        };
        let red = Purge {
            team: Some("red".into()),
            model: Some("m".into()),
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
            key: Some("a\"b,null".into()),
            team: None,
            model: Some("".into()),
        };
        for purge in [odd, Purge::default()] {
            assert_eq!(Purge::read(&purge.field()), purge);
        }
        for field in ["", "[1]", "[null,null,null,null]", "null"] {
            assert_eq!(Purge::read(field), Purge::default(), "{field}");
        }
    }
}
