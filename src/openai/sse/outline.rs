//! What must be known of a stream of the responses API to finish it before its time, as far as events tell of it that
//! bring nothing generated.
//!
//! Such a stream ends like one that has come to its `max_output_tokens`: what is open is closed with the text that has
//! come, then `response.incomplete` says why, and what was used.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::event::{Event, Events};
use super::text::{inside, number};
use crate::openai::json::{each_member, top_level_member};
use crate::openai::usage::Usage;

/// The most bytes that are kept of a stream. Items beyond that are not told again at its end.
const KEPT: usize = 256 << 10;

/// What has begun and what is done of a response.
#[derive(Clone, Debug, Default)]
pub struct Outline {
    /// The response as it began, raw.
    response: Vec<u8>,
    /// The items of its output, in the order in which they came.
    items: Vec<Item>,
    size: usize,
}

#[derive(Clone, Debug)]
struct Item {
    index: u64,
    raw: Vec<u8>,
    is_done: bool,
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
struct Part {
    index: u64,
    raw: Vec<u8>,
    is_done: bool,
}

/// The events at the end of a stream, in the making.
struct Ending {
    bytes: Vec<u8>,
    /// The number of the next event, where they are numbered.
    number: Option<u64>,
    /// Whether events have names.
    is_named: bool,
}

// === impl Outline ===

impl Outline {
    /// Reads an event that brought nothing generated.
    pub(super) fn read(&mut self, event: &Event<'_>, data: &[u8]) {
        const MEMBERS: [&str; 6] = [
            "type",
            "response",
            "output_index",
            "content_index",
            "item",
            "part",
        ];
        let mut members: [Option<&[u8]>; MEMBERS.len()] = Default::default();
        each_member(data, &MEMBERS, |place, value| members[place] = Some(value));
        let [kind, response, item_index, part_index, item, part] = members;
        let kind = event.name().or_else(|| inside(kind?)).unwrap_or_default();
        let (item_index, part_index) = (item_index.map_or(0, number), part_index.map_or(0, number));
        match (kind, response, item, part) {
            (b"response.created" | b"response.in_progress", Some(response), ..) => {
                self.size = self.size.saturating_sub(self.response.len());
                self.response = self.keep(response).unwrap_or_default();
            }
            (b"response.output_item.added", _, Some(item), _) => self.item(item_index, item, false),
            (b"response.output_item.done", _, Some(item), _) => self.item(item_index, item, true),
            (b"response.content_part.added", .., Some(part)) => {
                self.part(item_index, part_index, part, false);
            }
            (b"response.content_part.done", .., Some(part)) => {
                self.part(item_index, part_index, part, true);
            }
            _ => {}
        }
    }

    fn keep(&mut self, raw: &[u8]) -> Option<Vec<u8>> {
        let size = self.size.saturating_add(raw.len());
        (size <= KEPT).then(|| {
            self.size = size;
            raw.to_vec()
        })
    }

    fn item(&mut self, index: u64, raw: &[u8], is_done: bool) {
        self.items.retain(|item| item.index != index);
        if let Some(raw) = self.keep(raw) {
            self.items.push(Item {
                index,
                raw,
                is_done,
                parts: Vec::new(),
            });
        }
    }

    fn part(&mut self, item: u64, index: u64, raw: &[u8], is_done: bool) {
        let kept = self.keep(raw);
        let Some(item) = self.items.iter_mut().find(|known| known.index == item) else {
            return;
        };
        item.parts.retain(|part| part.index != index);
        if let Some(raw) = kept {
            item.parts.push(Part {
                index,
                raw,
                is_done,
            });
        }
    }

