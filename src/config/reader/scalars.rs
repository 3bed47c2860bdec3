//! Reads single values: strings, secrets, numbers, durations, sizes, words and patterns.

use std::io::Read as _;
use std::ops::RangeInclusive;
use std::time::Duration;

use toml::de::DeValue;

use super::super::expand::expand;
use super::{Field, Placed, Reader, Table, Text, plain, quote};
use crate::money::{MoneyError, Nanos};
use crate::pattern::Pattern;
use crate::secret::Secret;
use crate::units::{format_duration, format_size, parse_duration, parse_size};

/// A file that holds one secret is not larger.
const MAX_SECRET_FILE: u64 = 64 << 10;

impl Reader<'_> {
    /// Reads a string, its references to the environment followed.
    pub(in super::super) fn text(&mut self, field: &Field<'_, '_>) -> Option<Text> {
        self.text_or(field, "a string")
    }

    /// Reads a string of which a message says more than that it is one.
    pub(in super::super) fn text_or(
        &mut self,
        field: &Field<'_, '_>,
        expected: &str,
    ) -> Option<Text> {
        let DeValue::String(raw) = field.value else {
            self.wrong_type(&field.at, field.value, expected);
            return None;
        };
        match expand(raw, self.context.env) {
            Ok(value) => Some(Text {
                at: field.at.clone(),
                value,
                raw: raw.to_string(),
            }),
            Err(problems) => {
                for problem in problems {
                    self.error(&field.at, problem);
                }
                None
            }
        }
    }

    /// Reads a string that must be there.
    pub(in super::super) fn required(
        &mut self,
        table: &mut Table<'_, '_>,
        name: &'static str,
        example: &str,
    ) -> Option<Text> {
        match table.field(name) {
            Some(field) => self.text(&field),
            None => {
                let at = table.at.clone();
                self.error(&at, format!("`{name}` is missing; write {example}"));
                None
            }
        }
    }

    /// Reads a secret: a string, or the contents of the file named by `file:…`.
    pub(in super::super) fn secret(&mut self, field: &Field<'_, '_>) -> Option<Placed<Secret>> {
        let text = self.text(field)?;
        let value = match text.raw.strip_prefix("file:") {
            // Only what the file itself says is a path; a variable cannot point elsewhere by its contents.
            Some(_) => match self.read_secret(text.value.strip_prefix("file:").unwrap_or("")) {
                Ok(value) => value,
                Err(why) => {
                    self.error(
                        &text.at,
                        format!("cannot read the file of {}: {why}", quote(&text.raw)),
                    );
                    return None;
                }
            },
            None => text.value,
        };
        Some(Placed {
            at: text.at,
            value: Secret::new(value),
        })
    }

    fn read_secret(&mut self, path: &str) -> Result<String, String> {
        let mut text = String::new();
        std::fs::File::open(self.file(path))
            .and_then(|file| file.take(MAX_SECRET_FILE + 1).read_to_string(&mut text))
            .map_err(|error| plain(&error))?;
        if u64::try_from(text.len()).is_ok_and(|length| length > MAX_SECRET_FILE) {
            return Err(format!(
                "it is larger than {}",
                format_size(MAX_SECRET_FILE)
            ));
        }
        let line = text.strip_suffix('\n').unwrap_or(&text);
        let line = line.strip_suffix('\r').unwrap_or(line);
        if line.is_empty() {
            return Err("it is empty".into());
        }
        Ok(line.to_owned())
    }

    /// Reads true or false.
    pub(in super::super) fn flag(
        &mut self,
        table: &mut Table<'_, '_>,
        name: &'static str,
        default: bool,
    ) -> bool {
        let Some(field) = table.field(name) else {
            return default;
        };
        field.value.as_bool().unwrap_or_else(|| {
            self.wrong_type(&field.at, field.value, "true or false");
            default
        })
    }

    /// Reads a whole number.
    pub(in super::super) fn integer(
        &mut self,
        table: &mut Table<'_, '_>,
        name: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> u64 {
        let Some(field) = table.field(name) else {
            return default;
        };
        let DeValue::Integer(integer) = field.value else {
            self.wrong_type(&field.at, field.value, "a whole number");
            return default;
        };
        // A negative or huge number is no u64, and outside of every range.
        let value = u64::from_str_radix(integer.as_str(), integer.radix());
        match value.ok().filter(|value| range.contains(value)) {
            Some(value) => value,
            None => {
                let (from, to) = range.into_inner();
                let limits = format!(
                    "{} is out of bounds; write a number from {from} to {to}",
                    integer
                );
                self.error(&field.at, limits);
                default
            }
        }
    }

    /// Reads a whole number of things in memory.
    pub(in super::super) fn count<T: Copy + TryFrom<u64>>(
        &mut self,
        table: &mut Table<'_, '_>,
        name: &'static str,
        default: T,
        range: RangeInclusive<u64>,
    ) -> T
    where
        u64: TryFrom<T>,
    {
        let fallback = u64::try_from(default).unwrap_or(u64::MAX);
        T::try_from(self.integer(table, name, fallback, range)).unwrap_or(default)
    }

    /// Reads a number that may have a fraction.
    pub(in super::super) fn fraction(
        &mut self,
        table: &mut Table<'_, '_>,
        name: &'static str,
        default: f64,
        range: RangeInclusive<f64>,
    ) -> f64 {
        let Some(field) = table.field(name) else {
            return default;
        };
        let (text, value) = match field.value {
            DeValue::Float(float) => (float.as_str().to_owned(), float.as_str().parse().ok()),
            DeValue::Integer(integer) => {
                let value = i32::from_str_radix(integer.as_str(), integer.radix());
                (integer.to_string(), value.ok().map(f64::from))
            }
            other => {
                self.wrong_type(
                    &field.at,
                    other,
                    &format!("a number such as {default}, without quotes"),
                );
                return default;
            }
        };
        // Infinity, and what is no number at all, lie in no range.
        match value.filter(|value| range.contains(value)) {
            Some(value) => value,
            None => {
                let (from, to) = range.into_inner();
                let limits = format!("{text} is out of bounds; write a number from {from} to {to}");
                self.error(&field.at, limits);
                default
            }
        }
    }

    /// Reads an amount of money: a number, taken as it is written and never through a float, or a string of one. `example`
    /// is what a message shows.
    pub(in super::super) fn money(
        &mut self,
        field: &Field<'_, '_>,
        example: &str,
    ) -> Option<Nanos> {
        let (shown, digits) = match field.value {
            DeValue::Float(float) => (float.as_str().to_owned(), float.as_str().to_owned()),
            // Hexadecimal digits are no decimal number, whatever they look like.
            DeValue::Integer(integer) => (integer.to_string(), integer.to_string()),
            _ => {
                let text = self.text_or(field, example)?;
                (quote(&text.raw), text.value)
            }
        };
        match digits.strip_prefix('+').unwrap_or(&digits).parse() {
            Ok(nanos) => Some(nanos),
            Err(why) => {
                let why: MoneyError = why;
                self.error(&field.at, format!("{shown} {why}; write {example}"));
                None
            }
        }
    }

    /// Reads a duration.
    pub(in super::super) fn duration(
        &mut self,
        table: &mut Table<'_, '_>,
        name: &'static str,
        default: Duration,
        range: RangeInclusive<Duration>,
    ) -> Duration {
        let value = self.optional_duration(table, name, default, range);
        value.unwrap_or(default)
    }

    /// Reads a duration that has no default. `example` is what a message shows.
    pub(in super::super) fn optional_duration(
        &mut self,
        table: &mut Table<'_, '_>,
        name: &'static str,
        example: Duration,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        let example = format!("a duration such as \"{}\"", format_duration(example));
        self.measure(
            table,
            name,
            &example,
            parse_duration,
            range,
            format_duration,
        )
    }

    /// Reads a size in bytes.
    pub(in super::super) fn size(
        &mut self,
        table: &mut Table<'_, '_>,
        name: &'static str,
        default: u64,
        range: RangeInclusive<u64>,
    ) -> u64 {
        let example = format!("a size such as \"{}\"", format_size(default));
        let value = self.measure(table, name, &example, parse_size, range, format_size);
        value.unwrap_or(default)
    }

    fn measure<T: PartialOrd + Copy, E: std::fmt::Display>(
        &mut self,
        table: &mut Table<'_, '_>,
        name: &'static str,
        example: &str,
        parse: fn(&str) -> Result<T, E>,
        range: RangeInclusive<T>,
        format: fn(T) -> String,
    ) -> Option<T> {
        let field = table.field(name)?;
        let text = self.text_or(&field, example)?;
        match parse(&text.value) {
            Ok(value) if range.contains(&value) => Some(value),
            Ok(_) => {
                let (from, to) = range.into_inner();
                let (from, to) = (format(from), format(to));
                let message = format!(
                    "{} is out of bounds; write \"{from}\" to \"{to}\"",
                    quote(&text.raw)
                );
                self.error(&text.at, message);
                None
            }
            Err(why) => {
                self.error(
                    &text.at,
                    format!("{} {why}; write {example}", quote(&text.raw)),
                );
                None
            }
        }
    }

    /// Reads one of a few words.
    pub(in super::super) fn choice<T: Copy>(
        &mut self,
        table: &mut Table<'_, '_>,
        name: &'static str,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        let field = table.field(name)?;
        self.word(&field, choices)
    }

    /// Reads a field that is one of a few words.
    pub(in super::super) fn word<T: Copy>(
        &mut self,
        field: &Field<'_, '_>,
        choices: &[(&'static str, T)],
    ) -> Option<T> {
        let text = self.text(field)?;
        let chosen = choices.iter().find(|(word, _)| *word == text.value);
        if chosen.is_none() {
            let words: Vec<String> = choices
                .iter()
                .map(|(word, _)| format!("\"{word}\""))
                .collect();
            let message = format!(
                "{} is not known; write {}",
                quote(&text.raw),
                words.join(" or ")
            );
            self.error(&text.at, message);
        }
        chosen.map(|(_, value)| *value)
    }

    /// Reads an array of patterns. An empty one is refused: it would allow nothing.
    pub(in super::super) fn patterns(
        &mut self,
        field: &Field<'_, '_>,
        example: &str,
    ) -> Vec<Placed<Pattern>> {
        let elements = self.elements(field);
        if elements.is_empty() && matches!(field.value, DeValue::Array(_)) {
            self.error(
                &field.at,
                format!("is empty and matches nothing; write {example}, or leave it out"),
            );
        }
        let mut patterns = Vec::new();
        for element in elements {
            let Some(text) = self.text(&element) else {
                continue;
            };
            patterns.extend(self.pattern(text, example));
        }
        patterns
    }

    /// Reads one pattern.
    pub(in super::super) fn pattern(
        &mut self,
        text: Text,
        example: &str,
    ) -> Option<Placed<Pattern>> {
        match Pattern::parse(&text.value) {
            Ok(value) => Some(Placed { at: text.at, value }),
            Err(why) => {
                self.error(
                    &text.at,
                    format!("{} {why}; write {example}", quote(&text.raw)),
                );
                None
            }
        }
    }
}
