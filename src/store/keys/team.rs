//! Teams: made, found, edited and deleted.

use rusqlite::{Connection, OptionalExtension, params};
use serde_json::Map;

use super::rows::{budgets_json, limits_json, patterns_json};
use super::{Author, Changed, Refusal, RuntimeTeam, TeamEdit, TeamTerms, audit, form, rows};

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
    let created = author.second();
    connection.execute(
        "INSERT INTO team (name, models, budgets, created, limits) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            &*terms.name,
            patterns_json(&terms.models),
            budgets_json(&terms.budgets),
            created.as_microsecond(),
            limits_json(&terms.limits),
        ],
    )?;
    audit::note(
        connection,
        author,
        "team.create",
        &terms.name,
        form::of_team(terms),
    )?;
    Ok(Ok(RuntimeTeam {
        terms: terms.clone(),
        created,
    }))
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
    connection.execute(
        "UPDATE team SET models = ?2, budgets = ?3, limits = ?4 WHERE name = ?1",
        params![
            name,
            patterns_json(&terms.models),
            budgets_json(&terms.budgets),
            limits_json(&terms.limits),
        ],
    )?;
    let detail = audit::difference(&before, &form::of_team(terms));
    audit::note(connection, author, "team.edit", name, detail)?;
    Ok(Ok(team))
}

/// Deletes a team that has no keys but revoked ones. `stands_in` says that the configuration has a team of the same name,
/// which its keys belong to anyway.
///
/// # Errors
/// SQLite's own, and inside: no such team, one that has keys.
pub fn delete_team(
    connection: &Connection,
    name: &str,
    stands_in: bool,
    author: &Author,
) -> Changed<RuntimeTeam> {
    let Some(team) = find_team(connection, name)? else {
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
    connection.execute("DELETE FROM team WHERE name = ?", [name])?;
    audit::note(connection, author, "team.delete", name, Map::new())?;
    Ok(Ok(team))
}
