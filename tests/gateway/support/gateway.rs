//! The real binary, its configuration, and what can be seen of it from outside.

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use super::client::{Answer, Client};
use super::upstream::Upstream;
use super::{ADMIN_TOKEN, CREDENTIAL, KEY, PATIENCE, eventually};

/// A configuration in the making, in a temp folder of its own.
pub struct Config {
    server: String,
    retry: String,
    tables: String,
    environment: Vec<(String, String)>,
    key: bool,
    token: bool,
    dir: TempDir,
}

/// A running gateway. It dies with this value, and shows its log when the test has failed.
pub struct Gateway {
    child: Child,
    data: SocketAddr,
    admin: SocketAddr,
    output: Output,
    environment: Vec<(String, String)>,
    /// Where its configuration lies, and its ledger.
    pub dir: TempDir,
}

/// Everything that a process has written, as it comes.
#[derive(Clone, Default)]
pub struct Output {
    stderr: Arc<Mutex<String>>,
    stdout: Arc<Mutex<String>>,
}

/// A command that has ended.
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

// === impl Config ===

impl Config {
    /// Both listeners on free ports, a JSON log, one key, and no retries: what is tried once can be counted.
    pub fn new() -> Self {
        Self {
            server: String::new(),
            retry: "attempts = 0".into(),
            tables: String::new(),
            environment: Vec::new(),
            key: true,
            token: true,
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// [`Config::new`] with one upstream named `upstream` that takes everything.
    pub fn over(upstream: &Upstream) -> Self {
        Self::new().upstream("upstream", upstream, "")
    }

    /// Adds a remote upstream; `more` are further lines of its table.
    pub fn upstream(self, name: &str, upstream: &Upstream, more: &str) -> Self {
        self.table(&format!(
            "[[upstream]]\nname = \"{name}\"\nkind = \"openai\"\nbase_url = \"{}\"\napi_keys = [\"{CREDENTIAL}\"]\n{more}\n",
            upstream.base_url()
        ))
    }

    /// Adds the bundled model under the name `poet`.
    #[cfg(feature = "local")]
    pub fn local(self) -> Self {
        self.table(
            "[[upstream]]\nname = \"local\"\nkind = \"local\"\nmodel = \"bundled:poet\"\nmodels = [\"poet\"]\n",
        )
    }

    /// Adds a route from one model name to one upstream and a name there.
    pub fn route(self, model: &str, upstream: &str, renamed: &str) -> Self {
        self.table(&format!(
            "[[route]]\nmodel = \"{model}\"\ntargets = [{{ upstream = \"{upstream}\", model = \"{renamed}\" }}]\n"
        ))
    }

    /// Adds lines to `[server]`.
    pub fn server(mut self, lines: &str) -> Self {
        self.server.push_str(lines);
        self.server.push('\n');
        self
    }

    /// Writes `[retry]`.
    pub fn retry(mut self, lines: &str) -> Self {
        self.retry = lines.into();
        self
    }

    /// Adds a route from one model name; `lines` are the rest of its table, such as its targets.
    pub fn routed(self, model: &str, lines: &str) -> Self {
        self.table(&format!("[[route]]\nmodel = \"{model}\"\n{lines}\n"))
    }

    /// Adds whole tables.
    pub fn table(mut self, text: &str) -> Self {
        self.tables.push_str(text);
        self.tables.push('\n');
        self
    }

    /// Leaves out the usual key: the test brings its own.
    pub fn without_key(mut self) -> Self {
        self.key = false;
        self
    }

    /// Leaves out the admin token.
    pub fn without_admin_token(mut self) -> Self {
        self.token = false;
        self
    }

    /// Sets an environment variable of the gateway.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.into(), value.into()));
        self
    }

    /// The folder in which the configuration will lie; files named in it by relative paths belong here.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let token = match self.token {
            true => format!("token = \"{ADMIN_TOKEN}\"\n"),
            false => String::new(),
        };
        let mut text = format!(
            "[server]\nlisten = \"127.0.0.1:0\"\n{}\n[admin]\nlisten = \"127.0.0.1:0\"\n{token}\n[log]\nformat = \"json\"\n\n[retry]\n{}\n\n{}",
            self.server, self.retry, self.tables
        );
        if self.key {
            write!(text, "[[key]]\nname = \"alice\"\nsecret = \"{KEY}\"\n").unwrap();
        }
        text
    }

    /// Starts the binary and waits until both listeners have told their addresses.
    pub async fn start(self) -> Gateway {
        let file = self.dir.path().join("weir.toml");
        std::fs::write(&file, self.text()).unwrap();
        let (child, output) = spawn(&mut serving(self.dir.path(), &self.environment));
        // From here on the child dies with this value, also when the wait fails.
        let unbound = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut gateway = Gateway {
            child,
            data: unbound,
            admin: unbound,
            output,
            environment: self.environment,
            dir: self.dir,
        };
        gateway.listening().await;
        gateway
    }
}

