//! The command line: what can be asked for, and where its defaults come from.

mod explain;
mod health;
mod operate;
mod sides;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, Parser, Subcommand};

pub use self::explain::ExplainArgs;
pub use self::health::HealthArgs;
pub use self::operate::{KeysArgs, UsageArgs};
use crate::chat;
use crate::secret::Secret;

/// What one run of the program is to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the gateway (the default)
    #[command(after_help = SERVE_HELP)]
    Serve(ConfigArgs),
    /// Check a configuration without serving it
    ///
    /// Checks everything that can be known beforehand: the file itself, the files that it names (secrets, certificates,
    /// models), URLs, names, and what nothing can reach. Prints each problem as FILE:LINE:COLUMN: FIELD: WHAT.
    #[command(after_help = EXIT_HELP)]
    Check(ConfigArgs),
    /// Talk to a model through a running gateway
    ///
    /// The answer is printed as it comes. Without a PROMPT, one is read from standard input; on a terminal a conversation
    /// goes on until the end of input (Ctrl-D).
    #[command(after_help = EXIT_HELP)]
    Chat(ChatArgs),
    /// Tell what was used, by key, team, model, upstream, day or hour
    Usage(UsageArgs),
    /// Tell what would become of a call, without making it
    ///
    /// Whether its key opens, what its limits and budgets have left, and where it would go.
    Explain(ExplainArgs),
    /// Tell whether a running gateway takes calls: for health checks
    Health(HealthArgs),
    /// Gateway keys: made, listed, edited, rotated, revoked
    Keys(KeysArgs),
}

/// Which configuration to use.
#[derive(Args, Clone, Debug, Default)]
pub struct ConfigArgs {
    /// The configuration file, in TOML [default: $WEIR_CONFIG, else the built-in defaults]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// Whom to talk to, and about what.
#[derive(Args, Clone, Debug)]
pub struct ChatArgs {
    /// The model [default: poet]
    model: Option<String>,
    /// What to say; a single argument with spaces, or in other letters than ASCII, is taken for it too
    prompt: Option<String>,
    /// The gateway's base URL, http or https
    #[arg(long, default_value = chat::DEFAULT_URL)]
    url: String,
    /// The gateway key; other users of this machine can read arguments, so better set the variable
    /// [default: $WEIR_KEY, else $OPENAI_API_KEY]
    // Kept from `Debug` by its type.
    #[arg(long, value_parser = |key: &str| Ok::<_, std::convert::Infallible>(Secret::new(key)))]
    key: Option<Secret>,
}

/// Which key to hash.
#[derive(Args, Clone, Debug)]
pub struct HashArgs {
    /// The key, 8 characters or more; other users of this machine can read arguments, so better give it on standard
    /// input, which is read where this is absent
    #[arg(value_parser = |key: &str| Ok::<_, std::convert::Infallible>(Secret::new(key)))]
    key: Option<Secret>,
    /// Make a new key of 256 bits, and print it with its hash
    #[arg(long, conflicts_with = "key")]
    new: bool,
}

#[derive(Debug, Parser)]
#[command(
    name = "weir",
    version,
    about = "An OpenAI-compatible LLM gateway",
    after_help = SERVE_HELP,
    args_conflicts_with_subcommands = true
)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: ConfigArgs,
}

const EXIT_HELP: &str = "Exit codes: 0 fine, 1 your mistake, 2 an internal error.";

const SERVE_HELP: &str = "\
Without a configuration file:
  data plane    http://127.0.0.1:8080/v1 (the OpenAI API)
  admin plane   http://127.0.0.1:8081 (metrics, health)
  models        poet, the bundled one, also as text-davinci-003 and gpt-3.5-turbo-instruct;
                everything else goes to api.openai.com where OPENAI_API_KEY is set
  gateway key   $WEIR_KEY, else one is made and printed
  limits        bodies 25 MiB, uploads 1 GiB, heads 64 KiB, connections 10 000
  timeouts      head 5 s, body 30 s, upstream 60 s to the first byte and 10 min in all, drain 30 s

In the file durations are written \"200ms\" \"30s\" \"5m\" \"1h\", sizes \"64KiB\" \"25MiB\" \"1GiB\".
Exit codes: 0 fine, 1 your mistake (a bad configuration, a port taken), 2 an internal error.";

impl Command {
    /// Reads the arguments of a run, the program's name first.
    ///
    /// # Errors
    /// The exit code, after a message was printed: 0 for help and version, 1 for a mistake.
    pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Self, u8> {
        let args: Vec<_> = args.into_iter().collect();
        match Self::read(&args) {
            Ok(command) => Ok(command),
            Err(error) => {
                let mistake = error.use_stderr();
                // A closed pipe is no reason to fail in another way.
                let _ = error.print();
                Err(u8::from(mistake))
            }
        }
    }

    fn read(args: &[OsString]) -> Result<Self, clap::Error> {
        let cli = Cli::try_parse_from(args)?;
        let command = cli.command.unwrap_or(Self::Serve(cli.serve));
        if let Self::Keys(keys) = &command {
            keys.check(Cli::command())?;
        }
        sides::check(Cli::command(), args)?;
        Ok(command)
    }
}

/// Returns the configuration file to load: the argument's, else the environment's.
fn config_path(argument: Option<PathBuf>, env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
    let variable = || env("WEIR_CONFIG").filter(|path| !path.is_empty());
    argument.or_else(|| variable().map(PathBuf::from))
}

impl ConfigArgs {
    /// Returns the file to load: the argument's, else the environment's, else none for the built-in defaults.
    pub fn path(&self, env: &dyn Fn(&str) -> Option<String>) -> Option<PathBuf> {
        config_path(self.config.clone(), env)
    }
}

