//! Which calls may be answered by what another one got, and which answers may be kept for that.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use memchr::memmem;
use rustc_hash::FxHashMap;

use super::control::Control;
use super::flight::Whole;
use super::key::key;
use crate::call::{Call, Keeps};
use crate::openai::endpoint::Endpoint;
use crate::openai::json::{Members, each_element, each_member};
use crate::openai::sse::StreamObserver;
use crate::openai::usage::Usage;
use crate::store::cache::{Entry, Key};

/// Which calls are looked up and kept, besides those that ask for it themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Embeddings, and what is generated with temperature 0 or a seed.
    Deterministic,
    /// All.
    Always,
    /// None.
    OnRequest,
}

/// The events that end a response in order, by their types in JSON.
const COMPLETED: &[u8] = b"\"response.completed\"";
const INCOMPLETE: &[u8] = b"\"response.incomplete\"";

/// Who shares answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The keys of a team; a key without a team shares with none.
    Team,
    /// Nobody: each key has its own.
    Key,
    /// All keys.
    Global,
}

/// What holds for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Whether anything is looked up or kept at all.
    pub enabled: bool,
    /// Which calls are.
    pub when: When,
    /// Who shares answers.
    pub scope: Scope,
    /// How long an answer is served, where the request does not say.
    pub ttl: Duration,
    /// Whether calls that give tools to the model, or the results of some, are among them.
    pub tools: bool,
    /// How long after that it is served where the upstream fails.
    pub stale_if_error: Duration,
    /// Whether a stream comes again at the pace at which it came, or at once.
    pub paced: bool,
    /// Whether a call goes on to its end, to be kept, though all its clients have left.
    pub finish: bool,
}

/// What holds for which calls.
#[derive(Clone, Debug)]
pub struct Rules {
    /// For all that have no terms of their own.
    pub terms: Terms,
    /// For the calls of a route, by its pattern.
    pub routes: FxHashMap<Arc<str>, Terms>,
    /// The longest time that a request may ask for.
    pub max_ttl: Duration,
}

/// Where calls go.
pub trait Ways: Send + Sync {
    /// Returns what the way of a call is called: the configured pattern that leads there.
    fn label(&self, call: &Call) -> Option<Arc<str>>;

    /// Shows everything by which those upstreams are known that answer a call as long as all is well.
    fn each_primary(&self, call: &Call, see: &mut dyn FnMut(&[u8]));

    /// Returns their names, each with the one by which it knows the model.
    fn primaries(&self, call: &Call) -> Vec<(Arc<str>, Arc<str>)>;
}

/// What is done about a call.
pub(super) enum Verdict {
    /// It goes its way as if there were no cache. Why: a word for `cache-status`.
    Bypass(&'static str),
    /// It is looked up.
    Look(Ask),
}

/// What is looked up, and how what is found or fetched may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) key: Key,
    pub(super) scope: Scope,
    pub(super) control: Control,
    pub(super) paced: bool,
    pub(super) finish: bool,
    /// How long after its time an answer may be served to it where the upstream fails.
    pub(super) stale: Duration,
    /// How long after its time its own answer is kept for that.
    pub(super) keep_stale: Duration,
    /// How old an answer may be that is served to it.
    pub(super) oldest: Duration,
    /// How long its own answer is kept.
    pub(super) ttl: Duration,
}

impl Ask {
    /// Returns whether an answer that is fresh is young enough, and good for long enough.
    pub(super) fn takes(&self, entry: &Entry) -> bool {
        let left = entry.fresh_for().unwrap_or_default();
        entry.age() <= self.oldest && left >= self.control.min_fresh
    }
}

impl Rules {
    /// Returns what holds for a call.
    pub(super) fn terms_of(&self, call: &Call, ways: &dyn Ways) -> &Terms {
        let label = ways.label(call);
        let own = label.and_then(|label| self.routes.get(&label));
        own.unwrap_or(&self.terms)
    }

    /// Returns whether a route keeps nothing of a call, where others do.
    pub(super) fn are_off_for(&self, call: &Call, ways: &dyn Ways) -> bool {
        self.terms.enabled && !self.terms_of(call, ways).enabled
    }

