//! TLS towards an endpoint: whom it trusts, and what it shows.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use super::super::{Address, Params};
use crate::tls_roots;

/// Why an endpoint cannot be reached as configured.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// A file of certificates, or of a key, cannot be read.
    #[error("cannot read {path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::pki_types::pem::Error,
    },
    /// A file has no certificate that can be used.
    #[error("no usable certificate in {0}")]
    NoCertificate(PathBuf),
    /// The certificates cannot be used.
    #[error("cannot speak TLS: {0}")]
    Tls(#[from] rustls::Error),
    /// The proxy is none that can be used.
    #[error(
        "its proxy (its own, or that of HTTPS_PROXY, HTTP_PROXY or ALL_PROXY) is no http:// URL; `proxy = \"none\"` goes without"
    )]
    Proxy,
}

/// Builds the TLS of an endpoint. What it has learnt of sessions is kept with it, so that later handshakes are short.
pub(super) fn config(params: &Params) -> Result<ClientConfig, RemoteError> {
    let roots = match (&params.address, &params.tls.ca) {
        (Address::Unix { .. }, _) => Arc::new(RootCertStore::empty()),
        (Address::Http(uri), _) if uri.scheme_str() != Some("https") => {
            Arc::new(RootCertStore::empty())
        }
        (Address::Http(_), Some(ca)) => Arc::new(private(ca)?),
        (Address::Http(_), None) => tls_roots::system(),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    match &params.tls.identity {
        None => Ok(builder.with_no_client_auth()),
        Some((cert, key)) => {
            let chain = certificates(cert)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(|source| RemoteError::File {
                path: key.clone(),
                source,
            })?;
            Ok(builder.with_client_auth_cert(chain, key)?)
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RemoteError> {
    let file = |source| RemoteError::File {
        path: path.to_owned(),
        source,
    };
    CertificateDer::pem_file_iter(path)
        .map_err(file)?
        .collect::<Result<_, _>>()
        .map_err(file)
}

/// The authorities of a file, instead of the system's.
fn private(path: &Path) -> Result<RootCertStore, RemoteError> {
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(certificates(path)?);
    match added {
        0 => Err(RemoteError::NoCertificate(path.to_owned())),
        _ => Ok(roots),
    }
}
