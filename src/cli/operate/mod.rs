//! `weir usage` and `weir keys`: their arguments.

mod keys;
mod usage;

use std::path::PathBuf;

use clap::Args;

pub use self::keys::KeysArgs;
pub use self::usage::UsageArgs;
use crate::cli::config_path;
use crate::operator::Wanted;

const PLACE: &str = "Where";

/// Which running gateway does it. Where there are subcommands, these stand before or behind them.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct GatewayArgs {
    /// The base URL of a running gateway's admin plane
    /// [default: the one that the configuration says, else http://127.0.0.1:8081]
    #[arg(long, global = true, value_name = "URL", help_heading = PLACE)]
    admin: Option<String>,
    /// A file with the admin token [default: $WEIR_ADMIN_TOKEN, else the configuration's]
    #[arg(long, global = true, value_name = "FILE", help_heading = PLACE)]
    token_file: Option<PathBuf>,
    /// The configuration file, for the URL and the token where the options above leave them open [default: $WEIR_CONFIG]
    #[arg(long, global = true, value_name = "FILE", help_heading = PLACE)]
    config: Option<PathBuf>,
}

/// Where it is done.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq)]
struct PlaceArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
    /// The ledger's file itself instead of a running gateway; --config then tells the keys and teams of the configuration
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        help_heading = PLACE,
        conflicts_with_all = ["admin", "token_file"]
    )]
    ledger: Option<PathBuf>,
}

impl GatewayArgs {
    pub(super) fn wanted(self, env: &dyn Fn(&str) -> Option<String>) -> Wanted {
        Wanted {
            names_config: self.config.is_some(),
            config: config_path(self.config, env),
            url: self.admin,
            token_file: self.token_file,
            ledger: None,
        }
    }
}

impl PlaceArgs {
    fn wanted(self, env: &dyn Fn(&str) -> Option<String>) -> Wanted {
        Wanted {
            ledger: self.ledger,
            ..self.gateway.wanted(env)
        }
    }
}
