//! Keys: made, found, edited, rotated and revoked.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::{Connection, OptionalExtension, params};
use serde_json::{Map, Value, json};

use super::rows::{budgets_json, limits_json, patterns_json};
use super::team::find_team;
use super::{
    Author, Changed, KeyEdit, KeyTerms, Previous, Refusal, Rotation, RuntimeKey, audit, form, rows,
};
use crate::call::Keeps;
use crate::keys;
use crate::secret::Secret;

/// A secret that nobody has yet.
#[derive(Clone, Debug)]
pub struct Fresh {
    /// The part of it that may be shown.
    pub id: Arc<str>,
    /// SHA-256 of the whole.
    pub digest: [u8; 32],
}

impl Fresh {
    /// Makes a secret.
    ///
    /// # Errors
    /// When the operating system has no randomness to give.
    pub fn make() -> Result<(Secret, Self), getrandom::Error> {
        let secret = keys::generate()?;
        let fresh = Self {
            // What we make has the form that we know.
            id: keys::public_prefix(secret.expose())
                .unwrap_or_default()
                .into(),
            digest: keys::digest(secret.expose().as_bytes()),
        };
        Ok((secret, fresh))
    }
}

/// Returns every key, revoked ones too, in the order of their names.
///
/// # Errors
/// SQLite's own.
pub fn all_keys(connection: &Connection) -> Result<Vec<RuntimeKey>, rusqlite::Error> {
    let sql = format!("SELECT {} FROM api_key ORDER BY name", rows::KEY);
    let mut select = connection.prepare(&sql)?;
    rows::readable(select.query_map([], rows::key)?, "api_key")
}

/// Returns the key of an id, the one before its rotation too, or of a name.
///
/// # Errors
/// SQLite's own.
pub fn find_key(
    connection: &Connection,
    which: &str,
) -> Result<Option<RuntimeKey>, rusqlite::Error> {
    let sql = format!(
        "SELECT {} FROM api_key WHERE id = ?1 OR name = ?1 OR old_id = ?1",
        rows::KEY
    );
    connection.query_row(&sql, [which], rows::key).optional()
}

/// Makes a key. `team_is_known` says that its team exists elsewhere, in the configuration.
///
/// # Errors
/// SQLite's own, and inside: a name that is taken, a team that does not exist.
pub fn create_key(
    connection: &Connection,
    terms: &KeyTerms,
    fresh: &Fresh,
    team_is_known: bool,
    author: &Author,
) -> Changed<RuntimeKey> {
    let taken: Option<i64> = connection
        .query_row(
            "SELECT 1 FROM api_key WHERE name = ?",
            [&*terms.name],
            |row| row.get(0),
        )
        .optional()?;
    if taken.is_some() {
        return Ok(Err(Refusal::NameTaken));
    }
    if !team_exists(connection, terms.team.as_deref(), team_is_known)? {
        return Ok(Err(Refusal::UnknownTeam));
    }
    let key = RuntimeKey {
        id: Arc::clone(&fresh.id),
        digest: fresh.digest,
        terms: terms.clone(),
        // Whole: of two keys of one name, made at two gateways, the older one keeps it.
        created: author.at,
        revoked: None,
        previous: None,
        version: author.version(0),
        rotated: author.version(0),
    };
    write_key(connection, &key)?;
    let mut detail = form::of_key(terms);
    detail.insert("id".into(), Value::from(&*key.id));
    audit::note(connection, author, "key.create", &terms.name, detail)?;
    Ok(Ok(key))
}

