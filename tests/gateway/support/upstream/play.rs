//! Plays the scripts on connections.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::inlet::Inlet;
use super::script::{Step, is_pattern, pattern};
use super::{Ending, KEPT_BODY, Received, Script, Shared};
use crate::support::raw;

/// Why a connection does not go on.
enum End {
    Cut,
    Left,
}

pub(super) async fn http1(
    stream: impl AsyncRead + AsyncWrite,
    socket: std::net::TcpStream,
    shared: &Shared,
    number: usize,
) {
    let (reader, mut writer) = tokio::io::split(stream);
    let mut inlet = Inlet::new(Box::pin(reader));
    while let Ok(received) = inlet.request(number, &mut writer).await {
        let script = (shared.script)(&received);
        let request = shared.record(received);
        let played = play(script, &mut inlet, &mut writer, &socket, shared).await;
        let ending = match played {
            Err(End::Left) => Ending::Left(Instant::now()),
            Ok(()) | Err(End::Cut) => Ending::Finished,
        };
        shared.ended(request, ending);
        if played.is_err() {
            break;
        }
    }
}

async fn play(
    script: Script,
    inlet: &mut Inlet<impl AsyncRead + Unpin>,
    writer: &mut (impl AsyncWrite + Unpin),
    socket: &std::net::TcpStream,
    shared: &Shared,
) -> Result<(), End> {
    for step in script.steps {
        let work = async {
            match step {
                Step::Send(bytes) => {
                    writer.write_all(&bytes).await?;
                    shared.sent.fetch_add(bytes.len() as u64, Ordering::SeqCst);
                    writer.flush().await?;
                }
                Step::Fill(length) => fill(length, writer, shared).await?,
                Step::Pause(time) => tokio::time::sleep(time).await,
                Step::Until(gate) => gate.pass().await,
                Step::Stall => std::future::pending().await,
                Step::Cut => {
                    let _ = writer.shutdown().await;
                    return Ok(Err(End::Cut));
                }
                Step::Reset => {
                    socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO))?;
                    return Ok(Err(End::Cut));
                }
            }
            io::Result::Ok(Ok(()))
        };
        tokio::select! {
            biased;
            done = work => done.unwrap_or(Err(End::Left))?,
            () = inlet.closed() => return Err(End::Left),
        }
    }
    Ok(())
}

async fn fill(
    length: u64,
    writer: &mut (impl AsyncWrite + Unpin),
    shared: &Shared,
) -> io::Result<()> {
    let mut offset = 0;
    while offset < length {
        let now = usize::try_from((length - offset).min(64 << 10)).unwrap();
        writer.write_all(&pattern(offset, now)).await?;
        offset += now as u64;
        shared.sent.fetch_add(now as u64, Ordering::SeqCst);
    }
    writer.flush().await
}

pub(super) async fn http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    shared: &Arc<Shared>,
    number: usize,
) {
    let service = service_fn(|request| {
        let shared = Arc::clone(shared);
        async move { Ok::<_, Infallible>(exchange(request, shared, number).await) }
    });
    let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(stream), service)
        .await;
}

type Frames =
    StreamBody<futures_util::stream::BoxStream<'static, Result<Frame<Bytes>, Infallible>>>;

/// One exchange on HTTP/2: the script is the same as on HTTP/1, its first `send` holds the head and no framing of
/// the body but an end of the script.
async fn exchange(
    request: http::Request<Incoming>,
    shared: Arc<Shared>,
    connection: usize,
) -> http::Response<Frames> {
    let (parts, body) = request.into_parts();
    let body = body
        .collect()
        .await
        .map(|b| b.to_bytes())
        .unwrap_or_default();
    let headers = parts.headers.iter();
    let received = Received {
        method: parts.method.to_string(),
        target: parts.uri.path_and_query().unwrap().to_string(),
        version: format!("{:?}", parts.version),
        headers: headers
            .map(|(n, v)| (n.to_string(), String::from_utf8_lossy(v.as_bytes()).into()))
            .collect(),
        head: Vec::new(),
        body: body[..body.len().min(KEPT_BODY)].to_vec(),
        body_length: body.len() as u64,
        body_is_pattern: is_pattern(0, &body),
        connection,
    };
    let script = (shared.script)(&received);
    let number = shared.record(received);
    let mut steps = script.steps.into_iter();
    let Some(Step::Send(first)) = steps.next() else {
        panic!("a script for HTTP/2 begins with the answer's head")
    };
    let (head, rest) = raw::parse_head(&first).expect("the first step holds the whole head");
    let (sender, mut receiver) = mpsc::channel::<Bytes>(1);
    tokio::spawn(async move {
        let work = async {
            let mut left = sender.send(rest.into()).await.is_err();
            for step in steps {
                match step {
                    Step::Send(bytes) => left |= sender.send(bytes.into()).await.is_err(),
                    Step::Pause(time) => tokio::time::sleep(time).await,
                    Step::Until(gate) => gate.pass().await,
                    Step::Stall => std::future::pending().await,
                    Step::Fill(_) | Step::Cut | Step::Reset => panic!("not on HTTP/2"),
                }
            }
            left
        };
        let left = tokio::select! {
            left = work => left,
            () = sender.closed() => true,
        };
        let ending = if left {
            Ending::Left(Instant::now())
        } else {
            Ending::Finished
        };
        shared.ended(number, ending);
    });
    let frames = futures_util::stream::poll_fn(move |cx| {
        receiver
            .poll_recv(cx)
            .map(|piece| piece.map(|bytes| Ok(Frame::data(bytes))))
    });
    let mut response = http::Response::builder().status(head.status);
    for (name, value) in head.headers {
        // What HTTP/1 needs for its framing is forbidden here.
        if !["transfer-encoding", "connection"].contains(&name.to_ascii_lowercase().as_str()) {
            response = response.header(name, value);
        }
    }
    response
        .body(StreamBody::new(Box::pin(frames) as _))
        .unwrap()
}
