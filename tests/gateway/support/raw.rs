//! A client that sends any bytes and reads answers by the letter of HTTP/1.

use std::io;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::patiently;

/// A connection on which the test itself writes the bytes.
pub struct Raw {
    stream: TcpStream,
    buffer: Vec<u8>,
}

/// The head of an answer.
#[derive(Clone, Debug)]
pub struct Head {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct RawAnswer {
    pub head: Head,
    pub body: Vec<u8>,
}

// === impl Raw ===

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    /// Writes these bytes. A peer that has already closed is no failure: what it answered is what counts.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = patiently("sending", self.stream.write_all(bytes.as_ref())).await;
    }

    /// Writes these bytes, and tells whether the peer still took them.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Reads the next final answer.
    pub async fn answer(&mut self) -> RawAnswer {
        patiently("reading an answer", self.read_answer())
            .await
            .expect("an answer before the connection ends")
    }

    /// Reads the next final answer, or nothing when the connection ends without one.
    pub async fn maybe_answer(&mut self) -> Option<RawAnswer> {
        patiently("reading an answer", self.read_answer())
            .await
            .ok()
    }

    /// Reads the next head, be it an interim one.
    pub async fn head(&mut self) -> Head {
        patiently("reading a head", self.read_head())
            .await
            .expect("a head before the connection ends")
    }

    /// Waits until the gateway has closed the connection; tells what still came before that.
    pub async fn closed(&mut self) -> Vec<u8> {
        patiently("the gateway closes the connection", async {
            while self.fill().await.is_ok() {}
        })
        .await;
        std::mem::take(&mut self.buffer)
    }

    async fn read_answer(&mut self) -> io::Result<RawAnswer> {
        let head = loop {
            let head = self.read_head().await?;
            if head.status >= 200 {
                break head;
            }
        };
        let body = if head.header("transfer-encoding").is_some() {
            self.chunked().await?
        } else if let Some(length) = head.header("content-length") {
            self.take(length.parse().map_err(io::Error::other)?).await?
        } else {
            while self.fill().await.is_ok() {}
            std::mem::take(&mut self.buffer)
        };
        Ok(RawAnswer { head, body })
    }

    async fn read_head(&mut self) -> io::Result<Head> {
        loop {
            if let Some((head, rest)) = parse_head(&self.buffer) {
                self.buffer = rest;
                return Ok(head);
            }
            self.fill().await?;
        }
    }

    async fn chunked(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                match memchr::memmem::find(&self.buffer, b"\r\n") {
                    Some(at) => break at,
                    None => self.fill().await?,
                }
            };
            let line = String::from_utf8_lossy(&self.take(end + 2).await?).into_owned();
            let size = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            body.extend(self.take(size).await?);
            self.take(2).await?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    async fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.buffer.len() < length {
            self.fill().await?;
        }
        Ok(self.buffer.drain(..length).collect())
    }

    async fn fill(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

// === impl Head ===

impl Head {
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
}

// === impl RawAnswer ===

impl RawAnswer {
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// Checks that this is the error envelope, and returns its code.
    pub fn code(&self) -> String {
        assert_eq!(self.head.header("content-type"), Some("application/json"));
        let body: Value = serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| panic!("not JSON: {}", String::from_utf8_lossy(&self.body)));
        super::answers::error_code(&body)
    }
}

/// Reads a head and what follows it, once the head is whole.
pub fn parse_head(bytes: &[u8]) -> Option<(Head, Vec<u8>)> {
    let end = memchr::memmem::find(bytes, b"\r\n\r\n")?;
    let text = String::from_utf8_lossy(&bytes[..end]);
    let mut lines = text.split("\r\n");
    let mut first = lines.next().unwrap().splitn(3, ' ');
    let status = first.nth(1).unwrap().parse().unwrap();
    let headers = lines
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_owned(), value.trim().to_owned())
        })
        .collect();
    let head = Head { status, headers };
    Some((head, bytes[end + 4..].to_vec()))
}
