//! Models that are broken, foreign or hostile are refused with words, never with a panic.

use std::path::{Path, PathBuf};

use proptest::prelude::*;

use super::package::{POET, Package, Source};
use super::tensors::Store;
use super::{LoadError, check};

/// More than the header of the bundled file, so that mutations reach all of it and the first weights.
const HEADER: usize = 72_000;

fn open(bytes: &[u8]) -> Result<Package, LoadError> {
    Package::gguf(Store::Embedded(POET), bytes, POET.len() as u64, None)
}

fn refusal(bytes: &[u8]) -> String {
    match open(bytes) {
        Ok(_) => panic!("it was taken"),
        Err(error) => error.to_string(),
    }
}

/// Returns the bundled file's header with `from` replaced by `to`, which must be as long.
fn patched(from: &[u8], to: &[u8]) -> Vec<u8> {
    assert_eq!(from.len(), to.len());
    let mut bytes = POET[..HEADER].to_vec();
    let at = bytes.windows(from.len()).position(|w| w == from).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to);
    bytes
}

/// A string, or a key with the type of its value, as a header has it.
fn string(text: &str) -> Vec<u8> {
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

fn setting(key: &str, value: u32) -> Vec<u8> {
    let mut bytes = string(key);
    bytes.extend_from_slice(&4_u32.to_le_bytes());
    bytes.extend_from_slice(&value.to_le_bytes());
    bytes
}

#[test]
fn the_header_is_within_what_is_mutated() {
    open(&POET[..HEADER]).unwrap();
    assert!(open(&POET[..HEADER / 2]).is_err());
}

#[test]
fn foreign_and_impossible_settings_are_named() {
    let other = patched(&string("llama"), &string("mamba"));
    assert!(refusal(&other).contains("\"mamba\""));
    for (key, was, is, expected) in [
        ("llama.attention.head_count", 4, 3, "rope.dimension_count"),
        ("llama.attention.head_count", 4, 0, "rope.dimension_count"),
        ("llama.attention.head_count_kv", 2, 3, "key-value heads"),
        ("llama.block_count", 5, 6, "blk.5"),
        ("llama.block_count", 5, u32::MAX, "layers"),
        ("llama.context_length", 256, 0, "context"),
        ("llama.embedding_length", 256, 255, "rope.dimension_count"),
        ("llama.vocab_size", 3328, 3329, "vocab_size"),
        ("tokenizer.ggml.eos_token_id", 2, 9999, "eos"),
    ] {
        let message = refusal(&patched(&setting(key, was), &setting(key, is)));
        assert!(message.contains(expected), "{key}: {message}");
    }
}

#[test]
fn huge_counts_are_refused_before_anything_is_allocated() {
    for (at, expected) in [(8, "tensors"), (16, "metadata")] {
        let mut bytes = POET[..HEADER].to_vec();
        bytes[at..at + 8].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(refusal(&bytes).contains(expected));
    }
    let mut bytes = POET[..HEADER].to_vec();
    bytes[24..32].copy_from_slice(&(1_u64 << 60).to_le_bytes());
    assert!(refusal(&bytes).contains("string"));
}

#[test]
fn a_truncated_file_is_refused_wherever_it_ends() {
    for length in (0..HEADER).step_by(997).chain([POET.len() - 1]) {
        let cut = &POET[..length];
        assert!(Package::gguf(Store::Embedded(POET), cut, length as u64, None).is_err());
    }
}

#[test]
fn folders_of_other_models_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let source = Source::Folder(folder.path().to_owned());
    for (config, expected) in [
        (
            r#"{"architectures": ["Qwen2ForCausalLM"]}"#,
            "Qwen2ForCausalLM",
        ),
        (r#"{"model_type": "mamba"}"#, "mamba"),
        ("[]", "unknown"),
        ("{", "config.json"),
        (r#"{"architectures": ["LlamaForCausalLM"]}"#, "config.json"),
    ] {
        std::fs::write(folder.path().join("config.json"), config).unwrap();
        let message = check(&source).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    }
}

fn copy_of_poet() -> tempfile::TempDir {
    let from = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("models/poet");
    let to = tempfile::tempdir().unwrap();
    for name in [
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "generation_config.json",
        "model.safetensors",
    ] {
        std::fs::copy(from.join(name), to.path().join(name)).unwrap();
    }
    to
}

fn edit(folder: &Path, file: &str, from: &str, to: &str) {
    let path = folder.join(file);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(text.contains(from), "{file} has no {from}");
    std::fs::write(path, text.replace(from, to)).unwrap();
}

#[test]
fn what_a_folder_lacks_or_gets_wrong_is_named() {
    for (file, from, to, expected) in [
        ("config.json", "\"default\"", "\"yarn\"", "yarn"),
        (
            "config.json",
            "\"attention_bias\": false",
            "\"attention_bias\": true",
            "biases",
        ),
        (
            "config.json",
            "\"num_hidden_layers\": 5",
            "\"num_hidden_layers\": 6",
            "blk.5",
        ),
        (
            "config.json",
            "\"tie_word_embeddings\": true",
            "\"tie_word_embeddings\": false",
            "output.weight",
        ),
        ("tokenizer.json", "\"BPE\"", "\"Abacus\"", "tokenizer"),
        ("tokenizer_config.json", "{% endfor %}", "", "chat template"),
    ] {
        let folder = copy_of_poet();
        edit(folder.path(), file, from, to);
        let message = check(&Source::Folder(folder.path().into()))
            .unwrap_err()
            .to_string();
        assert!(message.contains(expected), "{file}: {message}");
    }
    for file in ["tokenizer.json", "model.safetensors"] {
        let folder = copy_of_poet();
        std::fs::remove_file(folder.path().join(file)).unwrap();
        let message = check(&Source::Folder(folder.path().into()))
            .unwrap_err()
            .to_string();
        assert!(message.contains(file), "{message}");
    }
}

#[test]
fn a_sharded_folder_is_the_whole_model() {
    let folder = copy_of_poet();
    let index = r#"{"weight_map": {"model.norm.weight": "model-00001-of-00001.safetensors"}}"#;
    std::fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    let (from, to) = ("model.safetensors", "model-00001-of-00001.safetensors");
    std::fs::rename(folder.path().join(from), folder.path().join(to)).unwrap();
    check(&Source::Folder(folder.path().into())).unwrap();

    let outside = r#"{"weight_map": {"model.norm.weight": "../model.safetensors"}}"#;
    std::fs::write(folder.path().join("model.safetensors.index.json"), outside).unwrap();
    assert!(check(&Source::Folder(folder.path().into())).is_err());
}

#[test]
fn a_gguf_file_takes_its_defaults_from_the_file_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, POET).unwrap();
    let source = Source::parse(path.to_str().unwrap()).unwrap();
    assert_eq!(Package::open(&source).unwrap().defaults.temperature, None);
    let beside = folder.path().join("generation_config.json");
    std::fs::write(
        beside,
        r#"{"temperature": 0.6, "top_p": 7, "eos_token_id": 2}"#,
    )
    .unwrap();
    let defaults = Package::open(&source).unwrap().defaults;
    assert_eq!((defaults.temperature, defaults.top_p), (Some(0.6), None));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn mutated_headers_never_panic(changes in prop::collection::vec((0..HEADER, any::<u8>()), 1..8), dense in any::<bool>()) {
        let mut bytes = POET[..HEADER].to_vec();
        for (at, value) in changes {
            // The vocabulary fills most of the header; what decides is at its beginning and at its end.
            let at = match dense {
                true if at % 2 == 0 => at % 740,
                true => 65_000 + at % 3500,
                false => at,
            };
            bytes[at] = value;
        }
        // Whether it is still a model does not matter.
        let _ = open(&bytes);
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..600)) {
        let mut bytes = b"GGUF\x03\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0".to_vec();
        bytes.extend(noise);
        prop_assert!(open(&bytes).is_err());
    }
}
