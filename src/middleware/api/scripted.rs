//! Bodies that come as a test says, and bounds for them.

use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame};
use http_body_util::StreamBody;

use super::Params;

/// Bounds that a few bytes reach.
pub(super) const PARAMS: Params = Params {
    max_body: 16,
    max_upload: 16,
    max_json_depth: 8,
    body_idle_timeout: Duration::from_secs(10),
    body_timeout: Duration::from_secs(30),
};

/// Returns a body of these pieces, each so many seconds after the one before it.
pub(super) fn pieces(
    pieces: Vec<(u64, &'static str)>,
) -> impl Body<Data = Bytes, Error = std::convert::Infallible> + Unpin + Send + 'static {
    let stream = futures_util::stream::unfold(pieces.into_iter(), |mut pieces| async move {
        let (secs, text) = pieces.next()?;
        tokio::time::sleep(Duration::from_secs(secs)).await;
        Some((Ok(Frame::data(Bytes::from_static(text.as_bytes()))), pieces))
    });
    StreamBody::new(Box::pin(stream))
}
