//! The HTTP client of the commands that talk to a running gateway, and of the export of traces. It goes straight there,
//! through no proxy.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::ClientConfig;

use crate::tls_roots;

/// Long enough for the other end of the world; a gateway on this machine refuses at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Why no answer began.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is nobody to ask under such an address.
    #[error("{0} is no base URL; write one such as http://127.0.0.1:8080")]
    Url(String),
    /// Nobody listens.
    #[error("cannot connect to {url}: {why}; is the gateway running? `weir` starts one")]
    Connect {
        /// Where.
        url: String,
        /// Why.
        why: String,
    },
    /// It ended too early.
    #[error("the connection broke: {0}")]
    Broken(String),
}

/// Sends requests over http or https.
pub struct Client {
    /// None where TLS could not be set up, which then also serves no http.
    client: Option<legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>>,
}

impl Client {
    /// Makes a client. Where TLS cannot be set up, each request fails.
    pub fn new() -> Self {
        let client = tls().map(|tls| {
            let mut http = HttpConnector::new();
            http.enforce_http(false);
            http.set_connect_timeout(Some(CONNECT_TIMEOUT));
            http.set_nodelay(true);
            let builder = HttpsConnectorBuilder::new().with_tls_config(tls);
            let connector = builder.https_or_http().enable_http1().wrap_connector(http);
            legacy::Client::builder(TokioExecutor::new()).build(connector)
        });
        Self {
            client: client.ok(),
        }
    }

    /// Sends a request; `url` is how the user wrote where to.
    ///
    /// # Errors
    /// [`ClientError`]
    pub async fn send(
        &self,
        request: Request<Full<Bytes>>,
        url: &str,
    ) -> Result<Response<Incoming>, ClientError> {
        let authority = request.uri().authority();
        let is_http = matches!(request.uri().scheme_str(), Some("http" | "https"));
        if authority.is_none() || !is_http {
            return Err(ClientError::Url(url.to_owned()));
        }
        let Some(client) = &self.client else {
            return Err(ClientError::Broken("TLS cannot be set up".to_owned()));
        };
        client.request(request).await.map_err(|error| {
            let why = causes(&error);
            match error.is_connect() {
                true => ClientError::Connect {
                    url: url.to_owned(),
                    why,
                },
                false => ClientError::Broken(why),
            }
        })
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

fn tls() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config
        .with_root_certificates(tls_roots::system())
        .with_no_client_auth())
}

/// Words the innermost cause of an error, which is the one that says what happened.
pub fn causes(error: &(dyn Error + 'static)) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    let text = innermost.to_string();
    match text.find(" (os error") {
        Some(at) => text[..at].to_lowercase(),
        None => text,
    }
}
