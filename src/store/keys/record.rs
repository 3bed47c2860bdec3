//! Keys and teams as several gateways share them: one *record* for each name, and a rule by which two records of a name
//! become one. The rule is the same whoever applies it, in whatever order and however often, so all gateways end at the
//! same (a join of a semilattice).
//!
//! - Of two changes the one with the greater version stays (see [`Author::version`](super::Author::version)); where two
//!   are made at once, in the same microsecond, the one whose text is greater. What is said of a key and its secrets are
//!   two things: an edit does not undo a rotation that it did not know of.
//! - Of two keys of one name, made at two gateways that could not hear each other, the older one keeps the name. The other
//!   one's secret opens nothing any more.
//! - What was revoked stays so, whatever else is changed, and for whichever key of the name.
//!
//! A record is written as JSON, with what is said of a key or a team spelled as the admin API spells it, and judged as that
//! does. There is no secret in it, only digests.

use std::cmp::Ordering;
use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Previous, RuntimeKey, RuntimeTeam, form};
use crate::keys;

/// The latest time there is in records, in microseconds: numbers above are not whole everywhere.
pub(super) const MOST: i64 = 1 << 53;

/// A key or a team.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are of the larger kind"
)]
pub enum Record {
    /// A key.
    Key(RuntimeKey),
    /// A team.
    Team(RuntimeTeam),
    /// The end of a team.
    NoTeam {
        /// Its name.
        name: Arc<str>,
        /// The version of its end.
        version: i64,
    },
}

/// Why a text is no record.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(String);

/// What orders records, also those that cannot be read: a newer Weir may write what this one does not know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    created: i64,
    version: i64,
    rotated: i64,
    revoked: Option<i64>,
}

