//! Tokenizers that a `tokenizer.json` describes, and those of GGUF files that can be put into its words.

use serde_json::{Value, json};

use super::controls::Control;
use super::{Controls, Kind, Pieces, Tokenizer, byte_token};
use crate::upstream::transformer::error::LoadError;
use crate::upstream::transformer::gguf::Header;

const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// How tokens are spelled in the vocabulary.
#[derive(Clone, Copy, PartialEq)]
enum Spelling {
    /// Every byte as a printable character.
    ByteLevel,
    /// As it is, perhaps with another space and with byte tokens.
    Plain { space: Option<char> },
}

/// Builds the tokenizer of a GGUF file with byte-level merges.
pub(super) fn from_gguf(
    header: &Header,
    tokens: &[String],
    types: Option<&[i64]>,
) -> Result<Tokenizer, LoadError> {
    let merges = header
        .strings("tokenizer.ggml.merges")?
        .ok_or_else(|| LoadError::Missing("tokenizer.ggml.merges".into()))?;
    let pre = header.string("tokenizer.ggml.pre")?.unwrap_or("default");
    let (patterns, is_llama3): (&[&str], bool) = match pre {
        "gpt-2" => (&[GPT2], false),
        "smollm" => (&[r"\p{N}", GPT2], false),
        "llama3" | "llama-v3" | "llama-bpe" => (&[LLAMA3], true),
        "qwen2" => (&[QWEN2], false),
        other => {
            return Err(LoadError::Tokenizer(format!(
                "its pre-tokenizer is {other:?}; \"gpt-2\", \"smollm\", \"llama-bpe\" and \"qwen2\" are known"
            )));
        }
    };
    let split = |pattern: &&str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let mut steps: Vec<Value> = patterns.iter().map(split).collect();
    steps.push(
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false}),
    );
    let kind = |id: usize| types.map_or(1, |types| types[id]);
    let added: Vec<Value> = tokens
        .iter()
        .enumerate()
        .filter(|(id, _)| matches!(kind(*id), CONTROL | USER_DEFINED))
        .map(|(id, token)| {
            json!({"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false,
                "normalized": false, "special": kind(id) == CONTROL})
        })
        .collect();
    let vocab: serde_json::Map<String, Value> = tokens
        .iter()
        .enumerate()
        .map(|(id, token)| (token.clone(), id.into()))
        .collect();
    let merges: Vec<Value> = merges
        .iter()
        .map(|merge| match merge.split_once(' ') {
            Some((left, right)) => Ok(json!([left, right])),
            None => Err(LoadError::Tokenizer(format!("{merge:?} is no merge"))),
        })
        .collect::<Result<_, _>>()?;
    let document = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added, "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}, "post_processor": null,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "ignore_merges": is_llama3, "vocab": vocab, "merges": merges},
    });
    let mut tokenizer = from_json(document.to_string().as_bytes())?;
    tokenizer.add_bos = is_llama3;
    Ok(tokenizer)
}

/// Builds the tokenizer of a `tokenizer.json`.
pub(super) fn from_json(json: &[u8]) -> Result<Tokenizer, LoadError> {
    let in_file = |source| LoadError::Json {
        file: "tokenizer.json".into(),
        source,
    };
    let document: Value = serde_json::from_slice(json).map_err(in_file)?;
    let mut inner =
        tokenizers::Tokenizer::from_bytes(json).map_err(|e| LoadError::Tokenizer(e.to_string()))?;
    // Text is text: see the module's words on control tokens.
    inner.set_encode_special_tokens(true);
    // Neither may shorten or fill up a prompt behind our back.
    inner.with_padding(None);
    inner
        .with_truncation(None)
        .map_err(|e| LoadError::Tokenizer(e.to_string()))?;
    let decoder = document["decoder"].to_string();
    let spelling = if decoder.contains("\"ByteLevel\"") {
        Spelling::ByteLevel
    } else {
        let space = decoder.contains('\u{2581}').then_some('\u{2581}');
        Spelling::Plain { space }
    };
    let added = inner.get_added_tokens_decoder();
    let mut controls = Vec::new();
    let mut pieces = Pieces::new();
    let size = inner.get_vocab(true).values().max().map_or(0, |id| id + 1);
    if size > 1 << 22 {
        return Err(LoadError::setting(
            "the largest token id",
            size,
            "it is too large",
        ));
    }
    for id in 0..size {
        match (added.get(&id), inner.id_to_token(id)) {
            (Some(token), _) if token.special => {
                pieces.push_silent(&token.content);
                controls.push(Control {
                    text: token.content.clone(),
                    id,
                    strips_left: token.lstrip,
                    strips_right: token.rstrip,
                });
            }
            (Some(token), _) => pieces.push(token.content.as_bytes()),
            (None, Some(token)) => pieces.push(&spelled(&token, spelling)),
            (None, None) => pieces.push(&[]),
        }
    }
    Ok(Tokenizer {
        kind: Kind::Json(Box::new(inner)),
        pieces,
        controls: Controls::new(controls),
        bos: None,
        eos: None,
        add_bos: false,
        add_bos_to_chat: false,
    })
}

fn spelled(token: &str, spelling: Spelling) -> Vec<u8> {
    match spelling {
        Spelling::ByteLevel => {
            let bytes: Option<Vec<u8>> = token.chars().map(byte_of).collect();
            bytes.unwrap_or_else(|| token.as_bytes().to_vec())
        }
        Spelling::Plain { space } => match (byte_token(token), space) {
            (Some(byte), _) => vec![byte],
            (None, Some(space)) => token.replace(space, " ").into_bytes(),
            (None, None) => token.as_bytes().to_vec(),
        },
    }
}

/// The byte that a character of a byte-level vocabulary stands for: itself where it is printable Latin-1, the others
/// are counted up from U+0100.
fn byte_of(c: char) -> Option<u8> {
    let printable = |b: u8| matches!(b, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    match u32::from(c) {
        code @ 0..=0xff => u8::try_from(code).ok().filter(|b| printable(*b)),
        code => {
            let n = usize::try_from(code.checked_sub(0x100)?).ok()?;
            (0..=u8::MAX).filter(|b| !printable(*b)).nth(n)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_level_characters_stand_for_bytes() {
        assert_eq!(spelled("Ġhi", Spelling::ByteLevel), b" hi");
        assert_eq!(spelled("Ċ", Spelling::ByteLevel), b"\n");
        assert_eq!(spelled("æĺ¥", Spelling::ByteLevel), "春".as_bytes());
    }

    #[test]
    fn plain_tokens_may_be_bytes_or_begin_with_a_space() {
        let spelling = Spelling::Plain { space: Some('▁') };
        assert_eq!(spelled("▁hi", spelling), b" hi");
        assert_eq!(spelled("<0x0A>", spelling), b"\n");
        assert_eq!(spelled("<0x0AA>", spelling), b"<0x0AA>");
    }
}
