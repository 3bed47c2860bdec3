//! Files of prices: the table that is part of the program, and the one that `ledger.prices` names.

use std::path::Path;

use jiff::civil::Date;
use toml::de::{DeTable, DeValue};

use super::problem::Report;
use super::reader::{Field, Placed, Reader, Table};
use super::{Context, syntax_errors};
use crate::money::Nanos;
use crate::pattern::Pattern;
use crate::prices::{Price, PriceTable};

/// The prices that are part of the program.
const BUILT_IN: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/config/prices.toml"));

const MODEL: &str = "a name or a pattern such as \"gpt-*\"";
const PRICE: &str = "dollars per million tokens, such as 0.15";
const DATE: &str = "the day on which the figures were read, such as \"2026-11-25\"";

/// Returns the prices that are part of the program.
///
/// # Errors
/// Never in a program that has passed its tests.
pub fn built_in_prices() -> Result<PriceTable, Report> {
    let context = Context {
        env: &|_| None,
        check_model: &|_| Ok(()),
        now: jiff::Timestamp::UNIX_EPOCH,
    };
    parse_prices(BUILT_IN, Path::new("built-in prices"), &context)
}

/// Reads the text of a file of prices. `file` is its name in reports.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse_prices(text: &str, file: &Path, context: &Context<'_>) -> Result<PriceTable, Report> {
    let name = file.display().to_string();
    let (document, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        return Err(Report::new(name, text, syntax_errors(&syntax)));
    }
    let mut reader = Reader::new(context, Path::new(""));
    let table = table(document.get_ref(), &mut reader);
    let report = Report::new(name, text, reader.found);
    match table {
        Some(table) if report.is_empty() => Ok(table),
        _ => Err(report),
    }
}

fn table(document: &DeTable<'_>, reader: &mut Reader<'_>) -> Option<PriceTable> {
    let root = &mut Table::root(document);
    let date = date(root, reader);
    let mut prices: Vec<(Pattern, Price)> = Vec::new();
    for table in reader.tables(root, "price", "model") {
        let (models, price) = entry(table, reader);
        for model in models {
            if prices.iter().any(|(before, _)| *before == model.value) {
                reader.error(
                    &model.at,
                    "has a price before this one; write each model once",
                );
            }
            prices.push((model.value, price.unwrap_or_default()));
        }
    }
    reader.finish(root);
    Some(PriceTable {
        date: date?,
        prices,
    })
}

