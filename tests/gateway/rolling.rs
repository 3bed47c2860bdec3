//! Ten thousand requests across a rolling failure of three endpoints and twenty reloads: as long as one endpoint is well,
//! no client sees that another one is not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};

use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

use crate::support::answers::{CHAT, ask, chat};
use crate::support::client::whole;
use crate::support::gateway::Config;
use crate::support::{KEY, patiently};

const REQUESTS: usize = 10_000;
const CLIENTS: usize = 24;
const RELOADS: usize = 20;

const WELL: u8 = 0;
const ANSWERS_500: u8 = 1;
const RESETS: u8 = 2;
const CUTS_ITS_ANSWERS: u8 = 3;

/// An endpoint that can be told how to fail, and be closed and opened again at the same address.
struct Endpoint {
    address: SocketAddr,
    mood: Arc<AtomicU8>,
    listening: Option<AbortHandle>,
}

impl Endpoint {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut endpoint = Self {
            address: listener.local_addr().unwrap(),
            mood: Arc::default(),
            listening: None,
        };
        endpoint.listen(listener);
        endpoint
    }

    fn listen(&mut self, listener: TcpListener) {
        let mood = Arc::clone(&self.mood);
        let listening = tokio::spawn(async move {
            // The connections end with the task.
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, Arc::clone(&mood)));
            }
        });
        self.listening = Some(listening.abort_handle());
    }

    fn close(&mut self) {
        self.listening.take().unwrap().abort();
    }

    async fn open(&mut self) {
        // The socket of the aborted task closes a moment later.
        let listener = loop {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.set_reuseaddr(true).unwrap();
            if socket.bind(self.address).is_ok()
                && let Ok(listener) = socket.listen(128)
            {
                break listener;
            }
            tokio::task::yield_now().await;
        };
        self.listen(listener);
    }

    fn is(&self, mood: u8) {
        self.mood.store(mood, Ordering::SeqCst);
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        if let Some(listening) = &self.listening {
            listening.abort();
        }
    }
}

/// Answers requests on one connection for as long as the mood allows.
async fn serve(mut stream: TcpStream, mood: Arc<AtomicU8>) {
    let mut pending = Vec::new();
    loop {
        while let Some(length) = request_length(&pending) {
            pending.drain(..length);
            let answer = match mood.load(Ordering::SeqCst) {
                ANSWERS_500 => b"HTTP/1.1 500 Oops\r\ncontent-length: 2\r\n\r\n{}".to_vec(),
                RESETS => {
                    stream.set_zero_linger().unwrap();
                    return;
                }
                CUTS_ITS_ANSWERS => chat()[..200].to_vec(),
                _ => chat(),
            };
            let is_cut = answer.len() == 200;
            if stream.write_all(&answer).await.is_err() || is_cut {
                return;
            }
        }
        if !matches!(stream.read_buf(&mut pending).await, Ok(1..)) {
            return;
        }
    }
}

/// Returns the length of the first whole request.
fn request_length(bytes: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(bytes);
    let head = text.find("\r\n\r\n")? + 4;
    let lengths = text[..head].lines().filter_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse::<usize>().ok())?
    });
    let length = head + lengths.sum::<usize>();
    (bytes.len() >= length).then_some(length)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_sees_a_failure_that_a_healthy_endpoint_could_have_answered() {
    let mut endpoints = [
        Endpoint::start().await,
        Endpoint::start().await,
        Endpoint::start().await,
    ];
    let mut config =
        Config::new().retry("attempts = 2\nbackoff = { base = \"5ms\", max = \"20ms\" }");
    for (name, endpoint) in ["a", "b", "c"].iter().zip(&endpoints) {
        config = config.table(&format!(
            "[[upstream]]\nname = \"{name}\"\nkind = \"openai\"\nbase_url = \"http://{}/v1\"\nmodels = [\"{name}-*\"]\neject = {{ base = \"100ms\", max = \"200ms\" }}",
            endpoint.address
        ));
    }
    let gateway = config
        .routed(
            "gpt-4o",
            "targets = [{ upstream = \"a\" }, { upstream = \"b\" }, { upstream = \"c\" }]",
        )
        .start()
        .await;

    let client = Client::builder(TokioExecutor::new()).build_http();
    let asked = Arc::new(AtomicUsize::new(0));
    let (answered, mut seen) = watch::channel(0);
    let answered = Arc::new(answered);
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (client, url) = (
            client.clone(),
            format!("{}/chat/completions", gateway.base_url()),
        );
        let (asked, answered) = (Arc::clone(&asked), Arc::clone(&answered));
        clients.spawn(async move {
            while asked.fetch_add(1, Ordering::SeqCst) < REQUESTS {
                let request = Request::builder()
                    .method(Method::POST)
                    .uri(&url)
                    .header("authorization", format!("Bearer {KEY}"))
                    .header("content-type", "application/json")
                    .body(whole(ask()))
                    .unwrap();
                let response = client.request(request).await.unwrap();
                let status = response.status();
                let body = response.into_body().collect().await.unwrap().to_bytes();
                assert_eq!(status, StatusCode::OK, "{}", String::from_utf8_lossy(&body));
                assert_eq!(body, CHAT.as_bytes());
                answered.send_modify(|count| *count += 1);
            }
        });
    }
    // One after another fails, each time in another way and only when the one before is well again.
    let mut reached = async |count: usize| {
        seen.wait_for(|answered| *answered >= count).await.unwrap();
    };
    for round in 0..RELOADS {
        let failing = &mut endpoints[round % 3];
        let begin = round * REQUESTS / RELOADS;
        match round % 4 {
            0 => failing.is(ANSWERS_500),
            1 => failing.is(RESETS),
            2 => failing.close(),
            _ => failing.is(CUTS_ITS_ANSWERS),
        }
        let half = begin + REQUESTS / RELOADS / 2;
        patiently("half of the round", reached(half.min(REQUESTS - CLIENTS))).await;
        gateway.rewrite(|text| format!("{text}\n# round {round}\n"));
        assert_eq!(gateway.reload().await.json()["reloaded"], true);
        if failing.listening.is_none() {
            failing.open().await;
        }
        failing.is(WELL);
        let end = begin + REQUESTS / RELOADS;
        patiently("the round", reached(end.min(REQUESTS - CLIENTS))).await;
    }
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    assert_eq!(*answered.borrow(), REQUESTS);
    gateway.idle().await;
    let metrics = gateway.metrics().await;
    assert!(
        metrics.contains("weir_upstream_ejections_total"),
        "{metrics}"
    );
}
