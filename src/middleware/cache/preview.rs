//! What would become of a call, without making it; and why it is not found where one nearly like it is.

use super::judge::Verdict;
use super::shape::Shape;
use super::{CacheError, Params, Ways};
use crate::call::Call;

/// What the cache would do for a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// `hit`, `miss` or `bypass`.
    pub decision: &'static str,
    /// Why.
    pub reason: String,
    /// Whether it would use nothing: no tokens, no budget, no upstream.
    pub is_answered: bool,
    /// Why it would get no answer.
    pub refused: Option<CacheError>,
}

/// Returns what would become of a call now. Nothing is counted, and no answer is kept for longer by it.
pub fn preview(params: &Params, call: &Call, ways: &dyn Ways) -> Preview {
    let ask = match params.rules.judge(call, params.cache.bounds().entry, ways) {
        Verdict::Bypass(why) => {
            return Preview {
                decision: "bypass",
                reason: why.to_owned(),
                is_answered: false,
                refused: None,
            };
        }
        Verdict::Look(ask) => ask,
    };
    let kept = params.cache.get(&ask.key);
    let reason = match kept {
        Some(entry) if ask.control.no_cache => {
            let age = entry.age().as_secs();
            format!("an answer is there, {age} s old, and the request wants a new one")
        }
        Some(entry) if !ask.takes(&entry) => {
            let age = entry.age().as_secs();
            let left = entry.fresh_for().unwrap_or_default().as_secs();
            format!("an answer is there, but {age} s old and good for {left} s more")
        }
        Some(entry) => {
            let left = entry.fresh_for().unwrap_or_default().as_secs();
            return Preview {
                decision: "hit",
                reason: format!("an answer is kept for {left} s more"),
                is_answered: !params.counts_saved,
                refused: None,
            };
        }
        None => nearest(params, call, ways),
    };
    Preview {
        decision: "miss",
        reason,
        is_answered: false,
        refused: ask.control.only_if_cached.then_some(CacheError::NotKept),
    }
}

/// Says what the answer that is nearest to a call differs in.
fn nearest(params: &Params, call: &Call, ways: &dyn Ways) -> String {
    let Some((bytes, _)) = call.json() else {
        return "no answer is kept for it".to_owned();
    };
    let scope = params.rules.terms_of(call, ways).scope;
    let own = Shape::of(call, bytes, scope, ways);
    let entries = params.cache.entries();
    let differing = entries
        .iter()
        .filter(|entry| entry.tags.endpoint == call.endpoint.label())
        .map(|entry| own.differs_from(&entry.shape))
        .min_by_key(Vec::len);
    match differing {
        None => "no answer is kept for it".to_owned(),
        // Of the same call, and gone a moment ago.
        Some(parts) if parts.is_empty() => "no answer is kept for it any more".to_owned(),
        Some(parts) => {
            let parts: Vec<_> = parts.iter().map(|part| format!("`{part}`")).collect();
            format!("the nearest answer differs in {}", parts.join(", "))
        }
    }
}
