//! Takes usage out of a stream whose client did not ask for it.

use std::ops::Range;

use bytes::Bytes;

use super::event::{Event, Events};
use super::observer::NEEDLES;
use crate::openai::json;

/// Takes out of a stream what an added `stream_options.include_usage` brought into it: the chunk without choices that
/// holds the usage, and the member `usage` of every other chunk. All other bytes stay as they are.
#[derive(Clone, Debug, Default)]
pub struct UsageRemover {
    /// Whether what was written last ends in the carriage return of an event that was taken out: a line feed that
    /// follows belongs to it.
    is_feed_due: bool,
}

/// What becomes of an event.
enum Verdict {
    Keep,
    Remove,
    /// Take these ranges out of its data.
    Edit(Vec<Range<usize>>),
}

// === impl UsageRemover ===

impl UsageRemover {
    /// Builds a remover for one stream.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a block of whole events without usage: the very same bytes where there is none, and no bytes where
    /// nothing is left.
    pub fn remove(&mut self, block: &Bytes) -> Bytes {
        if block.is_empty() {
            return Bytes::new();
        }
        let feed = usize::from(std::mem::take(&mut self.is_feed_due) && block.starts_with(b"\n"));
        let block = block.slice(feed..);
        if !NEEDLES.usage.is_in(&block) {
            return block;
        }

        let mut removed: Vec<Range<usize>> = Vec::new();
        for event in Events::new(&block) {
            let whole = event.range();
            match judge(&event) {
                Verdict::Keep => {}
                Verdict::Remove => {
                    self.is_feed_due = whole.end == block.len() && block.ends_with(b"\r");
                    removed.push(whole);
                }
                Verdict::Edit(ranges) => {
                    removed.extend(ranges.iter().flat_map(|r| in_block(&event, r)));
                }
            }
        }
        without(&block, &removed)
    }
}

fn judge(event: &Event<'_>) -> Verdict {
    let Some(data) = event.data() else {
        return Verdict::Keep;
    };
    if NEEDLES.usage.values(&data).next().is_none() {
        return Verdict::Keep;
    }
    // What is not JSON is not ours to repair.
    read_chunk(&data).unwrap_or(Verdict::Keep)
}

fn read_chunk(data: &[u8]) -> Option<Verdict> {
    let mut members = json::members(data)?;
    let mut removed = Vec::new();
    // Where the run of usage members begins that is being read: there is one, unless an upstream repeats itself.
    let mut run = None;
    let mut kept_end = None;
    let mut end = 0;
    let mut has_no_choices = false;
    let mut has_usage = false;
    while let Some(member) = members.next_member().ok()? {
        let key = data.get(member.key.clone())?;
        let value = data.get(member.value.clone())?;
        let start = member.key.start - 1;
        end = member.value.end;
        if json::spells(key, "usage") {
            run = run.or(Some(start));
            has_usage = value.starts_with(b"{");
        } else {
            // The comma behind the usage goes with it.
            removed.extend(run.take().map(|run| run..start));
            kept_end = Some(end);
            if json::spells(key, "choices") {
                let inside = value.strip_prefix(b"[").and_then(|v| v.strip_suffix(b"]"));
                has_no_choices = inside.is_some_and(|inside| inside.trim_ascii().is_empty());
            }
        }
    }
    members.leave().end().ok()?;
    // Nothing is kept behind the usage: the comma before it goes.
    removed.extend(run.map(|run| kept_end.unwrap_or(run)..end));
    Some(if has_no_choices && has_usage {
        Verdict::Remove
    } else {
        Verdict::Edit(removed)
    })
}

/// Finds a range of an event's data in the block. Data of several lines was joined: each line is found on its own, and
/// the line ends between them, white space to JSON, stay.
fn in_block(event: &Event<'_>, wanted: &Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let Range { start, end } = *wanted;
    let event_start = event.range().start;
    let mut joined = 0;
    event.data_ranges().filter_map(move |line| {
        let line_start = joined;
        joined += line.len() + 1;
        let from = start.max(line_start);
        let to = end.min(line_start + line.len());
        let offset = event_start + line.start;
        (from < to).then(|| offset + from - line_start..offset + to - line_start)
    })
}

/// Returns the block without these ranges, which stand in order and do not overlap.
fn without(block: &Bytes, removed: &[Range<usize>]) -> Bytes {
    match removed {
        [] => block.clone(),
        [only] if only.end == block.len() => block.slice(..only.start),
        _ => {
            let mut kept = Vec::with_capacity(block.len());
            let mut from = 0;
            for range in removed {
                kept.extend_from_slice(block.get(from..range.start).unwrap_or_default());
                from = range.end;
            }
            kept.extend_from_slice(block.get(from..).unwrap_or_default());
            kept.into()
        }
    }
}
