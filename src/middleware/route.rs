//! Reads the request line once. What is asked for is decided here, from the request target alone: authentication and
//! routing further in see the same [`Endpoint`], and the Host header decides nothing.
//!
//! The head's bounds hold here too, so that a client that breaks them gets the envelope; the server room's own bounds
//! lie above these and only guard memory.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use http::request::Parts;
use http::{HeaderMap, Method, Request, Version, header};
use tower::{Layer, Service};

use crate::call::{Record, RequestId, Routed};
use crate::openai::endpoint::{Endpoint, Target, TargetError};

/// The bounds of a request head.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// Bytes of all names and values of the headers.
    pub max_head: usize,
    /// Number of headers.
    pub max_headers: usize,
    /// Bytes of path and query.
    pub max_uri: usize,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            max_head: 64 << 10,
            max_headers: 100,
            max_uri: 8 << 10,
        }
    }
}

/// Why a request head is not taken.
#[derive(Debug, thiserror::Error)]
pub enum RouteError {
    /// The path or the method leads nowhere.
    #[error("{method} {path}: {error}")]
    Target {
        /// What is wrong.
        error: TargetError,
        /// The method asked.
        method: Method,
        /// The path asked, without its query.
        path: String,
    },
    /// The request target is too long.
    #[error("request target longer than {limit} bytes")]
    UriTooLong {
        /// The bound in bytes.
        limit: usize,
    },
    /// The headers are too large.
    #[error("headers larger than {limit} bytes")]
    HeadTooLarge {
        /// The bound in bytes.
        limit: usize,
    },
    /// There are too many headers.
    #[error("more than {limit} headers")]
    TooManyHeaders {
        /// The bound.
        limit: usize,
    },
    /// The head is ambiguous: two parties could read two different requests in it.
    #[error("malformed head: {0}")]
    Malformed(&'static str),
}

/// Builds [`Route`].
#[derive(Clone, Copy, Debug)]
pub struct RouteLayer {
    params: Params,
}

/// The service of this layer.
#[derive(Clone, Debug)]
pub struct Route<S> {
    inner: S,
    params: Params,
}

impl RouteLayer {
    /// Holds heads to `params`.
    pub fn new(params: Params) -> Self {
        Self { params }
    }
}

impl<S> Layer<S> for RouteLayer {
    type Service = Route<S>;

    fn layer(&self, inner: S) -> Route<S> {
        Route {
            inner,
            params: self.params,
        }
    }
}

impl<S, B> Service<Request<B>> for Route<S>
where
    S: Service<Routed<B>>,
    S::Error: From<RouteError>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future =
        futures_util::future::Either<std::future::Ready<Result<S::Response, S::Error>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        match read(&parts, self.params) {
            Ok(target) => {
                let record = parts
                    .extensions
                    .remove::<Arc<Record>>()
                    .unwrap_or_else(|| Arc::new(Record::new(RequestId::fresh(), Instant::now())));
                record.facts().endpoint = Some(target.endpoint.label());
                futures_util::future::Either::Right(self.inner.call(Routed {
                    record,
                    target,
                    parts,
                    body,
                }))
            }
            Err(error) => futures_util::future::Either::Left(std::future::ready(Err(error.into()))),
        }
    }
}

/// Reads a request's head.
///
/// # Errors
/// [`RouteError`]
pub fn read(parts: &Parts, params: Params) -> Result<Target, RouteError> {
    let path = parts.uri.path();
    let length = parts
        .uri
        .path_and_query()
        .map_or(0, |target| target.as_str().len());
    if length > params.max_uri {
        return Err(RouteError::UriTooLong {
            limit: params.max_uri,
        });
    }
    check_headers(&parts.headers, params)?;
    if parts.version < Version::HTTP_2 {
        check_http1(parts)?;
    }
    Endpoint::parse(&parts.method, path).map_err(|error| RouteError::Target {
        error,
        method: parts.method.clone(),
        path: path.to_owned(),
    })
}

fn check_headers(headers: &HeaderMap, params: Params) -> Result<(), RouteError> {
    if headers.len() > params.max_headers {
        return Err(RouteError::TooManyHeaders {
            limit: params.max_headers,
        });
    }
    // Four bytes a line for ": " and its end, as they stand in HTTP/1.1.
    let size: usize = headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 4)
        .sum();
    if size > params.max_head {
        return Err(RouteError::HeadTooLarge {
            limit: params.max_head,
        });
    }
    Ok(())
}

/// RFC 9112, sections 3.2 and 6: what hyper lets through but two servers in a row could read differently.
fn check_http1(parts: &Parts) -> Result<(), RouteError> {
    let connect = parts.method == Method::CONNECT;
    if parts.uri.authority().is_some() && !connect {
        return Err(RouteError::Malformed("the request target must be a path"));
    }
    let mut hosts = parts.headers.get_all(header::HOST).iter();
    if (hosts.next().is_none() && parts.version == Version::HTTP_11) || hosts.next().is_some() {
        return Err(RouteError::Malformed("exactly one Host header is needed"));
    }
    if parts.headers.get_all(header::CONTENT_LENGTH).iter().count() > 1 {
        return Err(RouteError::Malformed("more than one Content-Length"));
    }
    let mut encodings = parts.headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(encoding) = encodings.next()
        && (!encoding.as_bytes().eq_ignore_ascii_case(b"chunked") || encodings.next().is_some())
    {
        return Err(RouteError::Malformed(
            "the only transfer coding understood is chunked",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(configure: impl FnOnce(http::request::Builder) -> http::request::Builder) -> Parts {
        configure(Request::post("/v1/completions").header("host", "weir"))
            .body(())
            .unwrap()
            .into_parts()
            .0
    }

    fn error(
        configure: impl FnOnce(http::request::Builder) -> http::request::Builder,
    ) -> RouteError {
        read(&head(configure), Params::default()).unwrap_err()
    }

    #[test]
    fn a_plain_head_is_taken() {
        assert!(
            read(
                &head(|b| b.header("transfer-encoding", "chunked")),
                Params::default()
            )
            .is_ok()
        );
    }

    #[test]
    fn ambiguous_heads_are_refused() {
        assert!(matches!(
            error(|b| b.header("transfer-encoding", "gzip, chunked")),
            RouteError::Malformed(_)
        ));
        assert!(matches!(
            error(|b| b.header("host", "other")),
            RouteError::Malformed(_)
        ));
        assert!(matches!(
            error(|b| b.uri("http://elsewhere/v1/completions")),
            RouteError::Malformed(_)
        ));
        assert!(matches!(
            error(|b| b
                .header("content-length", "1")
                .header("content-length", "1")),
            RouteError::Malformed(_)
        ));
    }

    #[test]
    fn bounds_hold() {
        assert!(matches!(
            error(|b| b.uri("/v1/".to_owned() + &"a".repeat(9000))),
            RouteError::UriTooLong { .. }
        ));
        assert!(matches!(
            error(|b| b.header("x", "a".repeat(70_000))),
            RouteError::HeadTooLarge { .. }
        ));
        let many = |mut b: http::request::Builder| {
            for i in 0..100 {
                b = b.header(format!("x-{i}"), "1");
            }
            b
        };
        assert!(matches!(error(many), RouteError::TooManyHeaders { .. }));
    }
}
