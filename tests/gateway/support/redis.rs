//! A real Redis of a test's own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::eventually;

/// A running Redis. It dies with this value.
pub struct Redis {
    child: Child,
    arguments: Vec<String>,
    dir: TempDir,
    address: Address,
}

enum Address {
    Socket(PathBuf),
    Port(u16),
}

impl Redis {
    /// Starts one that listens on a socket in a folder of its own.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// The same with more arguments.
    pub async fn with(arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("redis.sock");
        let mut all = vec!["--port", "0", "--unixsocket", socket.to_str().unwrap()];
        all.extend(arguments);
        let all = all.into_iter().map(str::to_owned).collect();
        Self::run(all, dir, Address::Socket(socket)).await
    }

    /// Starts one that listens on a free port; `arguments` are told the port, and the folder.
    pub async fn on_port(arguments: impl Fn(u16, &Path) -> Vec<String>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut all = vec!["--bind".to_owned(), "127.0.0.1".to_owned()];
        let own = arguments(port, dir.path());
        if !own.iter().any(|argument| argument == "--port") {
            all.extend(["--port".to_owned(), port.to_string()]);
        }
        all.extend(own);
        Self::run(all, dir, Address::Port(port)).await
    }

    async fn run(arguments: Vec<String>, dir: TempDir, address: Address) -> Self {
        let child = spawn(&arguments, dir.path());
        let redis = Self {
            child,
            arguments,
            dir,
            address,
        };
        redis.ready().await;
        redis
    }

    async fn ready(&self) {
        eventually("redis listens", async || {
            match &self.address {
                Address::Socket(path) => std::os::unix::net::UnixStream::connect(path).is_ok(),
                Address::Port(port) => std::net::TcpStream::connect(("127.0.0.1", *port)).is_ok(),
            }
            .then_some(())
        })
        .await;
    }

    /// Where it is; `credentials` are those of the URL, such as `user:password@`.
    pub fn url(&self) -> String {
        match &self.address {
            Address::Socket(path) => format!("redis+unix://{}", path.display()),
            Address::Port(port) => format!("redis://127.0.0.1:{port}"),
        }
    }

    /// The socket that it listens on.
    pub fn socket(&self) -> PathBuf {
        match &self.address {
            Address::Socket(path) => path.clone(),
            Address::Port(_) => panic!("it listens on a port"),
        }
    }

    pub fn port(&self) -> u16 {
        match &self.address {
            Address::Socket(_) => panic!("it listens on a socket"),
            Address::Port(port) => *port,
        }
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// `[redis]` with more lines.
    pub fn table(&self, lines: &str) -> String {
        format!("[redis]\nurl = \"{}\"\n{lines}\n", self.url())
    }

    /// Sends a signal, such as `STOP`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("sh")
            .args(["-c", &format!("kill -{name} {}", self.child.id())])
            .status()
            .unwrap();
        assert!(status.success(), "kill -{name} failed");
    }

    /// Ends it, as if its power was cut.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again, empty, where it was.
    pub async fn restart(&mut self) {
        if let Address::Socket(path) = &self.address {
            let _ = std::fs::remove_file(path);
        }
        self.child = spawn(&self.arguments, self.dir.path());
        self.ready().await;
    }

    /// What `redis-cli` says of a command.
    pub fn ask(&self, command: &[&str]) -> String {
        let mut cli = Command::new("redis-cli");
        match &self.address {
            Address::Socket(path) => cli.arg("-s").arg(path),
            Address::Port(port) => cli.args(["-p", &port.to_string()]),
        };
        let output = cli.args(command).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }

    /// How often our functions were called.
    pub fn function_calls(&self) -> u64 {
        let stats = self.ask(&["INFO", "commandstats"]);
        let line = stats
            .lines()
            .find_map(|line| line.strip_prefix("cmdstat_fcall:calls="));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(arguments: &[String], folder: &Path) -> Child {
    Command::new("redis-server")
        .args(["--save", "", "--appendonly", "no"])
        .args(arguments)
        .current_dir(folder)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server is installed")
}

/// Returns a port that nobody listens on at the moment.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}
