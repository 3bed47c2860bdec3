//! The dimensions of a Llama decoder, from a GGUF header or a `config.json`, checked before anything is built on them.

use serde::Deserialize;

use super::error::LoadError;
use super::gguf::Header;
use super::tensors::Tensors;

/// The shape of a model.
#[derive(Clone, Debug)]
pub(super) struct Config {
    pub(super) layers: usize,
    pub(super) hidden: usize,
    pub(super) feed_forward: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) vocab: usize,
    pub(super) context: usize,
    pub(super) norm_eps: f32,
    pub(super) tied: bool,
    pub(super) rope: Rope,
}

/// Rotary position embedding.
#[derive(Clone, Debug)]
pub(super) struct Rope {
    pub(super) pairing: Pairing,
    pub(super) theta: f64,
    pub(super) scaling: Scaling,
}

/// Which two numbers of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pairing {
    /// Neighbours: the order of GGUF files of this architecture.
    Interleaved,
    /// One from each half: the order of Hugging Face.
    Halves,
}

/// How the rotation is slowed down for contexts longer than those trained on.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scaling {
    None,
    Linear(f64),
    Llama3 {
        factor: f64,
        low: f64,
        high: f64,
        original: f64,
    },
    /// One divisor per frequency, in the tensor `rope_freqs.weight`.
    Tensor,
}

/// The part of `config.json` that matters.
#[derive(Deserialize)]
struct FolderConfig {
    #[serde(default)]
    architectures: Vec<String>,
    model_type: Option<String>,
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    rope_theta: Option<f64>,
    rope_scaling: Option<FolderRope>,
    rope_parameters: Option<FolderRope>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    tie_word_embeddings: bool,
    quantization_config: Option<serde_json::Value>,
}

#[derive(Deserialize)]
struct FolderRope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    partial_rotary_factor: Option<f64>,
}

// === impl Config ===

impl Config {
    pub(super) fn from_gguf(header: &Header) -> Result<Self, LoadError> {
        let architecture = header
            .string("general.architecture")?
            .ok_or_else(|| LoadError::Missing("general.architecture".into()))?;
        if architecture != "llama" {
            return Err(LoadError::Architecture {
                found: architecture.to_owned(),
            });
        }
        let need = |key: &str| {
            header
                .integer(key)?
                .ok_or_else(|| LoadError::Missing(key.to_owned()))
        };
        if header.integer("llama.expert_count")?.unwrap_or(0) > 0 {
            return Err(LoadError::Unsupported("a mixture of experts".into()));
        }
        let vocab = match header.tensors.get("token_embd.weight") {
            Some(entry) if entry.dims.len() == 2 => entry.dims[0],
            Some(_) => {
                return Err(LoadError::tensor("token_embd.weight", "it is not a matrix"));
            }
            None => return Err(LoadError::Missing("tensor token_embd.weight".into())),
        };
        let heads = need("llama.attention.head_count")?;
        let hidden = need("llama.embedding_length")?;
        let head_dim = match header.integer("llama.attention.key_length")? {
            Some(n) => n,
            None => hidden / heads.max(1),
        };
        for key in ["llama.attention.value_length", "llama.rope.dimension_count"] {
            let n = header.integer(key)?.unwrap_or(head_dim);
            if n != head_dim {
                let wanted = format!("only {head_dim}, the size of a head, is supported");
                return Err(LoadError::setting(key, n, wanted));
            }
        }
        let scaling = match header.string("llama.rope.scaling.type")? {
            None | Some("none") if header.tensors.contains_key("rope_freqs.weight") => {
                Scaling::Tensor
            }
            None | Some("none") => Scaling::None,
            Some("linear") => Scaling::Linear(
                header
                    .float("llama.rope.scaling.factor")?
                    .ok_or_else(|| LoadError::Missing("llama.rope.scaling.factor".into()))?
                    .into(),
            ),
            Some(other) => {
                return Err(LoadError::Unsupported(format!("rope scaling {other:?}")));
            }
        };
        let config = Self {
            layers: need("llama.block_count")?,
            hidden,
            feed_forward: need("llama.feed_forward_length")?,
            heads,
            kv_heads: header
                .integer("llama.attention.head_count_kv")?
                .unwrap_or(heads),
            head_dim,
            vocab,
            context: need("llama.context_length")?,
            norm_eps: header
                .float("llama.attention.layer_norm_rms_epsilon")?
                .ok_or_else(|| {
                    LoadError::Missing("llama.attention.layer_norm_rms_epsilon".into())
                })?,
            tied: !header.tensors.contains_key("output.weight"),
            rope: Rope {
                pairing: Pairing::Interleaved,
                theta: header
                    .float("llama.rope.freq_base")?
                    .unwrap_or(10_000.0)
                    .into(),
                scaling,
            },
        };
        if let Some(n) = header.integer("llama.vocab_size")?
            && n != vocab
        {
            let wanted = format!("the embedding has {vocab} rows");
            return Err(LoadError::setting("llama.vocab_size", n, wanted));
        }
        config.check()?;
        Ok(config)
    }

