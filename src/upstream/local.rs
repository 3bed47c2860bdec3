//! The upstream that answers by itself: a model in this process, behind the same trait as a remote one.
//!
//! It speaks completions and chat, whole and streamed. What it cannot do it refuses with a message that says so; what
//! it can do, it does as the OpenAI API documents. Dropping a call's future or its reply's body cancels the call within
//! a step of the engine.

mod answer;
mod fields;
mod request;
mod shape;

use std::sync::Arc;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};

use self::answer::{Choices, Maker, Stream, Tally};
use self::request::{Kind, Plan, plan};
use super::transformer::{self, Engine, LoadError, Source, Status, SubmitError};
use super::{Attempt, Credential, Upstream, UpstreamError, UpstreamFuture};
use crate::call::{Call, CallBody, Reply};
use crate::metrics::{EngineMeter, EngineState};
use crate::openai::endpoint::Endpoint;
use crate::openai::models::Model;

/// Bodies larger than this are read on a thread of their own: tokenizing them would hold up other requests.
const BLOCKING_BYTES: usize = 32 << 10;

/// A local upstream as configured.
#[derive(Clone, Debug)]
pub struct Params {
    /// The upstream's name, which its models are said to be owned by.
    pub name: String,
    /// Where the model comes from.
    pub source: Source,
    /// The names that the model is served under; answers to any other name say the first.
    pub models: Vec<String>,
    /// The bounds of its engine.
    pub engine: transformer::Params,
    /// Where its work is counted.
    pub meter: Option<EngineMeter>,
}

/// A model in this process.
pub struct LocalUpstream {
    engine: Arc<Engine>,
    name: String,
    models: Vec<String>,
}

impl LocalUpstream {
    /// Checks the model and loads it; a large one is still loading when this returns, and not ready until then.
    ///
    /// # Errors
    /// [`LoadError`], for a large model only as far as it can be known without its weights.
    pub fn load(params: Params) -> Result<Self, LoadError> {
        Ok(Self {
            engine: Arc::new(Engine::start(&params.source, params.engine, params.meter)?),
            name: params.name,
            models: params.models,
        })
    }

    /// Returns the honest name of what answers.
    fn served(&self, asked: Option<&str>) -> String {
        let known = self
            .models
            .iter()
            .find(|model| Some(model.as_str()) == asked);
        let served = known.or(self.models.first());
        served.unwrap_or(&self.name).clone()
    }
}

impl Upstream for LocalUpstream {
    fn call(&self, attempt: Attempt) -> UpstreamFuture<Reply> {
        let served = self.served(attempt.model.as_deref());
        let engine = Arc::clone(&self.engine);
        Box::pin(answer(engine, *attempt.call, served, attempt.number))
    }

    fn models(&self, _: Option<Credential>) -> UpstreamFuture<Vec<Model>> {
        let models = self
            .models
            .iter()
            .map(|id| Model::new(id, &self.name))
            .collect();
        Box::pin(std::future::ready(Ok(models)))
    }

    fn probe(&self, _: &str, _: Option<Credential>) -> UpstreamFuture<()> {
        let well = match self.engine.is_ready() {
            true => Ok(()),
            false => Err(UpstreamError::NotLoaded),
        };
        Box::pin(std::future::ready(well))
    }

    fn is_ready(&self) -> bool {
        self.engine.is_ready()
    }

    fn engine(&self) -> Option<EngineState> {
        let Status {
            ready,
            queued,
            running,
            cache_tokens,
        } = self.engine.status();
        let (params, max_cache_tokens) = self.engine.bounds();
        Some(EngineState {
            ready,
            queued,
            max_queued: params.queue,
            running,
            max_running: params.max_running,
            cache_tokens,
            max_cache_tokens,
        })
    }
}

async fn answer(
    engine: Arc<Engine>,
    call: Call,
    model: String,
    number: usize,
) -> Result<Reply, UpstreamError> {
    let kind = match call.endpoint {
        Endpoint::Completions => Kind::Completion,
        Endpoint::ChatCompletions => Kind::Chat,
        ref other => {
            return Err(UpstreamError::BadRequest {
                message: format!(
                    "The model '{model}' answers /v1/completions and /v1/chat/completions only, not {}.",
                    other.label()
                ),
                param: None,
                code: "unsupported_endpoint",
            });
        }
    };
    if !engine.is_ready() {
        return Err(UpstreamError::NotLoaded);
    }
    let CallBody::Json { bytes, .. } = call.body else {
        return Err(UpstreamError::BadRequest {
            message: "The request body must be a JSON object.".into(),
            param: None,
            code: "invalid_json",
        });
    };
    let (stream, report_usage) = (call.stream, call.report_usage);
    let mut plan = read(kind, bytes, Arc::clone(&call.caller.key), &engine).await?;
    let requests = std::mem::take(&mut plan.requests);
    let events = engine.submit(requests).map_err(|error| match error {
        SubmitError::NotLoaded => UpstreamError::NotLoaded,
        SubmitError::Full { retry_after } => UpstreamError::Overloaded { retry_after },
    })?;
    // From here on only the events tie the call to the engine, so that a drain need not wait for slow readers.
    drop(engine);
    let maker = Maker::new(&mut plan, stream, report_usage, &model);
    let choices = Choices::new(events);
    let tally = Tally::new(call.record, number);
    let mut headers = HeaderMap::new();
    if stream {
        let stream = Stream::begin(maker, choices, tally).await?;
        let kind = HeaderValue::from_static("text/event-stream; charset=utf-8");
        headers.insert(CONTENT_TYPE, kind);
        return Ok(Reply::events(StatusCode::OK, headers, Box::pin(stream)));
    }
    let body = maker.whole(choices, tally).await?;
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(Reply::full(StatusCode::OK, headers, body))
}

async fn read(
    kind: Kind,
    bytes: Bytes,
    caller: Arc<str>,
    engine: &Arc<Engine>,
) -> Result<Plan, UpstreamError> {
    if bytes.len() <= BLOCKING_BYTES {
        return plan(kind, &bytes, &caller, engine);
    }
    let engine = Arc::clone(engine);
    let reading = move || plan(kind, &bytes, &caller, &engine);
    tokio::task::spawn_blocking(reading)
        .await
        .map_err(|error| UpstreamError::Engine(error.to_string()))?
}

#[cfg(test)]
mod tests;
