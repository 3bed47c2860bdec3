//! `weir usage`

use std::time::SystemTime;

use http::Method;

use super::gateway::{ask, encode};
use super::{Failure, Place, file};
use crate::report::{Usage, parse_time, to_csv, to_table};
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

/// Adds up, and returns what to print.
///
/// # Errors
/// [`Failure`]
pub async fn usage(place: &Place, options: &UsageOptions) -> Result<String, Failure> {
    let usage = match place {
        Place::Gateway { url, token } => {
            let path = format!("usage?{}", query(options)?);
            let answer = ask(url, token.as_ref(), Method::GET, &path, None).await?;
            serde_json::from_slice(&answer)
                .map_err(|_| Failure::internal("the answer is not one of Weir's admin API"))?
        }
        Place::File { path, .. } => {
            let (from, to) = (
                time("--from", options.from.as_deref())?,
                time("--to", options.to.as_deref())?,
            );
            let query = Query {
                from: from.and_then(|time| SystemTime::try_from(time).ok()),
                to: to.and_then(|time| SystemTime::try_from(time).ok()),
                key: options.key.clone(),
                team: options.team.clone(),
                group_by: options.by,
            };
            let report = file::reader(path)?
                .read(move |file| query.run(file))
                .await?;
            Usage::new(report, from, to, options.by)
        }
    };
    Ok(match options.format {
        Format::Table => to_table(&usage),
        Format::Csv => to_csv(&usage),
        // Texts and numbers always serialize.
        Format::Json => serde_json::to_string_pretty(&usage).unwrap_or_default() + "\n",
    })
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

fn time(option: &str, text: Option<&str>) -> Result<Option<jiff::Timestamp>, Failure> {
    let read = text.map(parse_time).transpose();
    read.map_err(|message| Failure::mistake(format!("{option} {message}")))
}