    pub(super) fn from_json(json: &[u8]) -> Result<Self, LoadError> {
        let in_file = |source| LoadError::Json {
            file: "config.json".into(),
            source,
        };
        // The architecture first: the config of another one need not have the fields of this one.
        let value: serde_json::Value = serde_json::from_slice(json).map_err(in_file)?;
        let named = value["architectures"][0].as_str();
        let found = named.or(value["model_type"].as_str()).unwrap_or("unknown");
        if !matches!(found, "LlamaForCausalLM" | "llama") {
            return Err(LoadError::Architecture {
                found: found.to_owned(),
            });
        }
        let file: FolderConfig = serde_json::from_value(value).map_err(in_file)?;
        file.into_config()
    }

    /// Refuses what leaves every sensible range, so that later arithmetic cannot overflow or divide by zero.
    fn check(&self) -> Result<(), LoadError> {
        let bounds = [
            ("the number of layers", self.layers, 1024),
            ("the width", self.hidden, 1 << 16),
            ("the feed-forward width", self.feed_forward, 1 << 20),
            ("the number of heads", self.heads, 1024),
            ("the number of key-value heads", self.kv_heads, 1024),
            ("the size of a head", self.head_dim, 1024),
            ("the vocabulary's size", self.vocab, 1 << 22),
            ("the context length", self.context, 1 << 24),
        ];
        for (name, value, most) in bounds {
            if value == 0 || value > most {
                return Err(LoadError::setting(
                    name,
                    value,
                    format!("1 to {most} make sense"),
                ));
            }
        }
        if !self.heads.is_multiple_of(self.kv_heads) {
            let wanted = format!("it must divide the number of heads, {}", self.heads);
            return Err(LoadError::setting(
                "the number of key-value heads",
                self.kv_heads,
                wanted,
            ));
        }
        if !self.head_dim.is_multiple_of(2) {
            return Err(LoadError::setting(
                "the size of a head",
                self.head_dim,
                "it must be even",
            ));
        }
        let positive = |n: f64| n.is_finite() && n > 0.0;
        if !(positive(self.norm_eps.into()) && self.norm_eps < 1.0) {
            return Err(LoadError::setting(
                "the norm's epsilon",
                self.norm_eps,
                "it must be small and positive",
            ));
        }
        if !positive(self.rope.theta) {
            return Err(LoadError::setting(
                "the rope's base",
                self.rope.theta,
                "it must be positive",
            ));
        }
        let scaling = match self.rope.scaling {
            Scaling::None | Scaling::Tensor => true,
            Scaling::Linear(factor) => positive(factor),
            Scaling::Llama3 {
                factor,
                low,
                high,
                original,
            } => positive(factor) && positive(low) && positive(original) && high > low,
        };
        if !scaling {
            let value = format!("{:?}", self.rope.scaling);
            return Err(LoadError::setting(
                "the rope's scaling",
                value,
                "its factors must be positive",
            ));
        }
        Ok(())
    }

    /// Checks that every tensor is there, in the right shape, and that none is there that would be ignored.
    pub(super) fn check_tensors(&self, tensors: &Tensors) -> Result<(), LoadError> {
        let query = self.heads * self.head_dim;
        let key = self.kv_heads * self.head_dim;
        tensors.expect("token_embd.weight", &[self.vocab, self.hidden])?;
        tensors.expect("output_norm.weight", &[self.hidden])?;
        if !self.tied {
            tensors.expect("output.weight", &[self.vocab, self.hidden])?;
        }
        if self.rope.scaling == Scaling::Tensor {
            tensors.expect("rope_freqs.weight", &[self.head_dim / 2])?;
        }
        for layer in 0..self.layers {
            let expect = |part: &str, dims: &[usize]| {
                tensors.expect(&format!("blk.{layer}.{part}.weight"), dims)
            };
            expect("attn_norm", &[self.hidden])?;
            expect("attn_q", &[query, self.hidden])?;
            expect("attn_k", &[key, self.hidden])?;
            expect("attn_v", &[key, self.hidden])?;
            expect("attn_output", &[self.hidden, query])?;
            expect("ffn_norm", &[self.hidden])?;
            expect("ffn_gate", &[self.feed_forward, self.hidden])?;
            expect("ffn_up", &[self.feed_forward, self.hidden])?;
            expect("ffn_down", &[self.hidden, self.feed_forward])?;
        }
        let bias = tensors.entries.keys().find(|name| name.ends_with(".bias"));
        match bias {
            Some(name) => Err(LoadError::Unsupported(format!("biases ({name})"))),
            None => Ok(()),
        }
    }
}

