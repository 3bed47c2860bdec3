//! `weir explain`: its arguments.

use std::path::PathBuf;

use clap::Args;

use super::operate::GatewayArgs;
use crate::operator::{ExplainOptions, Wanted};
use crate::secret::Secret;

const EXPLAIN_HELP: &str = "\
Nothing is consumed: no call is made, and no limit, budget or ledger notices.
Shown is what the client would hear and why, and below it each limit, budget and target that the call would meet; times
are spelled such as 8.64s or 1h2m3s, and money is in US dollars.
Exit codes: 0 fine (also where the call would be refused), 1 your mistake, 2 an internal error.";

/// A call to explain.
#[derive(Args, Clone, Debug)]
#[command(after_help = EXPLAIN_HELP)]
pub struct ExplainArgs {
    /// A file with the request's body, in JSON; - for standard input [default: a short one for the --model]
    body: Option<PathBuf>,
    /// The key, by its name or id; or the key itself, though other users of this machine can read arguments
    /// [default: $WEIR_KEY]
    #[arg(long, value_name = "NAME", value_parser = |key: &str| Ok::<_, std::convert::Infallible>(Secret::new(key)))]
    key: Option<Secret>,
    /// The model, in the place of the body's
    #[arg(long)]
    model: Option<String>,
    /// The path
    #[arg(long, default_value = "/v1/chat/completions")]
    path: String,
    /// The method [default: POST with a body, else GET]
    #[arg(long)]
    method: Option<String>,
    /// A header such as "x-session-id: 7"; may be there several times
    #[arg(long = "header", value_name = "HEADER", value_parser = header)]
    headers: Vec<(String, String)>,
    /// Write JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    gateway: GatewayArgs,
}

fn header(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or_else(|| "is no header; write such as \"x-session-id: 7\"".to_owned())?;
    Ok((name.trim().to_owned(), value.trim().to_owned()))
}

impl ExplainArgs {
    /// Returns where to ask, and what.
    pub fn options(self, env: &dyn Fn(&str) -> Option<String>) -> (Wanted, ExplainOptions) {
        let variable = || env("WEIR_KEY").filter(|key| !key.is_empty());
        let options = ExplainOptions {
            key: self.key.or_else(|| variable().map(Secret::new)),
            model: self.model,
            method: self.method,
            path: self.path,
            headers: self.headers,
            body: self.body,
            json: self.json,
        };
        (self.gateway.wanted(env), options)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;
    use crate::cli::Command;

    fn parse(args: &[&str]) -> Result<ExplainArgs, u8> {
        let args = ["weir", "explain"].iter().chain(args).map(OsString::from);
        match Command::parse(args)? {
            Command::Explain(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn arguments_become_options() {
        let args = [
            "-",
            "--key",
            "alice",
            "--model",
            "poet",
            "--header",
            "X-A:  b:c ",
            "--admin",
            "http://x",
        ];
        let args = parse(&args).unwrap();
        assert!(!format!("{args:?}").contains("alice"), "it may be a secret");
        let (wanted, options) = args.options(&|_| None);
        assert_eq!(wanted.url.as_deref(), Some("http://x"));
        assert_eq!(options.key, Some(Secret::new("alice")));
        assert_eq!(options.body, Some("-".into()));
        assert_eq!(options.path, "/v1/chat/completions");
        assert_eq!(options.headers, [("X-A".into(), "b:c".into())]);
        let (_, options) = parse(&[]).unwrap().options(&|name| Some(name.to_owned()));
        assert_eq!(options.key, Some(Secret::new("WEIR_KEY")));
    }

    #[test]
    fn mistakes_are_found_before_anybody_is_asked() {
        for args in [
            &["--header", "x"][..],
            &["--ledger", "weir.db"],
            &["a", "b"],
            &["--mode", "poet"],
        ] {
            assert_eq!(parse(args).err(), Some(1), "{args:?}");
        }
    }
}
