//! Weir, an OpenAI-compatible LLM gateway.

pub mod call;
pub mod openai;
pub mod upstream;