impl ChatArgs {
    /// Returns the conversation asked for.
    pub fn options(self, env: &dyn Fn(&str) -> Option<String>) -> chat::Options {
        let variable = |name| env(name).filter(|key| !key.is_empty()).map(Secret::new);
        // No model's name has spaces or letters beyond ASCII, and a prompt alone is what a first try looks like.
        let (model, prompt) = match (self.model, self.prompt) {
            (Some(only), None) if !only.is_ascii() || only.contains(char::is_whitespace) => {
                (None, Some(only))
            }
            both => both,
        };
        chat::Options {
            url: self.url,
            key: self
                .key
                .or_else(|| variable("WEIR_KEY"))
                .or_else(|| variable("OPENAI_API_KEY")),
            model: model.unwrap_or_else(|| chat::DEFAULT_MODEL.to_owned()),
            prompt,
        }
    }
}

impl HashArgs {
    /// Returns the key to hash; none where it stands on standard input.
    pub fn key(&self) -> Option<&str> {
        self.key.as_ref().map(Secret::expose)
    }

    /// Returns whether a new key is wanted.
    pub fn new_key(&self) -> bool {
        self.new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Command, u8> {
        Command::parse(["weir"].iter().chain(args).map(OsString::from))
    }

    fn nothing(_: &str) -> Option<String> {
        None
    }

    #[test]
    fn the_definition_holds_together() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_tells_of_places_where_one_is_asked() {
        let mut cli = Cli::command();
        cli.build();
        let keys = cli.find_subcommand_mut("keys").unwrap();
        let mut help = |name| {
            let command = keys.find_subcommand_mut(name).unwrap();
            command.render_help().to_string()
        };
        assert!(help("list").contains("--admin <URL>"));
        let hash = help("hash");
        assert!(hash.contains("--new") && !hash.contains("--admin") && !hash.contains("--json"));
    }

    #[test]
    fn serving_is_the_default() {
        for args in [
            &["--config", "a.toml"][..],
            &["serve", "--config", "a.toml"],
        ] {
            let Ok(Command::Serve(serve)) = parse(args) else {
                panic!("{args:?}");
            };
            assert_eq!(
                serve.path(&|_| Some("b.toml".into())),
                Some("a.toml".into())
            );
        }
        let Ok(Command::Serve(serve)) = parse(&[]) else {
            panic!();
        };
        assert_eq!(
            serve.path(&|_| Some("b.toml".into())),
            Some("b.toml".into())
        );
        assert_eq!(serve.path(&|_| Some(String::new())), None);
        assert_eq!(serve.path(&nothing), None);
    }

    #[test]
    fn mistakes_are_1_and_help_is_0() {
        assert_eq!(parse(&["serv"]).err(), Some(1));
        assert_eq!(parse(&["check", "--confg", "a"]).err(), Some(1));
        assert_eq!(parse(&["keys", "hash", "--new", "12345678"]).err(), Some(1));
        assert_eq!(parse(&["--help"]).err(), Some(0));
        assert_eq!(parse(&["--version"]).err(), Some(0));
    }

    #[test]
    fn chat_has_its_defaults() {
        let options = |args: &[&str], env: &dyn Fn(&str) -> Option<String>| match parse(args) {
            Ok(Command::Chat(chat)) => chat.options(env),
            other => panic!("{other:?}"),
        };
        let plain = options(&["chat"], &nothing);
        assert_eq!(
            (plain.model.as_str(), plain.url.as_str()),
            ("poet", "http://127.0.0.1:8080/v1")
        );
        assert!(plain.key.is_none() && plain.prompt.is_none());
        let both = options(&["chat", "gpt-4o", "Hi"], &|name| Some(name.to_owned()));
        assert_eq!(
            (both.model.as_str(), both.prompt.as_deref()),
            ("gpt-4o", Some("Hi"))
        );
        assert_eq!(both.key.as_ref().map(Secret::expose), Some("WEIR_KEY"));
        let prompt = options(&["chat", "Sing of rivers"], &nothing);
        assert_eq!(
            (prompt.model.as_str(), prompt.prompt.as_deref()),
            ("poet", Some("Sing of rivers"))
        );
        let prompt = options(&["chat", "写一首关于春天的诗"], &nothing);
        assert_eq!(prompt.prompt.as_deref(), Some("写一首关于春天的诗"));
        let key = options(&["chat", "--key", "k", "poet"], &|name| {
            Some(name.to_owned())
        });
        assert_eq!(
            (key.model.as_str(), key.key.as_ref().map(Secret::expose)),
            ("poet", Some("k"))
        );
    }

    #[test]
    fn help_tells_the_defaults_that_count() {
        use crate::config::defaults;
        for told in [
            defaults::LISTEN.to_string(),
            defaults::ADMIN_LISTEN.to_string(),
            format!(
                "bodies {} MiB, uploads {} GiB",
                defaults::MAX_BODY >> 20,
                defaults::MAX_UPLOAD >> 30
            ),
            format!("heads {} KiB", defaults::MAX_HEAD >> 10),
            format!(
                "head {} s, body {} s, upstream {} s to",
                defaults::HEADER_TIMEOUT.as_secs(),
                defaults::BODY_TIMEOUT.as_secs(),
                defaults::FIRST_BYTE_TIMEOUT.as_secs()
            ),
            format!("drain {} s", defaults::DRAIN_TIMEOUT.as_secs()),
        ] {
            assert!(SERVE_HELP.contains(&told), "{told}");
        }
    }

    #[test]
    fn keys_given_as_arguments_are_not_shown() {
        let shown = format!(
            "{:?}{:?}",
            parse(&["keys", "hash", "a-secret"]),
            parse(&["chat", "--key", "a-secret"])
        );
        assert!(!shown.contains("a-secret"), "{shown}");
    }
}
