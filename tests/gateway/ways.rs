//! The ways to an upstream: sockets of this machine, proxies, private certificates, Azure; and streams that show that
//! they are alive.

use std::path::Path;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use crate::support::answers::{
    CHAT, DONE, LAST_CHUNK, STREAM_HEAD, ask, ask_stream, chat, chunk, delta, json_answer,
};
use crate::support::gateway::{Config, Gateway};
use crate::support::tls::Identity;
use crate::support::upstream::{Gate, Script, Upstream};

/// Reads one request, its body included, and returns its head.
async fn request<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some(end) = text.find("\r\n\r\n") {
            let head = text[..end].to_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "))
                .map_or(0, |length| length.parse().unwrap());
            if bytes.len() >= end + 4 + length {
                return text[..end].to_owned();
            }
        }
        assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "{text}");
    }
}

/// Answers every request on a connection, and keeps the heads.
async fn answer_all<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    heads: Arc<Mutex<Vec<String>>>,
) {
    loop {
        let head = request(&mut stream).await;
        heads.lock().unwrap().push(head);
        stream.write_all(&chat()).await.unwrap();
    }
}

#[tokio::test]
async fn a_server_on_a_socket_of_this_machine_is_an_upstream() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("llama.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&heads);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(answer_all(stream, Arc::clone(&kept)));
        }
    });
    let gateway = Config::new()
        .table(&format!(
            "[[upstream]]\nname = \"llama\"\nkind = \"openai\"\nbase_url = \"unix:{}:/api/v1\"",
            socket.display()
        ))
        .start()
        .await;
    for _ in 0..2 {
        let seen = gateway.client().chat(ask()).await;
        assert_eq!((seen.status, seen.text()), (200, CHAT.into()));
    }
    let heads = heads.lock().unwrap();
    assert_eq!(heads.len(), 2);
    assert!(
        heads[0].starts_with("POST /api/v1/chat/completions HTTP/1.1"),
        "{}",
        heads[0]
    );
    assert!(heads[0].contains("host: localhost"));
}

/// A proxy that answers plain requests itself and tunnels others to `target`.
async fn proxy(target: Option<std::net::SocketAddr>) -> (u16, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let heads = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&heads);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let kept = Arc::clone(&kept);
            tokio::spawn(async move {
                let Some(target) = target else {
                    return answer_all(stream, kept).await;
                };
                let head = request(&mut stream).await;
                kept.lock().unwrap().push(head);
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let mut onward = TcpStream::connect(target).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut onward).await;
            });
        }
    });
    (port, heads)
}

const AWAY: &str =
    "[[upstream]]\nname = \"away\"\nkind = \"openai\"\nbase_url = \"http://away.test:8000/v1\"";
/// `user:pass-word`, as Basic credentials.
const BASIC: &str = "proxy-authorization: basic dxnlcjpwyxnzlxdvcmq=";

#[tokio::test]
async fn plain_requests_go_through_a_proxy_of_the_file_or_the_environment() {
    for from_file in [true, false] {
        let (port, heads) = proxy(None).await;
        let url = format!("http://user:pass-word@127.0.0.1:{port}");
        let config = match from_file {
            true => Config::new().table(&format!("{AWAY}\nproxy = \"{url}\"")),
            false => Config::new().table(AWAY).env("HTTP_PROXY", &url),
        };
        let gateway = config.start().await;
        assert_eq!(gateway.client().chat(ask()).await.status, 200);
        let head = heads.lock().unwrap()[0].to_lowercase();
        assert!(
            head.starts_with("post http://away.test:8000/v1/chat/completions http/1.1"),
            "{head}"
        );
        assert!(head.contains(BASIC), "{head}");
        assert!(!gateway.output().contains("pass-word"));
    }
}

