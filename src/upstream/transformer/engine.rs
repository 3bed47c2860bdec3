//! The handle to a model at work.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::mpsc as sync_mpsc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::mpsc;

use super::error::LoadError;
use super::kv::Cache;
use super::package::{Defaults, Package, Source};
use super::queue::FairQueue;
use super::scheduler::Scheduler;
use super::sequence::{Event, Job, Outlet, Request};
use super::template::{Message, RenderError};
use super::weights::Weights;
use crate::metrics::EngineMeter;

/// Files up to this size are loaded before [`Engine::start`] returns: it takes a fraction of a second.
const LOAD_AT_ONCE_BYTES: u64 = 64 << 20;

/// Events that may wait for a reader before its sequence pauses.
const CHANNEL: usize = 64;

/// How often in a row a step may panic before the engine is given up.
const MAX_FAILURES: u32 = 3;

/// The bounds of an engine.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// How many requests may wait.
    pub queue: usize,
    /// How many are computed together.
    pub max_running: usize,
    /// How many tokens of prompts one step takes: more make prompts faster and running streams slower.
    pub prefill_chunk: usize,
    /// How much memory the running sequences may take.
    pub cache_bytes: u64,
}

/// A model at work. Dropping it ends its thread and every request in it.
pub struct Engine {
    shared: Arc<Shared>,
    package: Arc<Package>,
    thread: Option<JoinHandle<()>>,
}

/// How busy an engine is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Whether the model is loaded and well.
    pub ready: bool,
    /// Requests that wait.
    pub queued: usize,
    /// Requests being computed.
    pub running: usize,
    /// Tokens of the cache that are promised to them.
    pub cache_tokens: usize,
}

/// Why a request is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The model is not loaded.
    #[error("the model is not loaded")]
    NotLoaded,
    /// The queue is full.
    #[error("the queue is full")]
    Full {
        /// When a place can be expected.
        retry_after: Duration,
    },
}

/// Why a prompt cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum PromptError {
    /// The model has no chat template.
    #[error("this model has no chat template, so it takes completions only")]
    NoTemplate,
    /// The template refuses these messages, in its own words.
    #[error("the model's chat template refuses the messages: {0}")]
    Refused(String),
    /// The prompt cannot be made for another reason.
    #[error("the prompt cannot be made: {0}")]
    Failed(String),
}

/// The events of one request. Dropping it cancels the request.
pub struct Events {
    receiver: mpsc::Receiver<Event>,
    shared: Arc<Shared>,
}

/// What the handle, the readers and the thread share.
pub(super) struct Shared {
    state: Mutex<State>,
    condvar: Condvar,
    ready: AtomicBool,
    /// Whether the thread waits for readers to make room.
    pub(super) readers_wake: AtomicBool,
    /// How many tokens all sequences together may have.
    pub(super) cache_tokens: usize,
    params: Params,
}

pub(super) struct State {
    pub(super) queue: FairQueue<Job>,
    pub(super) running: usize,
    /// Tokens of the cache that are promised to the running ones.
    pub(super) reserved: usize,
    pub(super) stop: bool,
    /// Whether a reader has gone away since the queue was last looked through.
    pub(super) gone: bool,
    pub(super) load: Load,
    woken: bool,
}

/// Running means, from which the wait in the queue is estimated.
pub(super) struct Load {
    step_secs: f64,
    answer_tokens: f64,
    steps: u64,
}

impl Default for Params {
    fn default() -> Self {
        Self {
            queue: 64,
            max_running: 16,
            prefill_chunk: 64,
            cache_bytes: 256 << 20,
        }
    }
}

// === impl Engine ===

