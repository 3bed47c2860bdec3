//! What would become of a call, as people and programs read it: what the admin API answers, and `weir explain` prints.

mod words;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::words::to_words;

/// What would become of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Outlook {
    /// What the client would hear.
    pub verdict: Verdict,
    /// What is known of the key.
    pub key: Key,
    /// How the request is understood.
    pub request: Request,
    /// Which way the call would take; `None` where it would take none.
    pub route: Option<Route>,
    /// What it is expected to use; `None` where nobody can tell, or nothing is.
    pub estimate: Option<Estimate>,
    /// Each limit that it would count towards.
    pub limits: Vec<Limit>,
    /// Each budget that it would count towards.
    pub budgets: Vec<Budget>,
    /// Whether it would be answered from the cache.
    pub cache: Cache,
    /// Where it would go, in the order in which the places would be asked; those that would not be, at the end.
    pub targets: Vec<Target>,
}

/// What the client would hear.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Verdict {
    /// `served`, or `refused`.
    pub outcome: String,
    /// The status; 200 stands for whatever an upstream answers.
    pub status: u16,
    /// The envelope's `type`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// The envelope's `code`.
    pub code: Option<String>,
    /// The envelope's `param`.
    pub param: Option<String>,
    /// The envelope's `message`.
    pub message: Option<String>,
    /// When to come back.
    pub retry_after_ms: Option<u64>,
}

/// What is known of a key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// Whether there is such a key.
    pub found: bool,
    /// Whether it opens the gateway.
    pub opens: bool,
    /// Why it does not.
    pub reason: Option<String>,
    /// Its name.
    pub name: Option<String>,
    /// The part of it that may be shown; `None` for one of the configuration.
    pub id: Option<String>,
    /// Its team.
    pub team: Option<String>,
    /// `config`, or `admin` for one made at run time.
    pub source: Option<String>,
    /// `active`, `expired`, `revoked`, `shadowed`, `team_missing` or `uncounted`.
    pub state: Option<String>,
    /// When it ends, RFC 3339.
    pub expires: Option<String>,
    /// Whether it may use the path.
    pub may_use_path: Option<bool>,
    /// Whether it may use the model.
    pub may_use_model: Option<bool>,
}

/// How a request is understood.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Request {
    /// The method.
    pub method: String,
    /// The path.
    pub path: String,
    /// The endpoint; `other` for a path that passes through.
    pub endpoint: Option<String>,
    /// Who answers: `upstream`, or `gateway` for what goes to none, or is put together from what all have.
    pub answered_by: Option<String>,
    /// The model asked for.
    pub model: Option<String>,
    /// Whether a stream is asked for.
    pub stream: bool,
    /// Whether it is a request that can be served at all.
    pub well_formed: bool,
    /// What is wrong with it, as the client would be told.
    pub error: Option<String>,
}

/// Which way a call would take.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Route {
    /// The configured pattern that matches the model; `None` for a path without one.
    pub pattern: Option<String>,
    /// How targets of one priority share the calls: `p2c`, `weighted` or `order`.
    pub balance: String,
}

/// What a call is expected to use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// How they are counted: `estimated`, from the bytes alone.
    pub prompt_from: String,
    /// Tokens that are reserved for the answer, all choices together.
    pub completion_tokens: u64,
    /// Where that is from: `max_tokens`, `learnt` from such answers before, a `guess`, or `none` where nothing is
    /// generated.
    pub completion_from: String,
    /// How many answers are asked for at once.
    pub choices: u64,
    /// US dollars, at the prices of the dearest upstream that it may go to; `None`: no price is known.
    pub cost: Option<String>,
}

/// What a limit would say of a call.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    /// `key`, `team`, `route` or `gateway`.
    pub of: String,
    /// The holder's name; the gateway has none.
    pub name: Option<String>,
    /// What it counts, such as `requests_per_minute`.
    pub dimension: String,
    /// The patterns of models whose calls count; empty for all.
    pub models: Vec<String>,
    /// Whether it counts and reports, and refuses nothing.
    pub shadow: bool,
    /// How many there are in its time.
    pub limit: u32,
    /// How many may come at once.
    pub burst: u32,
    /// How many are left now.
    pub remaining: u32,
    /// When all of them will be, if nobody takes any.
    pub reset_ms: u64,
    /// How many the call would take.
    pub wanted: u64,
    /// Whether it would refuse the call, or would if it were no shadow.
    pub refuses: bool,
    /// When there would be room; `None` where there is some, or never would be.
    pub retry_after_ms: Option<u64>,
}

/// What a budget would say of a call. Amounts are in the budget's own unit: US dollars as decimal numbers in texts, or
/// tokens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// `key` or `team`.
    pub of: String,
    /// The holder's name.
    pub name: String,
    /// `usd` or `tokens`.
    pub unit: String,
    /// `day`, `month` or `total`.
    pub per: String,
    /// `calendar` or `rolling`.
    pub window: String,
    /// What may be used.
    pub limit: Value,
    /// What has been used.
    pub used: Value,
    /// What is reserved for calls under way.
    pub reserved: Value,
    /// What would be reserved for the call.
    pub wanted: Value,
    /// Whether it has no room for the call.
    pub refuses: bool,
    /// When it begins anew, RFC 3339; `None`: it does not, or bit by bit.
    pub renewed: Option<String>,
}

/// Whether a call would be answered from the cache.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Cache {
    /// What would be decided.
    pub decision: String,
    /// Why.
    pub reason: String,
}

/// One of the places that a call can go to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// The upstream's name.
    pub upstream: String,
    /// Which of its endpoints.
    pub endpoint: String,
    /// The name that it knows the model by.
    pub model: Option<String>,
    /// Those of a higher number are asked when those of the lower ones fail.
    pub priority: u32,
    /// The share of the calls, where they are shared by weight.
    pub weight: u32,
    /// `healthy`; `due` for a trial after it was left out; `ejected`; `loading` for a model in this process.
    pub state: String,
    /// For how long it is left out still.
    pub ejected_for_ms: Option<u64>,
    /// Why none of its credentials is of use: `refused` or `limited`.
    pub credentials_aside: Option<String>,
    /// When it would be asked: `in_order`, as a `last_resort`, or as it stands now `never`.
    pub turn: String,
    /// How likely it is to be asked first, in percent.
    pub first_percent: u32,
}
