//! `weir keys`

use http::Method;
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::file::{self, Open};
use super::gateway::{ask, encode};
use super::{Failure, Place, Told};
use crate::report::{Table, plain};
use crate::store::keys::{Invalid, Rotation, form};
use crate::store::limits::json_to_words;

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub struct KeysOptions {
    /// What to do.
    pub op: Op,
    /// Whether the answer is written as JSON.
    pub json: bool,
}

/// What can be done about keys and teams. Forms are those of the admin API.
#[derive(Clone, Debug, PartialEq)]
pub enum Op {
    /// Make a key.
    New(Map<String, Value>),
    /// List all keys.
    List,
    /// Change what is said of a key, by its name or id.
    Edit(String, Map<String, Value>),
    /// Give a key another secret.
    Rotate(String, Rotation),
    /// Revoke a key.
    Revoke(String),
    /// Make a team.
    NewTeam(Map<String, Value>),
    /// List all teams.
    ListTeams,
    /// Change what the keys of a team have in common.
    EditTeam(String, Map<String, Value>),
    /// Delete a team.
    DeleteTeam(String),
}

/// Does it, and returns what to print.
///
/// # Errors
/// [`Failure`]
pub async fn keys(place: &Place, options: KeysOptions) -> Result<Told, Failure> {
    let KeysOptions { op, json } = options;
    let done = op.clone();
    let mut note = None;
    let answer = match place {
        Place::Gateway { url, token } => {
            let (method, path, body) = op.call();
            let body = body.map(|body| body.to_string());
            let answer = ask(url, token.as_ref(), method, &path, body).await?;
            serde_json::from_slice(&answer)
                .map_err(|_| Failure::internal("the answer is not one of Weir's admin API"))?
        }
        Place::File { path, configured } => match Open::new(path, configured.clone()) {
            Ok(open) => op.at(&open).await?,
            // To list, reading is enough; where that fails, too, the first reason is the better one.
            Err(failure) => {
                let listed = op.lists().then(|| file::listed(path, configured.clone()));
                let Some(Ok((listed, of_file))) = listed else {
                    return Err(failure);
                };
                note = of_file;
                match op {
                    Op::ListTeams => json!({ "data": shown(&listed.teams) }),
                    _ => json!({ "data": shown(&listed.keys) }),
                }
            }
        },
    };
    let text = match json {
        // What was read as JSON always serializes.
        true => serde_json::to_string_pretty(&answer).unwrap_or_default() + "\n",
        false => words(&done, &answer),
    };
    Ok(Told { text, note })
}

impl Op {
    /// Returns whether nothing is changed by it.
    fn lists(&self) -> bool {
        matches!(self, Self::List | Self::ListTeams)
    }

    /// Returns the call of the admin API.
    fn call(self) -> (Method, String, Option<Value>) {
        let key = |name: &str| format!("keys/{}", encode(name));
        let team = |name: &str| format!("teams/{}", encode(name));
        match self {
            Self::New(form) => (Method::POST, "keys".into(), Some(form.into())),
            Self::List => (Method::GET, "keys".into(), None),
            Self::Edit(name, form) => (Method::PATCH, key(&name), Some(form.into())),
            Self::Rotate(name, Rotation { grace, force }) => {
                let grace = format!("{}ms", grace.as_millis());
                let form = json!({ "grace": grace, "force": force });
                (Method::POST, key(&name) + "/rotate", Some(form))
            }
            Self::Revoke(name) => (Method::DELETE, key(&name), None),
            Self::NewTeam(form) => (Method::POST, "teams".into(), Some(form.into())),
            Self::ListTeams => (Method::GET, "teams".into(), None),
            Self::EditTeam(name, form) => (Method::PATCH, team(&name), Some(form.into())),
            Self::DeleteTeam(name) => (Method::DELETE, team(&name), None),
        }
    }

    /// Does it at the file, and returns what the admin API would.
    async fn at(self, open: &Open) -> Result<Value, Failure> {
        let (directory, now) = (&open.directory, Timestamp::now());
        let with_secret = |(secret, view): (crate::secret::Secret, _)| {
            let mut shown = shown(&view);
            shown["key"] = secret.expose().into();
            shown
        };
        Ok(match self {
            Self::New(form) => with_secret(directory.create_key(form::new_key(form, now)?).await?),
            Self::List => json!({ "data": shown(&directory.keys()) }),
            Self::Edit(name, form) => shown(
                &directory
                    .edit_key(&name, form::key_edit(form, now)?)
                    .await?,
            ),
            Self::Rotate(name, rotation) => {
                with_secret(directory.rotate_key(&name, rotation).await?)
            }
            Self::Revoke(name) => shown(&directory.revoke_key(&name).await?),
            Self::NewTeam(form) => shown(&directory.create_team(form::new_team(form)?).await?),
            Self::ListTeams => json!({ "data": shown(&directory.teams()) }),
            Self::EditTeam(name, form) => {
                shown(&directory.edit_team(&name, form::team_edit(form)?).await?)
            }
            Self::DeleteTeam(name) => {
                directory.delete_team(&name).await?;
                json!({ "name": name, "deleted": true })
            }
        })
    }
}

