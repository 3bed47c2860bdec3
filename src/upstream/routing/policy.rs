//! tower's retry policy of a call: its plan decides, this waits.

use std::pin::Pin;

use http::{HeaderName, HeaderValue};
use tokio::time::{Instant, Sleep, sleep};
use tower::retry::Policy;

use super::DispatchError;
use super::attempt::Planned;
use super::plan::Next;
use crate::call::Reply;

const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// Tries again as the call's plan says.
#[derive(Clone, Copy, Debug)]
pub(super) struct AsPlanned;

impl Policy<Planned, Reply, DispatchError> for AsPlanned {
    type Future = Pin<Box<Sleep>>;

    fn retry(
        &mut self,
        planned: &mut Planned,
        result: &mut Result<Reply, DispatchError>,
    ) -> Option<Self::Future> {
        match planned.plan.next(Instant::now()) {
            // What has been sent in part is never sent once more.
            Next::Try(_) if !planned.call.is_whole() => None,
            Next::Try(wait) => {
                planned.plan.keep(result);
                Some(Box::pin(sleep(wait)))
            }
            Next::Stop { spent } => {
                if let Some(failure) = planned.plan.failure() {
                    if let Err(DispatchError::Upstream { name, .. }) = &failure {
                        planned.call.record.facts().upstream = Some(name.clone());
                    }
                    *result = failure;
                }
                if spent {
                    mark_spent(result);
                }
                None
            }
        }
    }

    fn clone_request(&mut self, planned: &Planned) -> Option<Planned> {
        Some(Planned {
            call: Box::new(planned.call.again()),
            plan: planned.plan.clone(),
        })
    }
}

/// Tells the SDKs that the same call will fail again: it has been tried already.
fn mark_spent(result: &mut Result<Reply, DispatchError>) {
    match result {
        Ok(reply) => {
            reply
                .headers
                .insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        Err(DispatchError::Upstream { spent, .. }) => *spent = true,
        Err(_) => {}
    }
}
