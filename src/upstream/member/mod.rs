//! One configured upstream as calls meet it: its endpoints, its credentials, and what is known of them.

mod credentials;
mod gate;
pub mod health;
mod load;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tower::retry::budget::{Budget, TpsBudget};

pub use self::credentials::{Aside, Credentials};
pub use self::gate::{Full, Gate, Pass};
use self::health::{Change, Health, Seen, Standing};
pub use self::load::Load;
use self::load::Wait;
use super::{Timeouts, Upstream};
use crate::metrics::{Metrics, Snapshot};
use crate::pattern::Pattern;

/// How long a request counts for the retry budget.
const BUDGET_WINDOW: Duration = Duration::from_secs(10);
/// Retries a second that are allowed however little traffic there is: a quiet gateway has no share to give.
const BUDGET_RESERVE: u32 = 3;

/// An upstream, and what it takes.
pub struct Member {
    /// Its name.
    pub name: Arc<str>,
    /// What tells it from another one of its name that was configured otherwise.
    pub identity: u64,
    /// The models that it serves.
    pub models: Vec<Pattern>,
    /// The pass-through paths that it takes.
    pub paths: Vec<Pattern>,
    /// Whether it is a model in this process.
    pub local: bool,
    /// Where it answers: at least one.
    pub endpoints: Vec<Arc<Endpoint>>,
    /// What it is shown.
    pub credentials: Credentials,
    /// How many calls it gets at once; `None`: any number.
    pub gate: Option<Arc<Gate>>,
    /// Retries as a share of requests.
    pub budget: Arc<RetryBudget>,
    /// How long it may take.
    pub timeouts: Timeouts,
    /// How many endpoints are asked as a last resort, however they fail.
    pub floor: usize,
    /// Active health checks.
    pub checks: Option<Checks>,
}

/// Active health checks of an upstream's endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checks {
    /// What is asked for, below the base URL.
    pub path: String,
    /// The time between two checks.
    pub interval: Duration,
    /// How long one may take.
    pub timeout: Duration,
}

/// One address of an upstream.
pub struct Endpoint {
    /// The upstream's name.
    pub upstream: Arc<str>,
    /// What tells it from the upstream's others: its address without anything secret.
    pub label: Arc<str>,
    /// What answers there.
    pub service: Arc<dyn Upstream>,
    /// How its answers end.
    pub health: Arc<Health>,
    /// How slow and busy it is.
    pub load: Arc<Load>,
    /// Where ejections are counted.
    pub metrics: Arc<Metrics>,
}

/// Retries as a share of an upstream's requests, so that an outage is not amplified.
///
/// Finagle's budget, as tower builds it: each request deposits, each retry withdraws, and deposits are forgotten after
/// ten seconds; three retries a second are always allowed.
#[derive(Debug)]
pub struct RetryBudget(Option<TpsBudget>);

/// A call under way at an endpoint: it counts as load until it is dropped, and its end as health.
pub struct Ticket {
    endpoint: Arc<Endpoint>,
    began: Instant,
    /// From when on it says something of the endpoint that nothing has come; `None`: never.
    patience: Option<Duration>,
    progress: Progress,
    /// While it waits for its first byte.
    wait: Option<Wait>,
    trial: Option<Trial>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Waiting,
    Begun,
    Ended,
}

/// The one trial of an endpoint that is to come back. Dropped without an observation it is free again.
pub struct Trial {
    endpoint: Arc<Endpoint>,
    number: u64,
}

// === impl Member ===

impl Member {
    /// Returns whether a call sent now could be answered: an endpoint is in use, or due for its trial, or asked however
    /// it fails, as the floor wants. Without a trial a gateway that gets no traffic while it is not ready would never be
    /// ready again; without the floor it would turn away calls that it means to send.
    pub fn is_ready(&self) -> bool {
        let now = Instant::now();
        self.endpoints.iter().any(|endpoint| {
            let is_out = match endpoint.health.standing(now) {
                Standing::Well | Standing::Due => false,
                Standing::Ejected(left) => !left.is_zero(),
            };
            (!is_out || self.floor > 0) && endpoint.service.is_ready()
        })
    }

    /// Counts endpoints and calls.
    pub fn snapshot(&self) -> Snapshot {
        let now = Instant::now();
        let mut snapshot = Snapshot {
            endpoints: self.endpoints.len(),
            waiting: self.gate.as_ref().map_or(0, |gate| gate.waiting()),
            max_in_flight: self.gate.as_ref().map(|gate| gate.bounds().0),
            max_waiting: self.gate.as_ref().map(|gate| gate.bounds().1),
            credentials: self.credentials.counts(now),
            ..Snapshot::default()
        };
        for endpoint in &self.endpoints {
            snapshot.ejected += usize::from(endpoint.health.standing(now) != Standing::Well);
            snapshot.in_flight += endpoint.load.in_flight() as usize;
            if let Some(engine) = endpoint.service.engine() {
                snapshot.waiting += engine.queued;
                snapshot.max_waiting = Some(engine.max_queued);
                snapshot.engine = Some(engine);
            }
        }
        let accepted = {
            let [in_use, limited, refused] = snapshot.credentials;
            refused == 0 || in_use + limited > 0
        };
        let answers = |endpoint: &Arc<Endpoint>| {
            endpoint.health.standing(now) == Standing::Well && endpoint.service.is_ready()
        };
        snapshot.ready = accepted && self.endpoints.iter().any(answers);
        snapshot
    }

