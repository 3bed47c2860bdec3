//! The program: reads the arguments, does what they say, and exits 0, 1 for the user's mistake, or 2.

use std::io::{self, BufReader, IsTerminal, Write};
use std::process::ExitCode;

use tokio::runtime::{Builder, Runtime};
use weir::cli::{Command, ConfigArgs, HashArgs};
use weir::config::{self, Config, LogFormat};
use weir::operator::{self, Failure, Place, Told, Wanted};
use weir::{app, chat, keys, log, report};

const MISTAKE: u8 = 1;
const INTERNAL: u8 = 2;

fn main() -> ExitCode {
    keep_compute_small();
    let code = match Command::parse(std::env::args_os()) {
        Ok(Command::Serve(args)) => serve(&args),
        Ok(Command::Check(args)) => {
            let path = args.path(&config::process_env);
            let (text, fine) =
                config::check_command(path.as_deref(), &context(), &app::check_ledger);
            print(&text);
            if fine { 0 } else { MISTAKE }
        }
        Ok(Command::Chat(args)) => talk(&args.options(&config::process_env)),
        Ok(Command::Usage(args)) => {
            let (wanted, options) = args.options(&config::process_env);
            operate(wanted, async |place| operator::usage(place, &options).await)
        }
        Ok(Command::Explain(args)) => {
            let (wanted, options) = args.options(&config::process_env);
            operate(wanted, async |place| {
                operator::explain(place, &options, &mut io::stdin()).await
            })
        }
        Ok(Command::Health(args)) => {
            if let Some(warning) = args.warning() {
                complain(&plain_lines(&warning), 0);
            }
            let health = args.health();
            let wanted = args.wanted(&config::process_env);
            let place = app::admin_plane(wanted, &context());
            operate_at(place, async |place| operator::health(place, health).await)
        }
        Ok(Command::Keys(args)) => match args.options(&config::process_env) {
            Ok((wanted, options)) => {
                operate(wanted, async |place| operator::keys(place, options).await)
            }
            Err(args) => hash(&args),
        },
        Err(code) => code,
    };
    ExitCode::from(code)
}

fn serve(args: &ConfigArgs) -> u8 {
    let path = args.path(&config::process_env);
    let loaded = match config::load(path.as_deref(), &context()) {
        Ok(loaded) => loaded,
        Err(report) => return complain(&report.to_string(), MISTAKE),
    };
    let _log = start_log(&loaded.config);
    for warning in &loaded.warnings.problems {
        tracing::warn!(
            file = loaded.warnings.file,
            field = warning.path,
            "{}",
            warning.message
        );
    }
    let runtime = match runtime(loaded.config.server.workers) {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("cannot start threads: {error}"), INTERNAL),
    };
    let source = app::Source { path, context };
    let served = runtime.block_on(app::run(loaded, source));
    // What is left has had its time.
    runtime.shutdown_background();
    match served {
        Ok(()) => 0,
        Err(error) => complain(
            &error.to_string(),
            if error.is_users() { MISTAKE } else { INTERNAL },
        ),
    }
}

fn talk(options: &chat::Options) -> u8 {
    let runtime = match runtime(1) {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("cannot start: {error}"), INTERNAL),
    };
    let interactive = io::stdin().is_terminal();
    let (mut input, mut output, mut errors) =
        (BufReader::new(io::stdin()), io::stdout(), io::stderr());
    let mut console = chat::Console {
        input: &mut input,
        output: &mut output,
        errors: &mut errors,
        interactive,
    };
    runtime.block_on(chat::run(options, &mut console))
}

fn hash(args: &HashArgs) -> u8 {
    match keys::hash_command(args.key(), args.new_key(), &mut io::stdin()) {
        Ok(text) => {
            print(&text);
            0
        }
        Err(message) => complain(&message, MISTAKE),
    }
}

/// Does something at a gateway or at a ledger's file, and prints what comes of it.
fn operate<T: Into<Told>>(
    wanted: Wanted,
    act: impl AsyncFnOnce(&Place) -> Result<T, Failure>,
) -> u8 {
    operate_at(app::place(wanted, &context()), act)
}

fn operate_at<T: Into<Told>>(
    place: Result<Place, Failure>,
    act: impl AsyncFnOnce(&Place) -> Result<T, Failure>,
) -> u8 {
    let runtime = match runtime(1) {
        Ok(runtime) => runtime,
        Err(error) => return complain(&format!("cannot start: {error}"), INTERNAL),
    };
    let done = place.and_then(|place| runtime.block_on(act(&place)));
    match done {
        Ok(told) => {
            let Told { text, note } = told.into();
            print(&text);
            note.map_or(0, |note| complain(&plain_lines(&note), 0))
        }
        Err(failure) => {
            let code = if failure.is_users { MISTAKE } else { INTERNAL };
            complain(&plain_lines(&failure.message), code)
        }
    }
}

/// What a server says must not move the cursor; the report of a configuration has lines.
fn plain_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().map(report::plain).collect();
    lines.join("\n")
}

/// One worker needs no threads, and no locks between them.
fn runtime(workers: usize) -> io::Result<Runtime> {
    match workers {
        1 => Builder::new_current_thread().enable_all().build(),
        0 => Builder::new_multi_thread().enable_all().build(),
        workers => Builder::new_multi_thread()
            .worker_threads(workers)
            .enable_all()
            .build(),
    }
}

fn context() -> config::Context<'static> {
    config::Context {
        env: &config::process_env,
        check_model: &app::check_model,
        now: jiff::Timestamp::now(),
    }
}

fn start_log(config: &Config) -> log::Guard {
    let format = match config.log.format {
        LogFormat::Auto => log::Format::Auto,
        LogFormat::Text => log::Format::Text,
        LogFormat::Json => log::Format::Json,
    };
    log::start(format, config.log.level, config.log.queue)
}

/// A closed pipe at the other end is no reason to fail.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes());
}

fn complain(message: &str, code: u8) -> u8 {
    let _ = writeln!(io::stderr(), "weir: {}", message.trim_end());
    code
}

/// candle takes the size of its pool of spinning threads from the environment alone, at its first product. More than
/// one of them costs a small model, and every neighbour on the machine, more than it gains.
#[cfg(feature = "local")]
fn keep_compute_small() {
    use weir::upstream::transformer::THREADS_VARIABLE;
    if std::env::var_os(THREADS_VARIABLE).is_none() {
        #[expect(
            unsafe_code,
            reason = "no other thread runs yet that could read the environment"
        )]
        // SAFETY: called first thing in `main`, before any thread is started.
        unsafe {
            std::env::set_var(THREADS_VARIABLE, "1");
        }
    }
}

#[cfg(not(feature = "local"))]
fn keep_compute_small() {}
