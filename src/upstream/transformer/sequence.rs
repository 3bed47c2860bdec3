//! One answer in the making.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc;

use super::detokenize::{Detokenizer, Released, TokenLogprob};
use super::kv::Cache;
use super::package::Package;
use super::sampling::{Sampler, Sampling, log_sum, top};

/// What is asked of the engine: one answer to one prompt.
#[derive(Clone, Debug)]
pub struct Request {
    /// Who asks; callers take turns.
    pub caller: Arc<str>,
    /// The prompt.
    pub prompt: Vec<u32>,
    /// How many tokens the answer may have.
    pub max_tokens: usize,
    /// How they are chosen.
    pub sampling: Sampling,
    /// Strings that end the answer; they are not part of it.
    pub stop: Vec<String>,
    /// Whether the probabilities of the answer's tokens are wanted, and those of how many others.
    pub logprobs: Option<usize>,
    /// Whether those of the prompt are wanted as well.
    pub prompt_logprobs: bool,
    /// Whether the answer goes on where the model would end it: for measurements.
    pub ignore_end: bool,
    #[cfg(test)]
    #[doc(hidden)]
    pub panics: bool,
}

/// What comes of it.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The probabilities of the prompt's tokens.
    Prompt(Vec<TokenLogprob>),
    /// The next part of the answer.
    Text {
        /// Whole characters.
        text: String,
        /// The tokens that it consists of, if their probabilities are wanted.
        tokens: Vec<TokenLogprob>,
        /// How many tokens were generated so far.
        generated: usize,
    },
    /// The answer is whole.
    End {
        /// Why it ends here.
        reason: Finish,
        /// How many tokens were generated, without the one that ended the answer.
        generated: usize,
    },
    /// The engine failed.
    Failed,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it, or a stop string did.
    Stop,
    /// It reached the number of tokens asked for, or the end of the context.
    Length,
}

/// A request and the way back to whoever made it.
pub(super) struct Job {
    pub(super) request: Request,
    pub(super) outlet: Outlet,
}

/// The way to a reader that may be slower than the model, and what waits for it.
pub(super) struct Outlet {
    pub(super) sender: mpsc::Sender<Event>,
    pub(super) waiting: VecDeque<Event>,
}

/// A request that has been admitted.
pub(super) struct Sequence {
    pub(super) request: Request,
    pub(super) outlet: Outlet,
    pub(super) cache: Cache,
    /// How many tokens are in the cache.
    pub(super) fed: usize,
    /// The newest token, not yet in the cache.
    newest: u32,
    generated: usize,
    sampler: Sampler,
    detokenizer: Detokenizer,
    prompt_tokens: Vec<TokenLogprob>,
    pub(super) finished: bool,
}

// === impl Request ===

impl Request {
    /// Asks for one token in the most probable way.
    pub fn new(caller: impl Into<Arc<str>>, prompt: Vec<u32>) -> Self {
        Self {
            caller: caller.into(),
            prompt,
            max_tokens: 1,
            sampling: Sampling {
                temperature: 0.0,
                ..Sampling::default()
            },
            stop: Vec::new(),
            logprobs: None,
            prompt_logprobs: false,
            ignore_end: false,
            #[cfg(test)]
            panics: false,
        }
    }

    /// Returns how many places in the cache it may need.
    pub(super) fn cost(&self) -> usize {
        self.prompt.len() + self.max_tokens
    }
}

// === impl Outlet ===

impl Outlet {
    pub(super) fn new(sender: mpsc::Sender<Event>) -> Self {
        Self {
            sender,
            waiting: VecDeque::new(),
        }
    }

    pub(super) fn push(&mut self, event: Event) {
        self.waiting.push_back(event);
        self.flush();
    }

    /// Sends what the reader has room for.
    pub(super) fn flush(&mut self) {
        while let Some(event) = self.waiting.pop_front() {
            match self.sender.try_send(event) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(event)) => {
                    self.waiting.push_front(event);
                    return;
                }
                Err(mpsc::error::TrySendError::Closed(_)) => self.waiting.clear(),
            }
        }
    }

    /// Whether the reader has fallen behind.
    pub(super) fn is_blocked(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(super) fn is_gone(&self) -> bool {
        self.sender.is_closed()
    }
}

// === impl Sequence ===

