//! A model before its weights are read: everything about it that can be known, and be wrong, cheaply.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::config::Config;
use super::error::LoadError;
use super::gguf::Header;
use super::template::ChatTemplate;
use super::tensors::{Store, Tensors};
use super::tokenizer::Tokenizer;

pub(super) static POET: &[u8] = include_bytes!("../../../models/poet/poet-q8_0.gguf");
static POET_GENERATION: &[u8] = include_bytes!("../../../models/poet/generation_config.json");

/// No JSON file of a model folder is larger than a tokenizer with a large vocabulary.
const MAX_JSON_BYTES: u64 = 256 << 20;

/// Where a model comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The model that is part of the binary: it writes classical Chinese verse.
    Poet,
    /// A single file in GGUF.
    Gguf(PathBuf),
    /// A folder as Hugging Face lays it out.
    Folder(PathBuf),
}

/// How a model wants to be sampled when a request does not say.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Defaults {
    /// Its temperature, if it has one.
    pub temperature: Option<f32>,
    /// Its nucleus, if it has one.
    pub top_p: Option<f32>,
    /// How many tokens it draws from, if bounded.
    pub top_k: Option<usize>,
    /// How many tokens it answers at most, if it says so.
    pub max_tokens: Option<usize>,
}

/// A model, checked but not loaded.
pub(super) struct Package {
    pub(super) config: Config,
    pub(super) tensors: Tensors,
    pub(super) tokenizer: Tokenizer,
    pub(super) template: Option<ChatTemplate>,
    pub(super) defaults: Defaults,
    /// Tokens that end an answer.
    pub(super) ends: Vec<u32>,
}

