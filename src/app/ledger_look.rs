//! What `weir check` can see of the ledger without opening it for good: nothing is made, and nothing is changed.

use std::io;
use std::sync::Arc;

use super::access;
use crate::config::{Config, Problem, Severity};
use crate::store::directory::Made;
use crate::store::ledger::{OpenError, check_writable, peek};

/// Returns what is wrong with the ledger's place, and with the keys that stand in it.
pub fn check_ledger(config: &Config) -> Vec<Problem> {
    let path = &config.ledger.path;
    let problem = |severity, path: &str, message| Problem {
        severity,
        position: None,
        path: path.to_owned(),
        message,
    };
    let error = |error: OpenError| vec![problem(Severity::Error, "ledger.path", error.to_string())];
    // Only what is a file is opened: a pipe would be waited for.
    let looked = std::fs::metadata(path).and_then(|found| match found.is_file() {
        true => std::fs::File::open(path).map(drop),
        false => Ok(()),
    });
    match looked {
        // It is made at the start.
        Err(missing) if missing.kind() == io::ErrorKind::NotFound => {
            return check_writable(path).map_or_else(error, |()| Vec::new());
        }
        Err(unreadable) => {
            let message = format!("{} cannot be read: {unreadable}", path.display());
            return vec![problem(Severity::Error, "ledger.path", message)];
        }
        Ok(()) => {}
    }
    // Tables that cannot be read are not worth more words: the next start brings them up to date, or says what is wrong.
    let made = match peek(path, Made::read) {
        Ok(made) => made.unwrap_or_default(),
        Err(wrong) => return error(wrong),
    };
    if let Err(unwritable) = check_writable(path) {
        return error(unwritable);
    }
    let missing = made.without_team(&access::configured(config));
    let warnings = missing.iter().map(|(team, keys)| {
        let message = without_team(team, keys);
        problem(Severity::Warning, "team", message)
    });
    warnings.collect()
}

/// Words that keys open nothing for want of their team.
pub(super) fn without_team(team: &str, keys: &[Arc<str>]) -> String {
    const TOLD: usize = 10;
    let told: Vec<String> = keys
        .iter()
        .take(TOLD)
        .map(|key| format!("{key:?}"))
        .collect();
    let more = match keys.len().checked_sub(TOLD) {
        None | Some(0) => String::new(),
        Some(more) => format!(" and {more} more"),
    };
    format!(
        "there is no team {team:?} any more, and keys made at run time that belong to it open nothing: {}{more}; bring the team back, or give them another by `weir keys edit`",
        told.join(", ")
    )
}
