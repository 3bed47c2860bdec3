//! The house that every test lives in: a gateway, a scripted upstream, and clients to talk to them.

pub mod answers;
pub mod client;
pub mod frames;
pub mod gateway;
pub mod raw;
pub mod redis;
pub mod tls;
pub mod upstream;

use std::time::{Duration, Instant};

/// How long anything may take before a test gives up on it. Generous: machines that build are slow.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The gateway key of the test configuration.
pub const KEY: &str = "wk-alice-5ZyQhJrTkWbMxNcVfGdS2aLpEoUiYt93";
/// The credential that the test configuration has for its upstreams.
pub const CREDENTIAL: &str = "sk-upstream-8b1f0c6d7e2a4953b8d1";
/// The token of the admin listener.
pub const ADMIN_TOKEN: &str = "admin-token-Jd83kLq02mNx7Vb5";

/// Asks until the probe has an answer; fails the test when it has none within [`PATIENCE`].
pub async fn eventually<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(
            start.elapsed() < PATIENCE,
            "waited {PATIENCE:?} in vain: {what}"
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits for a future, but not beyond [`PATIENCE`].
pub async fn patiently<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future)
        .await
        .unwrap_or_else(|_| panic!("waited {PATIENCE:?} in vain: {what}"))
}

/// Waits for a future that a promise of ours bounds.
pub async fn within<T>(bound: Duration, what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(bound, future)
        .await
        .unwrap_or_else(|_| panic!("not within {bound:?}: {what}"))
}
