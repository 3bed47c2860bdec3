//! `GET /v1/usage`: what the caller's key has used, and what is left of its budgets and its team's.
//!
//! Answered from the ledger, so it stands outside of accounting: it goes to no upstream and is not booked itself. A
//! reading looks at all rows of the key; one of them takes place at a time, and ends when its caller leaves, so that callers
//! who ask often hold up each other and nobody else. When the ledger cannot be read, the answer is 503.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderMap, HeaderValue, StatusCode, header};
use jiff::Timestamp;
use jiff::civil::Time;
use jiff::tz::Offset;
use serde_json::{Map, Value, json};
use tokio::sync::Semaphore;
use tower::{Layer, Service};

use crate::call::{Call, Caller, Reply};
use crate::money::Nanos;
use crate::openai::endpoint::Endpoint;
use crate::store::budgets::{Balance, Budgets, Limit};
use crate::store::keys::budget;
use crate::store::ledger::{Own, OwnUse, ReadError, Reader};

/// Why a caller is not told.
#[derive(Debug, thiserror::Error)]
#[error("the ledger cannot be read")]
pub struct OwnUsageError(
    /// Why.
    #[from]
    pub ReadError,
);

/// Builds [`OwnUsage`].
#[derive(Clone, Debug)]
pub struct OwnUsageLayer {
    desk: Arc<Desk>,
}

/// The service of this layer.
#[derive(Clone, Debug)]
pub struct OwnUsage<S> {
    inner: S,
    desk: Arc<Desk>,
}

#[derive(Debug)]
struct Desk {
    ledger: Reader,
    budgets: Arc<Budgets>,
    places: Semaphore,
}

impl OwnUsageLayer {
    /// Tells what stands in the ledger, and in the budgets.
    pub fn new(ledger: Reader, budgets: Arc<Budgets>) -> Self {
        Self {
            desk: Arc::new(Desk {
                ledger,
                budgets,
                places: Semaphore::new(1),
            }),
        }
    }
}

impl<S> Layer<S> for OwnUsageLayer {
    type Service = OwnUsage<S>;

    fn layer(&self, inner: S) -> OwnUsage<S> {
        OwnUsage {
            inner,
            desk: Arc::clone(&self.desk),
        }
    }
}

impl<S> Service<Call> for OwnUsage<S>
where
    S: Service<Call, Response = Reply>,
    S::Error: From<OwnUsageError>,
    S::Future: Send + 'static,
{
    type Response = Reply;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, call: Call) -> Self::Future {
        if call.endpoint != Endpoint::OwnUsage {
            return Box::pin(self.inner.call(call));
        }
        let desk = Arc::clone(&self.desk);
        Box::pin(async move {
            let now = Timestamp::now();
            let told = desk.tell(&call.caller, now).await;
            Ok(reply(&told.map_err(OwnUsageError::from)?))
        })
    }
}

impl Desk {
    async fn tell(&self, caller: &Caller, now: Timestamp) -> Result<Value, ReadError> {
        let _place = self
            .places
            .acquire()
            .await
            .map_err(|_| ReadError::BrokeOff)?;
        let month = month(now);
        let (key, since) = (Arc::clone(&caller.key), month.as_microsecond());
        let used = self
            .ledger
            .read(move |file| OwnUse::of(file, &key, since))
            .await?;
        let mut balances = self
            .budgets
            .balances_of(&caller.key, caller.team.as_deref(), now);
        // The key's own before the team's, each in an order of its own.
        balances.sort_by_cached_key(|balance| (balance.holder.kind(), balance.budget.to_string()));
        Ok(words(caller, month, &used, &balances))
    }
}

/// Returns the first moment of the month.
fn month(now: Timestamp) -> Timestamp {
    let first = Offset::UTC.to_datetime(now).date().first_of_month();
    let midnight = first.to_datetime(Time::midnight());
    // Only before the calendar begins there is no such moment.
    Offset::UTC.to_timestamp(midnight).unwrap_or(now)
}

fn words(caller: &Caller, month: Timestamp, used: &OwnUse, balances: &[Balance]) -> Value {
    let (requests, tokens, cost) = used.forgotten;
    let held = &used.held;
    json!({
        "object": "usage",
        "key": &*caller.key,
        "team": caller.team.as_deref(),
        "month": of_month(month, used),
        "total": {
            "requests": held.requests.saturating_add(requests),
            "tokens": tokens_of(held).saturating_add(tokens),
            "cost": held.cost.saturating_add(cost).to_string(),
        },
        "budgets": balances.iter().map(balance).collect::<Vec<_>>(),
    })
}

/// Of rows that have gone for their age it is not known any more which of their tokens were the prompt's.
fn of_month(month: Timestamp, used: &OwnUse) -> Value {
    let (requests, tokens, cost) = used.forgotten_since;
    let used = &used.since;
    json!({
        "from": month.to_string(),
        "requests": used.requests.saturating_add(requests),
        "tokens": tokens_of(used).saturating_add(tokens),
        "prompt_tokens": used.prompt_tokens,
        "completion_tokens": used.completion_tokens,
        "cost": used.cost.saturating_add(cost).to_string(),
    })
}

fn tokens_of(used: &Own) -> u64 {
    used.prompt_tokens.saturating_add(used.completion_tokens)
}

/// Words a budget and its state, each number in the budget's own unit.
fn balance(balance: &Balance) -> Value {
    let in_unit = |amount: u64| match balance.budget.limit {
        Limit::Money(_) => Value::from(Nanos::new(amount).to_string()),
        Limit::Tokens(_) => Value::from(amount),
    };
    let mut words = match budget::to_json(&balance.budget) {
        Value::Object(words) => words,
        _ => Map::new(),
    };
    words.insert("of".into(), balance.holder.kind().into());
    words.insert("name".into(), (**balance.holder.name()).into());
    words.insert("used".into(), in_unit(balance.used));
    words.insert("reserved".into(), in_unit(balance.reserved));
    words.insert("left".into(), in_unit(balance.left()));
    let renewed = balance.renewed.map(|time| time.to_string());
    words.insert("renewed".into(), renewed.into());
    Value::Object(words)
}

fn reply(told: &Value) -> Reply {
    let mut headers = HeaderMap::new();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Reply::full(StatusCode::OK, headers, told.to_string().into())
}

#[cfg(test)]
mod tests;
