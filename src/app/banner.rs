//! What a first run prints: where the gateway is, the key it made, and a line to paste.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::access::MadeKey;
use crate::config::Secret;

/// What there is to say.
pub(super) struct Banner<'a> {
    pub(super) data: SocketAddr,
    pub(super) admin: SocketAddr,
    pub(super) secure: bool,
    /// The key of a configuration without keys.
    pub(super) key: Option<&'a MadeKey>,
    /// The admin token, where it was made for this run.
    pub(super) token: Option<&'a Secret>,
    /// A model to try.
    pub(super) model: Option<String>,
}

/// Prints the banner to standard output. Only runs that made a secret have something to say that the log may not.
pub(super) fn print(banner: &Banner<'_>) {
    if banner.key.is_none() && banner.token.is_none() {
        return;
    }
    // Nobody at the other end is no reason not to serve.
    let _ = std::io::stdout().lock().write_all(banner.text().as_bytes());
}

impl Banner<'_> {
    fn text(&self) -> String {
        let scheme = if self.secure { "https" } else { "http" };
        let base = format!("{scheme}://{}/v1", reachable(self.data));
        let mut text = format!("\nWeir {} is serving.\n\n", env!("CARGO_PKG_VERSION"));
        // Writing to a string does not fail.
        let _ = writeln!(text, "  OpenAI API   {base}");
        let _ = writeln!(
            text,
            "  admin        http://{}  (the console; /metrics, /healthz, /readyz)",
            reachable(self.admin)
        );
        let key = match self.key {
            Some(MadeKey::Generated(key)) => {
                let _ = writeln!(
                    text,
                    "  API key      {}  (made for this run; set WEIR_KEY to choose one)",
                    key.expose()
                );
                Some(key.expose())
            }
            Some(MadeKey::FromEnvironment) => {
                let _ = writeln!(text, "  API key      $WEIR_KEY");
                Some("$WEIR_KEY")
            }
            None => None,
        };
        if let Some(token) = self.token {
            let _ = writeln!(
                text,
                "  admin token  {}  (made for this run)",
                token.expose()
            );
        }
        if let Some(key) = key {
            let _ = write!(text, "\nTry it:\n\n  curl {base}{}\n\n", self.example(key));
        }
        text
    }

    fn example(&self, key: &str) -> String {
        match &self.model {
            Some(model) => format!(
                "/chat/completions -H \"Authorization: Bearer {key}\" -H \"Content-Type: application/json\" \
                 -d '{{\"model\": \"{model}\", \"messages\": [{{\"role\": \"user\", \"content\": \"写一首关于春天的诗\"}}]}}'"
            ),
            None => format!("/models -H \"Authorization: Bearer {key}\""),
        }
    }
}

/// An address that listens everywhere is reached on this machine's own.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(ip) if ip.is_unspecified() => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_from_the_environment_is_not_printed() {
        let banner = Banner {
            data: "0.0.0.0:8080".parse().unwrap(),
            admin: "127.0.0.1:8081".parse().unwrap(),
            secure: false,
            key: Some(&MadeKey::FromEnvironment),
            token: None,
            model: Some("poet".into()),
        };
        let text = banner.text();
        assert!(
            text.contains("curl http://127.0.0.1:8080/v1/chat/completions"),
            "{text}"
        );
        assert!(text.contains("Bearer $WEIR_KEY"), "{text}");
    }
}
