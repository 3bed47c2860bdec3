//! `weir keys`: its arguments.

use std::time::Duration;

use clap::{Arg, Args, Subcommand};
use serde_json::{Map, Value};

use super::PlaceArgs;
use crate::call::Keeps;
use crate::cli::sides::refusal;
use crate::cli::{EXIT_HELP, HashArgs};
use crate::operator::{KeysOptions, Op, Wanted};
use crate::report::parse_time;
use crate::store::keys::Rotation;
use crate::store::keys::budget;
use crate::store::keys::form::parse_grace;
use crate::store::limits;

const KEYS_HELP: &str = "\
A budget is written \"50 USD/month\" or \"5000000 tokens/day\"; day, month or total, from midnight UTC or the first of
the month, or with \"/rolling\" behind it for the last 24 hours or 30 days.
A limit is written \"60 requests/minute\" or \"40000 tokens/day\" (also \"input tokens\", \"output tokens\"; minute or
day), or \"10 concurrent\"; behind it may stand \"burst 10\" (requests of a minute that may come at once), \"for gpt-*,o1\"
(calls of those models alone) and \"shadow\" (it counts and reports, and refuses nothing).
With --ledger the file itself is changed. A gateway that runs on it notices within about a second; keys of the
configuration are known only where --config names it.
Exit codes: 0 fine, 1 your mistake, 2 an internal error.";

/// What to do about gateway keys, and where.
#[derive(Args, Debug)]
pub struct KeysArgs {
    #[command(flatten)]
    at: AtArgs,
    #[command(subcommand)]
    command: KeysCommand,
}

/// What can be done about gateway keys.
#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// Print the hash of a key, as the configuration takes it
    #[command(after_help = EXIT_HELP, args = of_no_use())]
    Hash(HashArgs),
    /// Make a key; it is shown this once
    #[command(after_help = KEYS_HELP)]
    New(NewArgs),
    /// List all keys, those of the configuration too
    #[command(after_help = KEYS_HELP)]
    List,
    /// Change what is said of a key; what is not named stays as it is
    #[command(after_help = KEYS_HELP)]
    Edit(EditArgs),
    /// Give a key another secret; the old one stays valid for a while
    #[command(after_help = KEYS_HELP)]
    Rotate(RotateArgs),
    /// Revoke a key, at once and for good
    #[command(after_help = KEYS_HELP)]
    Revoke(RevokeArgs),
    /// Teams of keys
    #[command(subcommand)]
    Team(TeamCommand),
}

/// What can be done about teams.
#[derive(Debug, Subcommand)]
enum TeamCommand {
    /// Make a team
    #[command(after_help = KEYS_HELP)]
    New(NewTeamArgs),
    /// List all teams, those of the configuration too
    #[command(after_help = KEYS_HELP)]
    List,
    /// Change what the keys of a team have in common; what is not named stays as it is
    #[command(after_help = KEYS_HELP)]
    Edit(EditTeamArgs),
    /// Delete a team that has no keys
    #[command(after_help = KEYS_HELP)]
    Delete(RevokeArgs),
}

/// Where it is done, and how the answer is written: before or behind what is done.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
struct AtArgs {
    /// Write JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

/// Returns the options of all these commands for one that asks nobody: its help does not tell of what it refuses.
fn of_no_use() -> Vec<Arg> {
    let at = AtArgs::augment_args(clap::Command::new("at"));
    let options = at.get_arguments().cloned();
    options.map(|option| option.hide(true)).collect()
}

/// What keys and teams have in common.
#[derive(Args, Clone, Debug, Default)]
struct CommonArgs {
    /// Patterns of models that may be used, with commas between them [default: *]
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',')]
    models: Vec<String>,
    /// A budget such as "50 USD/month"; may be there several times; "none" for none
    #[arg(long = "budget", value_name = "BUDGET", allow_hyphen_values = true, value_parser = or_none(budget::words_to_json))]
    budgets: Vec<Value>,
    /// A limit such as "60 requests/minute"; may be there several times; "none" for none
    #[arg(long = "limit", value_name = "LIMIT", allow_hyphen_values = true, value_parser = or_none(limits::words_to_json))]
    limits: Vec<Value>,
    /// Which answers are kept: "off", "deterministic", "always", "on-request", or "default" for as elsewhere
    #[arg(long, value_name = "WHICH", value_parser = keeps)]
    cache: Option<Value>,
}

/// What is said of a key.
#[derive(Args, Clone, Debug, Default)]
struct TermsArgs {
    /// The team that the key belongs to; '' for none
    #[arg(long)]
    team: Option<String>,
    /// Patterns of paths that may be used, with commas between them [default: *]
    #[arg(long, value_name = "PATTERNS", value_delimiter = ',')]
    paths: Vec<String>,
    /// When the key stops being valid, or "never" [default: never]
    #[arg(long, value_name = "TIME", value_parser = expires)]
    expires: Option<Value>,
    #[command(flatten)]
    common: CommonArgs,
}

