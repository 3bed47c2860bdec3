//! A question to Redis whose answer is wanted even when nobody waits for it any more.

use std::pin::Pin;
use std::task::{Context, Poll};

use redis::RedisError;
use tokio::runtime::Handle;

type Answering<T> = Pin<Box<dyn Future<Output = Result<T, RedisError>> + Send>>;

/// A question that answers whoever waits for it. Where it is dropped before its answer has come, a task of its own waits
/// on, and hands the answer to `late`.
pub(super) struct Question<T: Send + 'static, L: FnOnce(T) + Send + 'static> {
    /// Both are there until it is answered.
    open: Option<(Answering<T>, L)>,
}

/// Nothing in it is pinned but what has a box of its own.
impl<T: Send, L: FnOnce(T) + Send> Unpin for Question<T, L> {}

impl<T: Send, L: FnOnce(T) + Send> Question<T, L> {
    pub(super) fn new(
        answering: impl Future<Output = Result<T, RedisError>> + Send + 'static,
        late: L,
    ) -> Self {
        Self {
            open: Some((Box::pin(answering), late)),
        }
    }
}

impl<T: Send, L: FnOnce(T) + Send> Future for Question<T, L> {
    type Output = Result<T, RedisError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // Taken out meanwhile: what panics is asked no further.
        let Some((mut answering, late)) = self.open.take() else {
            return Poll::Pending;
        };
        let answer = answering.as_mut().poll(cx);
        if answer.is_pending() {
            self.open = Some((answering, late));
        }
        answer
    }
}

impl<T: Send, L: FnOnce(T) + Send> Drop for Question<T, L> {
    fn drop(&mut self) {
        // Where the runtime has ended, so have the connections.
        let (Some((answering, late)), Ok(runtime)) = (self.open.take(), Handle::try_current())
        else {
            return;
        };
        runtime.spawn(async move {
            if let Ok(answer) = answering.await {
                late(answer);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn an_answer_goes_to_whoever_waits_and_otherwise_to_those_who_come_late() {
        let waited = Question::new(async { Ok(1) }, |_: i32| panic!("somebody has waited"));
        assert_eq!(waited.await.unwrap(), 1);

        let (answer, answering) = oneshot::channel();
        let (tell, told) = oneshot::channel();
        let asked = Question::new(
            async { Ok(answering.await.unwrap()) },
            move |answer: i32| tell.send(answer).unwrap(),
        );
        drop(asked);
        answer.send(2).unwrap();
        assert_eq!(told.await.unwrap(), 2);
    }

    #[tokio::test]
    async fn what_has_panicked_is_asked_no_further() {
        let (tell, told) = oneshot::channel();
        let asked = Question::new(
            std::future::poll_fn(|_| panic!("as a bug would")),
            move |answer: i32| tell.send(answer).unwrap(),
        );
        assert!(tokio::spawn(asked).await.unwrap_err().is_panic());
        told.await.unwrap_err();
    }
}
