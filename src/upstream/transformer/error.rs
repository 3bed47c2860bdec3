//! Why a model cannot be loaded.

use std::path::PathBuf;

/// A model that cannot be loaded. `Display` says what was found, in words for whoever wrote the configuration.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// Nothing at this place looks like a model.
    #[error("{0} is neither a .gguf file nor a folder with a config.json")]
    NotAModel(PathBuf),
    /// No model of this name is part of the binary.
    #[error("no bundled model is called {0:?}; there is \"bundled:poet\"")]
    UnknownBundled(String),
    /// Models are not fetched from the network.
    #[error(
        "{0:?} would have to be downloaded, which Weir does not do: fetch it first and name its folder"
    )]
    Remote(String),
    /// The header of a GGUF or safetensors file makes no sense.
    #[error("malformed {format} header: {detail}")]
    Header {
        /// `GGUF` or `safetensors`.
        format: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// A JSON file of a folder makes no sense.
    #[error("{file} is not valid")]
    Json {
        /// The file's name.
        file: String,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// Another architecture than this engine has.
    #[error(
        "the architecture is {found:?}, but only Llama decoders (\"llama\", LlamaForCausalLM) can be served"
    )]
    Architecture {
        /// What the file says it is.
        found: String,
    },
    /// A Llama decoder, but with something that this engine does not do.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// Something that must be there is not.
    #[error("{0} is missing")]
    Missing(String),
    /// A setting contradicts another one, or leaves every sensible range.
    #[error("{name} is {value}, but {wanted}")]
    Setting {
        /// The setting, as the file spells it.
        name: String,
        /// Its value.
        value: String,
        /// What would be right.
        wanted: String,
    },
    /// A tensor has another shape or type than the settings ask for.
    #[error("tensor {name}: {detail}")]
    Tensor {
        /// The tensor.
        name: String,
        /// What is wrong with it.
        detail: String,
    },
    /// The tokenizer cannot be built.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template does not compile.
    #[error("chat template: {0}")]
    Template(String),
    /// The compute library refused the weights.
    #[error("cannot prepare the weights")]
    Compute(#[from] candle_core::Error),
    /// The engine's thread cannot be started.
    #[error("cannot start the engine's thread")]
    Thread(#[source] std::io::Error),
    /// Loading was abandoned, because the engine is being dropped.
    #[error("loading was abandoned")]
    Abandoned,
}

impl LoadError {
    pub(super) fn read(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Read { path, source }
    }

    pub(super) fn setting(
        name: impl Into<String>,
        value: impl std::fmt::Display,
        wanted: impl Into<String>,
    ) -> Self {
        Self::Setting {
            name: name.into(),
            value: value.to_string(),
            wanted: wanted.into(),
        }
    }

    pub(super) fn tensor(name: &str, detail: impl Into<String>) -> Self {
        Self::Tensor {
            name: name.to_owned(),
            detail: detail.into(),
        }
    }
}
