//! Whose certificates are believed when we are the client: one policy for every connection that names no authority of
//! its own.

use std::sync::{Arc, OnceLock};

use rustls::RootCertStore;

/// Returns the system's roots (or those of `SSL_CERT_FILE`), or the bundled ones where the system has none. They are
/// read once, when first needed.
pub fn system() -> Arc<RootCertStore> {
    static ROOTS: OnceLock<Arc<RootCertStore>> = OnceLock::new();
    Arc::clone(ROOTS.get_or_init(|| Arc::new(load())))
}

fn load() -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let loaded = rustls_native_certs::load_native_certs();
    for error in &loaded.errors {
        tracing::debug!(%error, "cannot read a root certificate of the system");
    }
    let (added, _) = roots.add_parsable_certificates(loaded.certs);
    if added == 0 {
        roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    }
    roots
}
