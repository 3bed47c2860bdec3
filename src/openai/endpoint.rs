//! What a request target means: one parsed path, computed once, that authentication and routing both see.

use std::borrow::Cow;
use std::sync::Arc;

use http::Method;
use percent_encoding::percent_decode_str;

/// How many bytes of a path are written down.
const WRITTEN_PATH: usize = 256;

/// One operation of the OpenAI API, or a path that Weir carries without understanding it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// `POST /v1/chat/completions`
    ChatCompletions,
    /// `POST /v1/completions`, and `POST /v1/engines/{engine}/completions` of the legacy client libraries
    Completions,
    /// `POST /v1/embeddings`, and `POST /v1/engines/{engine}/embeddings`
    Embeddings,
    /// `POST /v1/responses`
    Responses,
    /// `GET /v1/models`
    Models,
    /// `GET /v1/models/{model}`; the name is percent-decoded
    Model(String),
    /// `GET /v1/engines`
    Engines,
    /// `GET /v1/engines/{engine}`; the name is decoded as the legacy library encodes it
    Engine(String),
    /// `GET /v1/usage`, Weir's own: what the caller's key has used
    OwnUsage,
    /// Every other path under `/v1/`, in any method
    PassThrough,
}

/// The outcome of reading a method and a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The operation asked for.
    pub endpoint: Endpoint,
    /// The model that the path names (`/v1/engines/{engine}/…`); it goes before the body's.
    pub engine: Option<String>,
}

/// Why a request target leads nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// No such path: 404.
    #[error("unknown path")]
    UnknownPath,
    /// The path exists, the method does not: 405, with the methods that do in `Allow`.
    #[error("method not allowed")]
    MethodNotAllowed {
        /// The value of the `Allow` header.
        allow: &'static str,
    },
}

impl Endpoint {
    /// Returns the label that metrics and logs use: the path with its parameters left out.
    pub fn label(&self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Embeddings => "/v1/embeddings",
            Self::Responses => "/v1/responses",
            Self::Models => "/v1/models",
            Self::Model(_) => "/v1/models/{model}",
            Self::Engines => "/v1/engines",
            Self::Engine(_) => "/v1/engines/{engine}",
            Self::OwnUsage => "/v1/usage",
            Self::PassThrough => "other",
        }
    }

    /// Returns the upstream's path for an operation whose path is fixed.
    pub fn canonical_path(&self) -> Option<&'static str> {
        match self {
            Self::ChatCompletions
            | Self::Completions
            | Self::Embeddings
            | Self::Responses
            | Self::Models => Some(self.label()),
            Self::Model(_)
            | Self::Engines
            | Self::Engine(_)
            | Self::OwnUsage
            | Self::PassThrough => None,
        }
    }

    /// Returns whether the body is read, inspected and routed by its `model`.
    pub fn is_generation(&self) -> bool {
        matches!(
            self,
            Self::ChatCompletions | Self::Completions | Self::Embeddings | Self::Responses
        )
    }

    /// Returns what is written down of it: the label, or the beginning of a path that passes through.
    pub fn written(&self, path: Option<&str>) -> Arc<str> {
        match (self, path) {
            // A path is ASCII.
            (Self::PassThrough, Some(path)) => path.get(..WRITTEN_PATH).unwrap_or(path).into(),
            _ => self.label().into(),
        }
    }

    /// Returns whether the answer is put together from what all upstreams have.
    pub fn is_listing(&self) -> bool {
        matches!(
            self,
            Self::Models | Self::Model(_) | Self::Engines | Self::Engine(_)
        )
    }

    /// Returns whether a streamed answer reports usage only when `stream_options.include_usage` asks for it.
    pub fn has_stream_options(&self) -> bool {
        matches!(self, Self::ChatCompletions | Self::Completions)
    }

    /// Reads a method and a path, both as they stand in the request line.
    ///
    /// # Errors
    /// [`TargetError`] for paths outside `/v1/`, for spellings by which a path could mean another one to the
    /// upstream (empty and dot segments, needless percent-encoding, other letter case), and for methods that an
    /// understood path does not have.
    pub fn parse(method: &Method, path: &str) -> Result<Target, TargetError> {
        if matches!(*method, Method::CONNECT | Method::TRACE) {
            return Err(TargetError::MethodNotAllowed { allow: "GET, POST" });
        }
        let rest = path.strip_prefix("/v1/").ok_or(TargetError::UnknownPath)?;
        let segments: Vec<&str> = rest.split('/').collect();
        let found = |endpoint| {
            Ok(Target {
                endpoint,
                engine: None,
            })
        };
        let only = |wanted: Method, allow, endpoint| {
            if *method == wanted {
                found(endpoint)
            } else {
                Err(TargetError::MethodNotAllowed { allow })
            }
        };
        match segments.as_slice() {
            // GET lists stored completions: the upstream's business.
            ["chat", "completions"] if *method == Method::GET => found(Self::PassThrough),
            ["chat", "completions"] => only(Method::POST, "GET, POST", Self::ChatCompletions),
            ["completions"] => only(Method::POST, "POST", Self::Completions),
            ["embeddings"] => only(Method::POST, "POST", Self::Embeddings),
            ["responses"] => only(Method::POST, "POST", Self::Responses),
            ["models"] => only(Method::GET, "GET", Self::Models),
            ["models", name @ ..] if segments.iter().all(|s| !s.is_empty()) => {
                let name = decode_name(&name.join("/"), false)?;
                match *method {
                    Method::DELETE => found(Self::PassThrough),
                    _ => only(Method::GET, "DELETE, GET", Self::Model(name)),
                }
            }
            ["usage"] => only(Method::GET, "GET", Self::OwnUsage),
            ["engines"] => only(Method::GET, "GET", Self::Engines),
            ["engines", engine] => {
                only(Method::GET, "GET", Self::Engine(decode_name(engine, true)?))
            }
            ["engines", engine, operation @ ..] => {
                let endpoint = match operation {
                    ["completions"] => Self::Completions,
                    ["chat", "completions"] => Self::ChatCompletions,
                    ["embeddings"] => Self::Embeddings,
                    _ => return Err(TargetError::UnknownPath),
                };
                let engine = decode_name(engine, true)?;
                let target = only(Method::POST, "POST", endpoint)?;
                Ok(Target {
                    engine: Some(engine),
                    ..target
                })
            }
            _ if is_plain(&segments) => found(Self::PassThrough),
            _ => Err(TargetError::UnknownPath),
        }
    }
}

