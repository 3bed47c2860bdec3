//! A real Redis for tests.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::{Library, Params, Redis, Servers};

/// A Redis of a test's own, on a socket that nobody else knows.
pub(crate) struct Server {
    child: Child,
    folder: TempDir,
}

impl Server {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let child = Command::new("redis-server")
            .args(["--port", "0", "--save", "", "--appendonly", "no"])
            .arg("--unixsocket")
            .arg(folder.path().join("redis.sock"))
            .arg("--dir")
            .arg(folder.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        Self { child, folder }
    }

    /// Connects to it.
    pub(crate) async fn redis(&self, library: Library) -> Redis {
        let url = format!("redis+unix://{}/redis.sock", self.folder.path().display());
        let redis = Redis::open(Params {
            servers: Servers::parse(&[&url], false).unwrap(),
            timeout: Duration::from_secs(10),
            libraries: vec![library],
            what: "tests",
        });
        let redis = redis.await.unwrap();
        redis.up().wait_for(|up| *up).await.unwrap();
        redis
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
