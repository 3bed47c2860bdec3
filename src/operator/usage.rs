//! `weir usage`

use std::time::SystemTime;

use http::Method;
use serde_json::Value;

use super::gateway::{ask, encode};
use super::{Failure, Place, Told, file};
use crate::report::{Usage, check_span, parse_time, to_csv, to_table};
use crate::store::keys;
use crate::store::ledger::{GroupBy, Query};

/// What to add up, and how to write it.
#[derive(Clone, Debug)]
pub struct UsageOptions {
    /// What it is added up by.
    pub by: GroupBy,
    /// Requests from this time on.
    pub from: Option<String>,
    /// Requests before this time.
    pub to: Option<String>,
    /// Requests of this key alone.
    pub key: Option<String>,
    /// Requests of this team alone.
    pub team: Option<String>,
    /// How it is written.
    pub format: Format,
}

/// How usage is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// As a table, for people.
    #[default]
    Table,
    /// As JSON.
    Json,
    /// As CSV.
    Csv,
}

/// Adds up, and returns what to print. Where nothing was used under a name that nobody has, a note says so.
///
/// # Errors
/// [`Failure`]
pub async fn usage(place: &Place, options: &UsageOptions) -> Result<Told, Failure> {
    let (from, to) = (
        time("--from", options.from.as_deref())?,
        time("--to", options.to.as_deref())?,
    );
    check_span(from, to, &named("--from", from))
        .map_err(|message| Failure::mistake(format!("{} {message}", named("--to", to))))?;
    let mut note = None;
    let usage = match place {
        Place::Gateway { url, token } => {
            let path = format!("usage?{}", query(options)?);
            let answer = ask(url, token.as_ref(), Method::GET, &path, None).await?;
            serde_json::from_slice(&answer)
                .map_err(|_| Failure::internal("the answer is not one of Weir's admin API"))?
        }
        Place::File { path, .. } => {
            let query = Query {
                from: from.and_then(|time| SystemTime::try_from(time).ok()),
                to: to.and_then(|time| SystemTime::try_from(time).ok()),
                key: options.key.clone(),
                team: options.team.clone(),
                group_by: options.by,
            };
            let (reader, of_file) = file::reader(path)?;
            note = of_file;
            let report = reader.read(move |file| query.run(file)).await?;
            Usage::new(report, from, to, options.by)
        }
    };
    if usage.data.is_empty() {
        note = note.or(unknown(place, options).await?);
    }
    let text = match options.format {
        Format::Table => to_table(&usage),
        Format::Csv => to_csv(&usage),
        // Texts and numbers always serialize.
        Format::Json => serde_json::to_string_pretty(&usage).unwrap_or_default() + "\n",
    };
    Ok(Told { text, note })
}

/// Says which of the names that were asked for is nobody's.
async fn unknown(place: &Place, options: &UsageOptions) -> Result<Option<String>, Failure> {
    for (what, name) in [("key", &options.key), ("team", &options.team)] {
        if let Some(name) = name
            && !is_known(place, what, name).await?
        {
            let note = format!("no {what} of the name `{name}` is known");
            return Ok(Some(note));
        }
    }
    Ok(None)
}

async fn is_known(place: &Place, what: &str, name: &str) -> Result<bool, Failure> {
    match place {
        Place::Gateway { url, token } => {
            let listed = ask(url, token.as_ref(), Method::GET, &format!("{what}s"), None).await?;
            let listed: Value = serde_json::from_slice(&listed).unwrap_or_default();
            let mut all = listed["data"].as_array().into_iter().flatten();
            Ok(all.any(|one| one["name"] == *name))
        }
        Place::File { path, configured } => {
            let is_configured = match what {
                "key" => configured.keys.iter().any(|key| *key.terms.name == *name),
                _ => configured.teams.iter().any(|team| *team.name == *name),
            };
            let (is_key, name) = (what == "key", name.to_owned());
            let (reader, _) = file::reader(path)?;
            let is_made = reader.read(move |file| match is_key {
                true => {
                    Ok(keys::find_key(file, &name)?.is_some_and(|key| *key.terms.name == *name))
                }
                false => Ok(keys::find_team(file, &name)?.is_some()),
            });
            Ok(is_configured || is_made.await?)
        }
    }
}

fn query(options: &UsageOptions) -> Result<String, Failure> {
    let mut query = format!("group_by={}", options.by.as_str());
    for (name, text) in [("from", &options.from), ("to", &options.to)] {
        if let Some(time) = time(&format!("--{name}"), text.as_deref())? {
            query += &format!("&{name}={}", encode(&time.to_string()));
        }
    }
    for (name, text) in [("key", &options.key), ("team", &options.team)] {
        if let Some(text) = text {
            query += &format!("&{name}={}", encode(text));
        }
    }
    Ok(query)
}

/// Names an option, and what it was read as.
fn named(option: &str, time: Option<jiff::Timestamp>) -> String {
    time.map_or_else(|| option.to_owned(), |time| format!("{option} ({time})"))
}

fn time(option: &str, text: Option<&str>) -> Result<Option<jiff::Timestamp>, Failure> {
    let read = text.map(parse_time).transpose();
    read.map_err(|message| Failure::mistake(format!("{option} {message}")))
}
