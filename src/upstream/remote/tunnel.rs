//! WebSockets: once both sides have switched (RFC 6455), the connections are joined and their bytes left alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_util::io::{InspectReader, InspectWriter};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::body::{Received, RequestBody};
use super::{Credential, Params, UpstreamError, answer, request};
use crate::call::headers::keep_end_to_end;
use crate::call::{Call, Reply, Traffic, Tunnel};

const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const UPGRADE: HeaderValue = HeaderValue::from_static("upgrade");

/// Builds the request that asks the upstream to switch.
pub(super) fn request(
    mut call: Box<Call>,
    number: usize,
    credential: Option<&Credential>,
    params: &Params,
) -> Result<(Request<RequestBody>, Option<OnUpgrade>), UpstreamError> {
    let client = call.upgrade.take();
    let mut request = request::build(call, number, None, credential, params)?;
    request.headers_mut().insert(header::CONNECTION, UPGRADE);
    request.headers_mut().insert(header::UPGRADE, WEBSOCKET);
    Ok((request, client))
}

/// Answers the client's request to switch, and joins the two connections as soon as both have.
pub(super) fn open(
    response: Response<Received>,
    client: Option<OnUpgrade>,
    tunnels: &(TaskTracker, CancellationToken),
) -> Reply {
    let status = response.status();
    let mut headers = response.headers().clone();
    keep_end_to_end(&mut headers, &answer::NOT_RETURNED);
    headers.insert(header::CONNECTION, UPGRADE);
    headers.insert(header::UPGRADE, WEBSOCKET);
    let reply = Reply::full(status, headers, Bytes::new());
    let Some(client) = client else {
        return reply;
    };
    let (tunnel, until_the_end) = Tunnel::new();
    let upstream = hyper::upgrade::on(response);
    let traffic = Arc::clone(tunnel.traffic());
    let (tracker, end) = tunnels;
    let end = end.clone();
    tracker.spawn(async move {
        tokio::select! {
            () = join(client, upstream, &traffic) => {}
            () = end.cancelled() => {}
        }
        drop(until_the_end);
    });
    reply.switched(tunnel)
}

async fn join(client: OnUpgrade, upstream: OnUpgrade, traffic: &Traffic) {
    let Ok((client, upstream)) = tokio::try_join!(client, upstream) else {
        return;
    };
    let count = |counter: &AtomicU64, bytes: &[u8]| {
        counter.fetch_add(bytes.len() as u64, Ordering::Relaxed);
    };
    let client = InspectReader::new(TokioIo::new(client), |bytes| {
        count(&traffic.received, bytes)
    });
    let mut client = InspectWriter::new(client, |bytes| count(&traffic.sent, bytes));
    let mut upstream = TokioIo::new(upstream);
    if let Err(error) = tokio::io::copy_bidirectional(&mut client, &mut upstream).await {
        tracing::debug!(%error, "a tunnel broke");
    }
}
