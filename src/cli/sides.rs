//! Options that stand before a subcommand or behind it, and what is said on one side and gainsaid on the other: clap judges
//! each side alone, and of two values takes the one behind without a word.

use std::ffi::{OsStr, OsString};

use clap::error::{ErrorKind, Result};
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use crate::report::plain;

/// An option as it was given on one side.
struct Given<'a> {
    option: &'a Arg,
    values: Vec<&'a OsStr>,
}

/// Judges arguments of which each side is fine by itself, the program's name first.
///
/// # Errors
/// An option that has two values, or one that excludes another on the other side.
pub(super) fn check(mut command: Command, args: &[OsString]) -> Result<()> {
    command.build();
    let mut command = each_side_alone(command);
    let matches = command.try_get_matches_from_mut(args)?;
    match gainsaid(&command, &matches) {
        None => Ok(()),
        Some((names, why)) => Err(refusal(command, &names, why)),
    }
}

/// Words a mistake in the arguments of the subcommand that is reached by these names, with its usage.
pub(super) fn refusal(mut command: Command, names: &[&str], why: String) -> clap::Error {
    command.build();
    match names {
        [] => command.error(ErrorKind::ArgumentConflict, why),
        [name, inner @ ..] => match command.find_subcommand(name).cloned() {
            Some(subcommand) => refusal(subcommand, inner, why),
            None => refusal(command, &[], why),
        },
    }
}

/// Leaves each value on its side; else those of all sides would be the innermost one's.
fn each_side_alone(command: Command) -> Command {
    let command = command.mut_args(|arg| arg.global(false));
    command.mut_subcommands(each_side_alone)
}

/// Returns which subcommand was asked for, and what speaks against it.
fn gainsaid<'a>(command: &Command, matches: &'a ArgMatches) -> Option<(Vec<&'a str>, String)> {
    let mut before = Vec::new();
    let mut names = Vec::new();
    let (mut command, mut matches) = (command, matches);
    let mut why = None;
    loop {
        let here = given(command, matches);
        let pairs = before
            .iter()
            .flat_map(|one| here.iter().map(move |two| (one, two)));
        why = why.or_else(|| {
            pairs
                .filter_map(|(one, two)| contradiction(command, one, two))
                .next()
        });
        before.extend(here);
        let Some((name, inner)) = matches.subcommand() else {
            break;
        };
        names.push(name);
        (command, matches) = (command.find_subcommand(name)?, inner);
    }
    Some((names, why?))
}

fn given<'a>(command: &'a Command, matches: &'a ArgMatches) -> Vec<Given<'a>> {
    let options = command.get_arguments().filter(|option| {
        let source = matches.value_source(option.get_id().as_str());
        source == Some(ValueSource::CommandLine)
    });
    let given = options.map(|option| Given {
        option,
        values: matches
            .get_raw(option.get_id().as_str())
            .map_or_else(Vec::new, Iterator::collect),
    });
    given.collect()
}

fn contradiction(command: &Command, one: &Given<'_>, two: &Given<'_>) -> Option<String> {
    if one.option.get_id() == two.option.get_id() {
        return (one.values != two.values).then(|| {
            let name = command.get_name();
            let option = one.option;
            match (shown(one), shown(two)) {
                (Some(before), Some(behind)) => {
                    format!("the argument '{option}' is '{before}' before '{name}' and '{behind}' behind it")
                }
                _ => format!("the argument '{option}' is one thing before '{name}' and another behind it"),
            }
        });
    }
    let excludes = |one: &Given<'_>, two: &Given<'_>| {
        let excluded = command.get_arg_conflicts_with(one.option);
        excluded
            .iter()
            .any(|option| option.get_id() == two.option.get_id())
    };
    (excludes(one, two) || excludes(two, one)).then(|| {
        format!(
            "the argument '{}' cannot be used with '{}'",
            one.option, two.option
        )
    })
}

/// Returns what an option was given, unless it may have a password in it, as URLs may.
fn shown(given: &Given<'_>) -> Option<String> {
    let values = given.values.iter().map(|value| value.to_string_lossy());
    let values: Vec<_> = values.map(|value| plain(&value).into_owned()).collect();
    let text = values.join(" ");
    (!text.contains('@')).then_some(text)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use crate::cli::Command;

    #[test]
    fn what_is_said_on_both_sides_is_the_same() {
        let told = |args: &[&str]| {
            let args: Vec<_> = ["weir", "keys"]
                .iter()
                .chain(args)
                .map(OsString::from)
                .collect();
            Command::read(&args).err().map(|error| error.to_string())
        };
        let ledgers = &[
            "--ledger", "prod.db", "revoke", "alice", "--ledger", "test.db",
        ];
        let refused = told(ledgers).unwrap();
        let why = "error: the argument '--ledger <FILE>' is 'prod.db' before 'revoke' and 'test.db' behind it\n";
        assert!(refused.starts_with(why), "{refused}");
        // The usage is that of what was asked for.
        assert!(refused.contains("Usage: weir keys revoke "), "{refused}");
        let deep = told(&["--config", "a", "team", "list", "--config", "b"]).unwrap();
        assert!(
            deep.contains("'a' before 'list' and 'b' behind it"),
            "{deep}"
        );
        let admin = told(&[
            "--admin",
            "http://x",
            "team",
            "--admin",
            "http://u:pw@x",
            "list",
        ])
        .unwrap();
        assert!(
            admin.contains("'--admin <URL>'") && !admin.contains("pw"),
            "{admin}"
        );
        let both = told(&["--admin", "http://x", "list", "--ledger", "x"]).unwrap();
        assert!(
            both.contains("'--admin <URL>' cannot be used with '--ledger <FILE>'"),
            "{both}"
        );
        assert!(both.contains("Usage: weir keys list "), "{both}");
        let hash = told(&["--json", "hash", "12345678"]).unwrap();
        assert!(hash.contains("Usage: weir keys hash "), "{hash}");
        for same in [
            &["--ledger", "a", "list", "--ledger", "a"][..],
            &["--json", "team", "--json", "list", "--json"],
        ] {
            assert_eq!(told(same), None, "{same:?}");
        }
    }
}
