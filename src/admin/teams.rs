//! `/admin/v1/teams`: what several keys have in common.

use std::sync::Arc;

use http::StatusCode;
use serde_json::{Map, Value, json as value};

use super::answer::{Answer, Problem, json, list};
use crate::store::directory::Directory;
use crate::store::keys::{Refusal, form};

pub(super) fn all(directory: &Directory) -> Answer {
    list(directory.teams())
}

pub(super) fn one(directory: &Directory, name: &str) -> Result<Answer, Problem> {
    let team = directory.team(name).ok_or(Refusal::NoTeam)?;
    Ok(json(StatusCode::OK, &team))
}

pub(super) async fn create(
    directory: &Arc<Directory>,
    fields: Map<String, Value>,
) -> Result<Answer, Problem> {
    let view = directory.create_team(form::new_team(fields)?).await?;
    tracing::info!(team = view.name, "a team was made");
    Ok(json(StatusCode::CREATED, &view))
}

pub(super) async fn edit(
    directory: &Arc<Directory>,
    name: &str,
    fields: Map<String, Value>,
) -> Result<Answer, Problem> {
    let view = directory.edit_team(name, form::team_edit(fields)?).await?;
    tracing::info!(team = view.name, "a team was edited");
    Ok(json(StatusCode::OK, &view))
}

pub(super) async fn delete(directory: &Arc<Directory>, name: &str) -> Result<Answer, Problem> {
    directory.delete_team(name).await?;
    tracing::info!(team = name, "a team was deleted");
    Ok(json(
        StatusCode::OK,
        &value!({ "name": name, "deleted": true }),
    ))
}
