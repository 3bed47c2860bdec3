//! `/admin/v1/keys`: keys are made, listed, edited, rotated and revoked, and all of it counts at once.

use std::sync::Arc;

use http::StatusCode;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use super::answer::{Answer, Problem, json, list};
use crate::secret::Secret;
use crate::store::directory::{Directory, KeyView};
use crate::store::keys::{Refusal, form};

/// A key with its secret, which is shown this once.
#[derive(Serialize)]
struct Made<'a> {
    key: &'a str,
    #[serde(flatten)]
    view: &'a KeyView,
}

pub(super) fn all(directory: &Directory) -> Answer {
    list(directory.keys())
}

pub(super) fn one(directory: &Directory, which: &str) -> Result<Answer, Problem> {
    let key = directory.key(which).ok_or(Refusal::NoKey)?;
    Ok(json(StatusCode::OK, &key))
}

pub(super) async fn create(
    directory: &Arc<Directory>,
    fields: Map<String, Value>,
) -> Result<Answer, Problem> {
    let terms = form::new_key(fields, Timestamp::now())?;
    let (secret, view) = directory.create_key(terms).await?;
    tell("a key was made", &view);
    Ok(made(StatusCode::CREATED, &secret, &view))
}

pub(super) async fn edit(
    directory: &Arc<Directory>,
    which: &str,
    fields: Map<String, Value>,
) -> Result<Answer, Problem> {
    let edit = form::key_edit(fields, Timestamp::now())?;
    let view = directory.edit_key(which, edit).await?;
    tell("a key was edited", &view);
    Ok(json(StatusCode::OK, &view))
}

pub(super) async fn rotate(
    directory: &Arc<Directory>,
    which: &str,
    fields: Map<String, Value>,
) -> Result<Answer, Problem> {
    let rotation = form::rotation(fields)?;
    let (secret, view) = directory.rotate_key(which, rotation).await?;
    tell("a key was rotated", &view);
    Ok(made(StatusCode::OK, &secret, &view))
}

pub(super) async fn revoke(directory: &Arc<Directory>, which: &str) -> Result<Answer, Problem> {
    let view = directory.revoke_key(which).await?;
    tell("a key was revoked", &view);
    Ok(json(StatusCode::OK, &view))
}

fn made(status: StatusCode, secret: &Secret, view: &KeyView) -> Answer {
    let made = Made {
        key: secret.expose(),
        view,
    };
    json(status, &made)
}

fn tell(what: &'static str, view: &KeyView) {
    tracing::info!(key.id = view.id.as_deref(), key.name = view.name, "{what}");
}
