//! `weir usage`: its arguments.

use clap::Args;

use super::PlaceArgs;
use crate::operator::{Format, UsageOptions, Wanted};
use crate::store::ledger::GroupBy;

const USAGE_HELP: &str = "\
COST USD is what is known of it: \"-\" (in CSV empty) where some requests are unpriced and the others cost nothing.
UNPRICED counts the requests that used tokens at a price that is not known; their cost is left out altogether.
Times are written 2026-11-25T21:00:00Z, 2026-11-25 (its first moment, UTC) or in seconds since 1970.
Exit codes: 0 fine, 1 your mistake, 2 an internal error.";

/// What to add up.
#[derive(Args, Clone, Debug)]
#[command(after_help = USAGE_HELP)]
pub struct UsageArgs {
    /// What it is added up by: team, key, model, upstream, day or hour
    #[arg(long, value_name = "WHAT", default_value = "key", value_parser = group_by)]
    by: GroupBy,
    /// Requests from this time on [default: all that are in the ledger]
    #[arg(long, value_name = "TIME")]
    from: Option<String>,
    /// Requests before this time [default: now]
    #[arg(long, value_name = "TIME")]
    to: Option<String>,
    /// Requests of this key alone
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    /// Requests of this team alone
    #[arg(long, value_name = "NAME")]
    team: Option<String>,
    /// Write JSON
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Write CSV
    #[arg(long)]
    csv: bool,
    #[command(flatten)]
    place: PlaceArgs,
}

fn group_by(word: &str) -> Result<GroupBy, String> {
    GroupBy::parse(word).ok_or_else(|| format!("must be one of {}", GroupBy::WORDS.join(", ")))
}

impl UsageArgs {
    /// Returns where to ask, and what for.
    pub fn options(self, env: &dyn Fn(&str) -> Option<String>) -> (Wanted, UsageOptions) {
        let format = match (self.json, self.csv) {
            (true, _) => Format::Json,
            (_, true) => Format::Csv,
            (false, false) => Format::Table,
        };
        let options = UsageOptions {
            by: self.by,
            from: self.from,
            to: self.to,
            key: self.key,
            team: self.team,
            format,
        };
        (self.place.wanted(env), options)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use crate::cli::Command;

    #[test]
    fn mistakes_are_found_before_anybody_is_asked() {
        for args in [
            &["--by", "user"][..],
            &["--json", "--csv"],
            &["--admin", "http://x", "--ledger", "x"],
            &["--token-file", "x", "--ledger", "x"],
        ] {
            let args = ["weir", "usage"].iter().chain(args);
            let parsed = Command::parse(args.map(OsString::from));
            assert_eq!(parsed.err(), Some(1));
        }
    }
}
