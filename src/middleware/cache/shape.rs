//! The parts of a call that its key is made of, each by itself: so that it can be told which one differs.

use super::judge::{Scope, Ways};
use super::key::{Part, counting_headers, parts};
use crate::call::Call;
use crate::openai::json::{canonical, every_member, text};
pub(super) use crate::store::cache::Shape;

impl Shape {
    /// Takes a call apart. Members are named as they are, all else by what it is.
    pub(super) fn of(call: &Call, scope: Scope, ways: &dyn Ways) -> Self {
        let body = call.json().map_or(&[][..], |(bytes, _)| bytes);
        let mut shape = Self::default();
        parts(call, scope, ways, &mut |part, bytes| {
            if part != Part::Headers {
                shape.note(part.name(), bytes);
            }
        });
        // Each by its name: whoever wonders why there are no hits is to see which one it was.
        for (name, value) in counting_headers(call) {
            shape.note(&format!("(header {name})"), value);
        }
        let mut form = Vec::new();
        every_member(body, |key, value| {
            if Part::is_left_out(&call.endpoint, key) {
                return;
            }
            form.clear();
            // What has no form has no key either.
            let _ = canonical(value, |_| false, &mut form);
            shape.note(&text(key), &form);
        });
        shape
    }
}
