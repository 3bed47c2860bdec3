//! How tokens are drawn.

use crate::upstream::UpstreamError;
use crate::upstream::local::fields::{Fields, invalid_type, invalid_value};
use crate::upstream::transformer::{Engine, Sampling};

/// Reads how tokens are drawn; what is not said is as the model has it, or else as the OpenAI API does.
pub(super) fn sampling(fields: &Fields, engine: &Engine) -> Result<Sampling, UpstreamError> {
    let defaults = engine.defaults();
    let temperature = fields.number("temperature", 0.0..=2.0)?;
    let top_p = fields.number("top_p", 0.0..=1.0)?;
    let seed = match fields.integer("seed", i64::MIN..=i64::MAX)? {
        Some(seed) => seed.cast_unsigned(),
        None => random_seed(),
    };
    Ok(Sampling {
        temperature: temperature.or(defaults.temperature).unwrap_or(1.0),
        top_p: top_p.or(defaults.top_p).unwrap_or(1.0),
        top_k: defaults.top_k.unwrap_or(0),
        seed,
        bias: bias(fields, engine.vocab())?,
        presence_penalty: fields
            .number("presence_penalty", -2.0..=2.0)?
            .unwrap_or(0.0),
        frequency_penalty: fields
            .number("frequency_penalty", -2.0..=2.0)?
            .unwrap_or(0.0),
    })
}

/// Returns a seed for whoever has named none.
fn random_seed() -> u64 {
    let mut bytes = [0; 8];
    // A seed needs to be unlikely to repeat, not secret.
    if getrandom::fill(&mut bytes).is_err() {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        return now.unwrap_or_default().as_nanos() as u64;
    }
    u64::from_le_bytes(bytes)
}

/// Returns what is added to the logits of tokens.
fn bias(fields: &Fields, vocab: usize) -> Result<Vec<(u32, f32)>, UpstreamError> {
    let Some(value) = fields.get("logit_bias") else {
        return Ok(Vec::new());
    };
    let wrong = || invalid_type("logit_bias", "an object of token ids and numbers");
    let mut bias = Vec::new();
    for (token, value) in value.as_object().ok_or_else(wrong)? {
        let token: u32 = token.parse().map_err(|_| wrong())?;
        let value = value.as_f64().ok_or_else(wrong)?;
        if token as usize >= vocab {
            return Err(invalid_value(
                "logit_bias",
                format!("this model's tokens are 0 to {}", vocab - 1),
            ));
        }
        if !(-100.0..=100.0).contains(&value) {
            return Err(invalid_value(
                "logit_bias",
                "each bias must be from -100 to 100",
            ));
        }
        bias.push((token, value as f32));
    }
    Ok(bias)
}