/// `generation_config.json`.
#[derive(Deserialize, Default)]
struct Generation {
    do_sample: Option<bool>,
    temperature: Option<f32>,
    top_p: Option<f32>,
    top_k: Option<usize>,
    max_new_tokens: Option<usize>,
    eos_token_id: Option<OneOrMany>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum OneOrMany {
    One(u32),
    Many(Vec<u32>),
}

/// `tokenizer_config.json`.
#[derive(Deserialize, Default)]
struct TokenizerConfig {
    bos_token: Option<TokenName>,
    eos_token: Option<TokenName>,
    #[serde(default)]
    add_bos_token: bool,
    chat_template: Option<Templates>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum TokenName {
    Plain(String),
    Described { content: String },
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Templates {
    One(String),
    Many(Vec<NamedTemplate>),
}

#[derive(Deserialize)]
struct NamedTemplate {
    name: String,
    template: String,
}

// === impl Source ===

impl Source {
    /// Reads the `model` of a configured upstream: `bundled:poet`, a `.gguf` file or a folder.
    ///
    /// # Errors
    /// [`LoadError`] for names that mean nothing and for places where there is no model.
    pub fn parse(model: &str) -> Result<Self, LoadError> {
        if let Some(name) = model.strip_prefix("bundled:") {
            return match name {
                "poet" => Ok(Self::Poet),
                other => Err(LoadError::UnknownBundled(other.to_owned())),
            };
        }
        if model.starts_with("hf://") {
            return Err(LoadError::Remote(model.to_owned()));
        }
        let path = PathBuf::from(model);
        let metadata = std::fs::metadata(&path).map_err(LoadError::read(&path))?;
        let is_gguf = path
            .extension()
            .is_some_and(|e| e.eq_ignore_ascii_case("gguf"));
        if metadata.is_file() && is_gguf {
            Ok(Self::Gguf(path))
        } else if path.join("config.json").is_file() {
            Ok(Self::Folder(path))
        } else {
            Err(LoadError::NotAModel(path))
        }
    }
}

// === impl Package ===

impl Package {
    /// Reads and checks everything but the weights.
    pub(super) fn open(source: &Source) -> Result<Self, LoadError> {
        match source {
            Source::Poet => Self::gguf(
                Store::Embedded(POET),
                POET,
                POET.len() as u64,
                Some(POET_GENERATION),
            ),
            Source::Gguf(path) => {
                let file = File::open(path).map_err(LoadError::read(path))?;
                let size = file.metadata().map_err(LoadError::read(path))?.len();
                let beside = path.with_file_name("generation_config.json");
                let generation = read_optional(&beside)?;
                let store = Store::File(path.clone());
                Self::gguf(store, BufReader::new(file), size, generation.as_deref())
            }
            Source::Folder(path) => Self::folder(path),
        }
    }

    pub(super) fn gguf(
        store: Store,
        reader: impl Read,
        size: u64,
        generation: Option<&[u8]>,
    ) -> Result<Self, LoadError> {
        let mut header = Header::read(reader, size)?;
        let config = Config::from_gguf(&header)?;
        let tokenizer = Tokenizer::from_gguf(&header, config.vocab)?;
        let tensors = Tensors {
            stores: vec![store],
            entries: std::mem::take(&mut header.tensors),
        };
        let mut ends = Vec::new();
        for key in ["eos_token_id", "eot_token_id", "eom_token_id"] {
            let id = header.integer(&format!("tokenizer.ggml.{key}"))?;
            ends.extend(id.and_then(|id| u32::try_from(id).ok()));
        }
        let template = header.string("tokenizer.chat_template")?;
        Self::assemble(config, tensors, tokenizer, template, generation, ends)
    }

    fn folder(path: &Path) -> Result<Self, LoadError> {
        let read = |name: &str| {
            read_optional(&path.join(name))?.ok_or_else(|| LoadError::Missing(name.to_owned()))
        };
        let config_json = read("config.json")?;
        let config = Config::from_json(&config_json)?;
        let tensors = super::safetensors::index(path)?;
        let about: TokenizerConfig = match read_optional(&path.join("tokenizer_config.json"))? {
            Some(json) => parse("tokenizer_config.json", &json)?,
            None => TokenizerConfig::default(),
        };
        let tokenizer = Tokenizer::from_json(
            &read("tokenizer.json")?,
            about.bos_token.as_ref().map(TokenName::as_str),
            about.eos_token.as_ref().map(TokenName::as_str),
            about.add_bos_token,
        )?;
        let mut ends: Vec<u32> = tokenizer.eos.into_iter().collect();
        let in_config: Generation = parse("config.json", &config_json)?;
        ends.extend(in_config.ends());
        let template = match read_optional(&path.join("chat_template.jinja"))? {
            Some(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
            None => about.chat_template.and_then(Templates::into_default),
        };
        let generation = read_optional(&path.join("generation_config.json"))?;
        Self::assemble(
            config,
            tensors,
            tokenizer,
            template.as_deref(),
            generation.as_deref(),
            ends,
        )
    }

    fn assemble(
        config: Config,
        tensors: Tensors,
        tokenizer: Tokenizer,
        template: Option<&str>,
        generation: Option<&[u8]>,
        mut ends: Vec<u32>,
    ) -> Result<Self, LoadError> {
        config.check_tensors(&tensors)?;
        if tokenizer.pieces.len() > config.vocab {
            let wanted = format!("the embedding has {} rows", config.vocab);
            return Err(LoadError::setting(
                "the number of tokens",
                tokenizer.pieces.len(),
                wanted,
            ));
        }
        let generation: Generation = match generation {
            Some(json) => parse("generation_config.json", json)?,
            None => Generation::default(),
        };
        ends.extend(generation.ends());
        ends.sort_unstable();
        ends.dedup();
        if let Some(id) = ends.iter().find(|id| **id as usize >= config.vocab) {
            let wanted = format!("the vocabulary has {} tokens", config.vocab);
            return Err(LoadError::setting("an end token", id, wanted));
        }
        let name = |id: Option<u32>| id.map_or("", |id| tokenizer.controls.name(id).unwrap_or(""));
        let template = template
            .map(|source| ChatTemplate::compile(source, name(tokenizer.bos), name(tokenizer.eos)))
            .transpose()?;
        Ok(Self {
            defaults: generation.defaults(),
            config,
            tensors,
            template,
            ends,
            tokenizer,
        })
    }
}

/// Reads a file if there is one.
fn read_optional(path: &Path) -> Result<Option<Vec<u8>>, LoadError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(LoadError::read(path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(MAX_JSON_BYTES)
        .read_to_end(&mut bytes)
        .map_err(LoadError::read(path))?;
    Ok(Some(bytes))
}

fn parse<'a, T: Deserialize<'a>>(file: &str, json: &'a [u8]) -> Result<T, LoadError> {
    serde_json::from_slice(json).map_err(|source| LoadError::Json {
        file: file.to_owned(),
        source,
    })
}

impl Generation {
    fn ends(&self) -> Vec<u32> {
        match &self.eos_token_id {
            None => Vec::new(),
            Some(OneOrMany::One(id)) => vec![*id],
            Some(OneOrMany::Many(ids)) => ids.clone(),
        }
    }

    /// Values out of range are as good as none: other programs ignore them as well.
    fn defaults(&self) -> Defaults {
        let samples = self.do_sample != Some(false);
        Defaults {
            temperature: self
                .temperature
                .filter(|t| samples && (0.0..=2.0).contains(t)),
            top_p: self.top_p.filter(|p| samples && *p > 0.0 && *p <= 1.0),
            top_k: self.top_k.filter(|k| samples && *k > 0),
            max_tokens: self.max_new_tokens.filter(|n| *n > 0),
        }
    }
}

impl TokenName {
    fn as_str(&self) -> &str {
        match self {
            Self::Plain(name) | Self::Described { content: name } => name,
        }
    }
}

impl Templates {
    fn into_default(self) -> Option<String> {
        match self {
            Self::One(template) => Some(template),
            Self::Many(list) => {
                let default = list.into_iter().find(|t| t.name == "default");
                default.map(|t| t.template)
            }
        }
    }
}
