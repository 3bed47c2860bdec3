//! A pass-through body, guarded: it breaks when it stalls or grows too large.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

use super::Params;
use crate::call::{UploadBody, UploadError};

/// A pass-through body, guarded.
pub(super) struct Bounded<B> {
    inner: B,
    /// Bytes that may still come.
    left: u64,
    params: Params,
    /// Runs while nothing comes.
    idle: Option<Pin<Box<Sleep>>>,
    /// Whether it runs.
    waiting: bool,
}

impl<B> Bounded<B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
{
    /// Holds a body to the bounds of what passes through.
    pub(super) fn new(inner: B, params: Params) -> Self {
        Self {
            inner,
            left: params.max_upload,
            params,
            idle: None,
            waiting: false,
        }
    }

    /// Returns it as the body of an upload.
    pub(super) fn boxed(self) -> UploadBody {
        Box::pin(self)
    }

    /// Is ready when nothing has come for too long.
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<UploadError> {
        let limit = self.params.body_idle_timeout;
        let idle = self
            .idle
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        if !self.waiting {
            idle.as_mut().reset(Instant::now() + limit);
            self.waiting = true;
        }
        idle.as_mut()
            .poll(cx)
            .map(|()| UploadError::Stalled { limit })
    }
}

impl<B> Body for Bounded<B>
where
    B: Body<Data = Bytes> + Unpin + Send + 'static,
{
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let this = &mut *self;
        let frame = match Pin::new(&mut this.inner).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => return Poll::Ready(Some(Err(ready!(this.poll_idle(cx))))),
        };
        this.waiting = false;
        Poll::Ready(match frame {
            None => None,
            Some(Err(_)) => Some(Err(UploadError::Broken)),
            Some(Ok(frame)) => {
                let size = frame.data_ref().map_or(0, |data| data.len() as u64);
                match this.left.checked_sub(size) {
                    None => Some(Err(UploadError::TooLarge {
                        limit: this.params.max_upload,
                    })),
                    Some(left) => {
                        this.left = left;
                        Some(Ok(frame))
                    }
                }
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::super::scripted::{PARAMS, pieces};
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn uploads_break_when_they_stall_or_grow() {
        let stalled = Bounded::new(pieces(vec![(1, "a"), (11, "b")]), PARAMS)
            .collect()
            .await;
        assert_eq!(
            stalled.unwrap_err(),
            UploadError::Stalled {
                limit: PARAMS.body_idle_timeout
            }
        );
        let large = Bounded::new(pieces(vec![(9, "123456789"), (9, "123456789")]), PARAMS)
            .collect()
            .await;
        assert_eq!(large.unwrap_err(), UploadError::TooLarge { limit: 16 });
    }
}
