//! `weir explain`

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use http::Method;
use serde_json::json;
use serde_json::value::RawValue;

use super::gateway::ask;
use super::{Failure, Place};
use crate::report::outlook::{Outlook, to_words};
use crate::secret::Secret;

/// More than the admin API takes.
const MAX_BODY: u64 = 4 << 20;

/// A call to explain, and how to write what is told of it.
#[derive(Clone, Debug)]
pub struct ExplainOptions {
    /// The name of a key, its id, or the key itself.
    pub key: Option<Secret>,
    /// The model, in the place of the body's.
    pub model: Option<String>,
    /// The method; `None`: POST with a body, else GET.
    pub method: Option<String>,
    /// The path.
    pub path: String,
    /// The headers.
    pub headers: Vec<(String, String)>,
    /// A file with the body, `-` for the input.
    pub body: Option<PathBuf>,
    /// Whether the answer is written as JSON.
    pub json: bool,
}

/// Asks what would become of a call, and returns what to print.
///
/// # Errors
/// [`Failure`]
pub async fn explain(
    place: &Place,
    options: &ExplainOptions,
    input: &mut dyn Read,
) -> Result<String, Failure> {
    let Place::Gateway { url, token } = place else {
        return Err(Failure::mistake(
            "only a running gateway can explain a call",
        ));
    };
    let question = question(options, input)?;
    let answer = ask(url, token.as_ref(), Method::POST, "explain", Some(question)).await?;
    let outlook: Outlook = serde_json::from_slice(&answer)
        .map_err(|_| Failure::internal("the answer is not one of Weir's admin API"))?;
    Ok(match options.json {
        // Texts and numbers always serialize.
        true => serde_json::to_string_pretty(&outlook).unwrap_or_default() + "\n",
        false => to_words(&outlook),
    })
}

/// Returns what the admin API is asked.
fn question(options: &ExplainOptions, input: &mut dyn Read) -> Result<String, Failure> {
    let Some(key) = &options.key else {
        return Err(Failure::mistake("name a --key, or set WEIR_KEY"));
    };
    let mut question = BTreeMap::new();
    question.insert("key", raw(key.expose())?);
    question.insert("path", raw(&options.path)?);
    if let Some(method) = &options.method {
        question.insert("method", raw(method)?);
    }
    if !options.headers.is_empty() {
        let mut headers = BTreeMap::new();
        for (name, value) in &options.headers {
            if headers.insert(name, value).is_some() {
                return Err(Failure::mistake(format!("--header {name} is given twice")));
            }
        }
        question.insert("headers", raw(&headers)?);
    }
    if let Some(body) = body(options, input)? {
        question.insert("body", body);
    }
    Ok(raw(&question)?.get().to_owned())
}

fn body(options: &ExplainOptions, input: &mut dyn Read) -> Result<Option<Box<RawValue>>, Failure> {
    let Some(path) = &options.body else {
        return short_body(options);
    };
    let text = read(path, input)?;
    let wrong = |error: serde_json::Error| {
        let name = path.display();
        Failure::mistake(format!("{name} is no object of JSON: {error}"))
    };
    let Some(model) = &options.model else {
        return serde_json::from_str(&text).map(Some).map_err(wrong);
    };
    let mut members: BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(&text).map_err(wrong)?;
    members.insert("model".to_owned(), raw(model)?);
    Ok(Some(raw(&members)?))
}

/// Returns a body that asks for little, where the path is one that needs a body.
fn short_body(options: &ExplainOptions) -> Result<Option<Box<RawValue>>, Failure> {
    const HELLO: &str = "Hello";
    let path = options.path.split('?').next().unwrap_or_default();
    let (member, value) = if path.ends_with("/chat/completions") {
        ("messages", json!([{ "role": "user", "content": HELLO }]))
    } else if path.ends_with("/completions") {
        ("prompt", json!(HELLO))
    } else if path.ends_with("/embeddings") || path.ends_with("/responses") {
        ("input", json!(HELLO))
    } else if options.model.is_some() {
        return Err(Failure::mistake(format!(
            "--model is nothing that {} takes; give the BODY that it does",
            options.path
        )));
    } else {
        return Ok(None);
    };
    if options
        .method
        .as_deref()
        .is_some_and(|method| method != "POST")
    {
        return Ok(None);
    }
    // The engine stands in the path of the older ones.
    if options.model.is_none() && !path.starts_with("/v1/engines/") {
        return Err(Failure::mistake(
            "name a --model, or a file with the BODY (- for standard input)",
        ));
    }
    let mut members = BTreeMap::from([(member, value)]);
    members.extend(options.model.as_ref().map(|model| ("model", json!(model))));
    Ok(Some(raw(&members)?))
}