/// Decodes a model name from a path segment. The legacy Python library encodes with `quote_plus`, so that a space
/// arrives as `+` there.
fn decode_name(segment: &str, plus_is_space: bool) -> Result<String, TargetError> {
    let segment = if plus_is_space {
        Cow::Owned(segment.replace('+', " "))
    } else {
        Cow::Borrowed(segment)
    };
    let name = percent_decode_str(&segment)
        .decode_utf8()
        .map_err(|_| TargetError::UnknownPath)?;
    let plain = !name.is_empty()
        && !name.chars().any(char::is_control)
        && !name.split('/').any(|part| matches!(part, "" | "." | ".."));
    if plain {
        Ok(name.into_owned())
    } else {
        Err(TargetError::UnknownPath)
    }
}

/// Returns whether no server could read these segments as another path: an upstream that collapses slashes, resolves
/// dots, decodes escapes or ignores case would otherwise serve an understood endpoint behind the allow-lists' back.
fn is_plain(segments: &[&str]) -> bool {
    let understood = [
        "chat",
        "completions",
        "embeddings",
        "responses",
        "models",
        "engines",
        "usage",
    ];
    segments.iter().all(|segment| {
        let escapes_are_needed = segment.split('%').skip(1).all(|escape| {
            let byte = escape
                .get(..2)
                .and_then(|hex| u8::from_str_radix(hex, 16).ok());
            byte.is_some_and(|b| {
                !(b.is_ascii_alphanumeric() || b.is_ascii_control() || b"-._~/\\%;".contains(&b))
            })
        });
        !segment.is_empty()
            && !matches!(*segment, "." | "..")
            && !segment.contains(['\\', ';'])
            && escapes_are_needed
    }) && !understood
        .iter()
        .any(|name| segments[0] != *name && segments[0].eq_ignore_ascii_case(name))
        && !(segments[0] == "chat"
            && segments
                .get(1)
                .is_some_and(|s| *s != "completions" && s.eq_ignore_ascii_case("completions")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: Method, path: &str) -> Result<Target, TargetError> {
        Endpoint::parse(&method, path)
    }

    fn endpoint(method: Method, path: &str) -> Endpoint {
        parse(method, path).unwrap().endpoint
    }

    #[test]
    fn understood_paths() {
        assert_eq!(
            endpoint(Method::POST, "/v1/chat/completions"),
            Endpoint::ChatCompletions
        );
        assert_eq!(
            endpoint(Method::POST, "/v1/completions"),
            Endpoint::Completions
        );
        assert_eq!(
            endpoint(Method::POST, "/v1/embeddings"),
            Endpoint::Embeddings
        );
        assert_eq!(endpoint(Method::POST, "/v1/responses"), Endpoint::Responses);
        assert_eq!(endpoint(Method::GET, "/v1/models"), Endpoint::Models);
        assert_eq!(endpoint(Method::GET, "/v1/usage"), Endpoint::OwnUsage);
    }

    #[test]
    fn model_names_keep_their_slash_however_it_is_spelled() {
        let expected = Endpoint::Model("org/model-with-slash".into());
        assert_eq!(
            endpoint(Method::GET, "/v1/models/org%2Fmodel-with-slash"),
            expected
        );
        assert_eq!(
            endpoint(Method::GET, "/v1/models/org/model-with-slash"),
            expected
        );
    }

    #[test]
    fn legacy_engine_routes_name_the_model_in_the_path() {
        let target = parse(Method::POST, "/v1/engines/org%2Fmy+model%3A1/completions").unwrap();
        assert_eq!(
            target,
            Target {
                endpoint: Endpoint::Completions,
                engine: Some("org/my model:1".into())
            }
        );
        assert_eq!(
            endpoint(Method::GET, "/v1/engines/ada"),
            Endpoint::Engine("ada".into())
        );
        assert_eq!(
            parse(Method::POST, "/v1/engines/ada/search"),
            Err(TargetError::UnknownPath)
        );
    }

    #[test]
    fn wrong_methods_are_told_the_right_ones() {
        for (method, path) in [
            (Method::DELETE, "/v1/chat/completions"),
            (Method::GET, "/v1/completions"),
            (Method::POST, "/v1/models"),
            (Method::POST, "/v1/usage"),
            (Method::TRACE, "/v1/files"),
        ] {
            assert!(
                matches!(
                    parse(method, path),
                    Err(TargetError::MethodNotAllowed { .. })
                ),
                "{path}"
            );
        }
    }

    #[test]
    fn everything_else_under_v1_passes_through() {
        for path in [
            "/v1/files",
            "/v1/files/file-1/content",
            "/v1/vector_stores/a%20b",
            "/v1/not_yet_invented",
        ] {
            assert_eq!(endpoint(Method::PUT, path), Endpoint::PassThrough, "{path}");
        }
        assert_eq!(
            endpoint(Method::GET, "/v1/chat/completions"),
            Endpoint::PassThrough
        );
        assert_eq!(
            endpoint(Method::DELETE, "/v1/models/ft:mine"),
            Endpoint::PassThrough
        );
    }

    #[test]
    fn no_spelling_reaches_another_route() {
        for path in [
            "/",
            "/v1",
            "/v2/models",
            "/V1/models",
            "//v1/models",
            "/v1//chat/completions",
            "/v1/chat/completions/",
            "/v1/files/../chat/completions",
            "/v1/files/%2e%2e/chat",
            "/v1/%63hat/completions",
            "/v1/chat%2Fcompletions",
            "/v1/Chat/completions",
            "/v1/chat/Completions",
            "/v1/Usage",
            "/v1/chat/completions;a=b",
            "/v1/chat\\completions",
            "/v1/models/..%2Ffiles",
            "/v1/models/%00",
            "/v1/files/%",
            "/v1/files/%zz",
            "/v1/files/a%252Fb",
            "/healthz",
        ] {
            assert_eq!(
                parse(Method::POST, path)
                    .map(|t| t.endpoint)
                    .map_err(|e| match e {
                        TargetError::UnknownPath => (),
                        TargetError::MethodNotAllowed { .. } => panic!("{path} is a known path"),
                    }),
                Err(()),
                "{path}"
            );
        }
    }
}
