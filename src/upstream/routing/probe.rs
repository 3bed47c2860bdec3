//! Active health checks: each endpoint is asked in its own rhythm, and what it says counts beside the requests.

use std::sync::{Arc, Weak};

use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Dispatch;
use crate::upstream::member::{Checks, Endpoint, Member};

impl Dispatch {
    /// Starts the health checks of those upstreams that have any and are not in `known`, whose checks run already. Each
    /// ends when its upstream is gone, or when `stop` is cancelled.
    pub fn start_checks(
        &self,
        known: &[Arc<Member>],
        tasks: &TaskTracker,
        stop: &CancellationToken,
    ) {
        for member in self.members() {
            let Some(checks) = &member.checks else {
                continue;
            };
            if known.iter().any(|known| Arc::ptr_eq(known, member)) {
                continue;
            }
            for index in 0..member.endpoints.len() {
                let task = check(Arc::downgrade(member), index, checks.clone());
                let stop = stop.clone();
                tasks.spawn(async move {
                    tokio::select! {
                        () = task => {}
                        () = stop.cancelled() => {}
                    }
                });
            }
        }
    }
}

async fn check(member: Weak<Member>, index: usize, checks: Checks) {
    let mut ticks = interval(checks.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(member) = member.upgrade() else {
            return;
        };
        let Some(endpoint) = member.endpoints.get(index) else {
            return;
        };
        ask(&member, endpoint, &checks).await;
    }
}

async fn ask(member: &Member, endpoint: &Endpoint, checks: &Checks) {
    let began = Instant::now();
    let credential = member.credentials.shown(began);
    let asked = endpoint.service.probe(&checks.path, credential);
    let failed = !matches!(timeout(checks.timeout, asked).await, Ok(Ok(())));
    endpoint.checked(failed, began);
}