fn read(path: &Path, input: &mut dyn Read) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match path.as_os_str() == "-" {
        true => input.take(MAX_BODY + 1).read_to_string(&mut text),
        false => {
            File::open(path).and_then(|file| file.take(MAX_BODY + 1).read_to_string(&mut text))
        }
    };
    match read {
        Err(error) => Err(Failure::mistake(format!(
            "cannot read {}: {error}",
            path.display()
        ))),
        Ok(length) if length as u64 > MAX_BODY => Err(Failure::mistake(format!(
            "{} is larger than {MAX_BODY} bytes",
            path.display()
        ))),
        Ok(_) => Ok(text),
    }
}

fn raw(value: &(impl serde::Serialize + ?Sized)) -> Result<Box<RawValue>, Failure> {
    // Texts, and maps of them, always serialize.
    serde_json::value::to_raw_value(value)
        .map_err(|_| Failure::internal("the question cannot be written"))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn options(path: &str, model: Option<&str>, body: Option<&str>) -> ExplainOptions {
        ExplainOptions {
            key: Some(Secret::new("alice")),
            model: model.map(str::to_owned),
            method: None,
            path: path.to_owned(),
            headers: Vec::new(),
            body: body.map(PathBuf::from),
            json: false,
        }
    }

    fn asked(options: &ExplainOptions, input: &str) -> Result<String, String> {
        question(options, &mut input.as_bytes()).map_err(|failure| {
            assert!(failure.is_users);
            failure.message
        })
    }

    #[test]
    fn a_body_goes_as_it_is_written() {
        let body = r#"{ "model":"a", "model":"b" }"#;
        let question = asked(&options("/v1/embeddings", None, Some("-")), body);
        let expected = format!(r#"{{"body":{body},"key":"alice","path":"/v1/embeddings"}}"#);
        assert_eq!(question, Ok(expected));
        let renamed = asked(&options("/v1/x", Some("c"), Some("-")), body).unwrap();
        let renamed: Value = serde_json::from_str(&renamed).unwrap();
        assert_eq!(renamed["body"], json!({ "model": "c" }));
    }

    #[test]
    fn without_one_a_short_one_is_made_up() {
        let body = |path| {
            let question = asked(&options(path, Some("m"), None), "").unwrap();
            let question: Value = serde_json::from_str(&question).unwrap();
            question["body"].clone()
        };
        let chat = json!({ "model": "m", "messages": [{ "role": "user", "content": "Hello" }] });
        assert_eq!(body("/v1/chat/completions"), chat);
        assert_eq!(
            body("/v1/completions"),
            json!({ "model": "m", "prompt": "Hello" })
        );
        assert_eq!(
            body("/v1/responses"),
            json!({ "model": "m", "input": "Hello" })
        );
        let listing = asked(&options("/v1/models", None, None), "").unwrap();
        assert!(!listing.contains("body"), "{listing}");
    }

    #[test]
    fn careless_input_is_told() {
        let keyless = ExplainOptions {
            key: None,
            ..options("/v1/models", None, None)
        };
        let twice = ExplainOptions {
            headers: vec![("a".into(), "1".into()), ("a".into(), "2".into())],
            ..options("/v1/models", None, None)
        };
        for (options, input, said) in [
            (keyless, "", "name a --key"),
            (twice, "", "--header a is given twice"),
            (
                options("/v1/chat/completions", None, None),
                "",
                "name a --model",
            ),
            (
                options("/v1/files", Some("m"), None),
                "",
                "--model is nothing that /v1/files takes",
            ),
            (
                options("/v1/x", None, Some("-")),
                "{",
                "- is no object of JSON",
            ),
            (
                options("/v1/x", None, Some("/nowhere/at/all")),
                "",
                "cannot read /nowhere/at/all",
            ),
            (
                options("/v1/x", Some("m"), Some("-")),
                "[]",
                "- is no object of JSON",
            ),
        ] {
            let told = asked(&options, input).unwrap_err();
            assert!(told.contains(said), "{told}");
        }
        let large = " ".repeat(usize::try_from(MAX_BODY).unwrap() + 1);
        let told = asked(&options("/v1/x", None, Some("-")), &large).unwrap_err();
        assert!(told.contains("is larger than"), "{told}");
    }
}
