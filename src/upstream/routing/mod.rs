//! From a call to the upstream that answers it: the route of its model, the choice among its targets, and what is done
//! when one of them fails.
//!
//! A model goes where the most specific matching route sends it, or else to the first upstream that serves it. A path
//! without a model goes to the upstream that claims it most specifically, among equals to the first. Each call has a
//! plan of its own (`plan`), which picks the place of each try (`route`) and decides after each one, purely, what comes
//! next (`decide`); tower's `retry` makes the tries (`policy`, `attempt`). Nothing is tried again once the first byte has
//! gone to the client.

mod attempt;
mod candidates;
mod decide;
mod hedge;
mod hold;
mod listing;
mod plan;
mod policy;
mod preview;
mod probe;
mod route;
mod table;
#[cfg(test)]
mod tests;
mod verdict;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Method;
use tokio::time::Instant;
use tower::retry::Retry as RetryService;
use tower::{Service, ServiceExt};

use self::attempt::{Attempts, Planned};
pub use self::hedge::Hedge;
use self::plan::{NothingWell, Plan, Times};
use self::policy::AsPlanned;
pub use self::preview::{Preview, Prospect, Turn};
pub use self::route::{Affinity, Balance, Overrides, Retry, Route, Target};
use self::table::{Choice, Table};
use super::UpstreamError;
use super::member::{Member, RetryBudget};
use crate::call::{Call, Reply};
use crate::metrics::{Metrics, Snapshot};
use crate::openai::json::preferred_member;
use crate::pattern::Pattern;

/// Why a call has no answer.
#[derive(Debug, thiserror::Error)]
pub enum DispatchError {
    /// Nothing serves this model.
    #[error("no route for the model")]
    NoRoute {
        /// The model asked for.
        model: String,
    },
    /// No upstream claims this path.
    #[error("no upstream takes {path}")]
    NoClaim {
        /// The method asked.
        method: Method,
        /// The path asked.
        path: String,
    },
    /// Everything that could answer is left out because it fails.
    #[error("nothing healthy")]
    NothingWell {
        /// When the first of them is tried again.
        retry_after: Duration,
    },
    /// The upstream that was asked last failed.
    #[error("upstream {name} failed")]
    Upstream {
        /// Its name.
        name: Arc<str>,
        /// How.
        source: UpstreamError,
        /// Whether we have done what a client's own retries would do.
        spent: bool,
    },
}

/// The upstreams of a gateway, as a service.
#[derive(Clone)]
pub struct Dispatch {
    table: Arc<Table>,
    tries: RetryService<AsPlanned, Attempts>,
}

impl Dispatch {
    /// Builds the service. Routes of equal specificity keep their order; `retry` holds where no route says otherwise.
    pub fn new(
        members: Vec<Arc<Member>>,
        routes: Vec<Route>,
        retry: Retry,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self {
            table: Arc::new(Table::new(members, routes, retry)),
            tries: RetryService::new(AsPlanned, Attempts { metrics }),
        }
    }

    /// Returns the upstreams.
    pub fn members(&self) -> &[Arc<Member>] {
        self.table.members()
    }

    /// Returns what the route of this pattern has learnt for its second attempts.
    pub fn hedge(&self, model: &Pattern) -> Option<Arc<Hedge>> {
        self.table.hedge(model)
    }

    /// Returns the retry budget that the route of this pattern has of its own.
    pub fn budget(&self, model: &Pattern) -> Option<Arc<RetryBudget>> {
        self.table.budget(model)
    }

    /// Returns the configured pattern that leads a model to its upstreams; `None`: it goes nowhere.
    pub fn label(&self, model: &str) -> Option<Arc<str>> {
        let Choice { label, .. } = self.table.route(model).ok()?;
        Some(Arc::clone(label))
    }

    /// Returns all that [`label`](Self::label) returns.
    pub fn labels(&self) -> impl Iterator<Item = &str> {
        self.table.labels()
    }

    /// Returns the upstream that a call goes to, where its route leads to one alone.
    pub fn only_upstream(&self, call: &Call) -> Option<Arc<str>> {
        let Choice { route, .. } = self.table.choose(call).ok()?;
        let (first, others) = route.targets.split_first()?;
        let name = &first.member.name;
        let is_only = others.iter().all(|other| other.member.name == *name);
        is_only.then(|| Arc::clone(name))
    }

