//! What an upstream is, as far as its answers may differ by it: where it is, as whom it is asked, and in which words.

use crate::config::{ApiConfig, EndpointConfig, LocalModel, RemoteConfig, UpstreamKind};

/// Returns the same number for upstreams that are configured alike, in this process and any other; and another one each time
/// for a model in files, of which only this process knows what they hold.
pub(super) fn of(kind: &UpstreamKind) -> u64 {
    match kind {
        UpstreamKind::Remote(remote) => of_remote(remote),
        UpstreamKind::Local(local) => match &local.model {
            LocalModel::Bundled(name) => digest(&[
                b"bundled",
                env!("CARGO_PKG_VERSION").as_bytes(),
                name.as_bytes(),
            ]),
            LocalModel::Folder(_) | LocalModel::Gguf(_) => fastrand::u64(..),
        },
    }
}

fn of_remote(remote: &RemoteConfig) -> u64 {
    let mut parts: Vec<Vec<u8>> = Vec::new();
    match &remote.api {
        ApiConfig::OpenAi => parts.push(b"openai".to_vec()),
        ApiConfig::Azure { version } => {
            parts.push(b"azure".to_vec());
            parts.push(version.clone().unwrap_or_default().into_bytes());
        }
    }
    for endpoint in &remote.endpoints {
        parts.push(match endpoint {
            EndpointConfig::Http(uri) => uri.to_string().into_bytes(),
            EndpointConfig::Unix { socket, prefix } => {
                format!("unix:{}:{prefix}", socket.display()).into_bytes()
            }
        });
    }
    parts.push(b"headers".to_vec());
    for (name, value) in &remote.headers {
        parts.push(name.as_str().as_bytes().to_vec());
        parts.push(value.as_bytes().to_vec());
    }
    parts.push(b"keys".to_vec());
    let keys = remote.api_keys.iter();
    parts.extend(keys.map(|key| key.expose().as_bytes().to_vec()));
    let parts: Vec<&[u8]> = parts.iter().map(Vec::as_slice).collect();
    digest(&parts)
}

fn digest(parts: &[&[u8]]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut number = [0; 8];
    hasher.finalize_xof().fill(&mut number);
    u64::from_le_bytes(number)
}
