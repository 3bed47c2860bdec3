//! One try of a call: at the place that its plan says, or at two where the first is slow and the route hedges.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::{Either, select};
use http::{HeaderName, HeaderValue, StatusCode};
use tokio::time::{Instant, sleep, timeout_at};
use tower::Service;

use super::DispatchError;
use super::hedge::Hedge;
use super::hold::{Limits, hold};
use super::plan::{Place, Plan, TryId};
use super::verdict::{Class, Verdict};
use crate::call::{Call, Cause, Outcome, Record, Reply, Try};
use crate::metrics::Metrics;
use crate::upstream::member::health::Seen;
use crate::upstream::member::{Endpoint, Full, Member, Pass, Ticket};
use crate::upstream::{Attempt, Phase, UpstreamError};

const DEGRADED: HeaderName = HeaderName::from_static("x-weir-degraded");

/// How long a call that found the queue full should stay away.
const QUEUE_RETRY_AFTER: Duration = Duration::from_secs(1);

/// How long a call must have waited in vain before it says something of the endpoint that it was given up; sooner where
/// the first byte's timeout is.
const PATIENCE: Duration = Duration::from_secs(10);

/// A call and its plan.
pub(super) struct Planned {
    pub(super) call: Box<Call>,
    pub(super) plan: Arc<Plan>,
}

/// Asks the place that is next in a call's plan.
#[derive(Clone)]
pub(super) struct Attempts {
    pub(super) metrics: Arc<Metrics>,
}

type AttemptFuture = Pin<Box<dyn Future<Output = Result<Reply, DispatchError>> + Send>>;

impl Service<Planned> for Attempts {
    type Response = Reply;
    type Error = DispatchError;
    type Future = AttemptFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DispatchError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, planned: Planned) -> AttemptFuture {
        let metrics = Arc::clone(&self.metrics);
        Box::pin(async move {
            let Planned { call, plan } = planned;
            let Some(place) = plan.take() else {
                return Err(DispatchError::NothingWell {
                    retry_after: QUEUE_RETRY_AFTER,
                });
            };
            let hedge = plan.route().hedge.clone();
            if let Some(hedge) = &hedge
                && plan.is_first(place.1)
            {
                hedge.deposit();
            }
            let hedge = hedge
                .filter(|_| call.is_replayable())
                .map(|hedge| (hedge, Box::new(call.again())));
            let (result, _, which) = match hedge {
                // Boxed, since it is rare and large: every call would carry it otherwise.
                Some((hedge, again)) => {
                    Box::pin(hedged(call, again, place, &plan, &hedge, &metrics)).await
                }
                None => attempt(call, place, &plan, &metrics).await,
            };
            plan.counts(which);
            result
        })
    }
}

type Ended = (Result<Reply, DispatchError>, Verdict, TryId);

/// Asks one place, and a second one when the first is slow. The first good answer counts; the other try is cancelled by
/// being dropped.
async fn hedged(
    call: Box<Call>,
    again: Box<Call>,
    place: (Place, TryId),
    plan: &Arc<Plan>,
    hedge: &Hedge,
    metrics: &Arc<Metrics>,
) -> Ended {
    let (began, stream) = (Instant::now(), call.stream);
    // How fast a failure comes says nothing of how long an answer takes.
    let learn = |ended: &Ended| {
        if !is_bad(ended) {
            hedge.answered(stream, began.elapsed());
        }
    };
    let first = pin!(attempt(call, place, plan, metrics));
    let Some(delay) = hedge.delay(stream) else {
        let ended = first.await;
        learn(&ended);
        return ended;
    };
    let first = match select(first, pin!(sleep(delay))).await {
        Either::Left((ended, _)) => {
            learn(&ended);
            return ended;
        }
        Either::Right(((), first)) => first,
    };
    let Some(place) = plan.take_beside(|| hedge.withdraw()) else {
        let ended = first.await;
        learn(&ended);
        return ended;
    };
    let route = plan.route().model.as_str();
    metrics.hedged(route, false);
    let second = pin!(attempt(again, place, plan, metrics));
    let (ended, won) = match select(first, second).await {
        Either::Left((ended, second)) if is_bad(&ended) => (second.await, true),
        Either::Left((ended, _)) => (ended, false),
        Either::Right((ended, first)) if is_bad(&ended) => (first.await, false),
        Either::Right((ended, _)) => (ended, true),
    };
    if won && !is_bad(&ended) {
        metrics.hedged(route, true);
    }
    learn(&ended);
    ended
}