    /// Shows each name that a model is known by at the upstreams it may go to.
    pub fn each_name(&self, model: &str, see: &mut dyn FnMut(&str)) {
        // A model that goes nowhere is known by none.
        let Ok(Choice { route, .. }) = self.table.route(model) else {
            return;
        };
        for target in &route.targets {
            see(target.model.as_deref().unwrap_or(model));
        }
    }

    /// Shows each upstream that a call goes to as long as all is well, and what it is asked for there where that is not the
    /// name asked for.
    pub fn each_primary(&self, call: &Call, mut see: impl FnMut(&Member, Option<&str>)) {
        let Ok(Choice { route, .. }) = self.table.choose(call) else {
            return;
        };
        let first = route.targets.iter().map(|target| target.priority).min();
        for target in &route.targets {
            if Some(target.priority) == first {
                see(&target.member, target.model.as_deref());
            }
        }
    }

    /// Returns each upstream's name and whether it could be asked now.
    pub fn readiness(&self) -> impl Iterator<Item = (&str, bool)> {
        let members = self.members().iter();
        members.map(|member| (&*member.name, member.is_ready()))
    }

    /// Returns each upstream's name and how its endpoints are.
    pub fn snapshots(&self) -> impl Iterator<Item = (&str, Snapshot)> {
        let members = self.members().iter();
        members.map(|member| (&*member.name, member.snapshot()))
    }
}

impl Service<Call> for Dispatch {
    type Response = Reply;
    type Error = DispatchError;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, DispatchError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DispatchError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: Call) -> Self::Future {
        let table = Arc::clone(&self.table);
        if call.endpoint.is_listing() {
            let Call {
                endpoint,
                caller,
                record,
                ..
            } = call;
            return Box::pin(
                async move { listing::answer(&table, &endpoint, &caller, &record).await },
            );
        }
        let tries = self.tries.clone();
        let call = Box::new(call);
        Box::pin(async move {
            let record = Arc::clone(&call.record);
            let began = Instant::now();
            let plan = plan(&table, &call)?;
            let planned = Planned {
                plan: Arc::new(plan),
                call,
            };
            let result = tries.oneshot(planned).await;
            record.facts().upstream_time = Some(began.elapsed());
            result
        })
    }
}

fn plan(table: &Table, call: &Call) -> Result<Plan, DispatchError> {
    let Choice { route, label } = table.choose(call)?;
    if call.routed_model().is_some() {
        call.record.facts().route = Some(Arc::clone(label));
    }
    let total = route.total();
    // Bodies that take their time to come are bounded by their own timeouts; the call's begins with it.
    let overdue = Instant::now() + total;
    // A client that says how long it waits means the head (openai-node ends its timer there): what streams behind the
    // head has all of the total time.
    let hurried = call.deadline.filter(|deadline| *deadline < overdue);
    let times = Times {
        deadline: hurried.unwrap_or(overdue),
        overdue,
        patience: hurried.map(|deadline| {
            let received = call.record.received;
            deadline.into_std().saturating_duration_since(received)
        }),
    };
    let affinity = route
        .affinity
        .as_ref()
        .and_then(|affinity| affinity_key(affinity, call));
    let replayable = call.is_replayable();
    Plan::begin(Arc::clone(route), times, replayable, affinity)
        .map_err(|NothingWell(retry_after)| DispatchError::NothingWell { retry_after })
}

/// Returns what the calls that belong together have in common.
fn affinity_key(affinity: &Affinity, call: &Call) -> Option<u64> {
    match affinity {
        Affinity::Header(name) => {
            let value = call.head.headers.get(name)?;
            Some(route::hash(0, &[value.as_bytes()]))
        }
        Affinity::PromptPrefix(length) => {
            let (bytes, _) = call.json()?;
            let prompt = preferred_member(bytes, &["messages", "prompt", "input"])?;
            let prompt = bytes.get(prompt)?;
            let prefix = &prompt[..prompt.len().min(*length)];
            Some(route::hash(1, &[prefix]))
        }
    }
}
