//! `[[upstream]]`.

use std::path::Path;

use toml::de::DeValue;

use super::super::defaults;
use super::super::problem::At;
use super::super::reader::{Placed, Reader, Table, Text, plain, quote};
use super::super::types::{ApiConfig, LocalConfig, LocalModel, RemoteConfig};
use super::remote::{api_version, remote};
use crate::pattern::Pattern;

/// A queue whose end nobody would wait for.
pub(super) const LONGEST_QUEUE: u64 = 100_000;

/// What a model in this process has no use for.
const REMOTE_ONLY: [&str; 12] = [
    "base_url",
    "base_urls",
    "api_version",
    "api_keys",
    "paths",
    "headers",
    "timeouts",
    "max_concurrent",
    "eject",
    "health",
    "proxy",
    "tls",
];

/// What a remote service has no use for.
const LOCAL_ONLY: [&str; 2] = ["model", "queue"];

/// One `[[upstream]]`, as far as it could be read.
pub(in super::super) struct Upstream {
    pub(in super::super) at: At,
    pub(in super::super) name: Option<Text>,
    /// Empty where the default counts.
    pub(in super::super) models: Vec<Placed<Pattern>>,
    pub(in super::super) kind: Option<Kind>,
}

/// What an `[[upstream]]` is.
#[expect(clippy::large_enum_variant, reason = "a handful, made once at start")]
pub(in super::super) enum Kind {
    Remote {
        /// Without paths.
        config: RemoteConfig,
        /// None where the default counts, which depends on the other upstreams.
        paths: Option<Vec<Placed<Pattern>>>,
        /// Where each of the endpoints is written.
        places: Vec<At>,
    },
    Local(LocalConfig),
}

#[derive(Clone, Copy)]
enum KindName {
    OpenAi,
    Azure,
    Local,
}

pub(super) fn upstreams(
    root: &mut Table<'_, '_>,
    reader: &mut Reader<'_>,
) -> Option<Vec<Upstream>> {
    if !root.has("upstream") {
        root.field("upstream");
        return None;
    }
    let field = root.field("upstream")?;
    let is_array = matches!(field.value, DeValue::Array(_));
    let tables = reader.tables(root, "upstream", "name");
    if tables.is_empty() && !is_array {
        // Something was meant, and that it is no table has been reported.
        return Some(vec![Upstream {
            at: field.at,
            name: None,
            models: Vec::new(),
            kind: None,
        }]);
    }
    let tables = tables.into_iter();
    Some(tables.map(|table| upstream(table, reader)).collect())
}

fn upstream(mut table: Table<'_, '_>, reader: &mut Reader<'_>) -> Upstream {
    let table = &mut table;
    let name = super::name(table, reader, "`name = \"openai\"`");
    let models = match table.field("models") {
        Some(field) => reader.patterns(&field, "patterns such as [\"gpt-*\"]"),
        None => Vec::new(),
    };
    Upstream {
        at: table.at.clone(),
        name,
        models,
        kind: kind(table, reader),
    }
}

