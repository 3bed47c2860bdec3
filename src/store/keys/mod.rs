//! Keys and teams that are made at run time. They stand in the ledger's file, beside what they use.
//!
//! A key is `wr-`, eight characters that may be shown, `-`, and 43 that may not. The first two are its *id*; the whole is
//! shown once, to whoever made it, and kept as its SHA-256. A name is never given twice, not even after its key was
//! revoked: what was used stands in the ledger under it.
//!
//! The functions here work on a connection, inside of a transaction that is somebody else's, and leave a row in the
//! table `audit` for each change. Whatever came from outside is a bound argument, so a name may hold anything that can
//! be read.

mod adopt;
pub mod audit;
pub mod budget;
pub mod form;
mod key;
mod record;
mod rows;
mod team;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

pub use self::adopt::{Adopted, adopt};
pub use self::audit::Author;
pub use self::form::Invalid;
pub use self::key::{Fresh, all_keys, create_key, edit_key, find_key, revoke_key, rotate_key};
pub use self::record::{Head, Record, Unreadable};
pub use self::team::{all_teams, create_team, delete_team, deleted_teams, edit_team, find_team};
use super::budgets::Budget;
use super::limits::Entry;
use crate::call::Keeps;
use crate::keys;
use crate::pattern::Pattern;

/// The longest name, in characters.
pub const MAX_NAME: usize = 128;

/// How long the old secret of a key stays valid when nothing else is said.
pub const DEFAULT_GRACE: Duration = Duration::from_secs(24 * 3600);

/// What is said of a key's holder, wherever the key was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyTerms {
    /// The key's name in logs, metrics and the ledger.
    pub name: Arc<str>,
    /// The team that it belongs to.
    pub team: Option<Arc<str>>,
    /// The models that it may use.
    pub models: Vec<Pattern>,
    /// The paths that it may use.
    pub paths: Vec<Pattern>,
    /// When it stops being valid.
    pub expires: Option<Timestamp>,
    /// How much it may use.
    pub budgets: Vec<Budget>,
    /// How fast it may use it; where there are none, what the configuration says of such keys.
    pub limits: Vec<Entry>,
    /// Which answers are kept for it; `None`: as its team says, or else as where the call goes.
    pub cache: Option<Keeps>,
}

/// What the keys of a team have in common, wherever it was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TeamTerms {
    /// The team's name in logs and the ledger.
    pub name: Arc<str>,
    /// The models that its keys may use, where the key allows them too.
    pub models: Vec<Pattern>,
    /// How much they may use together.
    pub budgets: Vec<Budget>,
    /// How fast they may use it together.
    pub limits: Vec<Entry>,
    /// Which answers are kept for them; `None`: as where the call goes.
    pub cache: Option<Keeps>,
}

/// How a key is given another secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// How long the old secret stays valid.
    pub grace: Duration,
    /// Whether a secret from before the old one may end early.
    pub force: bool,
}

/// A key made at run time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeKey {
    /// The part of it that may be shown.
    pub id: Arc<str>,
    /// SHA-256 of the whole.
    pub digest: [u8; 32],
    /// What is said of its holder.
    pub terms: KeyTerms,
    /// When it was made.
    pub created: Timestamp,
    /// When it was revoked.
    pub revoked: Option<Timestamp>,
    /// The secret that it had before it was rotated, as long as that may still be valid.
    pub previous: Option<Previous>,
    /// Greater with each change of what is said of it; see [`Author::version`].
    pub version: i64,
    /// Greater with each change of its secrets: whoever changes one of both does not undo the other.
    pub rotated: i64,
}

/// The secret of a key before it was rotated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Previous {
    /// The part of it that may be shown.
    pub id: Arc<str>,
    /// SHA-256 of the whole.
    pub digest: [u8; 32],
    /// Until when it is valid.
    pub expires: Timestamp,
}

/// A team made at run time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuntimeTeam {
    /// What its keys have in common.
    pub terms: TeamTerms,
    /// When it was made.
    pub created: Timestamp,
    /// Greater with each change; see [`Author::version`].
    pub version: i64,
}

