//! What is kept of a whole answer: for all who may share it, and for its client, should it ask again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::desk::{Desk, Quest};
use super::flight::{Head, OnWhole, Whole};
use super::judge::{is_in_order, is_whole};
use super::leading::Start;
use super::shape::Shape;
use crate::call::{Cached, Call, Caller, Facts, Record, Try};
use crate::openai::endpoint::Endpoint;
use crate::openai::usage::Usage;
use crate::store::cache::{Entry, Stored, Tags};

/// What of an answer's headers belongs to whoever gets it.
const KEPT_HEADERS: [HeaderName; 4] = [
    header::CONTENT_TYPE,
    HeaderName::from_static("openai-model"),
    HeaderName::from_static("openai-version"),
    // Tells that an answer is less than was wished for: those who join one are told, too.
    HeaderName::from_static("x-weir-degraded"),
];

/// Of larger bodies it is not kept what is in them, for comparisons: that would take long.
const MOST_SHAPED: usize = 64 << 10;

/// What its answer is judged and found by, as far as that takes a while to be known. It is there before a call begins: then
/// others wait.
pub(super) struct Prepared {
    /// Who may have answered it, each with the name by which it knows the model.
    primaries: Vec<(Arc<str>, Arc<str>)>,
    shape: Shape,
}

/// What was known of a call when it began.
struct Seen {
    start: Start,
    prepared: Prepared,
    endpoint: Endpoint,
    model: Arc<str>,
    caller: Arc<Caller>,
    record: Arc<Record>,
}

/// What is known of an answer besides its bytes.
struct Told {
    usage: Option<Usage>,
    /// The name by which the upstream was asked for the model.
    served_model: Option<Arc<str>>,
}

/// How long an answer may be served from when it was whole.
struct Lasts {
    ttl: Duration,
    /// For how long after that where an upstream fails.
    stale: Duration,
}

/// Returns who has answered a call, and what it was asked for there.
pub(super) fn answered(facts: &Facts) -> Option<(Arc<str>, Option<Arc<str>>)> {
    let mut tries = facts.attempts.iter().rev();
    let answered = tries.find(|attempt| attempt.result == Try::ANSWERED)?;
    Some((Arc::clone(&answered.upstream), answered.model.clone()))
}

/// Returns the headers that belong to whoever gets an answer.
pub(super) fn kept(headers: &HeaderMap) -> HeaderMap {
    let mut kept = HeaderMap::with_capacity(KEPT_HEADERS.len() + 1);
    for name in KEPT_HEADERS {
        if let Some(value) = headers.get(&name) {
            // A copy: the value holds on to the room that the head was read into.
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                kept.insert(name, value);
            }
        }
    }
    kept
}