impl Sequence {
    pub(super) fn new(job: Job, package: &Package) -> Self {
        let Job {
            mut request,
            outlet,
        } = job;
        let stops = std::mem::take(&mut request.stop);
        Self {
            sampler: Sampler::new(request.sampling.clone()),
            detokenizer: Detokenizer::new(stops),
            cache: Cache::new(&package.config),
            fed: 0,
            newest: 0,
            generated: 0,
            prompt_tokens: Vec::new(),
            finished: false,
            request,
            outlet,
        }
    }

    pub(super) fn is_prefilling(&self) -> bool {
        self.fed < self.request.prompt.len()
    }

    pub(super) fn generated(&self) -> usize {
        self.generated
    }

    /// Returns the next tokens for the cache, at most `limit`.
    pub(super) fn next_tokens(&self, limit: usize) -> &[u32] {
        match self.request.prompt.get(self.fed..) {
            Some(rest) if !rest.is_empty() => &rest[..rest.len().min(limit)],
            _ => std::slice::from_ref(&self.newest),
        }
    }

    /// Whether the logits of the row at `position` are needed.
    pub(super) fn wants(&self, position: usize) -> bool {
        self.request.prompt_logprobs || position + 1 >= self.request.prompt.len()
    }

    /// Takes the logits of the row at `position`, which has just been computed.
    pub(super) fn take_logits(&mut self, package: &Package, position: usize, logits: &mut [f32]) {
        let next_in_prompt = self.request.prompt.get(position + 1).copied();
        if let Some(next) = next_in_prompt {
            self.note_prompt(package, position, next, logits);
            return;
        }
        if self.request.prompt_logprobs && position + 1 == self.request.prompt.len() {
            if position == 0 {
                self.note_first(package);
            }
            let tokens = std::mem::take(&mut self.prompt_tokens);
            self.outlet.push(Event::Prompt(tokens));
        }
        if self.generated >= self.request.max_tokens {
            self.finish(Finish::Length);
            return;
        }
        // Reported probabilities are the model's own, before bias, penalties and temperature.
        let reported = self
            .request
            .logprobs
            .map(|n| (log_sum(logits), top(logits, n)));
        let original = reported.is_some().then(|| logits.to_vec());
        let token = self.sampler.draw(logits);
        if !self.request.ignore_end && package.ends.contains(&token) {
            self.finish(Finish::Stop);
            return;
        }
        self.generated += 1;
        self.newest = token;
        let logprob = reported.zip(original).map(|((sum, top), original)| {
            described(
                package,
                token,
                Some(original[token as usize] - sum),
                top,
                sum,
            )
        });
        let released = self
            .detokenizer
            .push(package.tokenizer.pieces.bytes(token), logprob);
        let stopped = released.stopped;
        self.emit(released);
        if stopped {
            self.end(Finish::Stop);
        } else if self.generated >= self.request.max_tokens {
            self.finish(Finish::Length);
        }
    }

    fn note_first(&mut self, package: &Package) {
        if let Some(first) = self.request.prompt.first() {
            let token = described(package, *first, None, Vec::new(), 0.0);
            self.prompt_tokens.push(token);
        }
    }

    fn note_prompt(&mut self, package: &Package, position: usize, next: u32, logits: &[f32]) {
        if position == 0 {
            self.note_first(package);
        }
        let sum = log_sum(logits);
        let top = top(logits, self.request.logprobs.unwrap_or(0));
        let logprob = Some(logits[next as usize] - sum);
        self.prompt_tokens
            .push(described(package, next, logprob, top, sum));
    }

    fn emit(&mut self, released: Released) {
        if !released.text.is_empty() || !released.tokens.is_empty() {
            self.outlet.push(Event::Text {
                text: released.text,
                tokens: released.tokens,
                generated: self.generated,
            });
        }
    }

    /// Ends the answer with what was held back.
    fn finish(&mut self, reason: Finish) {
        let released = self.detokenizer.finish();
        self.emit(released);
        self.end(reason);
    }

    fn end(&mut self, reason: Finish) {
        self.finished = true;
        self.outlet.push(Event::End {
            reason,
            generated: self.generated,
        });
    }
}

fn described(
    package: &Package,
    token: u32,
    logprob: Option<f32>,
    top: Vec<(u32, f32)>,
    sum: f32,
) -> TokenLogprob {
    let pieces = &package.tokenizer.pieces;
    TokenLogprob {
        bytes: pieces.label(token).to_vec(),
        logprob,
        top: top
            .into_iter()
            .map(|(token, logit)| (pieces.label(token).to_vec(), logit - sum))
            .collect(),
        offset: 0,
    }
}
