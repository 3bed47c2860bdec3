//! Finds the tensors of a Hugging Face folder: one safetensors file, or several with an index.
//!
//! The format: <https://huggingface.co/docs/safetensors/index#format>

use std::collections::{BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use candle_core::quantized::GgmlDType;
use serde::Deserialize;

use super::error::LoadError;
use super::tensors::{Entry, Store, Tensors, byte_size};

const MAX_HEADER_BYTES: u64 = 64 << 20;
const MAX_FILES: usize = 1024;

#[derive(Deserialize)]
struct Index {
    weight_map: HashMap<String, String>,
}

#[derive(Deserialize)]
struct Info {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: (u64, u64),
}

fn malformed(detail: impl Into<String>) -> LoadError {
    LoadError::Header {
        format: "safetensors",
        detail: detail.into(),
    }
}

/// Reads the headers of all safetensors files of a folder.
pub(super) fn index(folder: &Path) -> Result<Tensors, LoadError> {
    let files = files(folder)?;
    let mut tensors = Tensors::default();
    for (store, name) in files.iter().enumerate() {
        let path = folder.join(name);
        let mut file = File::open(&path).map_err(LoadError::read(&path))?;
        let size = file.metadata().map_err(LoadError::read(&path))?.len();
        for (name, mut entry) in header(&mut file, size)? {
            entry.store = store;
            if tensors.entries.insert(name.clone(), entry).is_some() {
                return Err(LoadError::tensor(&name, "it is given twice"));
            }
        }
        tensors.stores.push(Store::File(path));
    }
    Ok(tensors)
}

fn files(folder: &Path) -> Result<Vec<String>, LoadError> {
    let path = folder.join("model.safetensors.index.json");
    let json = match std::fs::read(&path) {
        Ok(json) => json,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(vec!["model.safetensors".to_owned()]);
        }
        Err(error) => return Err(LoadError::read(path)(error)),
    };
    let index: Index = serde_json::from_slice(&json).map_err(|source| LoadError::Json {
        file: "model.safetensors.index.json".into(),
        source,
    })?;
    let files: BTreeSet<String> = index.weight_map.into_values().collect();
    // A name from a file must not lead out of the folder.
    if let Some(name) = files
        .iter()
        .find(|name| name.contains(['/', '\\']) || *name == "..")
    {
        return Err(malformed(format!("the index names the file {name:?}")));
    }
    if files.len() > MAX_FILES {
        return Err(malformed(format!("the index names {} files", files.len())));
    }
    Ok(files.into_iter().collect())
}

fn header(file: &mut impl Read, size: u64) -> Result<Vec<(String, Entry)>, LoadError> {
    let failed = |e: std::io::Error| malformed(format!("reading failed: {e}"));
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(failed)?;
    let length = u64::from_le_bytes(length);
    if length > MAX_HEADER_BYTES || length + 8 > size {
        return Err(malformed(format!("it claims to have {length} bytes")));
    }
    let mut json = vec![0; length as usize];
    file.read_exact(&mut json).map_err(failed)?;
    let infos: HashMap<String, serde_json::Value> =
        serde_json::from_slice(&json).map_err(|e| malformed(e.to_string()))?;
    let mut entries = Vec::new();
    for (name, info) in infos {
        // What is not part of a decoder (buffers of rotations, the file's own metadata) is left alone.
        let Some(name) = gguf_name(&name) else {
            continue;
        };
        let info: Info =
            serde_json::from_value(info).map_err(|e| LoadError::tensor(&name, e.to_string()))?;
        let dtype = match info.dtype.as_str() {
            "F32" => GgmlDType::F32,
            "F16" => GgmlDType::F16,
            "BF16" => GgmlDType::BF16,
            other => {
                return Err(LoadError::tensor(
                    &name,
                    format!("its type {other} is not supported"),
                ));
            }
        };
        let (start, end) = info.data_offsets;
        let bytes =
            byte_size(dtype, &info.shape).map_err(|detail| LoadError::tensor(&name, detail))?;
        if start.checked_add(bytes) != Some(end) || end > size - 8 - length {
            return Err(LoadError::tensor(
                &name,
                "it lies outside of the file, which may be truncated",
            ));
        }
        let entry = Entry {
            dtype,
            dims: info.shape,
            store: 0,
            offset: 8 + length + start,
            bytes,
        };
        entries.push((name, entry));
    }
    Ok(entries)
}

/// Translates a tensor's name.
fn gguf_name(name: &str) -> Option<String> {
    match name {
        "model.embed_tokens.weight" => return Some("token_embd.weight".into()),
        "model.norm.weight" => return Some("output_norm.weight".into()),
        "lm_head.weight" => return Some("output.weight".into()),
        _ => {}
    }
    let (layer, part) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let layer: usize = layer.parse().ok()?;
    let (part, kind) = part.rsplit_once('.')?;
    let part = match part {
        "input_layernorm" => "attn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "post_attention_layernorm" => "ffn_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    };
    matches!(kind, "weight" | "bias").then(|| format!("blk.{layer}.{part}.{kind}"))
}
