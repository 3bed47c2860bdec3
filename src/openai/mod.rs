//! The wire of the OpenAI API: paths, bodies, events, usage and errors, as bytes and plain types. Nothing here knows
//! of the gateway.

pub mod endpoint;
pub mod envelope;
pub mod json;
pub mod models;
pub mod sse;
pub mod usage;
