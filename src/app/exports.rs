//! From the configuration of traces to their export: one at a time is used, and those that a reload has replaced end by
//! themselves.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::{ContentConfig, TelemetryConfig};
use crate::metrics::Metrics;
use crate::traces::{ContentParams, Params, PatternError, Redactor, Traces};

/// How long the last spans may take at a stop, however much time is left of it.
const LONGEST_CLOSE: Duration = Duration::from_secs(5);
/// And however little.
const SHORTEST_CLOSE: Duration = Duration::from_secs(1);

/// The exports of this process.
#[derive(Default)]
pub(super) struct Exports {
    tasks: TaskTracker,
    closing: CancellationToken,
    current: Mutex<Option<(TelemetryConfig, Arc<Traces>)>>,
}

impl Exports {
    /// Returns what makes traces as configured: what does already, if nothing has changed. Within a runtime.
    ///
    /// # Errors
    /// Where a pattern cannot be used that could be when it was checked.
    pub(super) fn traces(
        &self,
        config: Option<&TelemetryConfig>,
        metrics: &Arc<Metrics>,
    ) -> Result<Option<Arc<Traces>>, PatternError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(config) = config else {
            *current = None;
            return Ok(None);
        };
        if let Some((known, traces)) = &*current
            && known == config
        {
            return Ok(Some(Arc::clone(traces)));
        }
        let params = params(config)?;
        let (traces, exporting) =
            Traces::new(params, Arc::clone(metrics), self.closing.child_token());
        self.tasks.spawn(exporting);
        *current = Some((config.clone(), Arc::clone(&traces)));
        Ok(Some(traces))
    }

    /// Sends what waits, within what is left of a stop's time.
    pub(super) async fn close(&self, left: Duration) {
        self.closing.cancel();
        self.tasks.close();
        let bound = left.clamp(SHORTEST_CLOSE, LONGEST_CLOSE);
        let closed = tokio::time::timeout(bound, self.tasks.wait()).await;
        if closed.is_err() {
            tracing::warn!("the last spans are lost: the collector did not take them in time");
        }
    }
}

fn params(config: &TelemetryConfig) -> Result<Params, PatternError> {
    let content = config.content.as_ref();
    let content = content.map(|ContentConfig { max, redact }| {
        let redactor = Redactor::new(redact)?;
        Ok(ContentParams {
            max: *max,
            redactor,
        })
    });
    Ok(Params {
        endpoint: config.endpoint.clone(),
        headers: config.headers.clone(),
        timeout: config.timeout,
        queue: config.queue,
        batch: config.batch,
        interval: config.interval,
        sample: config.sample,
        resource: config.resource.clone(),
        content: content.transpose()?,
    })
}
