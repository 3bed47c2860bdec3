//! `weir usage`, `weir keys`, `weir explain` and `weir health`: what an operator does from a terminal, at a running gateway
//! by its admin plane, or at the ledger's file itself.
//!
//! At the file, a gateway that runs notices what is changed within about a second.

mod explain;
mod file;
mod gateway;
mod health;
mod keys;
#[cfg(test)]
mod tests;
mod usage;

use std::path::PathBuf;

pub use self::explain::{ExplainOptions, explain};
pub use self::gateway::base_url;
pub use self::health::{Health, health};
pub use self::keys::{KeysOptions, Op, keys};
pub use self::usage::{Format, UsageOptions, usage};
use crate::client::ClientError;
use crate::secret::Secret;
use crate::store::directory::Configured;

/// The admin plane of a gateway with default settings.
pub const DEFAULT_URL: &str = "http://127.0.0.1:8081";

/// Where it is done.
#[derive(Clone, Debug)]
pub enum Place {
    /// At a running gateway.
    Gateway {
        /// The base URL of its admin plane, without a slash at its end.
        url: String,
        /// Its admin token.
        token: Option<Secret>,
    },
    /// At the ledger's file.
    File {
        /// The file.
        path: PathBuf,
        /// The keys and teams that the configuration has, as far as it is known.
        configured: Configured,
    },
}

/// What the user is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Told {
    /// What was asked for.
    pub text: String,
    /// What is worth a word beside it.
    pub note: Option<String>,
}

impl From<String> for Told {
    fn from(text: String) -> Self {
        Self { text, note: None }
    }
}

/// Where the user wants it done, as far as that was said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// Whether an argument names the configuration file, and not the environment: somebody wants it read.
    pub names_config: bool,
    /// The base URL of an admin plane.
    pub url: Option<String>,
    /// A file that holds the admin token.
    pub token_file: Option<PathBuf>,
    /// The ledger's file.
    pub ledger: Option<PathBuf>,
}

/// Why it was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What the user is told.
    pub message: String,
    /// Whether the user can mend it: exit code 1, else 2.
    pub is_users: bool,
}

impl Failure {
    fn mistake(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            is_users: true,
        }
    }

    fn internal(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            is_users: false,
        }
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::mistake(error.to_string())
    }
}