    /// Judges a call by what it says, before anybody has answered it. A body of more than `most` bytes is not looked at: that
    /// would take long.
    pub(super) fn judge(&self, call: &Call, most: u64, ways: &dyn Ways) -> Verdict {
        let Some((bytes, members)) = call.json() else {
            return Verdict::Bypass("endpoint");
        };
        let terms = self.terms_of(call, ways);
        if !terms.enabled || call.caller.keeps == Some(Keeps::Nothing) {
            return Verdict::Bypass("off");
        }
        if bytes.len() as u64 > most {
            return Verdict::Bypass("too-large");
        }
        let control = Control::of(&call.head.headers);
        if control.no_store {
            return Verdict::Bypass("no-store");
        }
        let traits = Traits::of(bytes, members, !terms.tools);
        let when = match call.caller.keeps {
            Some(Keeps::Always) => When::Always,
            Some(Keeps::Deterministic) => When::Deterministic,
            Some(Keeps::OnRequest) => When::OnRequest,
            Some(Keeps::Nothing) | None => terms.when,
        };
        let by_itself = match when {
            When::Always => true,
            When::OnRequest => false,
            When::Deterministic => call.endpoint == Endpoint::Embeddings || traits.is_deterministic,
        };
        if traits.is_kept_upstream(&call.endpoint) {
            return Verdict::Bypass("stored-upstream");
        }
        if traits.has_tools && !terms.tools {
            return Verdict::Bypass("tools");
        }
        if !by_itself && !control.asks() {
            return Verdict::Bypass(match when {
                When::OnRequest => "not-asked-for",
                _ => "not-deterministic",
            });
        }
        let Ok(key) = key(call, terms.scope, ways) else {
            return Verdict::Bypass("ambiguous");
        };
        let asked = control.max_age.filter(|_| control.asks());
        let own = Some(terms.ttl).filter(|_| by_itself);
        // For those who ask for less it is no less: they say so each time.
        let ttl = asked.max(own).unwrap_or(terms.ttl);
        // Who wants a new answer wants no old one.
        let stale = match control.no_cache {
            true => Duration::ZERO,
            false => control.stale_if_error.unwrap_or(Duration::MAX),
        };
        Verdict::Look(Ask {
            key,
            scope: terms.scope,
            control,
            paced: terms.paced,
            finish: terms.finish,
            stale: stale.min(terms.stale_if_error),
            keep_stale: terms.stale_if_error,
            oldest: asked.unwrap_or(terms.ttl).min(self.max_ttl),
            ttl: ttl.min(self.max_ttl),
        })
    }
}

/// What a body says of whether its answer may be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Traits {
    is_deterministic: bool,
    /// Whether the upstream keeps something by which the call can be told from another one like it.
    is_kept: bool,
    /// Whether it says that its answer is not to be kept.
    is_forgotten: bool,
    has_tools: bool,
}

impl Traits {
    /// Reads a body; the results of tools stand deep in it, and are looked for only where that matters.
    fn of(body: &[u8], members: &Members, looks_for_tools: bool) -> Self {
        const NAMES: [&str; 10] = [
            "temperature",
            "seed",
            "store",
            "background",
            "conversation",
            "previous_response_id",
            "tools",
            "functions",
            "messages",
            "input",
        ];
        let mut traits = Self::default();
        let names = match looks_for_tools {
            true => &NAMES[..],
            false => &NAMES[..NAMES.len() - 4],
        };
        members.each(body, names, |place, value| match place {
            0 => traits.is_deterministic |= is_zero(value),
            1 => traits.is_deterministic |= value != b"null",
            2 => match value {
                b"true" => traits.is_kept = true,
                b"false" => traits.is_forgotten = true,
                _ => {}
            },
            3 => traits.is_kept |= value == b"true",
            // What the upstream remembers may have changed.
            4 | 5 => traits.is_kept |= value != b"null",
            6 | 7 => traits.has_tools |= !matches!(value, b"null" | b"[]"),
            _ => traits.has_tools |= has_results(value),
        });
        traits
    }