    /// Returns the endpoints to ask on the gateway's own account, those that are well first.
    pub fn by_health(&self) -> Vec<&Arc<Endpoint>> {
        let now = Instant::now();
        let mut endpoints: Vec<_> = self.endpoints.iter().collect();
        endpoints.sort_by_key(|endpoint| endpoint.health.standing(now) != Standing::Well);
        endpoints
    }

    /// Returns the endpoint to ask on the gateway's own account: one that is well, if any is.
    pub fn any_endpoint(&self) -> Option<&Arc<Endpoint>> {
        let now = Instant::now();
        let well = |endpoint: &&Arc<Endpoint>| endpoint.health.standing(now) == Standing::Well;
        self.endpoints.iter().find(well).or(self.endpoints.first())
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// Learns how a request ended that began at `began`.
    pub fn observe(&self, seen: Seen, began: Instant) {
        self.tell(self.health.observe(seen, began, Instant::now()));
    }

    /// Learns how a health check ended that began at `began`.
    pub fn checked(&self, failed: bool, began: Instant) {
        self.tell(self.health.checked(failed, began, Instant::now()));
    }

    fn tell(&self, change: Option<Change>) {
        match change {
            None => {}
            Some(Change::Ejected(length)) => {
                self.metrics.endpoint_ejected(&self.upstream);
                tracing::warn!(
                    upstream.name = &*self.upstream,
                    endpoint = &*self.label,
                    seconds = length.as_secs_f64(),
                    "an endpoint fails and is left out"
                );
            }
            Some(Change::Restored) => tracing::info!(
                upstream.name = &*self.upstream,
                endpoint = &*self.label,
                "an endpoint is back"
            ),
        }
    }

    /// Takes the endpoint's trial, if it is due and nobody has it.
    pub fn claim_trial(self: &Arc<Self>, now: Instant) -> Option<Trial> {
        let number = self.health.claim_trial(now)?;
        let endpoint = Arc::clone(self);
        Some(Trial { endpoint, number })
    }
}

impl Drop for Trial {
    fn drop(&mut self) {
        self.endpoint.health.let_go(self.number);
    }
}

// === impl Ticket ===

impl Ticket {
    /// Counts a call in. When it is given up after `patience` without an answer, the endpoint is held to be silent.
    pub fn begin(
        endpoint: &Arc<Endpoint>,
        trial: Option<Trial>,
        patience: Option<Duration>,
    ) -> Self {
        endpoint.load.begin();
        let began = Instant::now();
        Self {
            endpoint: Arc::clone(endpoint),
            began,
            // Where it is the client that decides how long nothing comes, a wait is not the endpoint's.
            wait: patience.map(|_| endpoint.load.wait(began)),
            patience,
            progress: Progress::Waiting,
            trial,
        }
    }

    /// Notes that the answer is whole, or that a stream has begun, or that there is neither.
    pub fn answered(&mut self, seen: Seen) {
        let now = Instant::now();
        let latency = now.saturating_duration_since(self.began);
        let failed = matches!(seen, Seen::Failed | Seen::Silent);
        self.stop_waiting();
        self.endpoint.load.answered(latency, failed, now);
        self.endpoint.observe(seen, self.began);
        self.progress = match seen {
            Seen::Begun => Progress::Begun,
            Seen::Well | Seen::Failed | Seen::Silent => Progress::Ended,
        };
        self.trial = None;
    }

    fn stop_waiting(&mut self) {
        if let Some(wait) = self.wait.take() {
            self.endpoint.load.waited(wait);
        }
    }

    /// Notes how a stream that had begun has ended.
    pub fn ended(&mut self, seen: Seen) {
        if self.progress == Progress::Begun {
            self.progress = Progress::Ended;
            self.endpoint.observe(seen, self.began);
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.endpoint.load.end();
        self.stop_waiting();
        let Some(patience) = self.patience else {
            return;
        };
        if self.progress != Progress::Waiting {
            return;
        }
        // Whoever gave up has learnt at least that it takes longer.
        let now = Instant::now();
        let waited = now.saturating_duration_since(self.began);
        self.endpoint.load.at_least(waited, now);
        if waited >= patience {
            self.endpoint.observe(Seen::Silent, self.began);
        }
    }
}

// === impl RetryBudget ===

impl RetryBudget {
    /// Allows retries up to `share` of the requests, from 0 (none) to 1.
    pub fn new(share: f64) -> Self {
        let budget = (share > 0.0)
            .then(|| TpsBudget::new(BUDGET_WINDOW, BUDGET_RESERVE, share.min(1.0) as f32));
        Self(budget)
    }

    /// Counts a request.
    pub fn deposit(&self) {
        if let Some(budget) = &self.0 {
            budget.deposit();
        }
    }

    /// Takes a retry, if one is left.
    pub fn withdraw(&self) -> bool {
        self.0.as_ref().is_some_and(Budget::withdraw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn retries_are_a_share_of_requests_and_a_few_more() {
        let budget = RetryBudget::new(0.2);
        (0..1000).for_each(|_| budget.deposit());
        let taken = (0..1000).filter(|_| budget.withdraw()).count();
        assert_eq!(taken, 200 + 30);
        assert!(!RetryBudget::new(0.0).withdraw());
    }
}
