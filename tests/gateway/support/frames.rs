//! An HTTP/2 upstream that is told each of its frames (RFC 9113): what no well-behaved library would send.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::tls::Identity;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// What one frame holds, unless the other side allows more.
const FRAME: usize = 16 << 10;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// RFC 9113, section 7.
pub const NO_ERROR: u32 = 0;
pub const INTERNAL_ERROR: u32 = 2;
pub const REFUSED_STREAM: u32 = 7;

/// One step of an answer.
#[derive(Clone)]
pub enum Step {
    /// Status 200 with this content type and these further headers.
    Head(&'static str, Vec<(&'static str, String)>),
    /// A part of the body.
    Data(String),
    /// The end of the body.
    End,
    /// RST_STREAM with this code.
    Reset(u32),
    /// GOAWAY with this code, which says that this request is, or is not, worked on.
    GoAway(u32, bool),
    /// The end of the connection.
    Close,
}

/// A listening upstream. It stops with this value.
pub struct Frames {
    address: SocketAddr,
    accepting: AbortHandle,
    shared: Arc<Shared>,
}

struct Shared {
    /// The answers to come, the last again and again.
    answers: Mutex<Vec<Vec<Step>>>,
    requests: AtomicUsize,
    connections: AtomicUsize,
}

impl Frames {
    /// Answers one request after the other, and all further ones as the last.
    pub async fn start(identity: &Identity, mut answers: Vec<Vec<Step>>) -> Self {
        answers.reverse();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            answers: Mutex::new(answers),
            requests: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(listener, identity.acceptor(), Arc::clone(&shared)));
        Self {
            address,
            accepting: accepting.abort_handle(),
            shared,
        }
    }

    /// What the gateway's configuration takes as its base URL.
    pub fn base_url(&self) -> String {
        format!("https://localhost:{}/v1", self.address.port())
    }

    /// How many requests have arrived whole.
    pub fn requests(&self) -> usize {
        self.shared.requests.load(Ordering::SeqCst)
    }

    /// How many connections were opened.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Frames {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, tls: TlsAcceptor, shared: Arc<Shared>) {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        shared.connections.fetch_add(1, Ordering::SeqCst);
        let (tls, shared) = (tls.clone(), Arc::clone(&shared));
        tokio::spawn(async move {
            if let Ok(stream) = tls.accept(stream).await {
                // The other side may leave whenever it likes.
                let _ = connection(stream, &shared).await;
            }
        });
    }
}

async fn connection(mut stream: TlsStream<TcpStream>, shared: &Shared) -> std::io::Result<()> {
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface).await?;
    assert_eq!(preface, PREFACE, "HTTP/2 was agreed on");
    write(&mut stream, SETTINGS, 0, 0, &[]).await?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let (kind, flags) = (head[3], head[4]);
        let id = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await?;
        match kind {
            SETTINGS if flags & ACK == 0 => write(&mut stream, SETTINGS, ACK, 0, &[]).await?,
            PING if flags & ACK == 0 => write(&mut stream, PING, ACK, 0, &payload).await?,
            HEADERS | DATA if flags & END_STREAM != 0 => {
                shared.requests.fetch_add(1, Ordering::SeqCst);
                let answer = {
                    let mut answers = shared.answers.lock().unwrap();
                    match answers.len() {
                        1 => answers[0].clone(),
                        _ => answers.pop().unwrap(),
                    }
                };
                for step in answer {
                    if matches!(step, Step::Close) {
                        return stream.shutdown().await;
                    }
                    play(&mut stream, id, step).await?;
                }
            }
            _ => {}
        }
    }
}

async fn play(stream: &mut TlsStream<TcpStream>, id: u32, step: Step) -> std::io::Result<()> {
    match step {
        Step::Head(content_type, more) => {
            // `:status: 200` of the static table, and literals without an index (RFC 7541).
            let mut block = vec![0x88];
            let content_type = ("content-type", content_type.to_owned());
            for (name, value) in [content_type].into_iter().chain(more) {
                block.push(0);
                string(&mut block, name);
                string(&mut block, &value);
            }
            let parts: Vec<&[u8]> = block.chunks(FRAME).collect();
            for (index, part) in parts.iter().enumerate() {
                let kind = if index == 0 { HEADERS } else { CONTINUATION };
                let is_last = index + 1 == parts.len();
                let flags = if is_last { END_HEADERS } else { 0 };
                write(stream, kind, flags, id, part).await?;
            }
            Ok(())
        }
        Step::Data(text) => write(stream, DATA, 0, id, text.as_bytes()).await,
        Step::End => write(stream, DATA, END_STREAM, id, &[]).await,
        Step::Reset(code) => write(stream, RST_STREAM, 0, id, &code.to_be_bytes()).await,
        Step::GoAway(code, works_on_it) => {
            let last = if works_on_it {
                id
            } else {
                id.saturating_sub(2)
            };
            let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
            write(stream, GOAWAY, 0, 0, &payload).await
        }
        Step::Close => Ok(()),
    }
}

/// A string as it is, its length in a prefix of seven bits (RFC 7541, section 5).
fn string(block: &mut Vec<u8>, text: &str) {
    match text.len() {
        length @ 0..127 => block.push(u8::try_from(length).unwrap()),
        length => {
            block.push(127);
            let mut left = length - 127;
            while left >= 128 {
                block.push(u8::try_from(left % 128).unwrap() | 128);
                left /= 128;
            }
            block.push(u8::try_from(left).unwrap());
        }
    }
    block.extend_from_slice(text.as_bytes());
}

async fn write(
    stream: &mut TlsStream<TcpStream>,
    kind: u8,
    flags: u8,
    id: u32,
    payload: &[u8],
) -> std::io::Result<()> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend_from_slice(&id.to_be_bytes());
    frame.extend_from_slice(payload);
    stream.write_all(&frame).await?;
    stream.flush().await
}