    /// Responses are kept upstream unless they are not to be.
    fn is_kept_upstream(&self, endpoint: &Endpoint) -> bool {
        self.is_kept || (*endpoint == Endpoint::Responses && !self.is_forgotten)
    }
}

/// Returns whether the results of tools stand among messages, or among the items of a response's input.
fn has_results(messages: &[u8]) -> bool {
    let mut found = false;
    each_element(messages, |message| {
        each_member(message, &["role", "type"], |place, value| {
            found |= match place {
                0 => matches!(value, b"\"tool\"" | b"\"function\""),
                _ => value.ends_with(b"_call_output\""),
            };
        });
    });
    found
}

/// Returns whether a block of events ends a stream, whatever comes behind it.
pub(super) fn is_ending(block: &[u8]) -> bool {
    memmem::find(block, b"data: [DONE]").is_some()
        || memmem::find(block, b"data:[DONE]").is_some()
        || memmem::find(block, COMPLETED).is_some()
        || memmem::find(block, INCOMPLETE).is_some()
}

fn is_zero(number: &[u8]) -> bool {
    let number = std::str::from_utf8(number).ok();
    number.and_then(|number| number.parse::<f64>().ok()) == Some(0.0)
}

/// Returns whether an answer is whole and no error, and what it has used, where its upstream says so. Only then it is kept.
pub(super) fn is_whole(body: &Whole, endpoint: &Endpoint) -> Option<Option<Usage>> {
    match body {
        Whole::Text(bytes) => whole_text(bytes, endpoint),
        Whole::Events(blocks, _) => whole_events(blocks, endpoint, &[COMPLETED]),
    }
}

/// Returns whether an answer has come in order, so that the client that had asked for it may have it again: also one that
/// tells of something that is still to be done.
pub(super) fn is_in_order(body: &Whole, endpoint: &Endpoint) -> Option<Option<Usage>> {
    match body {
        Whole::Text(bytes) => text_in_order(bytes, endpoint, |_| true),
        Whole::Events(blocks, _) => whole_events(blocks, endpoint, &[COMPLETED, INCOMPLETE]),
    }
}

fn whole_text(bytes: &Bytes, endpoint: &Endpoint) -> Option<Option<Usage>> {
    text_in_order(bytes, endpoint, |status| match endpoint {
        Endpoint::Responses => status == Some(b"\"completed\""),
        _ => true,
    })
}

fn text_in_order(
    bytes: &Bytes,
    endpoint: &Endpoint,
    is_done: impl Fn(Option<&[u8]>) -> bool,
) -> Option<Option<Usage>> {
    let mut is_error = false;
    let (mut status, mut usage) = (None, None);
    let names = ["error", "status", "usage"];
    // Of one that is given twice the last counts, as it does in the books of the call that has paid.
    let is_object = each_member(bytes, &names, |place, value| match place {
        0 => is_error |= value != b"null",
        1 => status = Some(value),
        _ => usage = Some(value),
    });
    if !is_object || is_error || !is_done(status) {
        return None;
    }
    Some(usage.and_then(|usage| Usage::of_answer(usage, endpoint).ok()))
}

fn whole_events(blocks: &[Bytes], endpoint: &Endpoint, endings: &[&[u8]]) -> Option<Option<Usage>> {
    let mut observer = StreamObserver::new();
    for block in blocks {
        observer.observe_with(block, endpoint, |_| {});
    }
    let seen = observer.observed();
    let has_ended = |block: &Bytes| {
        let mut endings = endings.iter();
        endings.any(|ending| memmem::find(block, ending).is_some())
    };
    let is_done = match endpoint {
        // Something may stand behind it, such as a comment.
        Endpoint::Responses => seen.terminal && blocks.iter().rev().take(3).any(has_ended),
        // Without it nobody knows whether all choices are there, or the usage.
        _ => seen.done,
    };
    (is_done && !seen.error).then_some(seen.usage)
}

#[cfg(test)]
mod tests;
