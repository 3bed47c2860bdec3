//! Orderly stop, in steps: stop accepting; after a short grace close what lies idle; when the deadline passes end what
//! still runs; then break off.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long kept connections may still bring a request after the stop was asked for: a request that lay unread when
/// the signal came is answered.
const GRACE: Duration = Duration::from_millis(250);

/// How long streams that were told to end may take to say so.
const FAREWELL: Duration = Duration::from_secs(1);

/// The stages of a stop, shared by everything that must take part in it.
#[derive(Clone, Debug, Default)]
pub struct Drain {
    stages: Arc<Stages>,
    tasks: TaskTracker,
}

#[derive(Debug, Default)]
struct Stages {
    began: CancellationToken,
    idle: CancellationToken,
    deadline: CancellationToken,
    abort: CancellationToken,
}

impl Drain {
    /// Returns whether a stop was asked for.
    pub fn has_begun(&self) -> bool {
        self.stages.began.is_cancelled()
    }

    /// Cancelled when a stop was asked for: accept nothing more.
    pub fn began(&self) -> &CancellationToken {
        &self.stages.began
    }

    /// Cancelled when idle connections are to be closed.
    pub fn idle(&self) -> &CancellationToken {
        &self.stages.idle
    }

    /// Cancelled when streams are to be ended.
    pub fn deadline(&self) -> &CancellationToken {
        &self.stages.deadline
    }

    /// Cancelled when everything is to be dropped.
    pub fn abort(&self) -> &CancellationToken {
        &self.stages.abort
    }

    /// The tasks that a stop waits for.
    pub fn tasks(&self) -> &TaskTracker {
        &self.tasks
    }

    /// Walks through the stages, at most `timeout` until the deadline. Returns whether everything ended by itself.
    pub async fn run(&self, timeout: Duration) -> bool {
        self.stages.began.cancel();
        self.tasks.close();
        let ended = tokio::time::timeout(timeout, async {
            let _ = tokio::time::timeout(GRACE.min(timeout), self.tasks.wait()).await;
            self.stages.idle.cancel();
            self.tasks.wait().await;
        });
        if ended.await.is_ok() {
            return true;
        }
        self.stages.idle.cancel();
        self.stages.deadline.cancel();
        let _ = tokio::time::timeout(FAREWELL, self.tasks.wait()).await;
        self.stages.abort.cancel();
        let _ = tokio::time::timeout(FAREWELL, self.tasks.wait()).await;
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ends_with_the_last_task() {
        let drain = Drain::default();
        drain
            .tasks()
            .spawn(tokio::time::sleep(Duration::from_secs(3)));
        let start = tokio::time::Instant::now();
        assert!(drain.run(Duration::from_secs(30)).await);
        assert_eq!(start.elapsed().as_secs(), 3);
        assert!(!drain.deadline().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn endless_tasks_are_told_to_end_at_the_deadline() {
        let drain = Drain::default();
        let deadline = drain.deadline().clone();
        drain
            .tasks()
            .spawn(async move { deadline.cancelled().await });
        let start = tokio::time::Instant::now();
        assert!(!drain.run(Duration::from_secs(30)).await);
        assert_eq!(start.elapsed().as_secs(), 30);
    }

    #[tokio::test(start_paused = true)]
    async fn deaf_tasks_are_left() {
        let drain = Drain::default();
        drain.tasks().spawn(std::future::pending::<()>());
        let start = tokio::time::Instant::now();
        assert!(!drain.run(Duration::from_secs(30)).await);
        assert!(start.elapsed() <= Duration::from_secs(33));
    }
}
