//! Walks a parsed TOML document and remembers everything that is wrong with it, instead of stopping at the first slip.
//!
//! A table is asked for its fields one by one, which is also how it learns their names: whatever was never asked for
//! is unknown, and is reported with the nearest name that was.

mod scalars;
mod words;

use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use self::words::shown;
pub(super) use self::words::{plain, quote, suggest};
use super::Context;
use super::problem::{At, Found, Severity};
use super::stamp::ReadFile;

/// What is known while a file is read, and the problems so far.
pub(super) struct Reader<'c> {
    pub(super) context: &'c Context<'c>,
    /// Paths in the file start here.
    pub(super) folder: PathBuf,
    /// The files that were read besides the configuration itself.
    pub(super) files: Vec<ReadFile>,
    pub(super) found: Vec<Found>,
}

/// A table, and the fields that it was asked for.
pub(super) struct Table<'a, 'i> {
    pub(super) at: At,
    /// None for a table that is not in the file; all its fields are absent.
    entries: Option<&'a DeTable<'i>>,
    asked: Vec<&'static str>,
}

/// A value in its place.
pub(super) struct Field<'a, 'i> {
    pub(super) at: At,
    pub(super) value: &'a DeValue<'i>,
}

/// A string: as it counts, and as it stands in the file. Messages quote only the latter, since what came from the
/// environment may be secret.
#[derive(Clone, Debug)]
pub(super) struct Text {
    pub(super) at: At,
    pub(super) value: String,
    pub(super) raw: String,
}

/// A value that later checks may have something to say about.
#[derive(Clone, Debug)]
pub(super) struct Placed<T> {
    pub(super) at: At,
    pub(super) value: T,
}

// === impl Table ===

impl<'a, 'i> Table<'a, 'i> {
    /// The document itself.
    pub(super) fn root(entries: &'a DeTable<'i>) -> Self {
        Self {
            at: At::default(),
            entries: Some(entries),
            asked: Vec::new(),
        }
    }

    /// Returns a field if it is there, and notes that its name is known.
    pub(super) fn field(&mut self, name: &'static str) -> Option<Field<'a, 'i>> {
        if !self.asked.contains(&name) {
            self.asked.push(name);
        }
        let spanned = self.entries?.get(name)?;
        Some(Field {
            at: At {
                path: join(&self.at.path, name),
                offset: Some(spanned.span().start),
            },
            value: spanned.get_ref(),
        })
    }

    /// Returns whether a field is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.entries
            .is_some_and(|entries| entries.contains_key(name))
    }

    /// Returns every field, for tables whose names are the user's.
    pub(super) fn all(
        &self,
    ) -> impl Iterator<Item = (&'a Spanned<toml::de::DeString<'i>>, Field<'a, 'i>)> {
        let path = self.at.path.clone();
        self.entries
            .into_iter()
            .flatten()
            .map(move |(name, value)| {
                let field = Field {
                    at: At {
                        path: join(&path, &shown(name.get_ref())),
                        offset: Some(value.span().start),
                    },
                    value: value.get_ref(),
                };
                (name, field)
            })
    }

    /// Returns the place of a field's name, or the table's own.
    pub(super) fn name_at(&self, name: &str) -> At {
        let entry = self.entries.and_then(|entries| entries.get_key_value(name));
        let key = entry.map(|(key, _)| key.span().start);
        At {
            path: join(&self.at.path, name),
            offset: key.or(self.at.offset),
        }
    }
}

// === impl Reader ===

impl<'c> Reader<'c> {
    pub(super) fn new(context: &'c Context<'c>, folder: &Path) -> Self {
        Self {
            context,
            folder: folder.to_owned(),
            files: Vec::new(),
            found: Vec::new(),
        }
    }

    /// Returns the place of a file that is about to be read, and remembers that it was.
    pub(super) fn file(&mut self, path: &str) -> PathBuf {
        let path = self.folder.join(path);
        if self.files.iter().all(|file| file.path != path) {
            self.files.push(ReadFile::at(path.clone()));
        }
        path
    }

    pub(super) fn error(&mut self, at: &At, message: impl Into<String>) {
        self.add(Severity::Error, at, message.into());
    }

    pub(super) fn warning(&mut self, at: &At, message: impl Into<String>) {
        self.add(Severity::Warning, at, message.into());
    }

    fn add(&mut self, severity: Severity, at: &At, message: String) {
        self.found.push(Found {
            severity,
            at: at.clone(),
            message,
        });
    }

