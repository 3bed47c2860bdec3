//! From text to tokens and back.
//!
//! Text that comes from a client is always tokenized as plain text: `<|im_end|>` in a message becomes the characters
//! that it consists of, never the control token of that name, so nobody can end a turn that is not his. Control tokens
//! enter a prompt in two ways only: from the chat template's own text, and as numbers in a prompt of token ids.

mod bpe;
mod controls;
mod spm;

pub(super) use self::controls::{Controls, Segment};
use self::spm::Spm;
use super::error::LoadError;
use super::gguf::Header;

/// Turns text into tokens, and tokens into bytes.
pub(super) struct Tokenizer {
    kind: Kind,
    pub(super) pieces: Pieces,
    pub(super) controls: Controls,
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    /// Whether a text begins with the first token…
    add_bos: bool,
    /// … and whether a chat does even where its template does not say so.
    add_bos_to_chat: bool,
}

enum Kind {
    /// Merges by score, as SentencePiece does.
    Spm(Box<Spm>),
    /// Anything that a `tokenizer.json` can describe.
    Json(Box<tokenizers::Tokenizer>),
}

/// What each token stands for.
pub(super) struct Pieces {
    bytes: Vec<u8>,
    ends: Vec<u32>,
    longest: usize,
    /// The names of tokens that stand for no text.
    names: std::collections::HashMap<u32, String>,
}

/// A text that cannot be tokenized.
#[derive(Debug, thiserror::Error)]
#[error("the text cannot be tokenized: {0}")]
pub(super) struct TokenizeError(String);

// === impl Tokenizer ===

impl Tokenizer {
    /// Builds the tokenizer that a GGUF header describes.
    pub(super) fn from_gguf(header: &Header, vocab: usize) -> Result<Self, LoadError> {
        let tokens = header
            .strings("tokenizer.ggml.tokens")?
            .ok_or_else(|| LoadError::Missing("tokenizer.ggml.tokens".into()))?;
        if tokens.len() != vocab {
            let wanted = format!("the embedding has {vocab} rows");
            return Err(LoadError::setting(
                "the number of tokens",
                tokens.len(),
                wanted,
            ));
        }
        let types = header.integers("tokenizer.ggml.token_type")?;
        if types.is_some_and(|types| types.len() != tokens.len()) {
            return Err(LoadError::Tokenizer("not every token has a type".into()));
        }
        let id = |name: &str| -> Result<Option<u32>, LoadError> {
            let key = format!("tokenizer.ggml.{name}_token_id");
            match header.integer(&key)? {
                Some(id) if id >= tokens.len() => {
                    let wanted = format!("there are {} tokens", tokens.len());
                    Err(LoadError::setting(key, id, wanted))
                }
                id => Ok(id.map(|id| id as u32)),
            }
        };
        let (bos, eos) = (id("bos")?, id("eos")?);
        let model = header.string("tokenizer.ggml.model")?.unwrap_or("none");
        let mut tokenizer = match model {
            "llama" => spm::from_gguf(header, tokens, types, id("unknown")?)?,
            "gpt2" => bpe::from_gguf(header, tokens, types)?,
            other => {
                return Err(LoadError::Tokenizer(format!(
                    "its kind is {other:?}; \"llama\" and \"gpt2\" are known"
                )));
            }
        };
        tokenizer.bos = bos;
        tokenizer.eos = eos;
        if let Some(add) = header.bool("tokenizer.ggml.add_bos_token")? {
            tokenizer.add_bos = add;
        }
        tokenizer.add_bos_to_chat = tokenizer.add_bos;
        Ok(tokenizer)
    }

    /// Builds the tokenizer of a `tokenizer.json`. `add_bos` is what `tokenizer_config.json` says of it.
    pub(super) fn from_json(
        json: &[u8],
        bos: Option<&str>,
        eos: Option<&str>,
        add_bos: bool,
    ) -> Result<Self, LoadError> {
        let mut tokenizer = bpe::from_json(json)?;
        tokenizer.bos = bos.and_then(|token| tokenizer.id(token));
        tokenizer.eos = eos.and_then(|token| tokenizer.id(token));
        tokenizer.add_bos = add_bos;
        Ok(tokenizer)
    }

    /// Returns the token of exactly this name.
    pub(super) fn id(&self, token: &str) -> Option<u32> {
        match &self.kind {
            Kind::Spm(_) => self.controls.id(token),
            Kind::Json(inner) => inner.token_to_id(token),
        }
    }

    /// Tokenizes a text that a completion continues.
    pub(super) fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, TokenizeError> {
        let mut ids = match &self.kind {
            Kind::Spm(spm) => spm.encode(text, true),
            Kind::Json(inner) => json_encode(inner, text, true)?,
        };
        if let Some(bos) = self.bos
            && self.add_bos
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// Tokenizes a rendered chat.
    pub(super) fn encode_segments(&self, segments: &[Segment]) -> Result<Vec<u32>, TokenizeError> {
        let mut ids = Vec::new();
        let mut after_control = true;
        for segment in segments {
            match segment {
                Segment::Control(id) => ids.push(*id),
                Segment::Text(text) => match &self.kind {
                    Kind::Spm(spm) => ids.extend(spm.encode(text, after_control)),
                    Kind::Json(inner) => ids.extend(json_encode(inner, text, false)?),
                },
            }
            after_control = matches!(segment, Segment::Control(_));
        }
        if let Some(bos) = self.bos
            && self.add_bos_to_chat
            && ids.first() != Some(&bos)
        {
            ids.insert(0, bos);
        }
        Ok(ids)
    }

    /// Returns the least number of tokens that a text of so many bytes can have.
    pub(super) fn least_tokens(&self, bytes: usize) -> usize {
        bytes / self.pieces.longest.max(1)
    }
}

fn json_encode(
    inner: &tokenizers::Tokenizer,
    text: &str,
    add_special_tokens: bool,
) -> Result<Vec<u32>, TokenizeError> {
    let encoding = inner
        .encode_fast(text, add_special_tokens)
        .map_err(|e| TokenizeError(e.to_string()))?;
    Ok(encoding.get_ids().to_vec())
}

// === impl Pieces ===

impl Pieces {
    fn new() -> Self {
        Self {
            bytes: Vec::new(),
            ends: Vec::new(),
            longest: 1,
            names: std::collections::HashMap::new(),
        }
    }

    /// Adds the next token's bytes.
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len() as u32);
        self.longest = self.longest.max(bytes.len());
    }

    /// Adds a token that stands for no text.
    fn push_silent(&mut self, name: &str) {
        self.names.insert(self.ends.len() as u32, name.to_owned());
        self.push(&[]);
    }

    /// Returns the bytes that a token stands for: none for control tokens.
    pub(super) fn bytes(&self, token: u32) -> &[u8] {
        let index = token as usize;
        let Some(&end) = self.ends.get(index) else {
            return &[];
        };
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start as usize..end as usize]
    }

    /// Returns the bytes of a token, or its name if it stands for no text.
    pub(super) fn label(&self, token: u32) -> &[u8] {
        match self.names.get(&token) {
            Some(name) => name.as_bytes(),
            None => self.bytes(token),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }
}

/// Reads the name of a byte token, `<0x0A>`.
fn byte_token(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok())?
}
