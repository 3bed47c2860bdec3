//! What a request waits for before its last byte leaves.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use super::LedgerError;
use super::queue::Promise;

/// Tells when a row is safe. Dropping it changes nothing: the row is written all the same.
#[derive(Debug)]
pub struct Receipt(Told);

#[derive(Debug)]
enum Told {
    Already(Result<(), LedgerError>),
    Later(oneshot::Receiver<Result<(), LedgerError>>),
}

impl Receipt {
    pub(super) fn new(promise: Result<Promise, LedgerError>) -> Self {
        Self(match promise {
            Ok(Promise::Kept) => Told::Already(Ok(())),
            Ok(Promise::Later(receiver) | Promise::Owed(receiver)) => Told::Later(receiver),
            Err(error) => Told::Already(Err(error)),
        })
    }

    /// Returns the receipt of a row that needs no writing any more.
    pub fn written() -> Self {
        Self(Told::Already(Ok(())))
    }
}

impl Future for Receipt {
    type Output = Result<(), LedgerError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.get_mut().0 {
            Told::Later(receiver) => Pin::new(receiver)
                .poll(cx)
                .map(|told| told.unwrap_or(Err(LedgerError::Closed))),
            Told::Already(told) => Poll::Ready(*told),
        }
    }
}