    /// Reports the fields of a table that nobody asked for.
    pub(super) fn finish(&mut self, table: &Table<'_, '_>) {
        for (name, _) in table.entries.into_iter().flatten() {
            let written = name.get_ref().as_ref();
            if table.asked.contains(&written) {
                continue;
            }
            let at = At {
                path: join(&table.at.path, &shown(written)),
                offset: Some(name.span().start),
            };
            self.error(
                &at,
                format!("unknown field; {}", suggest(written, &table.asked)),
            );
        }
    }

    /// Returns the fields of a table; nothing where there is none.
    pub(super) fn table<'a, 'i>(
        &mut self,
        parent: &mut Table<'a, 'i>,
        name: &'static str,
    ) -> Option<Table<'a, 'i>> {
        let field = parent.field(name)?;
        self.as_table(field)
    }

    /// Returns a table whose fields all have defaults, so that one which is not there reads like an empty one.
    pub(super) fn table_or_empty<'a, 'i>(
        &mut self,
        parent: &mut Table<'a, 'i>,
        name: &'static str,
    ) -> Table<'a, 'i> {
        let empty = Table {
            at: At {
                path: join(&parent.at.path, name),
                offset: parent.at.offset,
            },
            entries: None,
            asked: Vec::new(),
        };
        self.table(parent, name).unwrap_or(empty)
    }

    /// Reads a value as a table.
    pub(super) fn as_table<'a, 'i>(&mut self, field: Field<'a, 'i>) -> Option<Table<'a, 'i>> {
        match field.value {
            DeValue::Table(entries) => Some(Table {
                at: field.at,
                entries: Some(entries),
                asked: Vec::new(),
            }),
            other => {
                self.wrong_type(&field.at, other, "a table");
                None
            }
        }
    }

    /// Returns the elements of an array of tables, named after their field `label` where it is a string.
    pub(super) fn tables<'a, 'i>(
        &mut self,
        parent: &mut Table<'a, 'i>,
        name: &'static str,
        label: &str,
    ) -> Vec<Table<'a, 'i>> {
        let Some(field) = parent.field(name) else {
            return Vec::new();
        };
        let elements = match field.value {
            DeValue::Array(elements) => elements,
            DeValue::Table(table) => {
                self.error(
                    &field.at,
                    format!("is one table; write `[[{name}]]`, since there can be several"),
                );
                // Its own mistakes are worth reporting too, if it is an element and not a table of them.
                let is_element = table.get(label).is_some();
                return is_element
                    .then(|| self.as_table(field))
                    .flatten()
                    .into_iter()
                    .collect();
            }
            other => {
                self.wrong_type(&field.at, other, "an array of tables");
                return Vec::new();
            }
        };
        let mut tables = Vec::new();
        for (i, element) in elements.iter().enumerate() {
            let label = element
                .get_ref()
                .get(label)
                .and_then(|label| label.get_ref().as_str())
                .filter(|label| !label.is_empty())
                .map_or_else(|| format!("#{}", i + 1), shown);
            let field = Field {
                at: At {
                    path: format!("{}[{label}]", field.at.path),
                    offset: Some(element.span().start),
                },
                value: element.get_ref(),
            };
            tables.extend(self.as_table(field));
        }
        tables
    }

    /// Returns the elements of an array.
    pub(super) fn elements<'a, 'i>(&mut self, field: &Field<'a, 'i>) -> Vec<Field<'a, 'i>> {
        let DeValue::Array(elements) = field.value else {
            self.wrong_type(&field.at, field.value, "an array");
            return Vec::new();
        };
        let place = |(i, element): (usize, &'a Spanned<DeValue<'i>>)| Field {
            at: At {
                path: format!("{}[#{}]", field.at.path, i + 1),
                offset: Some(element.span().start),
            },
            value: element.get_ref(),
        };
        elements.iter().enumerate().map(place).collect()
    }

    /// Reports a value of a type that does not belong there, without its contents.
    pub(super) fn wrong_type(&mut self, at: &At, value: &DeValue<'_>, expected: &str) {
        let is = match value {
            DeValue::String(_) => "a string",
            DeValue::Integer(_) => "a whole number",
            DeValue::Float(_) => "a number with a fraction",
            DeValue::Boolean(_) => "true or false",
            DeValue::Datetime(_) => "a date or time",
            DeValue::Array(_) => "an array",
            DeValue::Table(_) => "a table",
        };
        self.error(at, format!("is {is}; write {expected}"));
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        name.to_owned()
    } else {
        format!("{path}.{name}")
    }
}