#[tokio::test]
async fn no_proxy_is_used_where_the_upstream_or_the_environment_says_so() {
    let (port, heads) = proxy(None).await;
    let url = format!("http://127.0.0.1:{port}");
    let upstream = Upstream::answering(chat()).await;
    for config in [
        Config::new().upstream("upstream", &upstream, "proxy = \"none\""),
        Config::over(&upstream).env("NO_PROXY", "127.0.0.1"),
    ] {
        let gateway = config.env("HTTP_PROXY", &url).start().await;
        assert_eq!(gateway.client().chat(ask()).await.status, 200);
    }
    assert!(heads.lock().unwrap().is_empty());
}

/// An upstream that wants TLS with a certificate of the client's, and how to reach it.
async fn mutual(server: &Identity, client: &Identity) -> std::net::SocketAddr {
    let acceptor = server.acceptor_for(client);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    answer_all(stream, Arc::default()).await;
                }
            });
        }
    });
    address
}

fn files(folder: &Path, server: &Identity, client: &Identity) {
    server.write(folder);
    std::fs::rename(folder.join("tls.crt"), folder.join("ca.pem")).unwrap();
    client.write(folder);
}

#[tokio::test]
async fn a_private_authority_is_trusted_and_a_certificate_shown_also_through_a_tunnel() {
    let (server, client) = (Identity::new(), Identity::new());
    let address = mutual(&server, &client).await;
    let (port, heads) = proxy(Some(address)).await;
    let table = |name: &str, more: &str| {
        format!(
            "[[upstream]]\nname = \"{name}\"\nkind = \"openai\"\nbase_url = \"https://localhost:{}/v1\"\nmodels = [\"{name}\"]\n{more}\n",
            address.port()
        )
    };
    let identity = "ca = \"ca.pem\", cert = \"tls.crt\", key = \"tls.key\"";
    let config = Config::new()
        .table(&table("mutual", &format!("tls = {{ {identity} }}")))
        .table(&table(
            "tunnel",
            &format!("tls = {{ {identity} }}\nproxy = \"http://user:pass-word@127.0.0.1:{port}\""),
        ))
        .table(&table("nobody", "tls = { ca = \"ca.pem\" }"))
        .table(&table("stranger", ""));
    files(config.path(), &server, &client);
    let gateway = config.start().await;
    let ask_of = async |model: &str| {
        let body = serde_json::json!({"model": model, "messages": []});
        gateway.client().chat(body).await
    };
    assert_eq!(ask_of("mutual").await.status, 200);
    assert_eq!(ask_of("tunnel").await.status, 200);
    ask_of("nobody")
        .await
        .error(502, "upstream_error", "upstream_error");
    ask_of("stranger")
        .await
        .error(502, "upstream_error", "upstream_error");
    let head = heads.lock().unwrap()[0].to_lowercase();
    assert!(
        head.starts_with(&format!("connect localhost:{} ", address.port())),
        "{head}"
    );
    assert!(head.contains(BASIC), "{head}");
}

#[tokio::test]
async fn azure_is_asked_by_deployment_and_version_with_its_own_header() {
    let upstream = Upstream::answering(chat()).await;
    let base = upstream.base_url().replace("/v1", "");
    let azure = |more: &str| {
        format!(
            "[[upstream]]\nname = \"azure\"\nkind = \"azure\"\nbase_url = \"{base}\"\napi_keys = [\"azure-key-0000\"]\n{more}"
        )
    };
    let dated = Config::new()
        .table(&azure("api_version = \"2024-10-21\""))
        .routed(
            "gpt-4o",
            "targets = [{ upstream = \"azure\", model = \"my deployment\" }]",
        )
        .start()
        .await;
    assert_eq!(dated.client().chat(ask()).await.status, 200);
    assert_eq!(dated.client().get("/v1/files?limit=1").await.status, 200);
    let v1 = Config::new().table(&azure("")).start().await;
    assert_eq!(v1.client().chat(ask()).await.status, 200);
    let calls = upstream.calls();
    let targets: Vec<&str> = calls.iter().map(|call| call.target.as_str()).collect();
    assert_eq!(
        targets,
        [
            "/openai/deployments/my%20deployment/chat/completions?api-version=2024-10-21",
            "/openai/files?api-version=2024-10-21&limit=1",
            "/openai/v1/chat/completions",
        ]
    );
    for call in &calls {
        assert_eq!(call.header("api-key"), Some("azure-key-0000"));
        assert_eq!(call.header("authorization"), None);
    }
}

