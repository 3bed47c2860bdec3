//! Records of other gateways are taken over into this one's ledger.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Map, Value, json};

use super::key::{find_key, write_key};
use super::record::Record;
use super::team::{bury_team, deleted_team, find_team, write_team};
use super::{Author, RuntimeKey, audit, form};

/// What has become of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// It says nothing that the ledger does not.
    Known,
    /// The ledger says it too now.
    Changed,
    /// Two gateways have given the name away. The key that was here is the younger one, and opens nothing any more.
    Replaced,
    /// It was left out: another key has its id or its secret, or the row that it is about cannot be understood.
    LeftOut,
}

/// Joins a record with what the ledger says, and returns what it says then.
///
/// # Errors
/// SQLite's own.
pub fn adopt(
    connection: &Connection,
    record: &Record,
    author: &Author,
) -> Result<(Adopted, Option<Record>), rusqlite::Error> {
    let own = match own(connection, record) {
        // A row that somebody wrote by hand, wrongly, must not keep the others from being shared.
        Err(error) if error.sqlite_error_code().is_none() => return Ok((Adopted::LeftOut, None)),
        own => own?,
    };
    let joined = match own.clone() {
        Some(own) => own.join(record.clone()),
        None => record.clone(),
    };
    if own.as_ref() == Some(&joined) {
        return Ok((Adopted::Known, own));
    }
    let mut adopted = Adopted::Changed;
    match (&own, &joined) {
        (own, Record::Key(key)) => {
            if is_foreign(connection, key)? {
                return Ok((Adopted::LeftOut, None));
            }
            write_key(connection, key)?;
            let own = match own {
                Some(Record::Key(own)) => Some(own),
                _ => None,
            };
            let (action, detail) = told(own, key);
            audit::note(connection, author, action, &key.terms.name, detail)?;
            if action == REPLACED {
                adopted = Adopted::Replaced;
            }
        }
        (own, Record::Team(team)) => {
            write_team(connection, team)?;
            let now = form::of_team(&team.terms);
            let (action, detail) = match own {
                Some(Record::Team(own)) => {
                    let before = form::of_team(&own.terms);
                    ("team.edit", audit::difference(&before, &now))
                }
                _ => ("team.create", now),
            };
            audit::note(connection, author, action, &team.terms.name, detail)?;
        }
        (own, Record::NoTeam { name, version }) => {
            bury_team(connection, name, *version)?;
            if let Some(Record::Team(_)) = own {
                audit::note(connection, author, "team.delete", name, Map::new())?;
            }
        }
    }
    Ok((adopted, Some(joined)))
}

/// What the audit says of a key whose name another one keeps.
const REPLACED: &str = "key.replace";

/// Returns what the ledger says of whatever a record is about.
fn own(connection: &Connection, record: &Record) -> Result<Option<Record>, rusqlite::Error> {
    Ok(match record {
        Record::Key(key) => {
            let own = find_key(connection, &key.terms.name)?;
            own.filter(|own| own.terms.name == key.terms.name)
                .map(Record::Key)
        }
        Record::Team(super::RuntimeTeam { terms, .. }) => own_team(connection, &terms.name)?,
        Record::NoTeam { name, .. } => own_team(connection, name)?,
    })
}

fn own_team(connection: &Connection, name: &Arc<str>) -> Result<Option<Record>, rusqlite::Error> {
    if let Some(team) = find_team(connection, name)? {
        return Ok(Some(Record::Team(team)));
    }
    let deleted = deleted_team(connection, name)?;
    Ok(deleted.map(|version| Record::NoTeam {
        name: Arc::clone(name),
        version,
    }))
}

/// Returns whether a key of another name has the id or a secret of this one.
fn is_foreign(connection: &Connection, key: &RuntimeKey) -> Result<bool, rusqlite::Error> {
    let mut secrets = vec![(&key.id, key.digest)];
    secrets.extend(
        key.previous
            .iter()
            .map(|previous| (&previous.id, previous.digest)),
    );
    for (id, digest) in secrets {
        let other: Option<i64> = connection
            .query_row(
                "SELECT 1 FROM api_key WHERE name <> ?1 AND (?2 IN (id, old_id) OR ?3 IN (digest, old_digest))",
                params![&*key.terms.name, &**id, digest],
                |row| row.get(0),
            )
            .optional()?;
        if other.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns what the audit says of a key that has become another.
fn told(own: Option<&RuntimeKey>, key: &RuntimeKey) -> (&'static str, Map<String, Value>) {
    let now = form::of_key(&key.terms);
    let id = ("id".to_owned(), Value::from(&*key.id));
    let Some(own) = own else {
        let mut detail = now;
        detail.extend([id]);
        if let Some(revoked) = key.revoked {
            detail.insert("revoked".into(), revoked.to_string().into());
        }
        return ("key.create", detail);
    };
    if own.created != key.created {
        let mut detail = now;
        detail.extend([id, ("replaced_id".to_owned(), Value::from(&*own.id))]);
        return (REPLACED, detail);
    }
    if own.revoked.is_none() && key.revoked.is_some() {
        return ("key.revoke", Map::from_iter([id]));
    }
    if own.digest != key.digest {
        let mut detail = audit::difference(&form::of_key(&own.terms), &now);
        detail.extend([id, ("old_id".to_owned(), json!(&*own.id))]);
        return ("key.rotate", detail);
    }
    (
        "key.edit",
        audit::difference(&form::of_key(&own.terms), &now),
    )
}
