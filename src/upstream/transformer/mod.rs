//! A Transformer in this process: a Llama decoder on the CPU, batched continuously, loaded from the binary itself, from
//! a GGUF file or from a Hugging Face folder.
//!
//! Start reading at [`Engine`], the handle; behind it `scheduler` is the thread that computes, `forward` the
//! arithmetic, and `package` what is known of a model before its weights are read. Products come from candle; the
//! batching, attention, sampling and everything around are ours.
//!
//! # Threads
//! Each engine has one thread. candle adds a process-wide pool of its own at the first product, as large as the machine
//! unless the environment says otherwise, whose threads spin while they wait for each other: on a busy machine the
//! slowest decides. A small model gains nothing from it. The size can be set in one way only, by
//! [`THREADS_VARIABLE`] in the environment before the first product.

mod config;
mod detokenize;
mod engine;
mod error;
mod forward;
mod gguf;
#[cfg(target_arch = "x86_64")]
mod int8;
mod kv;
mod package;
mod queue;
mod safetensors;
mod sampling;
mod scheduler;
mod sequence;
mod template;
mod tensors;
mod tokenizer;
mod weights;

#[cfg(test)]
mod loading_tests;
#[cfg(test)]
mod reference_tests;
#[cfg(test)]
mod scheduler_tests;

pub use self::detokenize::TokenLogprob;
pub use self::engine::{Engine, Events, Params, PromptError, Status, SubmitError};
pub use self::error::LoadError;
pub use self::package::{Defaults, Source};
pub use self::sampling::Sampling;
pub use self::sequence::{Event, Finish, Request};
pub use self::template::Message;

/// The environment variable from which candle takes the number of compute threads, once.
pub const THREADS_VARIABLE: &str = "CANDLE_NUM_THREADS";

/// Checks a model without reading its weights: header, dimensions, tensors' places, tokenizer, chat template.
///
/// # Errors
/// [`LoadError`] for everything that would keep it from being loaded, as far as it can be known.
pub fn check(source: &Source) -> Result<(), LoadError> {
    package::Package::open(source).map(drop)
}

/// Returns the seed of the `index`th answer to a request with `seed`.
pub fn derive_seed(seed: u64, index: u64) -> u64 {
    sampling::derive_seed(seed, index)
}