fn is_bad((_, verdict, _): &Ended) -> bool {
    !matches!(verdict.class, Class::Final | Class::Unable)
}

/// Asks one place, and lets the plan know what it said.
async fn attempt(
    call: Box<Call>,
    place: (Place, TryId),
    plan: &Plan,
    metrics: &Arc<Metrics>,
) -> Ended {
    let ended = ask_at(call, place, plan, metrics).await;
    let (_, verdict, which) = &ended;
    plan.heard(*verdict, *which);
    ended
}

async fn ask_at(
    call: Box<Call>,
    (mut place, which): (Place, TryId),
    plan: &Plan,
    metrics: &Arc<Metrics>,
) -> Ended {
    let target = plan.target(place.target);
    let member = &target.member;
    let endpoint = &member.endpoints[place.endpoint];
    let record = Arc::clone(&call.record);
    let model = target.model.as_ref().or(call.routed_model()).cloned();
    let waiting = Instant::now();
    record.facts().upstream = Some(Arc::clone(&endpoint.upstream));
    let entered = enter(member, plan).await;
    record.facts().queue_time += waiting.elapsed();
    let pass = match entered {
        Ok(pass) => pass,
        // Nothing was sent: it is no try.
        Err(error) => return failure(endpoint, error, which),
    };
    let trying = Trying::begin(&record, endpoint, model, which, metrics);
    let timeouts = plan.route().timeouts.over(member.timeouts);
    // While an upload lasts, its client decides how long nothing comes.
    let patience = call
        .is_replayable()
        .then(|| timeouts.first_byte.min(PATIENCE));
    let began = Instant::now();
    let mut ticket = Ticket::begin(endpoint, place.trial.take(), patience);
    let mut reply = match ask(call, &place, plan, trying.index).await {
        Ok(reply) => reply,
        Err(error) => {
            let error = plan.attribute(error);
            if let Some(seen) = Verdict::seen(&error) {
                ticket.answered(seen);
            }
            // Whatever it is not to blame for tells at most how long it was silent.
            drop(ticket);
            if let (UpstreamError::Refused(status), Some(index)) = (&error, place.credential) {
                refused(member, index, *status, began);
            }
            return trying.failed(endpoint, error);
        }
    };
    ticket.answered(match reply.status.is_server_error() {
        true => Seen::Failed,
        false if reply.body.as_full().is_none() => Seen::Begun,
        false => Seen::Well,
    });
    let verdict = Verdict::of_reply(&reply);
    trying.answered(reply.status.as_u16(), verdict);
    if let Some(index) = place.credential {
        taken(member, index, verdict, began);
    }
    if target.degraded && verdict.class == Class::Final {
        let headers = &mut reply.headers;
        headers.insert(DEGRADED, HeaderValue::from_static("true"));
        record.facts().degraded = true;
    }
    if let Some(tunnel) = reply.tunnel_mut() {
        tunnel.keep((ticket, pass));
        return (Ok(reply), verdict, which);
    }
    let reply = reply.on_end(move |outcome| {
        ticket.ended(match outcome {
            Outcome::Failed(error) if error.is_upstreams() => Seen::Failed,
            Outcome::Complete | Outcome::Failed(_) | Outcome::ClientGone => Seen::Well,
        });
        drop((ticket, pass));
    });
    (Ok(reply), verdict, which)
}

/// Puts a refused credential aside.
fn refused(member: &Member, index: usize, status: StatusCode, began: Instant) {
    if member.credentials.refused(index, began, Instant::now()) {
        tracing::warn!(
            upstream.name = &*member.name,
            credential = index + 1,
            status = status.as_u16(),
            "an upstream refuses a credential"
        );
    }
}

/// Notes what an answer says of the credential that was shown: that its limit is spent, or that it is good.
fn taken(member: &Member, index: usize, verdict: Verdict, began: Instant) {
    let credentials = &member.credentials;
    match verdict.class {
        Class::Limited => credentials.limited(index, verdict.advice.wait, Instant::now()),
        _ if credentials.accepted(index, began) => tracing::info!(
            upstream.name = &*member.name,
            credential = index + 1,
            "an upstream accepts a credential again"
        ),
        _ => {}
    }
}

/// Waits for a place at an upstream that takes only so many calls at once.
async fn enter(member: &Member, plan: &Plan) -> Result<Option<Pass>, UpstreamError> {
    let Some(gate) = &member.gate else {
        return Ok(None);
    };
    let entered = gate.enter(plan.deadline()).await;
    let retry_after = QUEUE_RETRY_AFTER;
    entered.map(Some).map_err(|full| match full {
        Full::Queue => UpstreamError::Overloaded { retry_after },
        Full::Waited => UpstreamError::NoPlace { retry_after },
    })
}