impl<E: Send + 'static> Desk<E> {
    /// Finds out of a call what is to be known of it before it begins.
    pub(super) fn prepare(&self, call: &Call, quest: &Quest) -> Prepared {
        // Only what others may get is compared with what they ask for.
        let small = call.json().filter(|(bytes, _)| bytes.len() <= MOST_SHAPED);
        let shape = quest
            .ask
            .zip(small)
            .map(|(ask, _)| Shape::of(call, ask.scope, self.ways()));
        Prepared {
            primaries: match quest.ask {
                Some(_) => self.ways().primaries(call),
                None => Vec::new(),
            },
            shape: shape.unwrap_or_default(),
        }
    }

    /// Returns what keeps the answer to a call when it is whole, and then says so in [`Start::has_answer`].
    pub(super) fn keeps(
        self: &Arc<Self>,
        call: &Call,
        start: &Start,
        prepared: Prepared,
    ) -> OnWhole {
        // The call holds it until its end: an answer is kept though the gateway has another configuration by then.
        let desk = Arc::clone(self);
        let seen = Seen {
            start: start.clone(),
            prepared,
            endpoint: call.endpoint.clone(),
            model: call.model.clone().unwrap_or_default(),
            caller: Arc::clone(&call.caller),
            record: Arc::clone(&call.record),
        };
        Box::new(move |head, whole| {
            let is_kept = desk.keep(&seen, head, &whole);
            seen.start.has_answer.store(is_kept, Ordering::Release);
        })
    }

    /// Keeps an answer where it may be served from; returns whether it is anywhere.
    fn keep(&self, seen: &Seen, head: &Head, whole: &Whole) -> bool {
        let params = self.params();
        let start = &seen.start;
        // What was purged stays purged.
        if params.cache.purges() != start.purges {
            return false;
        }
        let (degraded, cached, answered) = {
            let facts = seen.record.facts();
            (facts.degraded, facts.cached, answered(&facts))
        };
        // It was found with other gateways, and is in memory since.
        if cached == Cached::Hit {
            return true;
        }
        let (upstream, served_model) = answered.unzip();
        let served_model = served_model.flatten();
        let mut shared = None;
        if let (Some(ask), Some(upstream), false) = (start.quest.ask, &upstream, degraded) {
            let name = served_model.as_ref().unwrap_or(&seen.model);
            let mut primaries = seen.prepared.primaries.iter();
            let is_primary = primaries.any(|(other, model)| other == upstream && model == name);
            // What was asked for before another one like it is older than that one's.
            let is_current = self.flights().is_current(&ask.key, start.number);
            let usage = is_whole(whole, &seen.endpoint).filter(|_| is_primary && is_current);
            if let Some(usage) = usage {
                let told = Told {
                    usage,
                    served_model: served_model.clone(),
                };
                let lasts = Lasts {
                    ttl: ask.ttl,
                    stale: ask.keep_stale,
                };
                let entry = Arc::new(seen.entry(head, whole, told, lasts));
                let kept = Arc::clone(&entry);
                if params.cache.put_unless_purged(ask.key, kept, start.purges) {
                    if let Some(share) = &start.share {
                        share.put(ask.key, Arc::clone(&entry));
                    }
                    shared = Some(entry);
                }
            }
        }
        let Some((identity, retries)) = start.quest.identity.zip(params.retries.as_ref()) else {
            return shared.is_some();
        };
        // Whoever wanted a new answer does not look among those that are shared.
        let looks_there = start.quest.ask.is_some_and(|ask| !ask.control.no_cache);
        let entry = match &shared {
            Some(_) if looks_there && !identity.may_ask_again => return true,
            // Whoever asks again may want none so old, or it may have gone before: then it is there all the same.
            Some(entry) => entry.lasting(retries.window),
            None => {
                let Some(usage) = is_in_order(whole, &seen.endpoint) else {
                    return false;
                };
                let told = Told {
                    usage,
                    served_model,
                };
                let lasts = Lasts {
                    ttl: retries.window,
                    stale: Duration::ZERO,
                };
                seen.entry(head, whole, told, lasts)
            }
        };
        retries.store.put(identity.call, entry);
        // A purge that began in between may not have seen it.
        let is_kept = params.cache.purges() == start.purges;
        if !is_kept {
            retries.store.forget(&identity.call);
        }
        is_kept
    }
}

impl Seen {
    fn entry(&self, head: &Head, whole: &Whole, told: Told, lasts: Lasts) -> Entry {
        let (body, pace) = match whole {
            Whole::Text(text) => (Stored::text(text), Arc::default()),
            Whole::Events(blocks, offsets) => (Stored::events(blocks), offsets.as_slice().into()),
        };
        Entry {
            headers: kept(&head.headers),
            body,
            usage: told.usage,
            served_model: told.served_model,
            tags: Tags {
                key: Arc::clone(&self.caller.key),
                team: self.caller.team.clone(),
                model: Arc::clone(&self.model),
                endpoint: self.endpoint.label(),
            },
            shape: self.prepared.shape.clone(),
            stored: Instant::now(),
            ttl: lasts.ttl,
            stale: lasts.stale,
            pace,
        }
    }
}
