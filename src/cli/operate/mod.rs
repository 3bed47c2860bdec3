//! `weir usage` and `weir keys`: their arguments.

mod keys;
mod usage;

use std::path::PathBuf;

use clap::Args;

pub use self::keys::{
    AtArgs, EditArgs, EditTeamArgs, KeysCommand, NewArgs, NewTeamArgs, RevokeArgs, RotateArgs,
    TeamCommand,
};
pub use self::usage::UsageArgs;
use super::ConfigArgs;
use crate::operator::Wanted;

const PLACE: &str = "Where";

/// Which running gateway does it.
#[derive(Args, Clone, Debug, Default)]
pub(super) struct GatewayArgs {
    /// The admin plane of a running gateway
    /// [default: the one that the configuration says, else http://127.0.0.1:8081]
    #[arg(long, value_name = "URL", help_heading = PLACE)]
    admin: Option<String>,
    /// A file with the admin token [default: $WEIR_ADMIN_TOKEN, else the configuration's]
    #[arg(long, value_name = "FILE", help_heading = PLACE)]
    token_file: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Where it is done.
#[derive(Args, Clone, Debug, Default)]
struct PlaceArgs {
    #[command(flatten)]
    gateway: GatewayArgs,
    /// The ledger's file itself instead of a running gateway
    #[arg(long, value_name = "FILE", conflicts_with = "admin", help_heading = PLACE)]
    ledger: Option<PathBuf>,
}

impl GatewayArgs {
    pub(super) fn wanted(self, env: &dyn Fn(&str) -> Option<String>) -> Wanted {
        Wanted {
            config: self.config.path(env),
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