/// What is to change of a key; `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyEdit {
    /// The team; inside, `None` is no team.
    pub team: Option<Option<Arc<str>>>,
    /// The models.
    pub models: Option<Vec<Pattern>>,
    /// The paths.
    pub paths: Option<Vec<Pattern>>,
    /// When it stops being valid; inside, `None` is never.
    pub expires: Option<Option<Timestamp>>,
    /// The budgets.
    pub budgets: Option<Vec<Budget>>,
    /// The limits.
    pub limits: Option<Vec<Entry>>,
    /// Which answers are kept; inside, `None` is as elsewhere.
    pub cache: Option<Option<Keeps>>,
}

/// What is to change of a team; `None` stays as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TeamEdit {
    /// The models.
    pub models: Option<Vec<Pattern>>,
    /// The budgets.
    pub budgets: Option<Vec<Budget>>,
    /// The limits.
    pub limits: Option<Vec<Entry>>,
    /// Which answers are kept; inside, `None` is as elsewhere.
    pub cache: Option<Option<Keeps>>,
}

/// Why a change is not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The name is, or was, another's.
    #[error("the name is taken")]
    NameTaken,
    /// The name is that of one in the configuration, which goes before what is made at run time.
    #[error(
        "the configuration has one of this name, and that one wins; choose another name, or change it there"
    )]
    NameConfigured,
    /// There is no such key.
    #[error("there is no such key")]
    NoKey,
    /// There is no such team.
    #[error("there is no such team")]
    NoTeam,
    /// The key was revoked, for good.
    #[error("the key was revoked")]
    Revoked,
    /// A secret from before the last rotation is still valid, and another rotation would end it.
    #[error(
        "the secret {id} from before the last rotation is valid until {until}, and rotating again would end it now; wait, or force it"
    )]
    InGrace {
        /// What may be shown of that secret.
        id: Arc<str>,
        /// Until when it is valid.
        until: Timestamp,
    },
    /// The configuration has a key of the name, which goes before the one made at run time.
    #[error(
        "the configuration has a key of this name; the one made at run time is reached by its id, {id}"
    )]
    Shadowed {
        /// The id of the one made at run time.
        id: Arc<str>,
    },
    /// It stands in the configuration, and is changed there.
    #[error("it stands in the configuration")]
    Configured,
    /// The key is to belong to a team that does not exist.
    #[error("the team does not exist")]
    UnknownTeam,
    /// The team has keys.
    #[error("the team has keys: {keys}")]
    TeamHasKeys {
        /// How many.
        keys: u64,
    },
}

/// What a change comes to: an error of SQLite's undoes the transaction, and so does a refusal.
pub type Changed<T> = Result<Result<T, Refusal>, rusqlite::Error>;

/// Returns whether a character has no shape of its own (Unicode's `Cf`, and separators of lines): with it two names could
/// look alike.
fn is_invisible(c: char) -> bool {
    matches!(
        c,
        '\u{ad}'
            | '\u{34f}'
            | '\u{61c}'
            | '\u{115f}'..='\u{1160}'
            | '\u{17b4}'..='\u{17b5}'
            | '\u{180b}'..='\u{180f}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{3164}'
            | '\u{fe00}'..='\u{fe0f}'
            | '\u{feff}'
            | '\u{ffa0}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e0fff}'
    )
}

/// Checks a name.
///
/// # Errors
/// What is wrong with it.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.chars().count() > MAX_NAME {
        Err(format!("must have 1 to {MAX_NAME} characters"))
    } else if name.chars().any(char::is_control) {
        Err("holds a control character".to_owned())
    } else if name.chars().any(is_invisible) {
        Err(
            "holds a character that cannot be seen, or turns the direction of what is read"
                .to_owned(),
        )
    } else if name.trim() != name {
        Err("starts or ends with white space".to_owned())
    } else if keys::is_public_prefix(name) {
        Err("looks like the id of a key".to_owned())
    } else {
        Ok(())
    }
}
