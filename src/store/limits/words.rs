//! `limits` in a few words, as the command line takes and shows them.

use serde_json::{Map, Value};

use super::dimension::Dimension;

/// Reads an entry such as `60 requests/minute`, `40000 input tokens/day` or `10 concurrent`, behind which may stand
/// `burst 10`, `for gpt-*,o1` and `shadow`, and returns it as JSON, which
/// [`limits_from_json`](super::limits_from_json) judges.
///
/// # Errors
/// What would be right.
pub fn words_to_json(text: &str) -> Result<Value, String> {
    read(text).ok_or_else(|| {
        format!(
            "`{text}` is no limit; write such as \"60 requests/minute\", \"1000000 tokens/day for gpt-*,o1\", \"10 concurrent shadow\" or \"600 requests/minute burst 20\""
        )
    })
}

fn read(text: &str) -> Option<Value> {
    let mut words = text.split_whitespace().peekable();
    let size: u64 = words.next()?.parse().ok()?;
    let mut what = words.next()?.to_owned();
    if let Some(unit) = words.next_if(|word| word.contains('/')) {
        what = format!("{what} {unit}");
    }
    let what = what.replace(' ', "_").replace('/', "_per_");
    let dimension = Dimension::ALL.iter().find(|one| one.as_str() == what)?;
    let mut json = Map::new();
    json.insert(dimension.as_str().into(), size.into());
    while let Some(word) = words.next() {
        let (name, value) = match word {
            "burst" => ("burst", Value::from(words.next()?.parse::<u64>().ok()?)),
            "for" => {
                let models: Vec<&str> = words.next()?.split(',').collect();
                ("models", models.into())
            }
            "shadow" => ("shadow", true.into()),
            _ => return None,
        };
        if json.insert(name.into(), value).is_some() {
            return None;
        }
    }
    Some(Value::Object(json))
}

/// Words the entries of `limits`, as JSON, each number by itself.
pub fn json_to_words(limits: &Value) -> Vec<String> {
    let entries = limits.as_array().into_iter().flatten();
    entries.flat_map(entry_to_words).collect()
}

fn entry_to_words(entry: &Value) -> Vec<String> {
    let mut behind = String::new();
    let models = entry["models"].as_array().into_iter().flatten();
    let models: Vec<&str> = models.filter_map(Value::as_str).collect();
    if !models.is_empty() {
        behind = format!(" for {}", models.join(","));
    }
    if entry["shadow"] == true {
        behind.push_str(" shadow");
    }
    let number = |dimension: &Dimension| {
        let size = entry[dimension.as_str()].as_u64()?;
        let what = dimension.as_str().replace("_per_", "/").replace('_', " ");
        let burst = match (dimension, entry["burst"].as_u64()) {
            (Dimension::RequestsPerMinute, Some(burst)) => format!(" burst {burst}"),
            _ => String::new(),
        };
        Some(format!("{size} {what}{burst}{behind}"))
    };
    Dimension::ALL.iter().filter_map(number).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_worded_reads_the_same() {
        for (text, expected) in [
            ("60 requests/minute", json!({ "requests_per_minute": 60 })),
            (
                "40000 input tokens/day",
                json!({ "input_tokens_per_day": 40_000 }),
            ),
            ("10 concurrent", json!({ "concurrent": 10 })),
            (
                "600 requests/minute burst 20 for gpt-*,org/o1 shadow",
                json!({ "requests_per_minute": 600, "burst": 20, "models": ["gpt-*", "org/o1"], "shadow": true }),
            ),
        ] {
            let read = words_to_json(text).unwrap();
            assert_eq!(read, expected);
            assert_eq!(json_to_words(&json!([read])), [text]);
        }
        let several = json!([{ "tokens_per_minute": 5, "requests_per_minute": 6, "burst": 2 }]);
        assert_eq!(
            json_to_words(&several),
            ["6 requests/minute burst 2", "5 tokens/minute"]
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for text in [
            "",
            "60",
            "requests/minute",
            "-1 requests/minute",
            "60 requests",
            "60 requests/hour",
            "60 output requests/minute",
            "5 concurrent/minute",
            "60 requests/minute burst",
            "60 requests/minute burst x",
            "60 requests/minute shadow shadow",
            "60 requests/minute, 5 concurrent",
        ] {
            assert!(words_to_json(text).is_err(), "{text}");
        }
    }
}
