//! `GET /admin/v1/audit`: who changed what, and when.

use super::answer::{Answer, Problem, list};
use super::query::Query;
use crate::store::keys::audit;
use crate::store::ledger::Reader;

/// Rows that are shown when nothing else is said.
const DEFAULT_LIMIT: u32 = 100;
/// Rows that are shown at the most.
const MAX_LIMIT: u32 = 1000;

pub(super) async fn answer(reader: &Reader, query: Option<&str>) -> Result<Answer, Problem> {
    let mut query = Query::read(query, &["limit", "before"])?;
    let limit = query.parse("limit", |text| match text.parse() {
        Ok(limit @ 1..=MAX_LIMIT) => Ok(limit),
        _ => Err(format!("must be from 1 to {MAX_LIMIT}")),
    })?;
    let before = query.parse("before", |text| {
        text.parse()
            .map_err(|_| "must be the `id` of a row".to_owned())
    })?;
    let limit = limit.unwrap_or(DEFAULT_LIMIT);
    let rows = reader
        .read(move |file| audit::last(file, limit, before))
        .await?;
    Ok(list(rows))
}
