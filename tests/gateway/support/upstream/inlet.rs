//! Reads HTTP/1 requests off a connection, and knows when the other side has closed it.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{KEPT_BODY, Received, is_pattern};

pub(super) struct Inlet<R> {
    reader: R,
    buffer: Vec<u8>,
}

struct Body {
    kept: Vec<u8>,
    length: u64,
    is_pattern: bool,
}

impl<R: AsyncRead + Unpin> Inlet<R> {
    pub(super) fn new(reader: R) -> Self {
        Self {
            reader,
            buffer: Vec::new(),
        }
    }

    /// Returns when the other side has closed; what it sends meanwhile is kept for the next request.
    pub(super) async fn closed(&mut self) {
        while self.fill().await.is_ok() {}
    }

    /// Reads one request; an error when the connection ends instead.
    pub(super) async fn request(
        &mut self,
        connection: usize,
        answer: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<Received> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n\r\n") {
                break at + 4;
            }
            self.fill().await?;
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let mut received = parse(head, connection);
        if received.header("expect").is_some() {
            answer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
        }
        let mut body = Body {
            kept: Vec::new(),
            length: 0,
            is_pattern: true,
        };
        if received.header("transfer-encoding").is_some() {
            self.chunked(&mut body).await?;
        } else if let Some(length) = received.header("content-length") {
            let length = length.parse().unwrap();
            self.take(length, &mut body).await?;
        }
        received.body = body.kept;
        received.body_length = body.length;
        received.body_is_pattern = body.is_pattern;
        Ok(received)
    }

    async fn chunked(&mut self, body: &mut Body) -> io::Result<()> {
        loop {
            let line = self.line().await?;
            let size = line.split(';').next().unwrap_or_default().trim();
            let size = u64::from_str_radix(size, 16).map_err(io::Error::other)?;
            if size == 0 {
                while !self.line().await?.is_empty() {}
                return Ok(());
            }
            self.take(size, body).await?;
            self.line().await?;
        }
    }

    async fn take(&mut self, mut length: u64, body: &mut Body) -> io::Result<()> {
        while length > 0 {
            if self.buffer.is_empty() {
                self.fill().await?;
            }
            let now = self.buffer.len().min(usize::try_from(length).unwrap());
            body.add(&self.buffer[..now]);
            self.buffer.drain(..now);
            length -= now as u64;
        }
        Ok(())
    }

    async fn line(&mut self) -> io::Result<String> {
        let end = loop {
            if let Some(at) = find(&self.buffer, b"\r\n") {
                break at;
            }
            self.fill().await?;
        };
        let line = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.drain(..end + 2);
        Ok(line)
    }

    /// Reads what has come; never loses a byte when it is dropped while waiting.
    async fn fill(&mut self) -> io::Result<()> {
        self.buffer.reserve(64 << 10);
        match self.reader.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

impl Body {
    fn add(&mut self, bytes: &[u8]) {
        let room = KEPT_BODY - self.kept.len();
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        self.is_pattern = self.is_pattern && is_pattern(self.length, bytes);
        self.length += bytes.len() as u64;
    }
}

fn parse(head: Vec<u8>, connection: usize) -> Received {
    let text = String::from_utf8_lossy(&head).into_owned();
    let mut lines = text.split("\r\n");
    let mut first = lines.next().unwrap().splitn(3, ' ').map(str::to_owned);
    let headers = lines
        .take_while(|line| !line.is_empty())
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_owned(), value.trim().to_owned())
        })
        .collect();
    Received {
        method: first.next().unwrap(),
        target: first.next().unwrap(),
        version: first.next().unwrap(),
        headers,
        head,
        body: Vec::new(),
        body_length: 0,
        body_is_pattern: false,
        connection,
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    memchr::memmem::find(haystack, needle)
}
