//! What would become of a call, without making it; and why it is not found where one nearly like it is.

use super::control::Control;
use super::identity::Identity;
use super::judge::{Ask, Verdict};
use super::shape::Shape;
use super::{CacheError, Params, Ways};
use crate::call::Call;
use crate::store::cache::Entry;
use crate::store::retries::Retries;

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

/// Returns what would become of a call now; where nothing is in memory, by what lies in Redis. Nothing is counted, and no
/// answer is kept, or kept for longer, by it.
pub fn preview(
    params: &Params,
    call: &Call,
    ways: &dyn Ways,
) -> impl Future<Output = Preview> + Send + use<> {
    let verdict = params.rules.judge(call, params.cache.bounds().entry, ways);
    let kept = match &verdict {
        Verdict::Look(ask) => params.cache.get(&ask.key),
        Verdict::Bypass(_) => None,
    };
    let nearest = match (&verdict, &kept) {
        (Verdict::Look(_), None) => nearest(params, call, ways),
        _ => String::new(),
    };
    let (shared, counts_saved) = (params.shared.clone(), params.counts_saved);
    let only_if_cached = Control::of(&call.head.headers).only_if_cached;
    let own = match params.identify(call, ways) {
        Ok(identity) => identity
            .zip(params.retries.as_ref())
            .and_then(|(identity, retries)| of_own(&identity, &retries.store, counts_saved)),
        Err(error) => {
            let reason = "it has more than one `Idempotency-Key`".to_owned();
            Some(Preview::refused(error, reason))
        }
    };
    async move {
        if let Some(own) = own {
            return own;
        }
        let ask = match verdict {
            Verdict::Bypass(why) => {
                return Preview {
                    refused: only_if_cached.then_some(CacheError::NotKept),
                    ..Preview::none("bypass", why.to_owned())
                };
            }
            Verdict::Look(ask) => ask,
        };
        match (kept, shared) {
            (Some(entry), _) => Preview {
                // What lies in Redis is found when the call was let in.
                is_answered: ask.takes(&entry) && !ask.control.no_cache && !counts_saved,
                ..of_kept(&entry, &ask, "")
            },
            (None, Some(shared)) => match shared.cache.peek(&ask.key).await {
                Some(entry) => of_kept(&entry, &ask, " in Redis"),
                None => Preview::miss(&ask, nearest),
            },
            (None, None) => Preview::miss(&ask, nearest),
        }
    }
}

impl Preview {
    fn none(decision: &'static str, reason: String) -> Self {
        Self {
            decision,
            reason,
            is_answered: false,
            refused: None,
        }
    }

    fn refused(error: CacheError, reason: String) -> Self {
        Self {
            refused: Some(error),
            ..Self::none("bypass", reason)
        }
    }

    fn miss(ask: &Ask, reason: String) -> Self {
        Self {
            refused: ask.control.only_if_cached.then_some(CacheError::NotKept),
            ..Self::none("miss", reason)
        }
    }
}

/// Says what becomes of a call that its client says to have made before, where its first answer is kept, or its
/// `Idempotency-Key` is another call's.
fn of_own(identity: &Identity, retries: &Retries, counts_saved: bool) -> Option<Preview> {
    let name = identity.name.as_ref();
    if name.is_some_and(|name| retries.check(name, &identity.call).is_err()) {
        let reason = "its `Idempotency-Key` was used for another call".to_owned();
        return Some(Preview::refused(CacheError::KeyReused, reason));
    }
    let entry = identity.asks_again.then(|| retries.get(&identity.call))??;
    let left = entry.fresh_for().unwrap_or_default().as_secs();
    let reason = format!("it was made before, and its answer is kept for {left} s more");
    Some(Preview {
        is_answered: !counts_saved,
        ..Preview::none("hit", reason)
    })
}

/// Says whether a call would be answered by what is kept for it.
fn of_kept(entry: &Entry, ask: &Ask, place: &str) -> Preview {
    let left = entry.fresh_for().unwrap_or_default().as_secs();
    let seconds = entry.age().as_secs();
    if ask.control.no_cache {
        let reason =
            format!("an answer is there{place}, {seconds} s old, and the request wants a new one");
        return Preview::miss(ask, reason);
    }
    if !ask.takes(entry) {
        let reason =
            format!("an answer is there{place}, but {seconds} s old and good for {left} s more");
        return Preview::miss(ask, reason);
    }
    Preview::none("hit", format!("an answer is kept{place} for {left} s more"))
}

/// Says what the answer that is nearest to a call differs in.
fn nearest(params: &Params, call: &Call, ways: &dyn Ways) -> String {
    let scope = params.rules.terms_of(call, ways).scope;
    let own = Shape::of(call, scope, ways);
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