fn date(root: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> Option<Date> {
    let Some(field) = root.field("date") else {
        reader.error(&root.at.clone(), format!("`date` is missing; write {DATE}"));
        return None;
    };
    let text = match field.value {
        DeValue::Datetime(datetime) => datetime.to_string(),
        DeValue::String(text) => text.to_string(),
        other => {
            reader.wrong_type(&field.at, other, DATE);
            return None;
        }
    };
    // Only a date by itself: the library would read one out of a whole instant too.
    let date = text
        .parse()
        .ok()
        .filter(|date: &Date| date.to_string() == text);
    if date.is_none() {
        reader.error(&field.at, format!("is no date; write {DATE}"));
    }
    date
}

fn entry(
    mut table: Table<'_, '_>,
    reader: &mut Reader<'_>,
) -> (Vec<Placed<Pattern>>, Option<Price>) {
    let table = &mut table;
    let models = models(table, reader);
    let input = required(table, reader, "input");
    let cached_input = optional(table, reader, "cached_input").or(input);
    let cache_write = optional(table, reader, "cache_write").or(input);
    let input_audio = optional(table, reader, "input_audio").or(input);
    let output = required(table, reader, "output");
    let reasoning = optional(table, reader, "reasoning").or(output);
    let output_audio = optional(table, reader, "output_audio").or(output);
    reader.finish(table);
    let price = || {
        Some(Price {
            input: input?,
            cached_input: cached_input?,
            cache_write: cache_write?,
            input_audio: input_audio?,
            output: output?,
            reasoning: reasoning?,
            output_audio: output_audio?,
        })
    };
    (models, price())
}

/// Reads `model`: a pattern, or an array of them.
fn models(table: &mut Table<'_, '_>, reader: &mut Reader<'_>) -> Vec<Placed<Pattern>> {
    match table.field("model") {
        Some(
            field @ Field {
                value: DeValue::Array(_),
                ..
            },
        ) => reader.patterns(&field, MODEL),
        Some(field) => {
            let text = reader.text(&field);
            let pattern = text.and_then(|text| reader.pattern(text, MODEL));
            pattern.into_iter().collect()
        }
        None => {
            let at = table.at.clone();
            reader.error(&at, format!("`model` is missing; write {MODEL}"));
            Vec::new()
        }
    }
}

fn required(
    table: &mut Table<'_, '_>,
    reader: &mut Reader<'_>,
    name: &'static str,
) -> Option<Nanos> {
    if !table.has(name) {
        let at = table.at.clone();
        let message = format!("`{name}` is missing; write {PRICE}, or 0 for what costs nothing");
        reader.error(&at, message);
    }
    optional(table, reader, name)
}

fn optional(
    table: &mut Table<'_, '_>,
    reader: &mut Reader<'_>,
    name: &'static str,
) -> Option<Nanos> {
    let field = table.field(name)?;
    reader.money(&field, PRICE)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn context() -> Context<'static> {
        Context {
            env: &|_| None,
            check_model: &|_| Ok(()),
            now: jiff::Timestamp::UNIX_EPOCH,
        }
    }

    fn read(text: &str) -> Result<PriceTable, Report> {
        parse_prices(text, Path::new("prices.toml"), &context())
    }

    #[test]
    fn the_built_in_prices_are_fine() {
        let prices = crate::prices::Prices::new(vec![built_in_prices().unwrap()]);
        let price = |model: &str| {
            let price = prices.of(model)?;
            Some([price.input, price.cached_input, price.output].map(|nanos| nanos.to_string()))
        };
        let expected = |price: [&str; 3]| Some(price.map(str::to_owned));
        for (model, figures) in [
            ("gpt-4o-mini", ["0.15", "0.075", "0.60"]),
            ("gpt-4o-2024-08-06", ["2.50", "1.25", "10.00"]),
            ("gpt-6.2-sol", ["2.00", "0.10", "10.00"]),
            ("text-embedding-3-small", ["0.02", "0.02", "0.00"]),
            ("poet", ["0.00", "0.00", "0.00"]),
        ] {
            assert_eq!(price(model), expected(figures), "{model}");
        }
        assert_eq!(
            price("gpt-4o-unheard-of"),
            None,
            "a guess would be worse than nothing"
        );
    }

    #[test]
    fn numbers_are_read_as_they_are_written() {
        let text = r#"
            date = 2026-11-25
            [[price]]
            model = ["a", "a-*"]
            input = 0.123456789
            cached_input = "0.000000001"
            output = 1_000
        "#;
        let table = read(text).unwrap();
        assert_eq!(table.date.to_string(), "2026-11-25");
        let [(a, price), (_, other)] = table.prices.as_slice() else {
            panic!("{table:?}");
        };
        assert_eq!((a.as_str(), price), ("a", other));
        let figures = [
            price.input,
            price.cached_input,
            price.cache_write,
            price.input_audio,
            price.output,
            price.reasoning,
            price.output_audio,
        ];
        assert_eq!(
            figures.map(|nanos| nanos.to_string()),
            [
                "0.123456789",
                "0.000000001",
                "0.123456789",
                "0.123456789",
                "1000.00",
                "1000.00",
                "1000.00"
            ]
        );
    }

    #[test]
    fn all_that_is_wrong_is_told_with_its_line() {
        let text = r#"colour = 1
[[price]]
model = "gpt-4o"
input = -1
output = 1e-3
cached_inputs = 1
[[price]]
model = ["gpt-4o", " x"]
input = 0.1234567891
output = "two"
reasoning = nan
[[price]]
input = true
cache_write = 0x10
"#;
        let report = read(text).unwrap_err();
        assert_eq!(
            report.to_string(),
            r#"prices.toml: `date` is missing; write the day on which the figures were read, such as "2026-11-25"
prices.toml:1:1: colour: unknown field; known here: date, price
prices.toml:4:9: price[gpt-4o].input: -1 is negative; write dollars per million tokens, such as 0.15
prices.toml:5:10: price[gpt-4o].output: 1e-3 is no decimal number; write dollars per million tokens, such as 0.15
prices.toml:6:1: price[gpt-4o].cached_inputs: unknown field; did you mean `cached_input`?
prices.toml:8:10: price[#2].model[#1]: has a price before this one; write each model once
prices.toml:8:20: price[#2].model[#2]: " x" starts or ends with white space; write a name or a pattern such as "gpt-*"
prices.toml:9:9: price[#2].input: 0.1234567891 has more than 9 decimals; write dollars per million tokens, such as 0.15
prices.toml:10:10: price[#2].output: "two" is no decimal number; write dollars per million tokens, such as 0.15
prices.toml:11:13: price[#2].reasoning: nan is no decimal number; write dollars per million tokens, such as 0.15
prices.toml:12:1: price[#3]: `model` is missing; write a name or a pattern such as "gpt-*"
prices.toml:12:1: price[#3]: `output` is missing; write dollars per million tokens, such as 0.15, or 0 for what costs nothing
prices.toml:13:9: price[#3].input: is true or false; write dollars per million tokens, such as 0.15
prices.toml:14:15: price[#3].cache_write: 0x10 is no decimal number; write dollars per million tokens, such as 0.15"#
        );
        assert!(read("date = 2026-11-25T00:00:00Z").is_err());
        assert!(read("date = \"2026-13-01\"").is_err());
        let report = read("[[price]\n").unwrap_err().to_string();
        assert!(report.starts_with("prices.toml:1:"), "{report}");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "(?s).{0,200}", price in "[-+0-9.e_xa-f\"]{0,12}") {
            let _ = read(&text);
            let _ = read(&format!("date = \"2026-11-25\"\n[[price]]\nmodel = \"a\"\ninput = {price}\noutput = {price}\n"));
        }
    }
}
