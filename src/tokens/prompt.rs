//! The prompt tokens of a request.

use super::meter::Meter;
use super::{Encoding, estimate};
use crate::openai::endpoint::Endpoint;
use crate::openai::json::{each_element, each_member};

/// What frames a message, after OpenAI's cookbook, "How to count tokens with tiktoken".
const TOKENS_PER_MESSAGE: u64 = 3;
/// What a name adds to its message.
const TOKENS_PER_NAME: u64 = 1;
/// Every reply is primed with the beginning of a message of the assistant's.
const TOKENS_PER_REPLY: u64 = 3;

/// What an image, a recording or a file counts. OpenAI charges 85 tokens for an image of low detail, and 765 for one of
/// 1024 by 1024 pixels in high detail; the size is not known here.
const TOKENS_PER_ATTACHMENT: u64 = 765;

/// Returns the prompt tokens of a request body, counted by the encoding or, where that is not known, estimated.
///
/// Text is counted exactly, up to [`EXACT_LIMIT`](super::EXACT_LIMIT) bytes. Tools and schemas are approximated by their
/// JSON, because how models are shown them is not published; images, recordings and files count a flat number. What is
/// not understood counts nothing, and a body that is no JSON object is estimated from its bytes.
pub fn prompt(encoding: Option<Encoding>, endpoint: &Endpoint, body: &[u8]) -> u64 {
    if !endpoint.is_generation() {
        return 0;
    }
    let mut meter = Meter::new(encoding);
    let is_whole = match endpoint {
        Endpoint::ChatCompletions => chat(&mut meter, body),
        Endpoint::Responses => responses(&mut meter, body),
        _ => each_member(body, &["prompt", "input", "suffix"], |_, value| {
            inputs(&mut meter, value);
        }),
    };
    if is_whole {
        meter.tokens()
    } else {
        estimate(body)
    }
}

fn chat(meter: &mut Meter, body: &[u8]) -> bool {
    const MEMBERS: [&str; 4] = ["messages", "tools", "functions", "response_format"];
    meter.add(TOKENS_PER_REPLY);
    each_member(body, &MEMBERS, |place, value| {
        if place == 0 {
            each_element(value, |message| item(meter, message));
        } else {
            meter.json(value);
        }
    })
}

fn responses(meter: &mut Meter, body: &[u8]) -> bool {
    const MEMBERS: [&str; 4] = ["input", "instructions", "tools", "text"];
    meter.add(TOKENS_PER_REPLY);
    each_member(body, &MEMBERS, |place, value| match place {
        0 | 1 => {
            // A string is the content of one message, of the user's or of the developer's.
            if meter.string(value) {
                meter.add(TOKENS_PER_MESSAGE + 1);
            } else {
                each_element(value, |part| item(meter, part));
            }
        }
        _ => meter.json(value),
    })
}

/// Adds what frames a message and what it says.
fn item(meter: &mut Meter, item: &[u8]) {
    meter.add(TOKENS_PER_MESSAGE);
    each_member(item, &MEMBERS, |place, value| match MEMBERS[place] {
        "role" => {
            meter.string(value);
        }
        "name" => {
            meter.string(value);
            meter.add(TOKENS_PER_NAME);
        }
        member => spoken(meter, member, value),
    });
}

/// The members of messages, and of items of the responses API, that hold what the model reads or writes.
pub(super) const MEMBERS: [&str; 12] = [
    "role",
    "name",
    "content",
    "tool_calls",
    "function_call",
    "refusal",
    "reasoning_content",
    "reasoning",
    "arguments",
    "input",
    "output",
    "summary",
];

/// Adds what a member of a message says: content, reasoning, calls of tools and what they returned.
pub(super) fn spoken(meter: &mut Meter, member: &str, value: &[u8]) {
    match member {
        "tool_calls" => {
            each_element(value, |call| {
                each_member(call, &["function", "custom"], |_, value| {
                    function(meter, value);
                });
            });
        }
        "function_call" => function(meter, value),
        _ => content(meter, value),
    }
}

/// Adds the call of a function.
fn function(meter: &mut Meter, function: &[u8]) {
    each_member(function, &["name", "arguments", "input"], |_, value| {
        meter.string(value);
    });
}

/// Adds a content: a string, or parts of which each has a text or stands for something else.
fn content(meter: &mut Meter, value: &[u8]) {
    const MEMBERS: [&str; 9] = [
        "text",
        "refusal",
        "image_url",
        "input_image",
        "input_audio",
        "file",
        "file_data",
        "file_id",
        "file_url",
    ];
    if meter.string(value) {
        return;
    }
    each_element(value, |part| {
        if meter.string(part) {
            return;
        }
        let mut is_attachment = false;
        each_member(part, &MEMBERS, |place, value| {
            if place < 2 {
                meter.string(value);
            } else {
                is_attachment = true;
            }
        });
        meter.add(u64::from(is_attachment) * TOKENS_PER_ATTACHMENT);
    });
}

/// Adds a prompt of the older kind: a string, strings, tokens, or arrays of tokens.
fn inputs(meter: &mut Meter, value: &[u8]) {
    if meter.string(value) {
        return;
    }
    each_element(value, |input| {
        if meter.string(input) {
            return;
        }
        let mut tokens = 0;
        each_element(input, |_| tokens += 1);
        meter.add(if is_number(input) { 1 } else { tokens });
    });
}

fn is_number(value: &[u8]) -> bool {
    value.first().is_some_and(u8::is_ascii_digit)
}