impl Engine {
    /// Checks a model and loads it. A large one is still loading when this returns; see [`Status::ready`]. Its work is
    /// counted at `meter`.
    ///
    /// # Errors
    /// [`LoadError`] for whatever can be known without the weights, and for the weights if they are small.
    pub fn start(
        source: &Source,
        params: Params,
        meter: Option<EngineMeter>,
    ) -> Result<Self, LoadError> {
        let package = Arc::new(Package::open(source)?);
        let per_token = Cache::bytes_per_token(&package.config).max(1);
        let cache_tokens = usize::try_from(params.cache_bytes / per_token).unwrap_or(usize::MAX);
        if cache_tokens < 16 {
            let wanted = format!("each token takes {per_token}, and a request at least 16 tokens");
            return Err(LoadError::setting(
                "the cache's bytes",
                params.cache_bytes,
                wanted,
            ));
        }
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                queue: FairQueue::new(),
                running: 0,
                reserved: 0,
                stop: false,
                gone: false,
                woken: false,
                load: Load {
                    step_secs: 0.01,
                    answer_tokens: 64.0,
                    steps: 0,
                },
            }),
            condvar: Condvar::new(),
            ready: AtomicBool::new(false),
            readers_wake: AtomicBool::new(false),
            cache_tokens,
            params,
        });
        let (loaded, outcome) = sync_mpsc::channel();
        let thread = {
            let (shared, package) = (Arc::clone(&shared), Arc::clone(&package));
            std::thread::Builder::new()
                .name("weir-engine".into())
                .spawn(move || work(&shared, &package, (params, meter), &loaded))
                .map_err(LoadError::Thread)?
        };
        let engine = Self {
            shared,
            thread: Some(thread),
            package,
        };
        if engine.package.tensors.total_bytes() <= LOAD_AT_ONCE_BYTES {
            outcome.recv().unwrap_or(Err(LoadError::Abandoned))?;
        }
        Ok(engine)
    }

    /// Returns how busy the engine is.
    pub fn status(&self) -> Status {
        let state = self.shared.lock();
        Status {
            ready: self.is_ready(),
            queued: state.queue.len(),
            running: state.running,
            cache_tokens: state.reserved,
        }
    }

    /// Returns whether requests are taken.
    pub fn is_ready(&self) -> bool {
        self.shared.ready.load(Ordering::Acquire)
    }

    /// Returns the bounds that it was started with, and how many tokens its cache holds.
    pub fn bounds(&self) -> (Params, usize) {
        (self.shared.params, self.shared.cache_tokens)
    }

    /// Returns how many tokens prompt and answer may have together.
    pub fn context(&self) -> usize {
        self.package.config.context.min(self.shared.cache_tokens)
    }

    /// Returns how many requests can wait and run at most.
    pub fn capacity(&self) -> usize {
        self.shared.params.queue + self.shared.params.max_running
    }

    /// Returns how many tokens there are.
    pub fn vocab(&self) -> usize {
        self.package.config.vocab
    }

    /// Returns how the model wants to be sampled.
    pub fn defaults(&self) -> &Defaults {
        &self.package.defaults
    }

    /// Tokenizes a text to be continued. Nothing in it becomes a control token.
    ///
    /// # Errors
    /// [`PromptError::Failed`] if the tokenizer cannot.
    pub fn encode_prompt(&self, text: &str) -> Result<Vec<u32>, PromptError> {
        let ids = self.package.tokenizer.encode_prompt(text);
        ids.map_err(|e| PromptError::Failed(e.to_string()))
    }

    /// Renders a chat by the model's template and tokenizes it. Nothing in the messages becomes a control token.
    ///
    /// # Errors
    /// [`PromptError`] if there is no template, or it refuses the messages.
    pub fn encode_chat(&self, messages: &[Message]) -> Result<Vec<u32>, PromptError> {
        let template = self
            .package
            .template
            .as_ref()
            .ok_or(PromptError::NoTemplate)?;
        let tokenizer = &self.package.tokenizer;
        let segments =
            template
                .render(messages, &tokenizer.controls)
                .map_err(|error| match error {
                    RenderError::Refused(message) => PromptError::Refused(message),
                    other => PromptError::Failed(other.to_string()),
                })?;
        let ids = tokenizer.encode_segments(&segments);
        ids.map_err(|e| PromptError::Failed(e.to_string()))
    }

    /// Returns the least number of tokens that a text of so many bytes can have.
    pub fn least_tokens(&self, bytes: usize) -> usize {
        self.package.tokenizer.least_tokens(bytes)
    }

    /// Returns the token that begins every text, if the model has one.
    pub fn first_token(&self) -> Option<u32> {
        self.package.tokenizer.bos.or(self.package.tokenizer.eos)
    }

    /// Returns the text that tokens stand for.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let pieces = &self.package.tokenizer.pieces;
        let bytes: Vec<u8> = tokens
            .iter()
            .flat_map(|t| pieces.bytes(*t))
            .copied()
            .collect();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Puts requests into the queue: all or none.
    ///
    /// # Errors
    /// [`SubmitError`] when there is no room for all, or no model.
    pub fn submit(&self, requests: Vec<Request>) -> Result<Vec<Events>, SubmitError> {
        if !self.is_ready() {
            return Err(SubmitError::NotLoaded);
        }
        let params = self.shared.params;
        let mut state = self.shared.lock();
        if state.stop {
            return Err(SubmitError::NotLoaded);
        }
        // A place that is free now is as good as one in the queue.
        let room = params.queue + params.max_running.saturating_sub(state.running);
        if state.queue.len() + requests.len() > room {
            let retry_after = state.load.wait(state.queue.len() + 1, params.max_running);
            return Err(SubmitError::Full { retry_after });
        }
        let mut all = Vec::with_capacity(requests.len());
        for request in requests {
            let (sender, receiver) = mpsc::channel(CHANNEL);
            all.push(Events {
                receiver,
                shared: Arc::clone(&self.shared),
            });
            let caller = Arc::clone(&request.caller);
            let outlet = Outlet::new(sender);
            state.queue.push(caller, Job { request, outlet });
        }
        self.shared.wake(&mut state);
        Ok(all)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.shared.ready.store(false, Ordering::Release);
        {
            let mut state = self.shared.lock();
            state.stop = true;
            self.shared.wake(&mut state);
        }
        if let Some(thread) = self.thread.take() {
            // It ends within a step. A panic in it has been reported where it was caught.
            let _ = thread.join();
        }
        // Readers keep the queue alive; what waits in it would wait for ever.
        self.shared.lock().queue.retain(|_| false);
    }
}