/// A key to make.
#[derive(Args, Clone, Debug)]
struct NewArgs {
    /// Its name in logs, metrics and the ledger
    name: String,
    #[command(flatten)]
    terms: TermsArgs,
}

/// A key to edit.
#[derive(Args, Clone, Debug)]
struct EditArgs {
    /// Its name or id
    name: String,
    #[command(flatten)]
    terms: TermsArgs,
}

/// A key to rotate.
#[derive(Args, Clone, Debug)]
struct RotateArgs {
    /// Its name or id
    name: String,
    /// How long the old secret stays valid; 0 for not at all
    #[arg(long, value_name = "TIME", default_value = "24h", value_parser = parse_grace)]
    grace: Duration,
    /// Rotate also while a secret from before the last rotation is valid, and end that one now
    #[arg(long)]
    force: bool,
}

/// A key to revoke, or a team to delete.
#[derive(Args, Clone, Debug)]
struct RevokeArgs {
    /// Its name (or a key's id)
    name: String,
}

/// A team to make.
#[derive(Args, Clone, Debug)]
struct NewTeamArgs {
    /// Its name in logs and the ledger
    name: String,
    #[command(flatten)]
    terms: CommonArgs,
}

/// A team to edit.
#[derive(Args, Clone, Debug)]
struct EditTeamArgs {
    /// Its name
    name: String,
    #[command(flatten)]
    terms: CommonArgs,
}

fn expires(text: &str) -> Result<Value, String> {
    match text {
        "never" => Ok(Value::Null),
        text => parse_time(text).map(|time| time.to_string().into()),
    }
}

/// Reads a value that may be `none`.
fn or_none(
    read: fn(&str) -> Result<Value, String>,
) -> impl Fn(&str) -> Result<Value, String> + Clone {
    move |text| match text {
        "none" => Ok(Value::Null),
        text => read(text),
    }
}

// === what they come to ===

impl KeysArgs {
    /// Judges what clap cannot, for the program whose command line it is.
    ///
    /// # Errors
    /// Where it is done is said of what is done nowhere.
    pub(in crate::cli) fn check(&self, program: clap::Command) -> Result<(), clap::Error> {
        match &self.command {
            KeysCommand::Hash(_) if self.at != AtArgs::default() => {
                let why = "'hash' cannot be used with '--json', '--admin', '--token-file', '--config' or '--ledger': it asks nobody";
                Err(refusal(program, &["keys", "hash"], why.to_owned()))
            }
            _ => Ok(()),
        }
    }

