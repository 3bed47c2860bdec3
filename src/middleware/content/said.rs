//! Finds in bodies and events what was said, and keeps the beginning of it.

use crate::call::Message;
use crate::openai::endpoint::Endpoint;
use crate::openai::json::{each_element, each_member, text};
use crate::openai::sse::each_delta;

/// What a message takes besides its text, so that a great many empty ones are bounded too.
const OVERHEAD: usize = 32;
/// How many choices of a stream are told apart.
const MAX_CHOICES: usize = 16;
/// How much of a role is kept.
const MAX_ROLE: usize = 64;

const USER: &str = "user";
const ASSISTANT: &str = "assistant";

/// Messages, as far as they find room.
struct Kept {
    messages: Vec<Message>,
    left: usize,
}

/// What a stream has said so far.
pub(super) struct Heard {
    endpoint: Endpoint,
    /// By the number of the choice; the text as it stands in JSON, still escaped.
    choices: Vec<(u64, Vec<u8>)>,
    left: usize,
}

/// Returns what a request's body asks, in at most `max` bytes.
pub(super) fn asked(body: &[u8], endpoint: &Endpoint, max: usize) -> Vec<Message> {
    let mut kept = Kept::new(max);
    match endpoint {
        Endpoint::ChatCompletions => {
            each_member(body, &["messages"], |_, messages| {
                each_element(messages, |message| kept.message(message, USER));
            });
        }
        Endpoint::Responses => {
            // Instructions come first, wherever they stand.
            each_member(body, &["instructions"], |_, value| {
                kept.say("system", &[value]);
            });
            each_member(body, &["input"], |_, value| {
                if inside(value).is_some() {
                    kept.say(USER, &[value]);
                } else {
                    each_element(value, |item| kept.message(item, USER));
                }
            });
        }
        _ => {
            each_member(body, &["prompt", "input"], |_, value| {
                if inside(value).is_some() {
                    kept.say(USER, &[value]);
                } else {
                    // What is no string is a list of tokens.
                    each_element(value, |element| {
                        if inside(element).is_some() {
                            kept.say(USER, &[element]);
                        }
                    });
                }
            });
        }
    }
    kept.messages
}

/// Returns what a whole answer says, in at most `max` bytes.
pub(super) fn answered(body: &[u8], endpoint: &Endpoint, max: usize) -> Vec<Message> {
    let mut kept = Kept::new(max);
    match endpoint {
        Endpoint::ChatCompletions | Endpoint::Completions => {
            each_member(body, &["choices"], |_, choices| {
                each_element(choices, |choice| {
                    each_member(choice, &["message", "text"], |place, value| match place {
                        0 => kept.message(value, ASSISTANT),
                        _ => kept.say(ASSISTANT, &[value]),
                    });
                });
            });
        }
        Endpoint::Responses => {
            each_member(body, &["output"], |_, items| {
                each_element(items, |item| kept.message(item, ASSISTANT));
            });
        }
        // Vectors say nothing.
        _ => {}
    }
    kept.messages
}

// === impl Kept ===

impl Kept {
    fn new(max: usize) -> Self {
        Self {
            messages: Vec::new(),
            left: max,
        }
    }

    /// Keeps a message, or an item of the responses API: its texts, and the tools that it calls.
    fn message(&mut self, message: &[u8], default: &str) {
        const MEMBERS: [&str; 9] = [
            "role",
            "content",
            "refusal",
            "tool_calls",
            "function_call",
            "name",
            "arguments",
            "output",
            "summary",
        ];
        let mut role = None;
        let mut texts = Vec::new();
        each_member(message, &MEMBERS, |place, value| match MEMBERS[place] {
            "role" => role = inside(value),
            "tool_calls" => {
                each_element(value, |call| {
                    each_member(call, &["function", "custom"], |_, called| {
                        function(called, &mut texts);
                    });
                });
            }
            "function_call" => function(value, &mut texts),
            _ if inside(value).is_some() => texts.push(value),
            _ => {
                each_element(value, |part| {
                    each_member(part, &["text", "refusal"], |_, value| {
                        texts.push(value);
                    });
                });
            }
        });
        let role = role.map(|role| text(role.get(..MAX_ROLE).unwrap_or(role)).into_owned());
        self.say(role.as_deref().unwrap_or(default), &texts);
    }

    /// Keeps what stands in these strings, each on lines of its own.
    fn say(&mut self, role: &str, strings: &[&[u8]]) {
        if self.left == 0 || strings.is_empty() {
            return;
        }
        self.left = self.left.saturating_sub(OVERHEAD);
        let mut said = String::new();
        for string in strings.iter().filter_map(|string| inside(string)) {
            if !said.is_empty() {
                said.push('\n');
            }
            let raw = string.get(..self.left).unwrap_or(string);
            self.left -= raw.len();
            said.push_str(&text(raw));
        }
        self.messages.push(Message {
            role: role.to_owned(),
            text: said,
        });
    }
}

/// Finds what is called, and with what.
fn function<'a>(called: &'a [u8], texts: &mut Vec<&'a [u8]>) {
    each_member(called, &["name", "arguments", "input"], |_, value| {
        texts.push(value);
    });
}

/// Returns what stands between a string's quotes. Any other value has none.
fn inside(value: &[u8]) -> Option<&[u8]> {
    value.strip_prefix(b"\"")?.strip_suffix(b"\"")
}

// === impl Heard ===

impl Heard {
    pub(super) fn new(endpoint: Endpoint, max: usize) -> Self {
        Self {
            endpoint,
            choices: Vec::new(),
            left: max,
        }
    }

    /// Returns whether there is room for nothing more.
    pub(super) fn is_full(&self) -> bool {
        self.left == 0
    }

    /// Keeps what an event's data says.
    pub(super) fn hear(&mut self, data: &[u8]) {
        let Self {
            endpoint,
            choices,
            left,
        } = self;
        each_delta(data, endpoint, |index, raw| {
            let place = choices.iter().position(|(number, _)| *number == index);
            let place = place.or_else(|| {
                let has_room = choices.len() < MAX_CHOICES;
                has_room.then(|| {
                    choices.push((index, Vec::new()));
                    choices.len() - 1
                })
            });
            if let Some((_, said)) = place.and_then(|place| choices.get_mut(place)) {
                let raw = raw.get(..*left).unwrap_or(raw);
                *left -= raw.len();
                said.extend_from_slice(raw);
            }
        });
    }

    /// Takes what was said, a message for each choice.
    pub(super) fn take(&mut self) -> Vec<Message> {
        let choices = std::mem::take(&mut self.choices).into_iter();
        let messages = choices.map(|(_, raw)| Message {
            role: ASSISTANT.to_owned(),
            text: text(&raw).into_owned(),
        });
        messages.collect()
    }
}
