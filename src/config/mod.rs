//! The configuration: one TOML file, read and checked before anything starts.
//!
//! `file` reads the file as written, `check` judges what its fields say of each other, and [`Config`] is what comes
//! out: every default filled in, nothing left to parse. All mistakes are reported at once, each with its line. Only the
//! program's entry and `app` see this module; every other room has parameters of its own.

mod builtin;
mod changes;
mod check;
pub mod defaults;
mod expand;
mod file;
mod prices;
mod problem;
mod reader;
mod stamp;
#[cfg(test)]
mod tests;
mod tls;
mod types;

use std::path::{Path, PathBuf};

use toml::de::DeTable;

pub use self::changes::{Changes, changes};
use self::file::File;
pub use self::prices::{built_in_prices, parse_prices};
use self::problem::{At, Found};
pub use self::problem::{Problem, Report, Severity};
use self::reader::{Reader, plain};
pub use self::stamp::{ReadFile, Stamp};
pub use self::types::{
    AdminConfig, AffinityConfig, ApiConfig, BalanceConfig, BudgetConfig, BudgetLimit, CacheConfig,
    CacheReplayConfig, CacheRetriesConfig, CacheScopeConfig, CacheTerms, CacheWhenConfig,
    ClientGoneConfig, ClientTlsConfig, Config, ContentConfig, EjectConfig, EncodingConfig,
    EndpointConfig, HealthConfig, HedgeConfig, KeyConfig, LedgerConfig, LedgerFailureConfig,
    LimitsConfig, LocalConfig, LocalModel, LogConfig, LogFormat, MetricsConfig, Period,
    ProxyConfig, RedisConfig, RedisOutageConfig, RemoteConfig, RetryConfig, RouteConfig,
    SentinelConfig, ServerConfig, SyncConfig, TargetConfig, TeamConfig, TelemetryConfig,
    TimeoutOverrides, TimeoutsConfig, TlsConfig, UpstreamConfig, UpstreamKind, Window,
};
pub use crate::secret::Secret;

/// What checking a configuration needs from outside.
#[derive(Clone, Copy)]
pub struct Context<'a> {
    /// Returns an environment variable.
    pub env: &'a (dyn Fn(&str) -> Option<String> + 'a),
    /// Says why a local model cannot be served; its text is shown to the user.
    pub check_model: &'a (dyn Fn(&LocalModel) -> Result<(), String> + 'a),
    /// The time now, by which keys have expired or not.
    pub now: jiff::Timestamp,
}

/// A configuration that can be served.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// What is perhaps not as meant; no errors.
    pub warnings: Report,
}