    /// Returns where to do it, and what; or the key to hash.
    pub fn options(
        self,
        env: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(Wanted, KeysOptions), HashArgs> {
        let AtArgs { json, place } = self.at;
        let op = self.command.op()?;
        Ok((place.wanted(env), KeysOptions { op, json }))
    }
}

impl KeysCommand {
    fn op(self) -> Result<Op, HashArgs> {
        Ok(match self {
            Self::Hash(args) => return Err(args),
            Self::New(args) => Op::New(named(args.name, args.terms.form())),
            Self::List => Op::List,
            Self::Edit(args) => Op::Edit(args.name, args.terms.form()),
            Self::Rotate(args) => {
                let rotation = Rotation {
                    grace: args.grace,
                    force: args.force,
                };
                Op::Rotate(args.name, rotation)
            }
            Self::Revoke(args) => Op::Revoke(args.name),
            Self::Team(TeamCommand::New(args)) => Op::NewTeam(named(args.name, args.terms.form())),
            Self::Team(TeamCommand::List) => Op::ListTeams,
            Self::Team(TeamCommand::Edit(args)) => Op::EditTeam(args.name, args.terms.form()),
            Self::Team(TeamCommand::Delete(args)) => Op::DeleteTeam(args.name),
        })
    }
}

impl TermsArgs {
    fn form(self) -> Map<String, Value> {
        let mut form = self.common.form();
        if let Some(team) = self.team {
            let team = Some(team).filter(|team| !team.is_empty());
            form.insert("team".into(), team.into());
        }
        if !self.paths.is_empty() {
            form.insert("paths".into(), self.paths.into());
        }
        if let Some(expires) = self.expires {
            form.insert("expires".into(), expires);
        }
        form
    }
}

impl CommonArgs {
    fn form(self) -> Map<String, Value> {
        let mut form = Map::new();
        if !self.models.is_empty() {
            form.insert("models".into(), self.models.into());
        }
        if !self.budgets.is_empty() {
            let budgets = self.budgets.into_iter().filter(|budget| !budget.is_null());
            form.insert("budgets".into(), budgets.collect());
        }
        if !self.limits.is_empty() {
            let limits = self.limits.into_iter().filter(|limit| !limit.is_null());
            form.insert("limits".into(), limits.collect());
        }
        if let Some(cache) = self.cache {
            form.insert("cache".into(), cache);
        }
        form
    }
}

/// Reads which answers are kept; `default` is what nothing is said of.
fn keeps(word: &str) -> Result<Value, String> {
    match (word, Keeps::parse(word)) {
        ("default", _) => Ok(Value::Null),
        (_, Some(keeps)) => Ok(keeps.as_str().into()),
        (_, None) => {
            let words = Keeps::ALL.map(Keeps::as_str);
            Err(format!("must be one of {}, default", words.join(", ")))
        }
    }
}

fn named(name: String, mut form: Map<String, Value>) -> Map<String, Value> {
    form.insert("name".into(), name.into());
    form
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use serde_json::json;

    use super::*;
    use crate::cli::Command;

    fn parse(args: &[&str]) -> Result<Command, u8> {
        Command::parse(["weir"].iter().chain(args).map(OsString::from))
    }

    fn options(args: &[&str]) -> (Wanted, KeysOptions) {
        let args = [&["keys"], args].concat();
        let Ok(Command::Keys(keys)) = parse(&args) else {
            panic!("{args:?}");
        };
        keys.options(&|_| None).unwrap()
    }

    fn op(args: &[&str]) -> Op {
        options(args).1.op
    }

    fn form(json: Value) -> Map<String, Value> {
        json.as_object().unwrap().clone()
    }

    #[test]
    fn arguments_become_forms() {
        let made = op(&[
            "new",
            "alice",
            "--team",
            "r&d",
            "--models",
            "gpt-*,poet",
            "--expires",
            "2027-01-01",
            "--budget",
            "50 USD/month",
            "--budget",
            "5 tokens/day/rolling",
            "--limit",
            "60 requests/minute burst 5",
            "--limit",
            "9 tokens/day for gpt-*",
        ]);
        let expected = json!({
            "name": "alice", "team": "r&d", "models": ["gpt-*", "poet"], "expires": "2027-01-01T00:00:00Z",
            "budgets": [{ "amount": "50 USD", "per": "month" }, { "tokens": 5, "per": "day", "window": "rolling" }],
            "limits": [{ "requests_per_minute": 60, "burst": 5 }, { "tokens_per_day": 9, "models": ["gpt-*"] }],
        });
        assert_eq!(made, Op::New(form(expected)));
        let edited = op(&[
            "edit",
            "alice",
            "--team",
            "",
            "--expires",
            "never",
            "--budget",
            "none",
            "--limit",
            "none",
        ]);
        let expected = json!({ "team": null, "expires": null, "budgets": [], "limits": [] });
        assert_eq!(edited, Op::Edit("alice".into(), form(expected)));
        let rotated = |grace, force| Op::Rotate("alice".into(), Rotation { grace, force });
        let day = Duration::from_secs(86_400);
        assert_eq!(op(&["rotate", "alice"]), rotated(day, false));
        assert_eq!(
            op(&["rotate", "alice", "--grace", "0"]),
            rotated(Duration::ZERO, false)
        );
        assert_eq!(op(&["rotate", "alice", "--force"]), rotated(day, true));
        assert_eq!(op(&["team", "delete", "t"]), Op::DeleteTeam("t".into()));
    }

    #[test]
    fn where_it_is_done_stands_before_or_behind_what_is_done() {
        const AT: [&str; 5] = ["--admin", "http://x", "--config", "a.toml", "--json"];
        for (before, between, behind) in [
            (&AT[..], &[][..], &[][..]),
            (&[], &AT, &[]),
            (&[], &[], &AT),
            (&AT[..2], &AT[2..4], &AT[4..]),
        ] {
            let (wanted, options) =
                options(&[before, &["team"], between, &["list"], behind].concat());
            assert_eq!(wanted.url.as_deref(), Some("http://x"));
            assert_eq!(wanted.config, Some("a.toml".into()));
            assert!(options.json && options.op == Op::ListTeams);
        }
    }

    #[test]
    fn mistakes_are_found_before_anybody_is_asked() {
        for args in [
            &["keys", "new"][..],
            &["keys", "new", "a", "--budget", "much"],
            &["keys", "new", "a", "--limit", "60 requests"],
            &["keys", "new", "a", "--expires", "soon"],
            &["keys", "rotate", "a", "--grace", "5"],
            &["keys", "--admin", "http://x", "list", "--ledger", "x"],
            &["keys", "--ledger", "x", "list", "--token-file", "x"],
            &["keys", "list", "--token-file", "x", "--ledger", "x"],
            &["keys", "--json", "hash", "12345678"],
            &["keys", "hash", "--admin", "http://x", "12345678"],
        ] {
            assert_eq!(parse(args).err(), Some(1), "{args:?}");
        }
    }
}