/// Changes what is said of a key.
///
/// # Errors
/// SQLite's own, and inside: no such key, a revoked one, a team that does not exist.
pub fn edit_key(
    connection: &Connection,
    which: &str,
    edit: KeyEdit,
    team_is_known: bool,
    author: &Author,
) -> Changed<RuntimeKey> {
    let mut key = match living(connection, which)? {
        Ok(key) => key,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let before = form::of_key(&key.terms);
    let terms = &mut key.terms;
    if let Some(team) = edit.team {
        if !team_exists(connection, team.as_deref(), team_is_known)? {
            return Ok(Err(Refusal::UnknownTeam));
        }
        terms.team = team;
    }
    if let Some(models) = edit.models {
        terms.models = models;
    }
    if let Some(paths) = edit.paths {
        terms.paths = paths;
    }
    if let Some(expires) = edit.expires {
        terms.expires = expires;
    }
    if let Some(budgets) = edit.budgets {
        terms.budgets = budgets;
    }
    if let Some(limits) = edit.limits {
        terms.limits = limits;
    }
    if let Some(cache) = edit.cache {
        terms.cache = cache;
    }
    key.version = author.version(key.version);
    write_key(connection, &key)?;
    let detail = audit::difference(&before, &form::of_key(&key.terms));
    audit::note(connection, author, "key.edit", &key.terms.name, detail)?;
    Ok(Ok(key))
}

/// Gives a key another secret. The old one stays valid as long as the rotation says; the one before that ends at once,
/// which is refused while that still has its time, unless it is forced or nothing old is to stay valid anyway.
///
/// # Errors
/// SQLite's own, and inside: no such key, a revoked one, one whose grace is not over.
pub fn rotate_key(
    connection: &Connection,
    which: &str,
    fresh: &Fresh,
    Rotation { grace, force }: Rotation,
    author: &Author,
) -> Changed<RuntimeKey> {
    let mut key = match living(connection, which)? {
        Ok(key) => key,
        Err(refusal) => return Ok(Err(refusal)),
    };
    let in_grace = key
        .previous
        .as_ref()
        .filter(|previous| previous.expires > author.at);
    if let Some(previous) = in_grace.filter(|_| !force && !grace.is_zero()) {
        return Ok(Err(Refusal::InGrace {
            id: Arc::clone(&previous.id),
            until: previous.expires,
        }));
    }
    let old_id = std::mem::replace(&mut key.id, Arc::clone(&fresh.id));
    let old_digest = std::mem::replace(&mut key.digest, fresh.digest);
    // A grace that ends after the calendar does is one without an end.
    let expires = audit::micros(author.at.checked_add(grace).unwrap_or(Timestamp::MAX));
    key.previous = (!grace.is_zero()).then(|| Previous {
        id: Arc::clone(&old_id),
        digest: old_digest,
        expires,
    });
    key.rotated = author.version(key.rotated);
    write_key(connection, &key)?;
    let previous = key.previous.as_ref();
    let detail = detail(json!({
        "id": &*key.id,
        "old_id": &*old_id,
        "old_expires": previous.map_or(author.at, |previous| previous.expires).to_string(),
    }));
    audit::note(connection, author, "key.rotate", &key.terms.name, detail)?;
    Ok(Ok(key))
}

/// Revokes a key, for good. One that is revoked already stays so.
///
/// # Errors
/// SQLite's own, and inside: no such key.
pub fn revoke_key(connection: &Connection, which: &str, author: &Author) -> Changed<RuntimeKey> {
    let Some(mut key) = find_key(connection, which)? else {
        return Ok(Err(Refusal::NoKey));
    };
    if key.revoked.is_some() {
        return Ok(Ok(key));
    }
    key.revoked = Some(audit::second(author.at));
    key.previous = None;
    key.rotated = author.version(key.rotated);
    write_key(connection, &key)?;
    let detail = detail(json!({ "id": &*key.id }));
    audit::note(connection, author, "key.revoke", &key.terms.name, detail)?;
    Ok(Ok(key))
}

/// Writes the row of a key, in the place of the one of its name.
pub(super) fn write_key(connection: &Connection, key: &RuntimeKey) -> Result<(), rusqlite::Error> {
    connection.execute("DELETE FROM api_key WHERE name = ?", [&*key.terms.name])?;
    let (terms, previous) = (&key.terms, key.previous.as_ref());
    let sql = format!(
        "INSERT INTO api_key ({}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)",
        rows::KEY
    );
    connection.execute(
        &sql,
        params![
            &*key.id,
            &*terms.name,
            terms.team.as_deref(),
            key.digest,
            patterns_json(&terms.models),
            patterns_json(&terms.paths),
            budgets_json(&terms.budgets),
            key.created.as_microsecond(),
            terms.expires.map(Timestamp::as_microsecond),
            key.revoked.map(Timestamp::as_microsecond),
            previous.map(|previous| &*previous.id),
            previous.map(|previous| previous.digest),
            previous.map(|previous| previous.expires.as_microsecond()),
            limits_json(&terms.limits),
            key.version,
            key.rotated,
            terms.cache.map(Keeps::as_str),
        ],
    )?;
    Ok(())
}

/// Returns a key that was not revoked.
fn living(connection: &Connection, which: &str) -> Changed<RuntimeKey> {
    Ok(match find_key(connection, which)? {
        Some(key) if key.revoked.is_some() => Err(Refusal::Revoked),
        Some(key) => Ok(key),
        None => Err(Refusal::NoKey),
    })
}

fn team_exists(
    connection: &Connection,
    team: Option<&str>,
    is_known: bool,
) -> Result<bool, rusqlite::Error> {
    match team {
        Some(team) if !is_known => Ok(find_team(connection, team)?.is_some()),
        Some(_) | None => Ok(true),
    }
}

fn detail(json: Value) -> Map<String, Value> {
    match json {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}
