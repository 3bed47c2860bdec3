//! `tls` of `[server]` and of remote upstreams: PEM files, read as they will be.

use super::super::reader::{Reader, Table, Text};
use super::super::tls;
use super::super::types::{ClientTlsConfig, TlsConfig};

const CERT: &str = "`cert = \"tls.crt\"`, a PEM file";
const KEY: &str = "`key = \"tls.key\"`, a PEM file";

pub(super) fn server(mut table: Table<'_, '_>, reader: &mut Reader<'_>) -> Option<TlsConfig> {
    let cert = reader.required(&mut table, "cert", CERT);
    let key = reader.required(&mut table, "key", KEY);
    reader.finish(&table);
    pair(&cert?, &key?, reader)
}

pub(super) fn client(mut table: Table<'_, '_>, reader: &mut Reader<'_>) -> ClientTlsConfig {
    let table = &mut table;
    let ca = table.field("ca").and_then(|field| reader.text(&field));
    let ca = ca.and_then(|text| {
        let path = reader.file(&text.value);
        match tls::check_authorities(&path) {
            Ok(()) => Some(path),
            Err(error) => {
                reader.error(&text.at, error.to_string());
                None
            }
        }
    });
    let identity = if table.has("cert") || table.has("key") {
        let cert = reader.required(table, "cert", CERT);
        let key = reader.required(table, "key", KEY);
        cert.zip(key)
    } else {
        table.field("cert");
        table.field("key");
        None
    };
    let identity = identity.and_then(|(cert, key)| pair(&cert, &key, reader));
    reader.finish(table);
    let pair = identity.iter().flat_map(|files| [&files.cert, &files.key]);
    let digest = tls::digest(ca.iter().chain(pair));
    ClientTlsConfig {
        ca,
        identity,
        digest,
    }
}

fn pair(cert: &Text, key: &Text, reader: &mut Reader<'_>) -> Option<TlsConfig> {
    let files = TlsConfig {
        cert: reader.file(&cert.value),
        key: reader.file(&key.value),
    };
    let errors = tls::check(&files);
    for error in &errors {
        let at = if error.is_in_key() { &key.at } else { &cert.at };
        reader.error(at, error.to_string());
    }
    errors.is_empty().then_some(files)
}
