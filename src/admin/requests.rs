//! `GET /admin/v1/requests`: the last requests of the ledger, and why those failed that did.

use super::answer::{Answer, Problem, list};
use super::query::Query;
use crate::store::ledger::{Reader, Recent};

/// Rows that are shown when nothing else is said.
const DEFAULT_LIMIT: u32 = 50;
/// Rows that are shown at the most.
const MAX_LIMIT: u32 = 1000;

pub(super) async fn answer(reader: &Reader, query: Option<&str>) -> Result<Answer, Problem> {
    let mut query = Query::read(query, &["status", "limit", "before"])?;
    let errors = query.parse("status", |word| match word {
        "all" => Ok(false),
        "error" => Ok(true),
        _ => Err("must be all or error".to_owned()),
    })?;
    let limit = query.parse("limit", |text| match text.parse() {
        Ok(limit @ 1..=MAX_LIMIT) => Ok(limit),
        _ => Err(format!("must be from 1 to {MAX_LIMIT}")),
    })?;
    let before = query.parse("before", |text| {
        text.parse()
            .map_err(|_| "must be the `id` of a request".to_owned())
    })?;
    let recent = Recent {
        errors: errors.unwrap_or(false),
        limit: limit.unwrap_or(DEFAULT_LIMIT),
        before,
    };
    Ok(list(reader.read(move |file| recent.run(file)).await?))
}
