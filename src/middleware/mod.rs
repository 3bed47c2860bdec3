//! The layers of the stack, one file each. `stack.rs` says in which order they stand, and why.

mod access_log;
pub mod accounting;
pub mod admission;
pub mod api;
pub mod auth;
pub mod cache;
pub mod content;
pub mod explain;
pub mod heartbeat;
pub mod own_usage;
pub mod refusals;
pub mod respond;
pub mod route;
pub mod telemetry;