/// Returns how a try ended that brought no answer.
fn failure(endpoint: &Endpoint, source: UpstreamError, which: TryId) -> Ended {
    let verdict = Verdict::of_error(&source);
    let error = DispatchError::Upstream {
        name: Arc::clone(&endpoint.upstream),
        source,
        spent: false,
    };
    (Err(error), verdict, which)
}

/// Sends the call, and waits until its answer has begun.
async fn ask(
    call: Box<Call>,
    place: &Place,
    plan: &Plan,
    number: usize,
) -> Result<Reply, UpstreamError> {
    let target = plan.target(place.target);
    let member = &target.member;
    let timeouts = plan.route().timeouts.over(member.timeouts);
    let credential = place
        .credential
        .and_then(|index| member.credentials.get(index));
    let (is_stream, kind) = (call.stream, call.endpoint.clone());
    let model = target.model.as_ref().or(call.routed_model()).cloned();
    // The time that is left of the call is the target's only as far as its own goes.
    let own = Instant::now() + timeouts.total;
    let deadline = plan.deadline().min(own);
    let answering = member.endpoints[place.endpoint].service.call(Attempt {
        call,
        model,
        credential: credential.cloned(),
        timeouts,
        deadline,
        overdue: plan.overdue().min(own),
        number,
    });
    let late = UpstreamError::Timeout {
        phase: Phase::Total,
        limit: timeouts.total,
    };
    if member.local {
        let answer = timeout_at(deadline, answering).await;
        return answer.unwrap_or(Err(late));
    }
    // Remote upstreams keep time themselves, from the request's last byte on.
    let reply = answering.await?;
    if !is_stream {
        return Ok(reply);
    }
    let limits = Limits {
        timeouts,
        hold: plan.route().retry.hold,
    };
    // The client waits for its head until the hold is over. Boxed for the same reason: plain answers have no use for it.
    let holding = Box::pin(hold(reply, &kind, limits));
    let held = timeout_at(deadline, holding).await;
    held.unwrap_or(Err(late))
}

/// Notes a try in the request's record, also when it is dropped in the middle.
struct Trying<'a> {
    record: &'a Record,
    metrics: &'a Metrics,
    upstream: Arc<str>,
    began: Instant,
    index: usize,
    which: TryId,
    ended: bool,
}

impl<'a> Trying<'a> {
    fn begin(
        record: &'a Record,
        endpoint: &Endpoint,
        model: Option<Arc<str>>,
        which: TryId,
        metrics: &'a Metrics,
    ) -> Self {
        let mut facts = record.facts();
        facts.attempts.push(Try {
            upstream: Arc::clone(&endpoint.upstream),
            endpoint: Arc::clone(&endpoint.label),
            model,
            began: record.received.elapsed(),
            time: None,
            result: Try::ABANDONED,
            status: None,
            sent: false,
            counted: None,
        });
        facts.upstream = Some(Arc::clone(&endpoint.upstream));
        Self {
            record,
            metrics,
            upstream: Arc::clone(&endpoint.upstream),
            began: Instant::now(),
            index: facts.attempts.len() - 1,
            which,
            ended: false,
        }
    }

    fn failed(mut self, endpoint: &Endpoint, source: UpstreamError) -> Ended {
        let status = source.status().map(|status| status.as_u16());
        self.note(source.cause().as_str(), status);
        failure(endpoint, source, self.which)
    }

    fn answered(mut self, status: u16, verdict: Verdict) {
        let result = match verdict.class {
            Class::Final | Class::Unable => Try::ANSWERED,
            Class::Limited => Cause::UpstreamLimited.as_str(),
            Class::Again | Class::Refused | Class::Elsewhere => Cause::UpstreamStatus.as_str(),
        };
        self.note(result, Some(status));
    }

    fn note(&mut self, result: &'static str, status: Option<u16>) {
        self.ended = true;
        self.record.facts().upstream = Some(Arc::clone(&self.upstream));
        self.record.note_try(self.index, |noted| {
            noted.time = Some(self.began.elapsed());
            noted.result = result;
            noted.status = status;
        });
        self.metrics.attempt_ended(&self.upstream, result);
    }
}

impl Drop for Trying<'_> {
    fn drop(&mut self) {
        if !self.ended {
            self.metrics.attempt_ended(&self.upstream, Try::ABANDONED);
        }
    }
}