    /// Writes the events that finish the stream. What numbers and names its events is read from the last `block`; `text`
    /// returns what has been generated of an item, where all of it is known.
    ///
    /// `None` where the beginning of the response is not known.
    pub fn ending(
        &self,
        block: &[u8],
        text: impl Fn(u64) -> Option<String>,
        usage: Option<&Usage>,
    ) -> Option<Bytes> {
        let mut response: Map<String, Value> = serde_json::from_slice(&self.response).ok()?;
        let mut ending = Ending::behind(block);
        let mut output = Vec::new();
        let mut items: Vec<&Item> = self.items.iter().collect();
        items.sort_by_key(|item| item.index);
        for item in items {
            output.extend(item.finish(&text, &mut ending));
        }
        response.insert("status".into(), "incomplete".into());
        let reason = json!({ "reason": "max_output_tokens" });
        response.insert("incomplete_details".into(), reason);
        response.insert("output".into(), output.into());
        response.insert("usage".into(), usage.map(told).into());
        ending.write("response.incomplete", json!({ "response": response }));
        Some(ending.bytes.into())
    }
}

// === impl Item ===

impl Item {
    /// Closes the item, if it is a message that is open, and returns it as it stands in the output.
    fn finish(&self, text: &impl Fn(u64) -> Option<String>, ending: &mut Ending) -> Option<Value> {
        let mut item: Map<String, Value> = serde_json::from_slice(&self.raw).ok()?;
        if self.is_done {
            return Some(item.into());
        }
        item.insert("status".into(), "incomplete".into());
        let text = text(self.index)?;
        match item.get("type").and_then(Value::as_str) {
            // The call of a function is never said to be done: nobody must make it.
            Some("function_call") => {
                item.insert("arguments".into(), text.into());
            }
            Some("message") => {
                let id = item.get("id").cloned().unwrap_or_default();
                let content = self.finish_parts(&id, &text, ending)?;
                item.insert("content".into(), content.into());
                let done = json!({ "output_index": self.index, "item": item });
                ending.write("response.output_item.done", done);
            }
            _ => {}
        }
        Some(item.into())
    }

    /// Closes the part of a message that is open. Its text is what has come behind that of those before it.
    fn finish_parts(&self, id: &Value, text: &str, ending: &mut Ending) -> Option<Vec<Value>> {
        let mut rest = text;
        let mut content = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            let mut shown: Map<String, Value> = serde_json::from_slice(&part.raw).ok()?;
            let member = match shown.get("type").and_then(Value::as_str) {
                Some("refusal") => "refusal",
                _ => "text",
            };
            if part.is_done {
                let before = shown.get(member).and_then(Value::as_str)?;
                rest = rest.strip_prefix(before)?;
                content.push(shown.into());
                continue;
            }
            shown.insert(member.into(), rest.into());
            let place = |mut event: Value| {
                event["item_id"] = id.clone();
                event["output_index"] = self.index.into();
                event["content_index"] = part.index.into();
                event
            };
            match member {
                "refusal" => {
                    ending.write("response.refusal.done", place(json!({ "refusal": rest })));
                }
                _ => ending.write(
                    "response.output_text.done",
                    place(json!({ "text": rest, "logprobs": [] })),
                ),
            }
            let done = place(json!({ "part": shown }));
            ending.write("response.content_part.done", done);
            content.push(shown.into());
        }
        Some(content)
    }
}

// === impl Ending ===

impl Ending {
    /// Goes on as the events of a block do.
    fn behind(block: &[u8]) -> Self {
        let (mut last, mut is_named) = (None, false);
        for event in Events::new(block) {
            let Some(data) = event.data() else {
                continue;
            };
            is_named = event.name().is_some();
            let place = top_level_member(&data, "sequence_number");
            last = place
                .and_then(|place| Some(number(data.get(place)?)))
                .or(last);
        }
        Self {
            bytes: Vec::new(),
            number: last.map(|last| last.saturating_add(1)),
            is_named,
        }
    }

    fn write(&mut self, kind: &str, mut event: Value) {
        event["type"] = kind.into();
        if let Some(number) = &mut self.number {
            event["sequence_number"] = (*number).into();
            *number = number.saturating_add(1);
        }
        if self.is_named {
            self.bytes.extend(format!("event: {kind}\n").as_bytes());
        }
        self.bytes.extend(format!("data: {event}\n\n").as_bytes());
    }
}

fn told(usage: &Usage) -> Value {
    json!({
        "input_tokens": usage.prompt(),
        "input_tokens_details": { "cached_tokens": usage.cached_input },
        "output_tokens": usage.completion(),
        "output_tokens_details": { "reasoning_tokens": usage.reasoning },
        "total_tokens": usage.total(),
    })
}

#[cfg(test)]
mod tests;
