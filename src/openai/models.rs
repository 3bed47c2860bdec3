//! The model objects of `/v1/models` and `/v1/engines`.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A model object. Fields that Weir does not know are carried along.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq)]
pub struct Model {
    /// The name to ask for.
    pub id: String,
    /// Always `model`.
    #[serde(default = "object")]
    pub object: String,
    /// When it was made, in Unix seconds.
    #[serde(default)]
    pub created: u64,
    /// The name of the upstream that serves it.
    #[serde(default)]
    pub owned_by: String,
    /// Everything else the upstream says of it.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// A list as the API spells it.
#[derive(Debug, Serialize, Deserialize)]
pub struct List<T> {
    /// Always `list`.
    #[serde(default = "list")]
    pub object: String,
    /// The things listed.
    pub data: Vec<T>,
}

/// The engine object of the first API.
#[derive(Debug, Serialize)]
pub struct Engine<'a> {
    /// The name to ask for.
    pub id: &'a str,
    /// Always `engine`.
    pub object: &'static str,
    /// The name of the upstream that serves it.
    pub owner: &'a str,
    /// Whether it can be asked.
    pub ready: bool,
    /// When it was made, in Unix seconds.
    pub created: u64,
}

fn object() -> String {
    "model".into()
}

fn list() -> String {
    "list".into()
}

impl Model {
    /// Builds the object of a model about which nothing else is known.
    pub fn new(id: impl Into<String>, owned_by: impl Into<String>) -> Self {
        Self {
            id: id.into(),
            object: object(),
            created: 0,
            owned_by: owned_by.into(),
            rest: Map::new(),
        }
    }
}

impl<T> List<T> {
    /// Builds a list.
    pub fn new(data: Vec<T>) -> Self {
        Self {
            object: list(),
            data,
        }
    }
}

impl<'a> From<&'a Model> for Engine<'a> {
    fn from(model: &'a Model) -> Self {
        Self {
            id: &model.id,
            object: "engine",
            owner: &model.owned_by,
            ready: true,
            created: model.created,
        }
    }
}
