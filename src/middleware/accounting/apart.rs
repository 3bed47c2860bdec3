//! Counting that takes long, beside the workers that serve everybody.

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

use crate::tokens;

/// Texts up to this size are counted where they are: that takes a millisecond, and to make room for others some of it, too.
const SHORT: usize = 32 << 10;

/// Counts what is in so many bytes. Where that takes long, or waits for vocabularies that are still being loaded, other
/// requests are not kept waiting for it: another thread takes over the worker's. A runtime that has but one thread has none
/// to spare.
pub(super) fn counted<T>(bytes: usize, count: impl FnOnce() -> T) -> T {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    match flavor {
        Ok(RuntimeFlavor::MultiThread) if bytes > SHORT || !tokens::is_warm() => {
            block_in_place(count)
        }
        _ => count(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    #[test]
    fn what_takes_long_holds_up_nobody() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .unwrap();
        let (other, is_served) = mpsc::channel();
        let counting = runtime.spawn(async move {
            tokio::spawn(async move { other.send(()) });
            // It ends when the other one was served, which the same worker would have to do.
            counted(SHORT + 1, || {
                is_served.recv_timeout(std::time::Duration::from_secs(20))
            })
        });
        assert_eq!(runtime.block_on(counting).unwrap(), Ok(()));
    }

    #[tokio::test]
    async fn a_runtime_of_one_thread_counts_where_it_is() {
        assert_eq!(counted(SHORT + 1, || 7), 7);
    }
}