/// The command that serves what lies in a folder.
fn serving(folder: &Path, environment: &[(String, String)]) -> Command {
    let mut command = weir(folder);
    command
        .args(["serve", "--config"])
        .arg(folder.join("weir.toml"));
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    command
}

// === impl Gateway ===

impl Gateway {
    /// Starts the usual configuration over one upstream.
    pub async fn over(upstream: &Upstream) -> Self {
        Config::over(upstream).start().await
    }

    /// Starts it again in its folder, on other ports, once it has ended.
    pub async fn restart(&mut self) -> ExitStatus {
        let status = self.exit().await;
        let (child, output) = spawn(&mut serving(self.dir.path(), &self.environment));
        self.child = child;
        self.output = output;
        self.listening().await;
        status
    }

    /// Reads the ledger: each row of the query as text, its columns with a space between them, NULL as `-`.
    pub fn ledger(&self, query: &str) -> Vec<String> {
        let path = self.dir.path().join(".local/share/weir/weir.db");
        self.committed(path.parent().unwrap());
        let flags = rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY;
        let ledger = rusqlite::Connection::open_with_flags(path, flags).unwrap();
        let mut select = ledger.prepare(query).unwrap();
        let columns = select.column_count();
        let rows = select.query_map([], |row| {
            let text = |index| {
                use rusqlite::types::Value;
                Ok(match row.get::<_, Value>(index)? {
                    Value::Null => "-".to_owned(),
                    Value::Integer(number) => number.to_string(),
                    Value::Text(text) => text,
                    other => format!("{other:?}"),
                })
            };
            let columns: Result<Vec<String>, rusqlite::Error> = (0..columns).map(text).collect();
            Ok(columns?.join(" "))
        });
        rows.unwrap().collect::<Result<_, _>>().unwrap()
    }

    /// Waits until what the gateway has promised is in its ledger: its journal is empty then. One that cannot write is
    /// not waited for.
    fn committed(&self, folder: &std::path::Path) {
        let is_empty = || {
            let files = std::fs::read_dir(folder).unwrap();
            let files = files.filter_map(Result::ok);
            let mut journals =
                files.filter(|file| file.file_name().to_string_lossy().contains("-run-"));
            journals.all(|file| !std::fs::read(file.path()).is_ok_and(|file| promises(&file)))
        };
        let until = std::time::Instant::now() + std::time::Duration::from_secs(2);
        while !is_empty() && std::time::Instant::now() < until {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    async fn listening(&mut self) {
        self.data = self.bound("data").await;
        self.admin = self.bound("admin").await;
    }

    /// The address of the data plane.
    pub fn data(&self) -> SocketAddr {
        self.data
    }

    /// The address of the admin plane.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// What an SDK takes as its base URL.
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.data)
    }

    /// A client of the data plane, with the usual key.
    pub fn client(&self) -> Client {
        Client::new(self.data).with_header("authorization", &format!("Bearer {KEY}"))
    }

    /// A client of the data plane without a key.
    pub fn stranger(&self) -> Client {
        Client::new(self.data)
    }

    /// A client of the admin plane, with its token.
    pub fn operator(&self) -> Client {
        Client::new(self.admin).with_header("authorization", &format!("Bearer {ADMIN_TOKEN}"))
    }

    /// Replaces the configuration file by another text, as editors do: written beside it and renamed.
    pub fn rewrite(&self, edit: impl FnOnce(&str) -> String) {
        let file = self.dir.path().join("weir.toml");
        let text = edit(&std::fs::read_to_string(&file).unwrap());
        let beside = self.dir.path().join("weir.toml.new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(beside, file).unwrap();
    }

    /// Has the admin API reload.
    pub async fn reload(&self) -> Answer {
        self.operator().post("/admin/v1/reload", "").await
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal, such as `TERM`.
    pub fn signal(&self, name: &str) {
        // The shell's own `kill`: the program of that name is not on every machine.
        let status = Command::new("sh")
            .args(["-c", &format!("kill -{name} {}", self.child.id())])
            .status()
            .unwrap();
        assert!(status.success(), "kill -{name} failed");
    }

    /// Returns the exit status if the process has ended.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// Waits until the process has ended.
    pub async fn exit(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually("the gateway ends", async || child.try_wait().unwrap()).await
    }

    /// Everything it has written so far, standard output and standard error.
    pub fn output(&self) -> String {
        format!("{}{}", self.output.stdout(), self.output.stderr())
    }

    /// The log's lines so far.
    pub fn log(&self) -> Vec<Value> {
        self.output.lines()
    }

    /// Waits for a log line that the probe accepts.
    pub async fn logged(&self, what: &str, accept: impl Fn(&Value) -> bool) -> Value {
        eventually(what, async || {
            self.log().into_iter().find(|line| accept(line))
        })
        .await
    }

    /// The most memory that the process has ever held, in bytes.
    pub fn peak_memory(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// The memory that the process holds now, in bytes.
    pub fn resident_memory(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The processor time that the process has used.
    #[cfg(feature = "local")]
    pub fn cpu_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid())).unwrap();
        // Behind the name, which may hold anything: state, and then user and system time as the 12th and 13th.
        let fields = stat
            .rsplit_once(") ")
            .unwrap()
            .1
            .split(' ')
            .skip(11)
            .take(2);
        let ticks: u64 = fields.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Duration::from_millis(ticks * 10)
    }

    fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap();
        let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
        kib * 1024
    }

