//! `[[upstream]]`.

use std::path::Path;

use super::super::defaults;
use super::super::problem::At;
use super::super::reader::{Placed, Reader, Table, Text, plain, quote};
use super::super::types::{LocalConfig, LocalModel, RemoteConfig};
use super::remote::remote;
use crate::pattern::Pattern;

/// A queue whose end nobody would wait for.
const LONGEST_QUEUE: u64 = 100_000;

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
    },
    Local(LocalConfig),
}

#[derive(Clone, Copy)]
enum KindName {
    OpenAi,
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
    let tables = reader.tables(root, "upstream", "name");
    Some(
        tables
            .into_iter()
            .map(|table| upstream(table, reader))
            .collect(),
    )
}

fn upstream(mut table: Table<'_, '_>, reader: &mut Reader<'_>) -> Upstream {
    let table = &mut table;
    let name = super::name(table, reader, "`name = \"openai\"`");
    let models = match table.field("models") {
        Some(field) => reader.patterns(&field, "patterns such as [\"gpt-*\"]"),
        None => Vec::new(),
    };
    let kinds = [("openai", KindName::OpenAi), ("local", KindName::Local)];
    let kind = match table.field("kind") {
        Some(field) if field.value.as_str() == Some("azure") => {
            reader.error(
                &field.at,
                "\"azure\" is not built yet; it comes with a later version, write \"openai\" or \"local\"",
            );
            None
        }
        Some(_) => reader.choice(table, "kind", &kinds),
        None => {
            let at = table.at.clone();
            reader.error(
                &at,
                "`kind` is missing; write `kind = \"openai\"` (any compatible server) or `kind = \"local\"`",
            );
            None
        }
    };
    let kind = match kind {
        Some(KindName::OpenAi) => {
            foreign(table, reader, "openai", &["model"]);
            let kind = remote(table, reader);
            reader.finish(table);
            kind
        }
        Some(KindName::Local) => {
            let remote_only = [
                "base_url",
                "api_keys",
                "paths",
                "headers",
                "timeouts",
                "max_concurrent",
                "eject",
            ];
            foreign(table, reader, "local", &remote_only);
            let kind = local(table, reader);
            reader.finish(table);
            kind
        }
        None => None,
    };
    Upstream {
        at: table.at.clone(),
        name,
        models,
        kind,
    }
}

/// Reports fields that belong to the other kind.
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
