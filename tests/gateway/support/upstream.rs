//! An upstream that does exactly what a test tells it to, down to the byte, and remembers exactly what it was asked.

mod inlet;
mod play;
mod script;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use serde_json::Value;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;

pub use script::{Gate, Script, is_pattern, pattern};

use super::eventually;
use super::tls::Identity;

/// How much of a request's body is kept.
const KEPT_BODY: usize = 1 << 20;

/// One request as it arrived.
#[derive(Clone, Debug)]
pub struct Received {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    /// The request line and the headers, byte for byte (empty on HTTP/2).
    pub head: Vec<u8>,
    /// The body without its framing, its first MiB.
    pub body: Vec<u8>,
    pub body_length: u64,
    /// Whether all of the body was the [`pattern`].
    pub body_is_pattern: bool,
    /// Which connection it came on, counted from 0.
    pub connection: usize,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub version: String,
}

/// How the playing of an answer ended.
#[derive(Clone, Copy, Debug)]
pub enum Ending {
    /// The script is through.
    Finished,
    /// The other side closed the connection (or, on HTTP/2, reset the stream) before the script was through.
    Left(Instant),
}

/// A listening upstream. It stops with this value.
pub struct Upstream {
    shared: Arc<Shared>,
    address: SocketAddr,
    scheme: &'static str,
    accepting: AbortHandle,
}

struct Shared {
    script: Box<dyn Fn(&Received) -> Script + Send + Sync>,
    requests: Mutex<Vec<(Received, Option<Ending>)>>,
    connections: AtomicUsize,
    open: AtomicUsize,
    sent: AtomicU64,
}

// === impl Received ===

impl Received {
    /// Returns the value of a header that came at most once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self
            .headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str());
        let first = values.next();
        assert!(values.next().is_none(), "{name} came more than once");
        first
    }

    /// Returns the body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

// === impl Upstream ===

impl Upstream {
    /// Listens on plain TCP and answers each request with the script that the function returns for it.
    pub async fn start(script: impl Fn(&Received) -> Script + Send + Sync + 'static) -> Self {
        Self::listen("http", None, script).await
    }

    /// Answers every request with the same bytes.
    pub async fn answering(bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self::start(move |_| Script::new().send(bytes.clone())).await
    }

    /// Listens on TLS; speaks HTTP/2 where the client offers it.
    pub async fn start_tls(
        identity: &Identity,
        script: impl Fn(&Received) -> Script + Send + Sync + 'static,
    ) -> Self {
        Self::listen("https", Some(identity.acceptor()), script).await
    }

    async fn listen(
        scheme: &'static str,
        tls: Option<TlsAcceptor>,
        script: impl Fn(&Received) -> Script + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            script: Box::new(script),
            requests: Mutex::default(),
            connections: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            sent: AtomicU64::new(0),
        });
        let accepting = tokio::spawn(accept(listener, tls, Arc::clone(&shared))).abort_handle();
        Self {
            shared,
            address,
            scheme,
            accepting,
        }
    }

    /// What the gateway's configuration takes as its base URL.
    pub fn base_url(&self) -> String {
        // The certificates of the tests are for the name.
        match self.scheme {
            "https" => format!("https://localhost:{}/v1", self.address.port()),
            scheme => format!("{scheme}://{}/v1", self.address),
        }
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Received> {
        let requests = self.shared.requests.lock().unwrap();
        requests.iter().map(|(r, _)| r.clone()).collect()
    }

    /// The requests so far that are not the gateway's own listing of the models.
    pub fn calls(&self) -> Vec<Received> {
        let mut requests = self.requests();
        requests.retain(|r| !(r.method == "GET" && r.target == "/v1/models"));
        requests
    }

    /// The only call so far.
    pub fn call(&self) -> Received {
        let mut calls = self.calls();
        assert_eq!(calls.len(), 1, "the upstream saw {calls:?}");
        calls.remove(0)
    }

    /// Waits until this many calls have arrived.
    pub async fn called(&self, times: usize) -> Vec<Received> {
        eventually("the upstream is called", async || {
            let calls = self.calls();
            (calls.len() >= times).then_some(calls)
        })
        .await
    }

    /// Waits until the other side has left the first call before the script was through; returns when it did.
    pub async fn left(&self) -> Instant {
        eventually("the gateway leaves the upstream", async || {
            let requests = self.shared.requests.lock().unwrap();
            let call = requests
                .iter()
                .find(|(r, _)| !(r.method == "GET" && r.target == "/v1/models"))?;
            match call.1? {
                Ending::Left(at) => Some(at),
                Ending::Finished => panic!("the gateway took the whole answer"),
            }
        })
        .await
    }

    /// How many connections were opened so far.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many connections are open now.
    pub fn open_connections(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// How many bytes of answers the system has taken from it so far.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

// === impl Shared ===

impl Shared {
    fn record(&self, request: Received) -> usize {
        let mut requests = self.requests.lock().unwrap();
        requests.push((request, None));
        requests.len() - 1
    }

    fn ended(&self, request: usize, ending: Ending) {
        self.requests.lock().unwrap()[request].1 = Some(ending);
    }
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let number = shared.connections.fetch_add(1, Ordering::SeqCst);
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            shared.open.fetch_add(1, Ordering::SeqCst);
            connection(stream, tls, &shared, number).await;
            shared.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn connection(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    shared: &Arc<Shared>,
    number: usize,
) {
    stream.set_nodelay(true).unwrap();
    let stream = stream.into_std().unwrap();
    let socket = stream.try_clone().unwrap();
    let stream = TcpStream::from_std(stream).unwrap();
    let Some(tls) = tls else {
        return play::http1(stream, socket, shared, number).await;
    };
    // A handshake that fails is the gateway's to report.
    let Ok(stream) = tls.accept(stream).await else {
        return;
    };
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        play::http2(stream, shared, number).await;
    } else {
        play::http1(stream, socket, shared, number).await;
    }
}
