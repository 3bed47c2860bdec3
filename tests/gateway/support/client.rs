//! A small client: one connection per request, so that dropping an answer closes it.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use super::{answers, patiently};

/// Where to ask, and the headers that every request carries.
#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    headers: Vec<(String, String)>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

/// An answer whose body comes piece by piece. Dropping it closes the connection.
pub struct Stream {
    pub status: u16,
    pub headers: HeaderMap,
    body: Incoming,
    _connection: Connection,
}

/// The task that drives a connection. It ends with this value, and so does the connection.
pub struct Connection(AbortHandle);

pub type Body = BoxBody<Bytes, std::io::Error>;

// === impl Client ===

impl Client {
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            headers: Vec::new(),
        }
    }

    /// The same client with one more header.
    pub fn with_header(&self, name: &str, value: &str) -> Self {
        let mut client = self.clone();
        client.headers.push((name.into(), value.into()));
        client
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.request(Method::GET, path, "").await
    }

    /// Posts JSON, or text that is meant to be.
    pub async fn post(&self, path: &str, body: impl Into<Payload>) -> Answer {
        self.with_header("content-type", "application/json")
            .request(Method::POST, path, body)
            .await
    }

    /// Posts JSON to the chat endpoint.
    pub async fn chat(&self, body: impl Into<Payload>) -> Answer {
        self.post("/v1/chat/completions", body).await
    }

    pub async fn request(&self, method: Method, path: &str, body: impl Into<Payload>) -> Answer {
        let stream = self.open(method, path, body).await;
        patiently("reading the answer", stream.whole()).await
    }

    /// Posts JSON and returns once the answer's head is there.
    pub async fn stream(&self, path: &str, body: impl Into<Payload>) -> Stream {
        self.with_header("content-type", "application/json")
            .open(Method::POST, path, body)
            .await
    }

    /// Sends a request and returns once the answer's head is there.
    pub async fn open(&self, method: Method, path: &str, body: impl Into<Payload>) -> Stream {
        self.open_body(method, path, whole(body)).await
    }

    /// Sends a request whose body is a stream of its own.
    pub async fn open_body(&self, method: Method, path: &str, body: Body) -> Stream {
        self.try_open(method, path, body)
            .await
            .unwrap_or_else(|error| panic!("no answer from {}: {error:?}", self.address))
    }

    /// Sends a request that may be left without an answer.
    pub async fn try_open(&self, method: Method, path: &str, body: Body) -> hyper::Result<Stream> {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", self.address.to_string());
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        let request = request.body(body).unwrap();
        patiently("an answer's head", self.exchange(request)).await
    }

    async fn exchange(&self, request: Request<Body>) -> hyper::Result<Stream> {
        let stream = TcpStream::connect(self.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = Connection::drive(connection);
        let response = sender.send_request(request).await?;
        Ok(Stream::new(response, connection))
    }
}

// === impl Stream ===

impl Stream {
    pub fn new(response: Response<Incoming>, connection: Connection) -> Self {
        let (parts, body) = response.into_parts();
        Self {
            status: parts.status.as_u16(),
            headers: parts.headers,
            body,
            _connection: connection,
        }
    }

    /// Returns the next piece as it came, nothing at the end, or the transfer's failure.
    pub async fn next(&mut self) -> Result<Option<Bytes>, hyper::Error> {
        loop {
            match patiently("the next piece", self.body.frame()).await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// Reads on until the text read so far ends with this.
    pub async fn until(&mut self, ending: &str) -> String {
        let mut text = String::new();
        while !text.ends_with(ending) {
            match self.next().await {
                Ok(Some(piece)) => text.push_str(std::str::from_utf8(&piece).unwrap()),
                end => panic!("the stream ended with {end:?} after {text:?}"),
            }
        }
        text
    }

    /// Reads to the end; tells also whether the transfer ended well.
    pub async fn rest(&mut self) -> (String, bool) {
        let mut bytes = Vec::new();
        loop {
            match self.next().await {
                Ok(Some(piece)) => bytes.extend_from_slice(&piece),
                Ok(None) => return (String::from_utf8(bytes).unwrap(), true),
                Err(_) => return (String::from_utf8(bytes).unwrap(), false),
            }
        }
    }

    async fn whole(mut self) -> Answer {
        let mut body = Vec::new();
        while let Some(piece) = self.next().await.expect("the answer is whole") {
            body.extend_from_slice(&piece);
        }
        Answer {
            status: self.status,
            headers: std::mem::take(&mut self.headers),
            body: body.into(),
        }
    }
}

// === impl Connection ===

impl Connection {
    pub fn drive<T: Send + 'static>(connection: impl Future<Output = T> + Send + 'static) -> Self {
        Self(tokio::spawn(connection).abort_handle())
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

// === impl Answer ===

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8(self.body.to_vec()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("not JSON: {}", String::from_utf8_lossy(&self.body)))
    }

    /// Returns the value of a header that came at most once.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.get_all(name).iter();
        let first = values.next();
        assert!(values.next().is_none(), "{name} came more than once");
        first.map(|value| value.to_str().unwrap())
    }

    /// Checks that this is an error as section 5 of the contract has it, and returns its code.
    #[track_caller]
    pub fn error(&self, status: u16, kind: &str, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert!(
            self.header("x-request-id").is_some_and(|id| !id.is_empty()),
            "no request id: {:?}",
            self.headers
        );
        let body = self.json();
        assert_eq!(answers::error_code(&body), code, "{body}");
        assert_eq!(body["error"]["type"], kind, "{body}");
        body["error"].clone()
    }
}

/// A body that is there already.
pub fn whole(body: impl Into<Payload>) -> Body {
    Full::new(body.into().0)
        .map_err(|never| match never {})
        .boxed()
}

/// What can be the body of a request.
pub struct Payload(pub Bytes);

impl From<&'static str> for Payload {
    fn from(text: &'static str) -> Self {
        Self(text.into())
    }
}

impl From<String> for Payload {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl From<Vec<u8>> for Payload {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes.into())
    }
}

impl From<Value> for Payload {
    fn from(value: Value) -> Self {
        Self(value.to_string().into())
    }
}