/// What the thread does from beginning to end.
fn work(
    shared: &Arc<Shared>,
    package: &Arc<Package>,
    (params, meter): (Params, Option<EngineMeter>),
    loaded: &sync_mpsc::Sender<Result<(), LoadError>>,
) {
    let load = || {
        let abandoned = || shared.lock().stop;
        let loading = || Weights::load(&package.config, &package.tensors, &abandoned);
        catch_unwind(AssertUnwindSafe(loading)).unwrap_or(Err(LoadError::Abandoned))
    };
    let weights = match load() {
        Ok(weights) => weights,
        Err(error) => {
            tracing::error!(
                error = &error as &dyn std::error::Error,
                "the local model cannot be loaded"
            );
            // Nobody waits for the outcome of a large file.
            let _ = loaded.send(Err(error));
            return;
        }
    };
    let mut scheduler = Scheduler::new(
        Arc::clone(shared),
        Arc::clone(package),
        (params, meter),
        weights,
    );
    shared.ready.store(true, Ordering::Release);
    let _ = loaded.send(Ok(()));
    let mut failures = 0;
    loop {
        let steps = shared.lock().load.steps;
        match catch_unwind(AssertUnwindSafe(|| scheduler.run())) {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "a step of the local model failed"
                );
            }
            Err(_) => tracing::error!("a step of the local model panicked"),
        }
        shared.ready.store(false, Ordering::Release);
        scheduler.fail();
        let progressed = shared.lock().load.steps > steps;
        failures = if progressed { 1 } else { failures + 1 };
        if failures >= MAX_FAILURES {
            break;
        }
        // The step may have died anywhere: nothing that it could have touched is used again.
        match load() {
            Ok(weights) => scheduler.replace(weights),
            Err(error) => {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the local model cannot be reloaded"
                );
                break;
            }
        }
        shared.ready.store(true, Ordering::Release);
    }
    tracing::error!("the local model is given up");
    let mut state = shared.lock();
    state.stop = true;
    while let Some(mut job) = state.queue.pop() {
        job.outlet.push(Event::Failed);
    }
}

// === impl Events ===

impl Events {
    /// Waits for the next event; `None` when the engine has been dropped.
    pub async fn next(&mut self) -> Option<Event> {
        std::future::poll_fn(|cx| self.poll_next(cx)).await
    }

    /// Polls for the next event.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let event = std::task::ready!(self.receiver.poll_recv(cx));
        self.made_room();
        Poll::Ready(event)
    }

    fn made_room(&self) {
        fence(Ordering::SeqCst);
        if self.shared.readers_wake.load(Ordering::Relaxed) {
            let mut state = self.shared.lock();
            self.shared.wake(&mut state);
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.receiver.close();
        let mut state = self.shared.lock();
        state.gone = true;
        self.shared.wake(&mut state);
    }
}

// === impl Shared ===

impl Shared {
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wake(&self, state: &mut State) {
        state.woken = true;
        self.condvar.notify_one();
    }

    /// Sleeps until something has happened since the last sleep.
    pub(super) fn wait(&self, state: MutexGuard<'_, State>) {
        let idle = |state: &mut State| !state.woken && !state.stop;
        let mut state = self
            .condvar
            .wait_while(state, idle)
            .unwrap_or_else(PoisonError::into_inner);
        state.woken = false;
    }
}

// === impl Load ===

impl Load {
    /// How much the newest measurement counts.
    const WEIGHT: f64 = 0.05;

    pub(super) fn note_step(&mut self, took: Duration) {
        self.step_secs += Self::WEIGHT * (took.as_secs_f64() - self.step_secs);
        self.steps += 1;
    }

    pub(super) fn note_answer(&mut self, tokens: usize) {
        self.answer_tokens += Self::WEIGHT * (tokens as f64 - self.answer_tokens);
    }

    /// Returns how long the `place`th in the queue will wait.
    fn wait(&self, place: usize, max_running: usize) -> Duration {
        let rounds = place as f64 / max_running.max(1) as f64;
        let secs = rounds * self.answer_tokens * self.step_secs;
        Duration::from_secs_f64(secs.clamp(1.0, 60.0).ceil())
    }
}
