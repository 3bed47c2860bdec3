//! Where an `[[upstream]]` is: `base_url`, `base_urls`, and what the kind makes of them.

use std::os::unix::fs::FileTypeExt as _;

use http::uri::{PathAndQuery, Uri};
use toml::de::DeValue;

use super::super::reader::{Placed, Reader, Table, Text, plain, quote};
use super::super::types::{ApiConfig, EndpointConfig};

const EXAMPLE: &str = "write a URL such as \"https://api.openai.com/v1\"";
const AZURE_EXAMPLE: &str = "write a URL such as \"https://NAME.openai.azure.com\"";
const UNIX_EXAMPLE: &str = "write such as \"unix:/run/llama.sock:/v1\"";
/// What stands before the endpoints of nearly every server.
const UNIX_PREFIX: &str = "/v1";
/// What stands before them at Azure.
const AZURE_PREFIX: &str = "/openai";
const AZURE_V1_PREFIX: &str = "/openai/v1";

/// Reads every endpoint. Empty where none could be read, which has been reported then.
pub(super) fn endpoints(
    table: &mut Table<'_, '_>,
    reader: &mut Reader<'_>,
    api: &ApiConfig,
) -> Vec<Placed<EndpointConfig>> {
    let mut endpoints: Vec<Placed<EndpointConfig>> = Vec::new();
    for text in urls(table, reader, api) {
        let Some(value) = endpoint(&text, reader, api) else {
            continue;
        };
        if let Some(i) = endpoints.iter().position(|other| other.value == value) {
            let message = format!("is the same as #{}; write each endpoint once", i + 1);
            reader.error(&text.at, message);
        }
        endpoints.push(Placed { at: text.at, value });
    }
    endpoints
}

fn urls(table: &mut Table<'_, '_>, reader: &mut Reader<'_>, api: &ApiConfig) -> Vec<Text> {
    match (table.field("base_url"), table.field("base_urls")) {
        (Some(field), None) => reader.text(&field).into_iter().collect(),
        (None, Some(field)) => {
            let elements = reader.elements(&field);
            if elements.is_empty() && matches!(field.value, DeValue::Array(_)) {
                let example = "[\"http://10.0.0.1:8000/v1\", \"http://10.0.0.2:8000/v1\"]";
                reader.error(&field.at, format!("is empty; write such as {example}"));
            }
            let texts = elements.iter().filter_map(|element| reader.text(element));
            texts.collect()
        }
        (Some(_), Some(_)) => {
            let at = table.name_at("base_urls");
            reader.error(&at, "stands beside `base_url`; write one of the two");
            Vec::new()
        }
        (None, None) => {
            let example = match api {
                ApiConfig::OpenAi => "https://api.openai.com/v1",
                ApiConfig::Azure { .. } => "https://NAME.openai.azure.com",
            };
            let at = table.at.clone();
            reader.error(
                &at,
                format!("`base_url` is missing; write `base_url = \"{example}\"`"),
            );
            Vec::new()
        }
    }
}

fn endpoint(text: &Text, reader: &mut Reader<'_>, api: &ApiConfig) -> Option<EndpointConfig> {
    let read = match (text.value.strip_prefix("unix:"), api) {
        (None, ApiConfig::OpenAi) => return http(text, reader),
        (None, ApiConfig::Azure { version }) => {
            let url = url(&text.value).and_then(|uri| azure(uri, version.as_deref()));
            url.map(EndpointConfig::Http)
                .map_err(|fault| format!("{fault}; {AZURE_EXAMPLE}"))
        }
        (Some(rest), ApiConfig::OpenAi) => {
            unix(rest, text, reader).map_err(|fault| format!("{fault}; {UNIX_EXAMPLE}"))
        }
        (Some(_), ApiConfig::Azure { .. }) => Err(format!(
            "is a socket of this machine, where Azure is not; {AZURE_EXAMPLE}"
        )),
    };
    // The URL is not quoted: it may hold a password, and is on the line that is named.
    read.map_err(|message| reader.error(&text.at, message)).ok()
}

fn http(text: &Text, reader: &mut Reader<'_>) -> Option<EndpointConfig> {
    match url(&text.value) {
        Ok(uri) => {
            if uri.path() == "/" {
                reader.warning(
                    &text.at,
                    "has no path; most servers have the OpenAI API under `/v1`",
                );
            }
            Some(EndpointConfig::Http(uri))
        }
        Err(fault) => {
            reader.error(&text.at, format!("{fault}; {EXAMPLE}"));
            None
        }
    }
}

/// Reads a URL, and takes the slash from its end, so that paths can be appended.
///
/// # Errors
/// What is wrong with it.
fn url(text: &str) -> Result<Uri, String> {
    let uri: Uri = text.parse().map_err(|_| "is no URL")?;
    let authority = match (uri.scheme_str(), uri.authority()) {
        (Some("http" | "https"), Some(authority)) => authority,
        (Some(_), _) => return Err("has a scheme that is neither http nor https".to_owned()),
        (None, _) => return Err("has no scheme".to_owned()),
    };
    let has_port = authority.as_str().len() > authority.host().len();
    let fault = if authority.as_str().contains('@') {
        "holds credentials, which belong into `api_keys`"
    } else if text.contains('#') || uri.query().is_some() {
        "has a query or a fragment, which no request would keep"
    } else if authority.host().is_empty() {
        "has no host"
    } else if has_port && authority.port_u16().is_none_or(|port| port == 0) {
        "has a port that is none"
    } else {
        let path = uri.path().trim_end_matches('/').to_owned();
        endpoint_at_end(&path)?;
        no_steps(&path)?;
        return with_path(uri, &path);
    };
    Err(fault.to_owned())
}

