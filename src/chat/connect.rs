//! The HTTP client of `weir chat`.

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

use super::ChatError;
use crate::tls_roots;

/// Long enough for the other end of the world; a gateway on this machine refuses at once.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Sends requests over http or https.
pub(super) struct Client {
    /// None where TLS could not be set up, which then also serves no http.
    client: Option<legacy::Client<HttpsConnector<HttpConnector>, Full<Bytes>>>,
}

impl Client {
    pub(super) fn new() -> Self {
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

    pub(super) async fn send(
        &self,
        request: Request<Full<Bytes>>,
        url: &str,
    ) -> Result<Response<Incoming>, ChatError> {
        let authority = request.uri().authority();
        let is_http = matches!(request.uri().scheme_str(), Some("http" | "https"));
        if authority.is_none() || !is_http {
            return Err(ChatError::Url(url.to_owned()));
        }
        let Some(client) = &self.client else {
            return Err(ChatError::Broken("TLS cannot be set up".to_owned()));
        };
        client.request(request).await.map_err(|error| {
            let why = causes(&error);
            match error.is_connect() {
                true => ChatError::Connect {
                    url: url.to_owned(),
                    why,
                },
                false => ChatError::Broken(why),
            }
        })
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
pub(super) fn causes(error: &(dyn Error + 'static)) -> String {
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
