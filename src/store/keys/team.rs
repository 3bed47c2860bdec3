//! Teams: made, found, edited and deleted.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Map;

use super::rows::{budgets_json, limits_json, patterns_json};
use super::{Author, Changed, Refusal, RuntimeTeam, TeamEdit, TeamTerms, audit, form, rows};
use crate::call::Keeps;

/// Returns every team, in the order of their names.
///
/// # Errors
/// SQLite's own.
pub fn all_teams(connection: &Connection) -> Result<Vec<RuntimeTeam>, rusqlite::Error> {
    let sql = format!("SELECT {} FROM team ORDER BY name", rows::TEAM);
    let mut select = connection.prepare(&sql)?;
    rows::readable(select.query_map([], rows::team)?, "team")
}

/// Returns the team of a name.
///
/// # Errors
/// SQLite's own.
pub fn find_team(
    connection: &Connection,
    name: &str,
) -> Result<Option<RuntimeTeam>, rusqlite::Error> {
    let sql = format!("SELECT {} FROM team WHERE name = ?", rows::TEAM);
    connection.query_row(&sql, [name], rows::team).optional()
}

/// Makes a team.
///
/// # Errors
/// SQLite's own, and inside: a name that is taken.
pub fn create_team(
    connection: &Connection,
    terms: &TeamTerms,
    author: &Author,
) -> Changed<RuntimeTeam> {
    if find_team(connection, &terms.name)?.is_some() {
        return Ok(Err(Refusal::NameTaken));
    }
    let deleted = deleted_team(connection, &terms.name)?;
    let team = RuntimeTeam {
        terms: terms.clone(),
        created: author.at,
        version: author.version(deleted.unwrap_or(0)),
    };
    write_team(connection, &team)?;
    audit::note(
        connection,
        author,
        "team.create",
        &terms.name,
        form::of_team(terms),
    )?;
    Ok(Ok(team))
}

/// Changes what the keys of a team have in common.
///
/// # Errors
/// SQLite's own, and inside: no such team.
pub fn edit_team(
    connection: &Connection,
    name: &str,
    edit: TeamEdit,
    author: &Author,
) -> Changed<RuntimeTeam> {
    let Some(mut team) = find_team(connection, name)? else {
        return Ok(Err(Refusal::NoTeam));
    };
    let before = form::of_team(&team.terms);
    let terms = &mut team.terms;
    if let Some(models) = edit.models {
        terms.models = models;
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
    team.version = author.version(team.version);
    write_team(connection, &team)?;
    let detail = audit::difference(&before, &form::of_team(&team.terms));
    audit::note(connection, author, "team.edit", name, detail)?;
    Ok(Ok(team))
}

/// Deletes a team that has no keys but revoked ones, and returns what it was, with the version of its end. `stands_in` says
/// that the configuration has a team of the same name, which its keys belong to anyway.
///
/// # Errors
/// SQLite's own, and inside: no such team, one that has keys.
pub fn delete_team(
    connection: &Connection,
    name: &str,
    stands_in: bool,
    author: &Author,
) -> Changed<RuntimeTeam> {
    let Some(mut team) = find_team(connection, name)? else {
        return Ok(Err(Refusal::NoTeam));
    };
    let keys: i64 = connection.query_row(
        "SELECT count(*) FROM api_key WHERE team = ? AND revoked IS NULL",
        [name],
        |row| row.get(0),
    )?;
    if keys > 0 && !stands_in {
        return Ok(Err(Refusal::TeamHasKeys {
            keys: keys.unsigned_abs(),
        }));
    }
    team.version = author.version(team.version);
    bury_team(connection, name, team.version)?;
    audit::note(connection, author, "team.delete", name, Map::new())?;
    Ok(Ok(team))
}

/// How many deleted teams are remembered; the last ones.
const MOST_DELETED: u32 = 1000;

/// Returns the teams that were deleted, and the versions of their ends.
///
/// # Errors
/// SQLite's own.
pub fn deleted_teams(connection: &Connection) -> Result<Vec<(Arc<str>, i64)>, rusqlite::Error> {
    let mut select = connection.prepare("SELECT name, version FROM deleted_team")?;
    let rows = select.query_map([], |row| Ok((row.get::<_, String>(0)?.into(), row.get(1)?)))?;
    rows.collect()
}

/// Returns the version of the end of a team that was deleted.
pub(super) fn deleted_team(
    connection: &Connection,
    name: &str,
) -> Result<Option<i64>, rusqlite::Error> {
    let sql = "SELECT version FROM deleted_team WHERE name = ?";
    let version = connection.query_row(sql, [name], |row| row.get(0));
    version.optional()
}

/// Writes the row of a team, in the place of the one of its name.
pub(super) fn write_team(
    connection: &Connection,
    team: &RuntimeTeam,
) -> Result<(), rusqlite::Error> {
    let terms = &team.terms;
    connection.execute("DELETE FROM deleted_team WHERE name = ?", [&*terms.name])?;
    let sql = format!(
        "INSERT OR REPLACE INTO team ({}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        rows::TEAM
    );
    connection.execute(
        &sql,
        params![
            &*terms.name,
            patterns_json(&terms.models),
            budgets_json(&terms.budgets),
            team.created.as_microsecond(),
            limits_json(&terms.limits),
            team.version,
            terms.cache.map(Keeps::as_str),
        ],
    )?;
    Ok(())
}

/// Takes a team away, and remembers that it was there.
pub(super) fn bury_team(
    connection: &Connection,
    name: &str,
    version: i64,
) -> Result<(), rusqlite::Error> {
    connection.execute("DELETE FROM team WHERE name = ?", [name])?;
    connection.execute(
        "INSERT OR REPLACE INTO deleted_team (name, version) VALUES (?1, ?2)",
        params![name, version],
    )?;
    connection.execute(
        "DELETE FROM deleted_team WHERE name NOT IN (SELECT name FROM deleted_team ORDER BY version DESC, name LIMIT ?)",
        [MOST_DELETED],
    )?;
    Ok(())
}