fn kind(table: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> Option<Kind> {
    let kinds = [
        ("openai", KindName::OpenAi),
        ("azure", KindName::Azure),
        ("local", KindName::Local),
    ];
    if !table.has("kind") {
        let at = table.at.clone();
        reader.error(
            &at,
            "`kind` is missing; write `kind = \"openai\"` (any compatible server), `kind = \"azure\"` or `kind = \"local\"`",
        );
    }
    let Some(kind) = reader.choice(table, "kind", &kinds) else {
        of_unknown_kind(table, reader);
        return None;
    };
    let kind = match kind {
        KindName::OpenAi => {
            foreign(table, reader, "openai", &["model", "api_version"]);
            remote(table, reader, ApiConfig::OpenAi)
        }
        KindName::Azure => {
            foreign(table, reader, "azure", &["model"]);
            let version = api_version(table, reader);
            remote(table, reader, ApiConfig::Azure { version })
        }
        KindName::Local => {
            foreign(table, reader, "local", &REMOTE_ONLY);
            local(table, reader)
        }
    };
    reader.finish(table);
    kind
}

/// Reports what else is wrong with an upstream of no kind, read as what it looks like. What it would miss, or have too
/// much of, as a kind that was not meant is not said.
fn of_unknown_kind(table: &mut Table<'_, '_>, reader: &mut Reader<'_>) {
    if table.has("base_url") || table.has("base_urls") {
        table.field("model");
        let api = match table.has("api_version") {
            true => ApiConfig::Azure {
                version: api_version(table, reader),
            },
            false => ApiConfig::OpenAi,
        };
        remote(table, reader, api);
    } else if table.has("model") {
        for name in REMOTE_ONLY {
            table.field(name);
        }
        local(table, reader);
    } else {
        // Nothing tells what it was meant to be: known is what any kind has.
        for name in REMOTE_ONLY.into_iter().chain(LOCAL_ONLY) {
            table.field(name);
        }
    }
    reader.finish(table);
}

/// Reports fields that belong to another kind.
fn foreign(table: &mut Table<'_, '_>, reader: &mut Reader<'_>, kind: &str, names: &[&'static str]) {
    for name in names {
        if table.field(name).is_some() {
            let at = table.name_at(name);
            reader.error(
                &at,
                format!("an upstream of kind \"{kind}\" has no `{name}`; leave it out"),
            );
        }
    }
}

fn local(table: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> Option<Kind> {
    let model = reader.required(
        table,
        "model",
        "`model = \"bundled:poet\"`, a folder or a .gguf file",
    );
    let queue = u64::try_from(defaults::LOCAL_QUEUE).unwrap_or(u64::MAX);
    let queue = reader.integer(table, "queue", queue, 1..=LONGEST_QUEUE);
    let model = model.and_then(|text| local_model(&text, reader));
    Some(Kind::Local(LocalConfig {
        model: model?,
        queue: usize::try_from(queue).unwrap_or(defaults::LOCAL_QUEUE),
    }))
}

fn local_model(text: &Text, reader: &mut Reader<'_>) -> Option<LocalModel> {
    let model = match find_model(&text.value, &reader.folder) {
        Ok(model) => model,
        Err(why) => {
            reader.error(&text.at, format!("{} {why}", quote(&text.raw)));
            return None;
        }
    };
    // The engine's own check knows the format; it words its answer, which holds nothing secret.
    match (reader.context.check_model)(&model) {
        Ok(()) => Some(model),
        Err(why) => {
            reader.error(
                &text.at,
                format!("{} cannot be loaded: {why}", quote(&text.raw)),
            );
            None
        }
    }
}

fn find_model(text: &str, folder: &Path) -> Result<LocalModel, String> {
    if let Some(name) = text.strip_prefix("bundled:") {
        return match name {
            defaults::BUNDLED_MODEL => Ok(LocalModel::Bundled(name.to_owned())),
            _ => Err("is not part of the program; write \"bundled:poet\"".to_owned()),
        };
    }
    if text.starts_with("hf://") {
        return Err(
            "is not built yet; it comes with a later version, write a folder or a .gguf file that is on this machine"
                .to_owned(),
        );
    }
    if text.is_empty() {
        return Err("names no model; write \"bundled:poet\", a folder or a .gguf file".to_owned());
    }
    let path = folder.join(text);
    let found = std::fs::metadata(&path).map_err(|error| {
        format!(
            "cannot be read: {}; write \"bundled:poet\", a folder or a .gguf file",
            plain(&error)
        )
    })?;
    let is_gguf = path
        .extension()
        .is_some_and(|end| end.eq_ignore_ascii_case("gguf"));
    if found.is_dir() {
        Ok(LocalModel::Folder(path))
    } else if is_gguf {
        Ok(LocalModel::Gguf(path))
    } else {
        Err("is neither a folder nor a .gguf file; write \"bundled:poet\", a folder or a .gguf file".to_owned())
    }
}