// === impl FolderConfig ===

impl FolderConfig {
    fn into_config(self) -> Result<Config, LoadError> {
        debug_assert!(!self.architectures.is_empty() || self.model_type.is_some());
        if self.quantization_config.is_some() {
            return Err(LoadError::Unsupported(
                "a folder of quantized safetensors; take the original folder or a GGUF file".into(),
            ));
        }
        if self.attention_bias || self.mlp_bias {
            return Err(LoadError::Unsupported(
                "biases (attention_bias, mlp_bias)".into(),
            ));
        }
        if let Some(act) = self.hidden_act.filter(|act| act != "silu") {
            return Err(LoadError::Unsupported(format!("the activation {act:?}")));
        }
        let rope = self.rope_parameters.or(self.rope_scaling);
        let theta = rope.as_ref().and_then(|r| r.rope_theta).or(self.rope_theta);
        let config = Config {
            layers: self.num_hidden_layers,
            hidden: self.hidden_size,
            feed_forward: self.intermediate_size,
            heads: self.num_attention_heads,
            kv_heads: self.num_key_value_heads.unwrap_or(self.num_attention_heads),
            head_dim: self
                .head_dim
                .unwrap_or(self.hidden_size / self.num_attention_heads.max(1)),
            vocab: self.vocab_size,
            context: self.max_position_embeddings,
            norm_eps: self.rms_norm_eps,
            tied: self.tie_word_embeddings,
            rope: Rope {
                pairing: Pairing::Halves,
                theta: theta.unwrap_or(10_000.0),
                scaling: rope.map_or(Ok(Scaling::None), FolderRope::into_scaling)?,
            },
        };
        config.check()?;
        Ok(config)
    }
}

impl FolderRope {
    fn into_scaling(self) -> Result<Scaling, LoadError> {
        if self.partial_rotary_factor.is_some_and(|f| f != 1.0) {
            return Err(LoadError::Unsupported(
                "rotating a part of each head only".into(),
            ));
        }
        let need = |value: Option<f64>, name: &str| {
            value.ok_or_else(|| LoadError::Missing(format!("{name} of the rope's scaling")))
        };
        match self.rope_type.as_deref() {
            None | Some("default") => Ok(Scaling::None),
            Some("linear") => Ok(Scaling::Linear(need(self.factor, "factor")?)),
            Some("llama3") => Ok(Scaling::Llama3 {
                factor: need(self.factor, "factor")?,
                low: need(self.low_freq_factor, "low_freq_factor")?,
                high: need(self.high_freq_factor, "high_freq_factor")?,
                original: need(
                    self.original_max_position_embeddings,
                    "original_max_position_embeddings",
                )?,
            }),
            Some(other) => Err(LoadError::Unsupported(format!("rope scaling {other:?}"))),
        }
    }
}

// === impl Rope ===

impl Rope {
    /// Returns how far each pair of a head turns from one position to the next.
    pub(super) fn frequencies(&self, head_dim: usize, divisors: Option<&[f32]>) -> Vec<f32> {
        let half = head_dim / 2;
        let base = (0..half).map(|i| self.theta.powf(-2.0 * i as f64 / head_dim as f64));
        base.enumerate()
            .map(|(i, frequency)| match self.scaling {
                Scaling::None => frequency,
                Scaling::Linear(factor) => frequency / factor,
                Scaling::Tensor => {
                    frequency
                        / divisors
                            .and_then(|d| d.get(i))
                            .copied()
                            .map_or(1.0, f64::from)
                }
                Scaling::Llama3 {
                    factor,
                    low,
                    high,
                    original,
                } => {
                    let wavelength = 2.0 * std::f64::consts::PI / frequency;
                    if wavelength < original / high {
                        frequency
                    } else if wavelength > original / low {
                        frequency / factor
                    } else {
                        let smooth = (original / wavelength - low) / (high - low);
                        (1.0 - smooth) * frequency / factor + smooth * frequency
                    }
                }
            })
            .map(|frequency| frequency as f32)
            .collect()
    }
}
