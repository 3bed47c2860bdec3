//! The engine's thread: it owns the weights and every sequence, so a step needs no locks.
//!
//! Each step takes one token from every running sequence and a bounded piece of the prompts that wait, runs them
//! through the model in one pass, and hands out what came of it. A long prompt therefore cannot stall the others, and
//! no reader can: one that falls behind is left out of the following steps until it has caught up.

use std::sync::atomic::{Ordering, fence};
use std::sync::{Arc, MutexGuard};
use std::time::Instant;

use super::engine::{Params, Shared, State};
use super::forward::{Row, forward};
use super::kv::Cache;
use super::package::Package;
use super::sequence::{Event, Outlet, Sequence};
use super::weights::Weights;
use crate::metrics::EngineMeter;

pub(super) struct Scheduler {
    shared: Arc<Shared>,
    package: Arc<Package>,
    params: Params,
    meter: Option<EngineMeter>,
    weights: Weights,
    sequences: Vec<Sequence>,
    /// Answers that are ready but not yet fetched.
    finished: Vec<Outlet>,
    /// Where the next step begins to pick, when more sequences run than fit into one.
    turn: usize,
}

/// One sequence's part of a step.
struct Part {
    sequence: usize,
    first: usize,
    count: usize,
}

impl Scheduler {
    pub(super) fn new(
        shared: Arc<Shared>,
        package: Arc<Package>,
        (params, meter): (Params, Option<EngineMeter>),
        weights: Weights,
    ) -> Self {
        Self {
            shared,
            package,
            params,
            meter,
            weights,
            sequences: Vec::new(),
            finished: Vec::new(),
            turn: 0,
        }
    }

    /// Works until the engine is dropped, or until a step fails.
    pub(super) fn run(&mut self) -> candle_core::Result<()> {
        let shared = Arc::clone(&self.shared);
        loop {
            self.settle();
            let mut state = shared.lock();
            if state.stop {
                return Ok(());
            }
            self.admit(&mut state);
            if self.active() == 0 {
                shared.wait(state);
                continue;
            }
            drop(state);
            let started = Instant::now();
            let (prefill, decode) = self.step()?;
            let time = started.elapsed();
            if let Some(meter) = &self.meter {
                meter.step(time, prefill, decode);
            }
            shared.lock().load.note_step(time);
        }
    }

    /// Ends all running requests with an error.
    pub(super) fn fail(&mut self) {
        for sequence in &mut self.sequences {
            sequence.outlet.push(Event::Failed);
        }
        let outlets = self.sequences.drain(..).map(|s| s.outlet);
        self.finished.extend(outlets.filter(Outlet::is_blocked));
    }

    /// Puts fresh weights in the place of the old ones.
    pub(super) fn replace(&mut self, weights: Weights) {
        self.weights = weights;
    }

    /// Sends what waits for readers, and lets go of what nobody reads any more.
    fn settle(&mut self) {
        let blocked = self.sequences.iter().any(|s| s.outlet.is_blocked());
        let waits = blocked || !self.finished.is_empty();
        // Said before the readers' room is looked at: a reader that makes room later is then sure to wake this thread.
        self.shared.readers_wake.store(waits, Ordering::Relaxed);
        fence(Ordering::SeqCst);
        for outlet in &mut self.finished {
            outlet.flush();
        }
        self.finished
            .retain(|outlet| outlet.is_blocked() && !outlet.is_gone());
        for sequence in &mut self.sequences {
            sequence.outlet.flush();
        }
        self.sequences.retain(|sequence| !sequence.outlet.is_gone());
    }

    /// Sequences that can be computed now. Those of slow readers do not count, so that they hold up nobody.
    fn active(&self) -> usize {
        self.sequences
            .iter()
            .filter(|s| !s.outlet.is_blocked())
            .count()
    }