    /// The text of `/metrics`.
    pub async fn metrics(&self) -> String {
        let answer = Client::new(self.admin).get("/metrics").await;
        assert_eq!(answer.status, 200);
        answer.text()
    }

    /// Waits until every in-flight gauge is back at zero.
    pub async fn idle(&self) {
        eventually("the in-flight gauges come back to 0", async || {
            let metrics = self.metrics().await;
            let gauges: Vec<&str> = metrics
                .lines()
                .filter(|line| line.starts_with("weir_") && line.contains("in_flight"))
                .filter(|line| !line.contains("_limit"))
                .collect();
            assert!(!gauges.is_empty(), "no in-flight gauge in /metrics");
            gauges.iter().all(|line| line.ends_with(" 0")).then_some(())
        })
        .await;
    }

    async fn bound(&mut self, listener: &str) -> SocketAddr {
        let what = format!("the {listener} listener tells its address");
        let (child, output) = (&mut self.child, &self.output);
        eventually(&what, async || {
            let found = output.lines().into_iter().find(|line| {
                field(line, "message") == Some("listening")
                    && field(line, "listener") == Some(listener)
            });
            if found.is_none()
                && let Some(status) = child.try_wait().unwrap()
            {
                panic!("the gateway ended with {status} before it served");
            }
            found.and_then(|line| field(&line, "address")?.parse().ok())
        })
        .await
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the gateway's output ---\n{}---", self.output());
        }
    }
}

// === impl Output ===

impl Output {
    pub fn stdout(&self) -> String {
        self.stdout.lock().unwrap().clone()
    }

    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    fn lines(&self) -> Vec<Value> {
        let text = self.stderr();
        text.lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }
}

/// Returns a text field of a log line.
fn field<'a>(line: &'a Value, name: &str) -> Option<&'a str> {
    line.get(name)
        .or_else(|| line.get("fields")?.get(name))?
        .as_str()
}

/// The binary with an environment of its own: nothing of the machine's settings reaches it.
pub fn weir(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command
        .current_dir(home)
        .env_clear()
        .env("HOME", home)
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub async fn run(command: Command) -> Ended {
    run_for(PATIENCE, command).await
}

/// Runs a command to its end, which must come within this time.
pub async fn run_for(time: Duration, mut command: Command) -> Ended {
    let (mut child, output) = spawn(&mut command);
    let deadline = Instant::now() + time;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!(
                "{command:?} does not end: {}{}",
                output.stdout(),
                output.stderr()
            );
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    // The pipes may still hold the last words.
    eventually("the output ends", async || {
        let readers = Arc::strong_count(&output.stdout) + Arc::strong_count(&output.stderr) - 2;
        (readers == 0).then_some(())
    })
    .await;
    Ended {
        status,
        stdout: output.stdout(),
        stderr: output.stderr(),
    }
}

/// Starts a command whose output is kept as it comes.
pub fn spawn(command: &mut Command) -> (Child, Output) {
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
    let output = Output::default();
    keep(child.stdout.take().unwrap(), Arc::clone(&output.stdout));
    keep(child.stderr.take().unwrap(), Arc::clone(&output.stderr));
    (child, output)
}

/// Reads a pipe to its end on a thread of its own.
fn keep(pipe: impl Read + Send + 'static, into: Arc<Mutex<String>>) {
    std::thread::spawn(move || {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(pipe.read_until(b'\n', &mut line), Ok(1..)) {
            into.lock()
                .unwrap()
                .push_str(&String::from_utf8_lossy(&line));
            line.clear();
        }
    });
}

/// Returns whether a file of a journal holds records of its generation, which its head names, and each frame behind its mark.
fn promises(journal: &[u8]) -> bool {
    const MARK: &[u8] = b"\0wjr";
    let Some(generation) = journal.get(8..12) else {
        return false;
    };
    let mut frames = memchr::memmem::find_iter(journal, MARK);
    frames.any(|at| journal.get(at + MARK.len()..at + MARK.len() + 4) == Some(generation))
}
