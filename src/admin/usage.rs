//! `GET /admin/v1/usage`: what was used, added up.

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use std::time::SystemTime;

use super::answer::{Answer, Problem, json, text};
use super::query::Query;
use crate::report::{Usage, check_span, parse_time, to_csv};
use crate::store::ledger::{self, GroupBy, Reader};

const PARAMETERS: &[&str] = &["from", "to", "group_by", "format", "key", "team"];

pub(super) async fn answer(reader: &Reader, query: Option<&str>) -> Result<Answer, Problem> {
    let mut query = Query::read(query, PARAMETERS)?;
    let from = query.parse("from", parse_time)?;
    let to = query.parse("to", parse_time)?;
    check_span(from, to, "`from`").map_err(|message| Problem::invalid("to", &message))?;
    let group_by = query.parse("group_by", |word| {
        GroupBy::parse(word).ok_or_else(|| format!("must be one of {}", GroupBy::WORDS.join(", ")))
    })?;
    let group_by = group_by.unwrap_or(GroupBy::Key);
    let is_csv = query.parse("format", |word| match word {
        "json" => Ok(false),
        "csv" => Ok(true),
        _ => Err("must be json or csv".to_owned()),
    })?;
    let asked = ledger::Query {
        from: from.and_then(|time| SystemTime::try_from(time).ok()),
        to: to.and_then(|time| SystemTime::try_from(time).ok()),
        key: query.take("key"),
        team: query.take("team"),
        group_by,
    };
    let report = reader.read(move |file| asked.run(file)).await?;
    let usage = Usage::new(report, from, to, group_by);
    if is_csv != Some(true) {
        return Ok(json(StatusCode::OK, &usage));
    }
    let csv = Bytes::from(to_csv(&usage));
    let mut answer = text(
        StatusCode::OK,
        "text/csv; charset=utf-8; header=present",
        csv,
    );
    answer.headers_mut().insert(
        header::CONTENT_DISPOSITION,
        HeaderValue::from_static("attachment; filename=\"usage.csv\""),
    );
    Ok(answer)
}