    /// Takes requests from the queue while there is room.
    fn admit(&mut self, state: &mut MutexGuard<'_, State>) {
        if std::mem::take(&mut state.gone) {
            state.queue.retain(|job| !job.outlet.is_gone());
        }
        let mut active = self.active();
        let mut reserved: usize = self.sequences.iter().map(|s| s.request.cost()).sum();
        while active < self.params.max_running {
            let fits = |cost| reserved + cost <= self.shared.cache_tokens;
            if !state
                .queue
                .peek()
                .is_some_and(|job| fits(job.request.cost()))
            {
                break;
            }
            if let Some(job) = state.queue.pop() {
                reserved += job.request.cost();
                active += 1;
                self.sequences.push(Sequence::new(job, &self.package));
            }
        }
        state.running = active;
        state.reserved = reserved;
    }

    /// Takes a step, and returns how many tokens of prompts and how many generated ones went through it.
    fn step(&mut self) -> candle_core::Result<(usize, usize)> {
        let (rows, parts) = self.plan();
        let of_prompts = parts
            .iter()
            .filter(|part| self.sequences[part.sequence].is_prefilling());
        let prefill: usize = of_prompts.map(|part| part.count).sum();
        let decode = rows.len() - prefill;
        #[cfg(test)]
        assert!(
            !parts
                .iter()
                .any(|part| self.sequences[part.sequence].request.panics),
            "a test asked for this"
        );
        let mut chosen = parts.iter().map(|part| part.sequence).peekable();
        let mut caches: Vec<&mut Cache> = Vec::with_capacity(parts.len());
        for (index, sequence) in self.sequences.iter_mut().enumerate() {
            if chosen.next_if_eq(&index).is_some() {
                caches.push(&mut sequence.cache);
            }
        }
        let mut logits = forward(&self.weights, &rows, &mut caches)?;
        let mut logits = logits.chunks_exact_mut(self.package.config.vocab);
        for part in parts {
            let sequence = &mut self.sequences[part.sequence];
            sequence.fed += part.count;
            for row in &rows[part.first..part.first + part.count] {
                if row.wanted
                    && let Some(logits) = logits.next()
                {
                    sequence.take_logits(&self.package, row.position, logits);
                }
            }
        }
        self.retire();
        Ok((prefill, decode))
    }

    /// Chooses the rows of the next step, sequence by sequence in their order.
    fn plan(&mut self) -> (Vec<Row>, Vec<Part>) {
        let count = self.sequences.len();
        let mut chosen = vec![0; count];
        let mut places = self.params.max_running;
        let mut prefill = self.params.prefill_chunk;
        self.turn = (self.turn + 1) % count.max(1);
        // Prompts are served oldest first, so that each is done as early as it can be; tokens are taken in turns.
        for (sequence, chosen) in self.sequences.iter().zip(&mut chosen) {
            if sequence.is_prefilling() && !sequence.outlet.is_blocked() && prefill > 0 {
                *chosen = sequence.next_tokens(prefill).len();
                prefill -= *chosen;
            }
        }
        for offset in 0..count {
            let index = (self.turn + offset) % count;
            let sequence = &self.sequences[index];
            if !sequence.is_prefilling() && !sequence.outlet.is_blocked() && places > 0 {
                chosen[index] = 1;
                places -= 1;
            }
        }
        let mut rows = Vec::new();
        let mut parts = Vec::new();
        for (index, count) in chosen.into_iter().enumerate().filter(|(_, n)| *n > 0) {
            let sequence = &self.sequences[index];
            parts.push(Part {
                sequence: index,
                first: rows.len(),
                count,
            });
            let tokens = sequence.next_tokens(count).iter();
            for (position, token) in (sequence.fed..).zip(tokens) {
                rows.push(Row {
                    token: *token,
                    position,
                    cache: parts.len() - 1,
                    wanted: sequence.wants(position),
                });
            }
        }
        (rows, parts)
    }

    /// Gives back the places of finished answers, fetched or not.
    fn retire(&mut self) {
        if !self.sequences.iter().any(|s| s.finished) {
            return;
        }
        let mut state = self.shared.lock();
        for sequence in self.sequences.extract_if(.., |s| s.finished) {
            state.load.note_answer(sequence.generated());
            if sequence.outlet.is_blocked() {
                self.finished.push(sequence.outlet);
            }
        }
    }
}