fn with_path(uri: Uri, path: &str) -> Result<Uri, String> {
    // A URL without a path has one for all that: "/".
    let path = if path.is_empty() { "/" } else { path };
    let mut parts = uri.into_parts();
    parts.path_and_query = PathAndQuery::try_from(path).ok();
    Uri::from_parts(parts).map_err(|_| "is no URL".to_owned())
}

fn endpoint_at_end(path: &str) -> Result<(), String> {
    // No `/models`: some servers have the whole API below a path of that name.
    let endpoints = [
        "/chat/completions",
        "/completions",
        "/embeddings",
        "/responses",
    ];
    match endpoints.into_iter().find(|end| path.ends_with(end)) {
        Some(end) => Err(format!(
            "ends in an endpoint; leave out `{end}`, it is added to each request"
        )),
        None => Ok(()),
    }
}

/// Refuses steps in a path (RFC 3986, section 3.3): servers read them in different ways, or not at all.
fn no_steps(path: &str) -> Result<(), String> {
    let is_step = |segment: &str| {
        let segment = segment.to_ascii_lowercase().replace("%2e", ".");
        matches!(segment.as_str(), "." | "..")
    };
    match path.split('/').any(is_step) {
        true => Err("has a `.` or `..` in its path, which every request would keep".to_owned()),
        false => Ok(()),
    }
}

/// Adds what of Azure's own path is missing.
fn azure(uri: Uri, version: Option<&str>) -> Result<Uri, String> {
    let path = uri.path().trim_end_matches('/').to_owned();
    if path.contains("/openai/deployments/") {
        return Err(
            "names a deployment; leave out `/deployments/…`, the model's name is the deployment's"
                .to_owned(),
        );
    }
    let is_v1 = path.ends_with(AZURE_V1_PREFIX);
    let path = match version {
        Some(version) if is_v1 => {
            return Err(format!(
                "ends in `/openai/v1`, which has no `api_version` such as \"{version}\"; leave out one of the two"
            ));
        }
        Some(_) if path.ends_with(AZURE_PREFIX) => path,
        Some(_) => path + AZURE_PREFIX,
        None if is_v1 => path,
        None => path.strip_suffix(AZURE_PREFIX).unwrap_or(&path).to_owned() + AZURE_V1_PREFIX,
    };
    with_path(uri, &path)
}

/// Reads what stands behind `unix:`.
fn unix(rest: &str, text: &Text, reader: &mut Reader<'_>) -> Result<EndpointConfig, String> {
    let rest = match rest.strip_prefix("//") {
        Some(path) if path.starts_with('/') => path,
        Some(_) => return Err("has a host, which a socket has not".to_owned()),
        None => rest,
    };
    let (path, prefix) = match rest.rfind(":/") {
        Some(at) => (&rest[..at], &rest[at + 1..]),
        None => (rest, UNIX_PREFIX),
    };
    let prefix = prefix.trim_end_matches('/').to_owned();
    if path.is_empty() {
        return Err("names no socket".to_owned());
    }
    if path.ends_with(':') {
        return Err("has a colon at its end, and no path behind it".to_owned());
    }
    if prefix.contains(['?', '#']) {
        return Err("has a query or a fragment, which no request would keep".to_owned());
    }
    if !prefix.is_empty() && PathAndQuery::try_from(prefix.as_str()).is_err() {
        return Err("has no path behind the socket's that a request could have".to_owned());
    }
    endpoint_at_end(&prefix)?;
    no_steps(&prefix)?;
    let socket = reader.folder.join(path);
    // The server behind it may start later, so this is no error.
    let doubt = match std::fs::metadata(&socket) {
        Ok(found) if found.file_type().is_socket() => None,
        Ok(_) => Some("it is no socket".to_owned()),
        Err(error) => Some(plain(&error)),
    };
    if let Some(doubt) = doubt {
        let message = format!(
            "{} has no socket now: {doubt}; start the server behind it, or write the path that it listens on",
            quote(&text.raw)
        );
        reader.warning(&text.at, message);
    }
    Ok(EndpointConfig::Unix { socket, prefix })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_no_steps() {
        for (path, fine) in [
            ("/v1", true),
            ("/a.b/..v1/...", true),
            ("/../v1", false),
            ("/v1/.", false),
            ("/%2E%2e/v1", false),
            ("/a/.%2e/v1", false),
        ] {
            let read = url(&format!("http://host{path}"));
            assert_eq!(read.is_ok(), fine, "{path}");
        }
    }

    #[test]
    fn azure_paths_are_completed() {
        let dated = Some("2024-10-21");
        for (path, version, expected) in [
            ("", None, Some("/openai/v1")),
            ("/", None, Some("/openai/v1")),
            ("/openai", None, Some("/openai/v1")),
            ("/openai/v1/", None, Some("/openai/v1")),
            ("/prefix", None, Some("/prefix/openai/v1")),
            ("", dated, Some("/openai")),
            ("/openai/", dated, Some("/openai")),
            ("/prefix", dated, Some("/prefix/openai")),
            ("/openai/v1", dated, None),
            ("/openai/deployments/gpt-4o", dated, None),
        ] {
            let text = format!("https://name.openai.azure.com{path}");
            let read = url(&text).and_then(|uri| azure(uri, version));
            let read = read.as_ref().map(Uri::path);
            assert_eq!(read.ok(), expected, "{path} {version:?}");
        }
    }
}
