//! What Weir promises, tried on the real binary over real sockets: a module per promise.
//!
//! `cargo test --test gateway framing::` runs one module. Every test starts a gateway of its own on free ports, with a
//! config file in a temp folder and a scripted upstream beside it; when a test fails, the gateway's log is shown.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stderr,
    reason = "a helper of a test fails the test by panicking, and shows why"
)]

mod support;

mod access_log;
mod admin;
mod auth;
mod book;
mod budgets;
mod cache;
mod cache_redis;
mod cache_retries;
mod clients;
mod config_start;
mod connections;
mod console;
mod dashboards;
mod drain;
mod ejection;
mod errors;
mod explain;
mod fallback;
mod faults;
mod framing;
mod health;
mod house;
mod http2;
mod http2_faults;
mod keys;
mod ledger;
mod limits;
#[cfg(feature = "local")]
mod local;
mod metrics;
mod models;
mod names;
mod pass_through;
mod plain;
mod read_only;
mod redis;
mod redis_ways;
mod reload;
mod restricted;
mod retries;
mod rolling;
mod secrets;
mod shared_budgets;
mod shared_keys;
mod streaming;
mod traces;
mod usage;
mod ways;
