//! What other processes change: gateways that share the ledger, and `weir keys` at its file.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::made::made;
use super::{Directory, DirectoryError};
use crate::store::ledger::{Notice, ReadError};

/// How often the ledger is looked at: a key that was revoked elsewhere opens nothing for longer than that and a moment.
const PERIOD: Duration = Duration::from_secs(1);

impl Directory {
    /// Takes over what others change, and counts budgets that are to be counted, for as long as it is polled.
    pub async fn follow(self: Arc<Self>) {
        tokio::join!(self.keep_looking(), self.keep_counting());
    }

    async fn keep_looking(&self) {
        let mut notice = self.ledger.notice();
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut failing = false;
        loop {
            ticks.tick().await;
            let looked = self.look(&mut notice).await;
            match &looked {
                Err(error) if !failing => tracing::error!(
                    %error,
                    "the ledger cannot be looked at; keys that others change stay as they were"
                ),
                Err(_) | Ok(()) => {}
            }
            failing = looked.is_err();
        }
    }

    /// Looks once, and takes over what has changed. Its budgets are to be counted then.
    pub(super) async fn look(&self, notice: &mut Notice) -> Result<(), DirectoryError> {
        // From before the look: what this process changes meanwhile must not be undone by what was read before it.
        let mut counting = self.changing.lock().await;
        let mut looking = std::mem::replace(notice, self.ledger.notice());
        let looked = tokio::task::spawn_blocking(move || {
            let found = looking.look(made);
            (looking, found)
        });
        let (looking, found) = looked.await.map_err(|_| ReadError::BrokeOff)?;
        *notice = looking;
        let Some(made) = found? else {
            return Ok(());
        };
        if self.entries().made == made {
            return Ok(());
        }
        tracing::info!("keys or teams were changed by another process");
        let list = self.update(&counting, |entries| {
            entries.made = made;
            entries.warn();
        });
        counting.owe(list);
        Ok(())
    }
}