#[tokio::test]
async fn a_proxy_of_the_environment_that_is_no_http_proxy_keeps_nobody_from_starting() {
    let config = Config::new().table(AWAY);
    let gateway = config
        .env("ALL_PROXY", "socks5://127.0.0.1:1")
        .start()
        .await;
    assert_eq!(gateway.operator().get("/healthz").await.status, 200);
}

/// A gateway whose streams show every second that they are alive.
async fn pinging(script: Script) -> (Gateway, Upstream) {
    let upstream = Upstream::start(move |_| script.clone()).await;
    let config = Config::over(&upstream).server("stream_ping = \"1s\"");
    (config.start().await, upstream)
}

#[tokio::test]
async fn a_stream_that_waits_for_its_first_word_shows_that_it_is_alive() {
    for head_first in [false, true] {
        let gate = Gate::new();
        let begun = match head_first {
            true => Script::new().send(STREAM_HEAD).until(&gate),
            false => Script::new().until(&gate).send(STREAM_HEAD),
        };
        let script = begun
            .send(chunk(delta("one")))
            .send(chunk(DONE))
            .send(LAST_CHUNK);
        let (gateway, _upstream) = pinging(script).await;
        let path = "/v1/chat/completions";
        let mut stream = gateway.client().stream(path, ask_stream()).await;
        assert_eq!(stream.status, 200);
        assert_eq!(stream.headers["content-type"], "text/event-stream");
        let answers = stream.headers.get("x-weir-upstream");
        assert!(answers.is_none(), "nobody has answered yet");
        let timing = stream.headers.get("server-timing");
        assert!(timing.is_none(), "nobody knows yet how long that takes");
        assert_eq!(stream.until("ping\n").await, ": ping\n");
        gate.open();
        let (rest, whole) = stream.rest().await;
        assert!(
            whole && rest.contains("one") && rest.ends_with(DONE),
            "{rest}"
        );
        gateway.idle().await;
    }
}

#[tokio::test]
async fn what_fails_behind_a_ping_is_an_error_event() {
    let error = json_answer(
        "400 Bad Request",
        "{\n\"error\":{\"message\":\"too long\"}}",
    );
    for (answer, expected) in [
        (None, "The upstream `upstream` broke off its answer."),
        (Some(error), "too long"),
    ] {
        let gate = Gate::new();
        let waiting = Script::new().until(&gate);
        let script = match answer {
            Some(answer) => waiting.send(answer),
            None => waiting.cut(),
        };
        let (gateway, _upstream) = pinging(script).await;
        let path = "/v1/chat/completions";
        let mut stream = gateway.client().stream(path, ask_stream()).await;
        assert_eq!(stream.until("ping\n").await, ": ping\n");
        gate.open();
        let (rest, whole) = stream.rest().await;
        assert!(
            whole && rest.contains("data: ") && rest.contains(expected),
            "{rest}"
        );
        assert!(rest.contains("error") && !rest.contains("[DONE]"), "{rest}");
        gateway.idle().await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_a_pinging_stream_cancels_its_call() {
    let (gateway, upstream) = pinging(Script::new().stall()).await;
    let mut stream = gateway
        .client()
        .stream("/v1/chat/completions", ask_stream())
        .await;
    assert_eq!(stream.until("ping\n").await, ": ping\n");
    drop(stream);
    upstream.left().await;
    gateway.idle().await;
}
