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
#[derive(Args, Clone, Debug, Default)]
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
#[derive(Args, Clone, Debug, Default)]
struct PlaceArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
    /// The ledger's file itself instead of a running gateway; --config then tells the keys and teams that stand there
    #[arg(long, global = true, value_name = "FILE", help_heading = PLACE)]
    ledger: Option<PathBuf>,
}

impl GatewayArgs {
    /// Says what of it excludes what else.
    pub(super) fn contradiction(&self) -> Option<&'static str> {
        let is_all_said = self.admin.is_some() && self.token_file.is_some();
        (is_all_said && self.config.is_some()).then_some(
            "'--config <FILE>' cannot be used with both '--admin <URL>' and '--token-file <FILE>': nothing of it would be read",
        )
    }

    pub(super) fn wanted(self, env: &dyn Fn(&str) -> Option<String>) -> Wanted {
        Wanted {
            config: config_path(self.config, env),
            url: self.admin,
            token_file: self.token_file,
            ledger: None,
        }
    }
}

impl PlaceArgs {
    fn contradiction(&self) -> Option<&'static str> {
        let asks_gateway = self.gateway.admin.is_some() || self.gateway.token_file.is_some();
        let of_both = (asks_gateway && self.ledger.is_some()).then_some(
            "'--ledger <FILE>' cannot be used with '--admin <URL>' or '--token-file <FILE>': no gateway would be asked",
        );
        of_both.or_else(|| self.gateway.contradiction())
    }

    fn is_empty(&self) -> bool {
        let GatewayArgs {
            admin,
            token_file,
            config,
        } = &self.gateway;
        admin.is_none() && token_file.is_none() && config.is_none() && self.ledger.is_none()
    }

    fn wanted(self, env: &dyn Fn(&str) -> Option<String>) -> Wanted {
        Wanted {
            ledger: self.ledger,
            ..self.gateway.wanted(env)
        }
    }
}
