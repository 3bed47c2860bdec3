//! Reads certificates and keys as a listener and the connections to upstreams will, to say before the start what would
//! fail then.

use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::crypto::ring;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};

use super::reader::plain;
use super::types::TlsConfig;

/// Why TLS cannot start. The messages say what would be right.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("cannot read the certificate {0}; write the path of a PEM file")]
    CertUnreadable(String),
    #[error("holds no certificate; write the path of a PEM file with `BEGIN CERTIFICATE`")]
    NoCert,
    #[error("cannot read the private key {0}; write the path of a PEM file")]
    KeyUnreadable(String),
    #[error(
        "holds no private key; write the path of a PEM file with `BEGIN PRIVATE KEY`, not encrypted"
    )]
    NoKey,
    #[error(
        "is not the key of the certificate; write the path of the key that the certificate was made for"
    )]
    Mismatch,
    #[error(
        "cannot be used with this key ({0}); write the path of a file in which the key's own certificate comes first, its chain behind it"
    )]
    Unusable(rustls::Error),
    #[error(
        "holds a certificate that no authority could have ({0}); write the path of a PEM file of authorities"
    )]
    NoAuthority(rustls::Error),
}

impl TlsError {
    /// Returns whether the key is to blame rather than the certificate.
    pub(super) fn is_in_key(&self) -> bool {
        match self {
            Self::KeyUnreadable(_) | Self::NoKey | Self::Mismatch => true,
            Self::CertUnreadable(_) | Self::NoCert | Self::Unusable(_) | Self::NoAuthority(_) => {
                false
            }
        }
    }
}

/// Checks that both files can be read and belong together. Returns what is wrong with either.
pub(super) fn check(files: &TlsConfig) -> Vec<TlsError> {
    match (certs(&files.cert), key(&files.key)) {
        (Ok(certs), Ok(key)) => match CertifiedKey::from_der(certs, key, &ring::default_provider())
        {
            Ok(_) => Vec::new(),
            Err(rustls::Error::InconsistentKeys(_)) => vec![TlsError::Mismatch],
            Err(other) => vec![TlsError::Unusable(other)],
        },
        (certs, key) => certs.err().into_iter().chain(key.err()).collect(),
    }
}

/// Checks that a file holds certificates of authorities, and nothing else by that name.
///
/// # Errors
/// The first thing that is wrong with it.
pub(super) fn check_authorities(path: &Path) -> Result<(), TlsError> {
    let mut store = RootCertStore::empty();
    for authority in certs(path)? {
        store.add(authority).map_err(TlsError::NoAuthority)?;
    }
    Ok(())
}

/// Returns what tells the content of files from another: a SHA-256, or zeros where there are no files.
pub(super) fn digest<'a>(files: impl Iterator<Item = &'a PathBuf>) -> [u8; 32] {
    let mut files = files.peekable();
    if files.peek().is_none() {
        return [0; 32];
    }
    let mut digest = Sha256::new();
    for file in files {
        // Whoever could not read them has said so.
        let content = std::fs::read(file).unwrap_or_default();
        // The length tells where a file ends.
        digest.update((content.len() as u64).to_be_bytes());
        digest.update(content);
    }
    digest.finalize().into()
}

fn certs(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read(path).map_err(TlsError::CertUnreadable)?;
    let certs: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&pem).collect();
    certs
        .ok()
        .filter(|certs| !certs.is_empty())
        .ok_or(TlsError::NoCert)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = read(path).map_err(TlsError::KeyUnreadable)?;
    PrivateKeyDer::from_pem_slice(&pem).map_err(|_| TlsError::NoKey)
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let name = path.file_name().unwrap_or(path.as_os_str());
    std::fs::read(path).map_err(|error| format!("`{}`: {}", name.display(), plain(&error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_is_taken_and_everything_else_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let pair = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (one, two) = (pair(), pair());
        std::fs::write(path("one.crt"), one.cert.pem()).unwrap();
        std::fs::write(path("one.key"), one.signing_key.serialize_pem()).unwrap();
        std::fs::write(path("two.key"), two.signing_key.serialize_pem()).unwrap();
        std::fs::write(path("empty"), "").unwrap();
        let check = |cert: &str, key: &str| {
            check(&TlsConfig {
                cert: path(cert),
                key: path(key),
            })
        };
        assert!(check("one.crt", "one.key").is_empty());
        assert!(matches!(
            check("one.crt", "two.key")[..],
            [TlsError::Mismatch]
        ));
        assert!(matches!(check("one.crt", "one.crt")[..], [TlsError::NoKey]));
        assert!(matches!(
            check("one.key", "one.key")[..],
            [TlsError::NoCert]
        ));
        assert!(matches!(check("empty", "one.key")[..], [TlsError::NoCert]));
        assert!(matches!(
            check("none", "none")[..],
            [TlsError::CertUnreadable(_), TlsError::KeyUnreadable(_)]
        ));

        let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(path("broken"), broken).unwrap();
        let check = |name: &str| check_authorities(&path(name));
        assert!(check("one.crt").is_ok());
        assert!(matches!(check("one.key"), Err(TlsError::NoCert)));
        assert!(matches!(check("none"), Err(TlsError::CertUnreadable(_))));
        assert!(matches!(check("broken"), Err(TlsError::NoAuthority(_))));
    }
}