impl From<Invalid> for Failure {
    fn from(invalid: Invalid) -> Self {
        Self::mistake(invalid.to_string())
    }
}

/// Views always serialize.
fn shown(view: &impl Serialize) -> Value {
    serde_json::to_value(view).unwrap_or_default()
}

/// Words an answer for people.
fn words(op: &Op, answer: &Value) -> String {
    let name = plain(text(&answer["name"])).into_owned();
    match op {
        Op::New(_) => with_key(answer),
        Op::Rotate(..) => {
            let previous = &answer["previous"];
            let end = match previous["expires"].as_str() {
                Some(end) => format!(
                    "The old one, {}, is valid until {end}.\n",
                    text(&previous["id"])
                ),
                None => "The old one is valid no more.\n".to_owned(),
            };
            with_key(answer) + &end
        }
        Op::Revoke(_) => format!("{name} is revoked.\n"),
        Op::DeleteTeam(_) => format!("{name} is deleted.\n"),
        Op::List => key_table(list(answer)),
        Op::Edit(..) => key_table(std::slice::from_ref(answer)),
        Op::ListTeams => team_table(list(answer)),
        Op::NewTeam(_) | Op::EditTeam(..) => team_table(std::slice::from_ref(answer)),
    }
}

fn with_key(answer: &Value) -> String {
    format!(
        "key:  {}\nid:   {}\nname: {}\nThe key is shown this once; the id is what logs show of it.\n",
        plain(text(&answer["key"])),
        plain(text(&answer["id"])),
        plain(text(&answer["name"])),
    )
}

fn key_table(keys: &[Value]) -> String {
    let columns = [
        "NAME", "ID", "SOURCE", "STATE", "TEAM", "MODELS", "PATHS", "EXPIRES", "BUDGETS", "LIMITS",
    ];
    let mut table = Table::new(&columns.map(|column| (column, false)));
    for key in keys {
        let mut fields: Vec<String> = ["name", "id", "source", "state", "team"]
            .iter()
            .map(|field| or_dash(&key[*field]))
            .collect();
        fields.push(joined(&key["models"]));
        fields.push(joined(&key["paths"]));
        fields.push(or_dash(&key["expires"]));
        fields.push(budgets(&key["budgets"]));
        fields.push(limits(&key["limits"]));
        table.row(fields);
    }
    table.write()
}

fn team_table(teams: &[Value]) -> String {
    let columns = ["NAME", "SOURCE", "MODELS", "KEYS", "BUDGETS", "LIMITS"];
    let mut table = Table::new(&columns.map(|column| (column, false)));
    for team in teams {
        table.row([
            or_dash(&team["name"]),
            or_dash(&team["source"]),
            joined(&team["models"]),
            joined(&team["keys"]),
            budgets(&team["budgets"]),
            limits(&team["limits"]),
        ]);
    }
    table.write()
}

fn list(answer: &Value) -> &[Value] {
    answer["data"].as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

fn or_dash(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

fn joined(value: &Value) -> String {
    let texts: Vec<&str> = value.as_array().into_iter().flatten().map(text).collect();
    match texts.is_empty() {
        true => "-".to_owned(),
        false => texts.join(","),
    }
}

/// Words limits as `--limit` takes them.
fn limits(value: &Value) -> String {
    let limits = json_to_words(value);
    match limits.is_empty() {
        true => "-".to_owned(),
        false => limits.join("; "),
    }
}

/// Words budgets as `--budget` takes them.
fn budgets(value: &Value) -> String {
    let budgets = value.as_array().into_iter().flatten().map(|budget| {
        let limit = match budget["tokens"].as_u64() {
            Some(tokens) => format!("{tokens} tokens"),
            None => text(&budget["amount"]).to_owned(),
        };
        let window = match text(&budget["window"]) {
            "rolling" => "/rolling",
            _ => "",
        };
        format!("{limit}/{}{window}", text(&budget["per"]))
    });
    let budgets: Vec<String> = budgets.collect();
    match budgets.is_empty() {
        true => "-".to_owned(),
        false => budgets.join(", "),
    }
}