/// The same as far as it is there.
#[derive(Deserialize)]
struct HeadText {
    created: Option<i64>,
    version: Option<i64>,
    rotated: Option<i64>,
    revoked: Option<i64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyText {
    created: i64,
    version: i64,
    rotated: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    revoked: Option<i64>,
    id: String,
    digest: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<PreviousText>,
    key: Map<String, Value>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PreviousText {
    id: String,
    digest: String,
    expires: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TeamText {
    #[serde(default)]
    created: i64,
    version: i64,
    /// `None`: it was deleted.
    team: Option<Map<String, Value>>,
}

impl Record {
    /// Returns what the record is kept under: no other has it.
    pub fn field(&self) -> String {
        match self {
            Self::Key(key) => Self::field_of_key(&key.terms.name),
            Self::Team(team) => Self::field_of_team(&team.terms.name),
            Self::NoTeam { name, .. } => Self::field_of_team(name),
        }
    }

    /// Returns what the record of a key is kept under.
    pub fn field_of_key(name: &str) -> String {
        format!("key:{name}")
    }

    /// Returns what the record of a team is kept under.
    pub fn field_of_team(name: &str) -> String {
        format!("team:{name}")
    }

    /// Writes the record.
    pub fn text(&self) -> String {
        let text = match self {
            Self::Key(key) => serde_json::to_string(&KeyText::of(key)),
            Self::Team(team) => serde_json::to_string(&TeamText {
                created: team.created.as_microsecond(),
                version: team.version,
                team: Some(named(&team.terms.name, form::of_team(&team.terms))),
            }),
            Self::NoTeam { version, .. } => serde_json::to_string(&TeamText {
                created: 0,
                version: *version,
                team: None,
            }),
        };
        // Maps with texts as keys always serialize.
        text.unwrap_or_default()
    }

    /// Reads the record that is kept under a field.
    ///
    /// # Errors
    /// [`Unreadable`], for whatever the admin API would refuse, too.
    pub fn read(field: &str, text: &str) -> Result<Self, Unreadable> {
        let record = match field.split_once(':') {
            Some(("key", _)) => Self::Key(parse::<KeyText>(text)?.key()?),
            Some(("team", name)) => parse::<TeamText>(text)?.team(name)?,
            Some(_) | None => return Err(unreadable("is of a kind that is not known")),
        };
        match record.field() == field {
            true => Ok(record),
            false => Err(unreadable("is kept under another name")),
        }
    }

    /// Returns what becomes of two records of one field.
    pub fn join(self, other: Self) -> Self {
        match (self, other) {
            (Self::Key(one), Self::Key(other)) => Self::Key(join_keys(one, other)),
            (one, other) => {
                let order = one.version().cmp(&other.version());
                match order.then_with(|| one.text().cmp(&other.text())) {
                    Ordering::Less => other,
                    Ordering::Equal | Ordering::Greater => one,
                }
            }
        }
    }

    /// Returns whether the record says something that one which cannot be read does not. Where it does not, the other one is
    /// left alone: who wrote it knows more.
    pub fn adds_to(&self, other: Head) -> bool {
        let Self::Key(key) = self else {
            return self.version() > other.version;
        };
        if key.revoked.is_none() && other.revoked.is_some() {
            // What was revoked stays so.
            return false;
        }
        let revokes = key.revoked.is_some() && other.revoked.is_none();
        let changes = key.version > other.version || key.rotated > other.rotated;
        revokes
            || match key.created.as_microsecond().cmp(&other.created) {
                Ordering::Less => true,
                Ordering::Equal => changes,
                Ordering::Greater => false,
            }
    }

    fn version(&self) -> i64 {
        match self {
            Self::Key(key) => key.version,
            Self::Team(team) => team.version,
            Self::NoTeam { version, .. } => *version,
        }
    }
}

fn join_keys(one: RuntimeKey, other: RuntimeKey) -> RuntimeKey {
    let revoked = match (one.revoked, other.revoked) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    };
    let joined = match one.created.cmp(&other.created) {
        Ordering::Less => one,
        Ordering::Greater => other,
        Ordering::Equal => {
            let text = |key: &RuntimeKey| Value::from(form::of_key(&key.terms)).to_string();
            let by_terms = one.version.cmp(&other.version);
            let by_terms = by_terms.then_with(|| text(&one).cmp(&text(&other)));
            let secrets = |key: &RuntimeKey| {
                let previous = key.previous.as_ref().map(PreviousText::of);
                (key.rotated, Arc::clone(&key.id), key.digest, previous)
            };
            let by_secrets = secrets(&one).cmp(&secrets(&other));
            let (terms, secrets) = match (by_terms.is_ge(), by_secrets.is_ge()) {
                (true, true) => (&one, &one),
                (true, false) => (&one, &other),
                (false, true) => (&other, &one),
                (false, false) => (&other, &other),
            };
            RuntimeKey {
                terms: terms.terms.clone(),
                version: terms.version,
                ..secrets.clone()
            }
        }
    };
    RuntimeKey { revoked, ..joined }
}

impl Head {
    /// Reads the head of a record; what is not there is older than all.
    pub fn read(text: &str) -> Self {
        let head = serde_json::from_str::<HeadText>(text).ok();
        let number = |read: fn(&HeadText) -> Option<i64>| {
            let number = head.as_ref().and_then(read);
            number.filter(|number| (0..MOST).contains(number))
        };
        Self {
            created: number(|head| head.created).unwrap_or(i64::MAX),
            version: number(|head| head.version).unwrap_or(i64::MIN),
            rotated: number(|head| head.rotated).unwrap_or(i64::MIN),
            revoked: number(|head| head.revoked),
        }
    }

    /// Returns when the key was revoked, if it was.
    pub fn revoked(&self) -> Option<Timestamp> {
        Timestamp::from_microsecond(self.revoked?).ok()
    }
}

// === texts ===

impl KeyText {
    fn of(key: &RuntimeKey) -> Self {
        Self {
            created: key.created.as_microsecond(),
            version: key.version,
            rotated: key.rotated,
            revoked: key.revoked.map(Timestamp::as_microsecond),
            id: key.id.to_string(),
            digest: keys::format_hash(&key.digest),
            previous: key.previous.as_ref().map(PreviousText::of),
            key: named(&key.terms.name, form::of_key(&key.terms)),
        }
    }

    fn key(self) -> Result<RuntimeKey, Unreadable> {
        check(self.created, self.version)?;
        check(self.created, self.rotated)?;
        let previous = self.previous.map(|previous| {
            Ok::<_, Unreadable>(Previous {
                id: id(previous.id)?,
                digest: digest(&previous.digest)?,
                expires: time(previous.expires)?,
            })
        });
        // A time that is over may be said of a key that was made before.
        let terms = form::new_key(self.key, Timestamp::MIN);
        Ok(RuntimeKey {
            id: id(self.id)?,
            digest: digest(&self.digest)?,
            terms: terms.map_err(|invalid| unreadable(&invalid.to_string()))?,
            created: time(self.created)?,
            revoked: self.revoked.map(time).transpose()?,
            previous: previous.transpose()?,
            version: self.version,
            rotated: self.rotated,
        })
    }
}

impl PreviousText {
    fn of(previous: &Previous) -> Self {
        Self {
            id: previous.id.to_string(),
            digest: keys::format_hash(&previous.digest),
            expires: previous.expires.as_microsecond(),
        }
    }
}

impl TeamText {
    fn team(self, name: &str) -> Result<Record, Unreadable> {
        check(self.created, self.version)?;
        let Some(fields) = self.team else {
            super::check_name(name).map_err(|message| unreadable(&message))?;
            return Ok(Record::NoTeam {
                name: name.into(),
                version: self.version,
            });
        };
        let terms = form::new_team(fields);
        Ok(Record::Team(RuntimeTeam {
            terms: terms.map_err(|invalid| unreadable(&invalid.to_string()))?,
            created: time(self.created)?,
            version: self.version,
        }))
    }
}

fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, Unreadable> {
    serde_json::from_str(text).map_err(|error| unreadable(&error.to_string()))
}

fn unreadable(message: &str) -> Unreadable {
    Unreadable(message.to_owned())
}

/// Returns the form of a name. What nothing is said of is left out, as far as a Weir from before would not know it.
fn named(name: &str, mut form: Map<String, Value>) -> Map<String, Value> {
    if form.get("cache").is_some_and(Value::is_null) {
        form.remove("cache");
    }
    form.insert("name".into(), name.into());
    form
}

fn check(created: i64, version: i64) -> Result<(), Unreadable> {
    match (0..MOST).contains(&created) && (1..MOST).contains(&version) {
        true => Ok(()),
        false => Err(unreadable("has a version that cannot be")),
    }
}

fn id(id: String) -> Result<Arc<str>, Unreadable> {
    match keys::is_public_prefix(&id) {
        true => Ok(id.into()),
        false => Err(unreadable("has no id of a key")),
    }
}

fn time(micros: i64) -> Result<Timestamp, Unreadable> {
    Timestamp::from_microsecond(micros).map_err(|error| unreadable(&error.to_string()))
}

fn digest(hash: &str) -> Result<[u8; 32], Unreadable> {
    keys::parse_hash(hash).ok_or_else(|| unreadable("has no digest of a key"))
}

#[cfg(test)]
mod tests;
