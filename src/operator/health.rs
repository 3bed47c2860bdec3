//! Whether a running gateway takes calls, told to whatever watches it.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde::Deserialize;

use super::gateway::send;
use super::{Failure, Place};
use crate::secret::Secret;

/// Whatever watches a gateway waits for two or three seconds itself, and would tell less.
const TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Deserialize)]
struct Readiness {
    ready: bool,
    reason: Option<String>,
}

/// What is asked of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Whether it takes calls.
    Ready,
    /// Whether it is there: for those who end a process that is not.
    Live,
}

impl Health {
    fn path(self) -> &'static str {
        match self {
            Self::Ready => "/readyz",
            Self::Live => "/healthz",
        }
    }
}

/// Asks a gateway how it is.
///
/// # Errors
/// [`Failure`] when it is not so, or does not say so within two seconds: always the user's, so that the exit code is 1.
pub async fn health(place: &Place, wanted: Health) -> Result<String, Failure> {
    let Place::Gateway { url, token } = place else {
        return Err(Failure::mistake(
            "a ledger's file has no health; name a gateway",
        ));
    };
    let asked = tokio::time::timeout(TIMEOUT, ask(url, token.as_ref(), wanted)).await;
    let (status, body) = asked.unwrap_or_else(|_| {
        let seconds = TIMEOUT.as_secs();
        let message = format!("{url} does not answer within {seconds} s");
        Err(Failure::mistake(message))
    })?;
    let told: Option<Readiness> = serde_json::from_slice(&body).ok();
    match (status, told) {
        (StatusCode::OK, _) if wanted == Health::Live && &*body == b"ok\n" => {
            Ok("live\n".to_owned())
        }
        (StatusCode::OK, Some(Readiness { ready: true, .. })) => Ok("ready\n".to_owned()),
        (StatusCode::SERVICE_UNAVAILABLE, Some(Readiness { reason, .. })) => {
            let reason = reason.unwrap_or_else(|| "it does not say why".to_owned());
            Err(Failure::mistake(format!("not ready: {reason}")))
        }
        (StatusCode::UNAUTHORIZED, _) => Err(Failure::mistake(format!(
            "{url} wants the admin token from elsewhere; set WEIR_ADMIN_TOKEN"
        ))),
        _ => Err(Failure::mistake(format!(
            "{url} answers {status} to {}, and not as a gateway's admin plane does",
            wanted.path()
        ))),
    }
}

async fn ask(
    url: &str,
    token: Option<&Secret>,
    wanted: Health,
) -> Result<(StatusCode, Bytes), Failure> {
    let uri = format!("{url}{}", wanted.path());
    send(url, token, Method::GET, uri, None).await
}
