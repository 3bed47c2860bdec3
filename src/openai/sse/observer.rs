//! Learns from a passing stream what accounting and health must know of it.
//!
//! Nothing is parsed but usage objects: strings that are rare in an event are searched for, and only where one is
//! found are the event's members walked. In JSON a quoted key can stand inside a string only with its quotes
//! escaped, so that a search for it never hits generated text.

use std::sync::LazyLock;

use memchr::memmem::Finder;

use super::event::{Event, Events};
use super::outline::Outline;
use super::text::number;
use crate::openai::endpoint::Endpoint;
use crate::openai::json::{each_element, each_member, top_level_member};
use crate::openai::usage::Usage;

/// What has been seen of a stream so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The usage reported last. Zero is a value.
    pub usage: Option<Usage>,
    /// Whether `[DONE]` came.
    pub done: bool,
    /// Whether a choice gave its reason to finish.
    pub finish_reason: bool,
    /// Whether `response.completed`, `response.incomplete` or `response.failed` came: nothing follows them.
    pub terminal: bool,
    /// Whether an error came as an event.
    pub error: bool,
    /// How many events had data, `[DONE]` not counted.
    pub events: u64,
    /// How many of them brought something generated: text, reasoning, a part of a tool call. The first one is the
    /// first token; a token or more came with each.
    pub deltas: u64,
}

/// Reads the blocks of a stream as they pass.
#[derive(Clone, Debug, Default)]
pub struct StreamObserver {
    observed: Observed,
    choices: Choices,
    outline: Outline,
}

/// The choices of a stream, as far as events tell of them that bring nothing generated: of those that do, whoever keeps
/// the text knows.
#[derive(Clone, Debug, Default)]
struct Choices {
    begun: Vec<u64>,
    finished: Vec<u64>,
}

/// The most choices that are told apart, which is the most that the API gives.
const MOST_CHOICES: usize = 128;

/// The searches, prepared once.
pub(super) struct Needles {
    pub usage: Key,
    error: Key,
    finish_reason: Key,
    /// Members that hold what is generated, the most frequent first.
    deltas: [Key; 7],
    delta_type: Finder<'static>,
    item_added: Finder<'static>,
    name: Key,
    response_type: Finder<'static>,
}

