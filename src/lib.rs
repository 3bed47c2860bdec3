//! Weir, an OpenAI-compatible LLM gateway.
//!
//! Start reading at [`stack`]: the way of a request through every layer, on one page. [`app`] builds it from the
//! configuration, [`call`] holds the types that travel inside, [`error`] is the one map from failures to answers, [`explain`] tells what
//! would become of a call without making it.

pub mod admin;
pub mod app;
pub mod call;
pub mod chat;
pub mod cli;
pub mod client;
pub mod config;
pub mod error;
pub mod explain;
pub mod keys;
pub mod log;
pub mod metrics;
pub mod middleware;
pub mod money;
pub mod openai;
pub mod operator;
pub mod pattern;
pub mod prices;
pub mod proxies;
pub mod report;
pub mod secret;
pub mod server;
pub mod stack;
pub mod store;
mod tls_roots;
pub mod tokens;
pub mod traces;
pub mod units;
pub mod upstream;

/// A call allocates on one thread what another one frees, the system's allocator takes a tenth of its time for that, and
/// returns little of what a burst took. It stands here so that tests and benchmarks have the same one as the gateway. It
/// leaves huge pages alone: of them an idle gateway with the bundled model holds twice as much.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