/// Reads a variable of this process's environment.
pub fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Returns the folder in which state is kept: `WEIR_DATA_DIR`, else what systemd gives (`STATE_DIRECTORY`, the first of
/// several), else a folder `weir` among the user's data (`XDG_DATA_HOME`, else `~/.local/share`), else the working
/// directory. A variable that is set to nothing is not set, and neither is an `XDG_DATA_HOME` that is not absolute, as
/// its specification has it.
pub fn data_dir(env: &dyn Fn(&str) -> Option<String>) -> PathBuf {
    let variable = |name| env(name).filter(|value| !value.is_empty());
    let given = variable("WEIR_DATA_DIR").map(PathBuf::from);
    let service = || {
        let folders = variable("STATE_DIRECTORY")?;
        let first = folders
            .split(':')
            .next()
            .filter(|first| !first.is_empty())?;
        Some(PathBuf::from(first))
    };
    let data = || {
        let data = variable("XDG_DATA_HOME").map(PathBuf::from);
        let data = data.filter(|data| data.is_absolute()).or_else(|| {
            let home = variable("HOME")?;
            Some(Path::new(&home).join(".local/share"))
        })?;
        Some(data.join("weir"))
    };
    given
        .or_else(service)
        .or_else(data)
        .unwrap_or_else(|| PathBuf::from("."))
}

/// Loads a file, or the built-in defaults where there is none.
///
/// # Errors
/// Everything that is wrong with it. Files that it names (secrets, certificates, models) are read for that.
pub fn load(path: Option<&Path>, context: &Context<'_>) -> Result<Loaded, Report> {
    let Some(path) = path else {
        return parse("", Path::new("built-in defaults"), context);
    };
    let own = ReadFile::at(path.to_owned());
    let mut outcome = load_file(path, context);
    let report = match &mut outcome {
        Ok(loaded) => &mut loaded.warnings,
        Err(report) => report,
    };
    report.files.insert(0, own);
    outcome
}

/// Reads where the admin plane is, and whatever else of `[admin]` can be read, or the defaults where there is no file. The
/// rest of the file is not judged: a gateway that runs goes on without it, too.
///
/// # Errors
/// The file cannot be read, or the address is none.
pub fn load_admin(path: Option<&Path>, context: &Context<'_>) -> Result<AdminConfig, Report> {
    let (text, file) = match path {
        Some(path) => (read(path)?, path),
        None => (String::new(), Path::new("built-in defaults")),
    };
    let (document, mistakes) = DeTable::parse_recoverable(&text);
    let says_where = || document.get_ref().get("admin")?.get_ref().get("listen");
    // Where it is may be what cannot be read: the default would be another gateway's.
    if !mistakes.is_empty() && says_where().is_none() {
        let found = syntax_errors(&mistakes);
        return Err(Report::new(file.display().to_string(), &text, found));
    }
    let folder = file.parent().unwrap_or(Path::new(""));
    let mut reader = Reader::new(context, folder);
    let admin = File::admin(document.get_ref(), &mut reader);
    let mut found = reader.found;
    let is_of_address = |found: &Found| matches!(&*found.at.path, "admin" | "admin.listen");
    found.retain(|found| found.severity == Severity::Error && is_of_address(found));
    match found.is_empty() {
        true => Ok(admin.config),
        false => Err(Report::new(file.display().to_string(), &text, found)),
    }
}

fn load_file(path: &Path, context: &Context<'_>) -> Result<Loaded, Report> {
    parse(&read(path)?, path, context)
}

fn read(path: &Path) -> Result<String, Report> {
    let refuse = |text: &str, offset, message| {
        let found = Found {
            severity: Severity::Error,
            at: At {
                path: String::new(),
                offset,
            },
            message,
        };
        Report::new(path.display().to_string(), text, vec![found])
    };
    let bytes = std::fs::read(path).map_err(|error| {
        refuse(
            "",
            None,
            format!(
                "cannot be read: {}; write the path of a TOML file",
                plain(&error)
            ),
        )
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let (error, bytes) = (error.utf8_error(), error.into_bytes());
        let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let message = "is not UTF-8; save the file as UTF-8".to_owned();
        let text = str::from_utf8(valid).unwrap_or_default();
        refuse(text, Some(error.valid_up_to()), message)
    })
}

/// Reads and checks the text of a file. `file` is its name in reports, and paths in it start from its folder. It is not
/// among the files that were read.
///
/// # Errors
/// Everything that is wrong with it, and the warnings besides.
pub fn parse(text: &str, file: &Path, context: &Context<'_>) -> Result<Loaded, Report> {
    parse_in(text, file, file.parent().unwrap_or(Path::new("")), context)
}

fn parse_in(
    text: &str,
    file: &Path,
    folder: &Path,
    context: &Context<'_>,
) -> Result<Loaded, Report> {
    let name = file.display().to_string();
    let (document, syntax) = DeTable::parse_recoverable(text);
    if !syntax.is_empty() {
        return Err(Report::new(name, text, syntax_errors(&syntax)));
    }
    let mut reader = Reader::new(context, folder);
    let file = File::read(document.get_ref(), &mut reader);
    let config = check::check(file, &mut reader);
    let Reader { found, files, .. } = reader;
    let report = Report {
        files,
        ..Report::new(name, text, found)
    };
    if report.errors() > 0 {
        return Err(report);
    }
    Ok(Loaded {
        config,
        warnings: report,
    })
}

/// Words what is wrong with a text that is no TOML. What could be recovered of it is not what was meant, and not worth
/// judging.
fn syntax_errors(errors: &[toml::de::Error]) -> Vec<Found> {
    let found = errors.iter().map(|error| Found {
        severity: Severity::Error,
        at: At {
            path: String::new(),
            offset: Some(error.span().map_or(0, |span| span.start)),
        },
        message: format!("is not TOML: {}", error.message()),
    });
    found.collect()
}

/// Does `weir check`: returns what to print, and whether the configuration can be served. `look` says what is wrong
/// outside of the configuration, with what it leads to.
pub fn check_command(
    path: Option<&Path>,
    context: &Context<'_>,
    look: &dyn Fn(&Config) -> Vec<Problem>,
) -> (String, bool) {
    let loaded = load(path, context).and_then(|mut loaded| {
        let problems = &mut loaded.warnings.problems;
        problems.extend(look(&loaded.config));
        match loaded.warnings.errors() {
            0 => Ok(loaded),
            _ => Err(loaded.warnings),
        }
    });
    match loaded {
        Ok(Loaded {
            config, warnings, ..
        }) => {
            let count = |number: usize, what: &str| match number {
                1 => format!("1 {what}"),
                _ => format!("{number} {what}s"),
            };
            let counts = [
                count(config.upstreams.len(), "upstream"),
                count(config.routes.len(), "route"),
                count(config.teams.len(), "team"),
                count(config.keys.len(), "key"),
            ];
            let fine = format!("{}: fine: {}\n", warnings.file, counts.join(", "));
            match warnings.is_empty() {
                true => (fine, true),
                false => (format!("{warnings}\n{fine}"), true),
            }
        }
        Err(report) => {
            let errors = match report.errors() {
                1 => "1 error".to_owned(),
                number => format!("{number} errors"),
            };
            (
                format!("{report}\n{}: refused: {errors}\n", report.file),
                false,
            )
        }
    }
}