/// A key to search for, quotes included.
pub(super) struct Key(Finder<'static>);

pub(super) static NEEDLES: LazyLock<Needles> = LazyLock::new(|| Needles {
    usage: Key::new("\"usage\""),
    error: Key::new("\"error\""),
    finish_reason: Key::new("\"finish_reason\""),
    deltas: [
        Key::new("\"content\""),
        Key::new("\"text\""),
        Key::new("\"reasoning_content\""),
        Key::new("\"reasoning\""),
        Key::new("\"tool_calls\""),
        Key::new("\"refusal\""),
        Key::new("\"function_call\""),
    ],
    delta_type: Finder::new(".delta\""),
    item_added: Finder::new("\"response.output_item.added\""),
    name: Key::new("\"name\""),
    response_type: Finder::new("\"response."),
});

// === impl StreamObserver ===

impl StreamObserver {
    /// Builds an observer for one stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns what has been seen so far.
    pub fn observed(&self) -> &Observed {
        &self.observed
    }

    /// Returns the choices that have begun with an event that brought nothing generated.
    pub fn begun(&self) -> &[u64] {
        &self.choices.begun
    }

    /// Returns the choices that gave their reason to finish.
    pub fn finished(&self) -> &[u64] {
        &self.choices.finished
    }

    /// Returns what is known of a stream of the responses API.
    pub fn outline(&self) -> &Outline {
        &self.outline
    }

    /// Reads a block of whole events.
    pub fn observe(&mut self, block: &[u8], endpoint: &Endpoint) {
        self.observe_with(block, endpoint, |_| ());
    }

    /// Reads a block of whole events, and shows the data of each one that brought something generated.
    pub fn observe_with(&mut self, block: &[u8], endpoint: &Endpoint, mut show: impl FnMut(&[u8])) {
        for event in Events::new(block) {
            if event.is_done() {
                self.observed.done = true;
            } else if let Some(data) = event.data() {
                let deltas = self.observed.deltas;
                self.observe_event(&event, &data, endpoint);
                if self.observed.deltas > deltas {
                    show(&data);
                }
            }
        }
    }

    fn observe_event(&mut self, event: &Event<'_>, data: &[u8], endpoint: &Endpoint) {
        let needles = &*NEEDLES;
        let seen = &mut self.observed;
        seen.events += 1;
        let is_delta = is_delta(event, data, endpoint);
        seen.deltas += u64::from(is_delta);
        let finishes = needles.finish_reason.values(data).any(is_reason);
        seen.finish_reason |= finishes;
        if finishes || (!is_delta && endpoint.has_stream_options()) {
            self.choices.read(data);
        }
        if !is_delta && *endpoint == Endpoint::Responses {
            self.outline.read(event, data);
        }
        seen.error |= !seen.error && is_error(event, data);

        let is_terminal = !endpoint.has_stream_options() && is_terminal(event, data);
        seen.terminal |= is_terminal;
        if needles
            .usage
            .values(data)
            .any(|value| value.starts_with(b"{"))
        {
            let usage =
                member(data, "usage").and_then(|json| Usage::of_answer(json, endpoint).ok());
            let usage = usage.or_else(|| {
                let response = is_terminal.then(|| member(data, "response"))??;
                Usage::of_answer(member(response, "usage")?, endpoint).ok()
            });
            seen.usage = usage.or(seen.usage);
        }
    }
}

// === impl Choices ===

impl Choices {
    fn read(&mut self, data: &[u8]) {
        each_member(data, &["choices"], |_, choices| {
            each_element(choices, |choice| {
                let (mut index, mut finishes) = (0, false);
                each_member(
                    choice,
                    &["index", "finish_reason"],
                    |place, value| match place {
                        0 => index = number(value),
                        _ => finishes = is_reason(value),
                    },
                );
                note(&mut self.begun, index);
                if finishes {
                    note(&mut self.finished, index);
                }
            });
        });
    }
}

fn note(choices: &mut Vec<u64>, index: u64) {
    if choices.len() < MOST_CHOICES && !choices.contains(&index) {
        choices.push(index);
    }
}

/// Returns whether a value, which may have more behind it, is a reason to finish.
fn is_reason(value: &[u8]) -> bool {
    value.starts_with(b"\"") && !value.starts_with(b"\"\"")
}

fn is_delta(event: &Event<'_>, data: &[u8], endpoint: &Endpoint) -> bool {
    match endpoint {
        Endpoint::ChatCompletions | Endpoint::Completions => NEEDLES
            .deltas
            .iter()
            .any(|key| key.values(data).any(is_something)),
        Endpoint::Responses => {
            let is_delta = match event.name() {
                Some(name) => name.ends_with(b".delta"),
                None => NEEDLES.delta_type.find(data).is_some(),
            };
            // A call of a tool begins with its name.
            is_delta || (NEEDLES.item_added.find(data).is_some() && NEEDLES.name.is_in(data))
        }
        _ => true,
    }
}

fn is_error(event: &Event<'_>, data: &[u8]) -> bool {
    event.name() == Some(b"error")
        || (NEEDLES.error.is_in(data)
            && (member(data, "error").is_some_and(is_something)
                || member(data, "type") == Some(b"\"error\"")))
}

fn is_terminal(event: &Event<'_>, data: &[u8]) -> bool {
    const TERMINAL: [&[u8]; 3] = [
        b"response.completed",
        b"response.incomplete",
        b"response.failed",
    ];
    if let Some(name) = event.name() {
        return TERMINAL.contains(&name);
    }
    // Without a name the type tells; it is the same word.
    let kind = NEEDLES
        .response_type
        .find(data)
        .and_then(|_| member(data, "type"));
    kind.is_some_and(|kind| {
        TERMINAL
            .iter()
            .any(|name| kind.len() == name.len() + 2 && &kind[1..=name.len()] == *name)
    })
}

/// Returns whether a value, which may have more behind it, is neither null nor empty.
fn is_something(value: &[u8]) -> bool {
    !(value.starts_with(b"null") || value.starts_with(b"\"\"") || value.starts_with(b"[]"))
}

/// Returns the value of a top-level member.
fn member<'a>(object: &'a [u8], name: &str) -> Option<&'a [u8]> {
    object.get(top_level_member(object, name)?)
}

// === impl Key ===

impl Key {
    fn new(quoted: &'static str) -> Self {
        Self(Finder::new(quoted))
    }

    /// Returns whether the key, or a string that looks like it, stands anywhere.
    pub fn is_in(&self, bytes: &[u8]) -> bool {
        self.0.find(bytes).is_some()
    }

    /// Returns what begins behind each place where the key stands, at whatever depth.
    pub fn values<'a>(&'a self, data: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let width = self.0.needle().len();
        self.0.find_iter(data).filter_map(move |at| {
            let rest = data.get(at + width..)?.trim_ascii_start();
            Some(rest.strip_prefix(b":")?.trim_ascii_start())
        })
    }
}
