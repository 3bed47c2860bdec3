//! Where the calls of a model can go, and how one of the places is picked.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::hedge::Hedge;
use crate::pattern::Pattern;
use crate::upstream::Timeouts;
use crate::upstream::member::{Endpoint, Member, RetryBudget};

/// A model's way.
pub struct Route {
    /// The models that go this way.
    pub model: Pattern,
    /// Where they go, by priority, and among equals in the order that was written. At least one.
    pub targets: Vec<Target>,
    /// How targets of one priority share the calls.
    pub balance: Balance,
    /// What keeps calls that belong together at one endpoint.
    pub affinity: Option<Affinity>,
    /// What is done about failures.
    pub retry: Retry,
    /// Retries as a share of the route's requests, where that counts instead of the upstreams' own shares.
    pub budget: Option<Arc<RetryBudget>>,
    /// What counts instead of the upstreams' own timeouts.
    pub timeouts: Overrides,
    /// A second attempt for slow answers.
    pub hedge: Option<Arc<Hedge>>,
}

/// One of a route's targets.
pub struct Target {
    /// The upstream.
    pub member: Arc<Member>,
    /// The name that the upstream knows the model by; `None`: the name asked for.
    pub model: Option<Arc<str>>,
    /// Targets of a higher number are asked when those of the lower ones fail.
    pub priority: u32,
    /// The share of the calls, where they are shared by weight.
    pub weight: u32,
    /// Whether an answer from here is less than the operator wished for: the local model behind remote ones.
    pub degraded: bool,
}

/// How targets of one priority share the calls.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Of two places drawn at random the one with the lower cost (Mitzenmacher, "The Power of Two Choices").
    #[default]
    P2c,
    /// At random, by weight.
    Weighted,
    /// The first in the order that was written.
    Order,
}

/// What keeps calls that belong together at one endpoint, so that the upstream's prompt cache stays warm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// The value of a header.
    Header(HeaderName),
    /// The first bytes of the prompt.
    PromptPrefix(usize),
}

/// What is done about failures before the client has heard anything.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Retry {
    /// Tries after the first, among the targets of one priority.
    pub attempts: u32,
    /// The upper end of the first pause.
    pub base: Duration,
    /// The longest pause.
    pub max: Duration,
    /// The longest wait that an upstream may ask for.
    pub max_retry_after: Duration,
    /// How long events that are no content yet are held back.
    pub hold: Duration,
}

/// What counts instead of an upstream's own timeouts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// [`Timeouts::first_byte`]
    pub first_byte: Option<Duration>,
    /// [`Timeouts::first_content`]
    pub first_content: Option<Duration>,
    /// [`Timeouts::idle`]
    pub idle: Option<Duration>,
    /// [`Timeouts::total`]
    pub total: Option<Duration>,
}

/// A place that could be asked: one endpoint of one target.
#[derive(Clone, Copy)]
pub(super) struct Candidate<'a> {
    pub(super) target: usize,
    pub(super) endpoint: usize,
    pub(super) weight: u32,
    pub(super) at: &'a Arc<Endpoint>,
}

// === impl Overrides ===

impl Overrides {
    /// Returns the timeouts that count.
    pub fn over(&self, timeouts: Timeouts) -> Timeouts {
        Timeouts {
            first_byte: self.first_byte.unwrap_or(timeouts.first_byte),
            first_content: self.first_content.unwrap_or(timeouts.first_content),
            idle: self.idle.unwrap_or(timeouts.idle),
            total: self.total.unwrap_or(timeouts.total),
        }
    }
}

// === impl Route ===

impl Route {
    /// Returns the budget that retries at a target are taken from.
    pub(super) fn budget(&self, target: usize) -> &RetryBudget {
        let own = &self.targets[target].member.budget;
        self.budget.as_ref().unwrap_or(own)
    }

    /// Picks one of several places of one priority. `None` only where there is none.
    pub(super) fn pick<'a>(
        &self,
        candidates: &[Candidate<'a>],
        affinity: Option<u64>,
        now: tokio::time::Instant,
    ) -> Option<Candidate<'a>> {
        let of_target = |target: usize| {
            let of = candidates.iter().filter(move |c| c.target == target);
            of.copied().collect::<Vec<_>>()
        };
        let open = match self.balance {
            Balance::P2c => candidates.to_vec(),
            Balance::Order => of_target(candidates.first()?.target),
            Balance::Weighted => {
                let mut targets: Vec<(usize, u32)> =
                    candidates.iter().map(|c| (c.target, c.weight)).collect();
                targets.dedup_by_key(|(target, _)| *target);
                of_target(match affinity {
                    None => by_weight(&targets, fastrand::f64())?,
                    Some(key) => by_weighted_rendezvous(&targets, |target| {
                        let Target { member, model, .. } = &self.targets[target];
                        let model = model.as_deref().unwrap_or_default();
                        hash(key, &[member.name.as_bytes(), model.as_bytes()])
                    })?,
                })
            }
        };
        // What belongs together stays together among those whom the balance lets answer.
        match affinity {
            None => cheaper_of_two(&open, now),
            Some(key) => open.into_iter().max_by_key(|c| rendezvous(key, c.at)),
        }
    }

    /// Returns how likely each of several places of one priority is to be picked, from 0 to 1.
    pub(super) fn chances(
        &self,
        candidates: &[Candidate<'_>],
        affinity: Option<u64>,
        now: tokio::time::Instant,
    ) -> Vec<f64> {
        if affinity.is_some() {
            let picked = self.pick(candidates, affinity, now);
            let is_picked = |c: &Candidate<'_>| picked.is_some_and(|p| p.is_at(c));
            let chances = candidates.iter().map(|c| f64::from(u8::from(is_picked(c))));
            return chances.collect();
        }
        if self.balance == Balance::P2c {
            return chances_of_two(candidates, now);
        }
        let mut targets: Vec<(usize, u32)> =
            candidates.iter().map(|c| (c.target, c.weight)).collect();
        targets.dedup_by_key(|(target, _)| *target);
        let sum: f64 = targets.iter().map(|(_, weight)| f64::from(*weight)).sum();
        let of_target = |(index, (target, weight)): (usize, &(usize, u32))| {
            let share = match self.balance {
                Balance::Weighted => f64::from(*weight) / sum,
                Balance::P2c | Balance::Order => f64::from(u8::from(index == 0)),
            };
            let of = candidates.iter().filter(|c| c.target == *target);
            let chances = chances_of_two(&of.copied().collect::<Vec<_>>(), now);
            chances.into_iter().map(move |chance| chance * share)
        };
        targets.iter().enumerate().flat_map(of_target).collect()
    }
}

impl Candidate<'_> {
    fn is_at(&self, other: &Self) -> bool {
        (self.target, self.endpoint) == (other.target, other.endpoint)
    }
}

/// Returns how likely each place is to be taken by [`cheaper_of_two`], from 0 to 1.
fn chances_of_two(candidates: &[Candidate<'_>], now: tokio::time::Instant) -> Vec<f64> {
    let costs: Vec<f64> = candidates.iter().map(|c| c.at.load.cost(now)).collect();
    let count = costs.len();
    let others = count.saturating_sub(1).max(1) as f64;
    let each = |(index, cost): (usize, &f64)| {
        // Drawn first, it is left for a cheaper one; drawn second, it must be the cheaper one.
        let against = costs
            .iter()
            .enumerate()
            .filter(|(other, _)| *other != index);
        let won: u32 = against
            .map(|(_, other)| u32::from(other >= cost) + u32::from(cost < other))
            .sum();
        match count {
            1 => 1.0,
            _ => f64::from(won) / (count as f64 * others),
        }
    };
    costs.iter().enumerate().map(each).collect()
}

/// Draws two different places at random and takes the one with the lower cost.
fn cheaper_of_two<'a>(
    candidates: &[Candidate<'a>],
    now: tokio::time::Instant,
) -> Option<Candidate<'a>> {
    let count = candidates.len();
    if count < 2 {
        return candidates.first().copied();
    }
    let first = fastrand::usize(..count);
    let second = (first + fastrand::usize(1..count)) % count;
    let (first, second) = (candidates[first], candidates[second]);
    let is_cheaper = second.at.load.cost(now) < first.at.load.cost(now);
    Some(if is_cheaper { second } else { first })
}

/// Picks by weight, with a random number from 0 to 1.
fn by_weight(targets: &[(usize, u32)], random: f64) -> Option<usize> {
    let sum: f64 = targets.iter().map(|(_, weight)| f64::from(*weight)).sum();
    let mut left = random * sum;
    for (target, weight) in targets {
        left -= f64::from(*weight);
        if left < 0.0 {
            return Some(*target);
        }
    }
    targets.last().map(|(target, _)| *target)
}

/// Rendezvous hashing (Thaler and Ravishankar, 1998): whichever endpoints come and go, the others keep their calls.
fn rendezvous(key: u64, endpoint: &Endpoint) -> u64 {
    hash(
        key,
        &[endpoint.upstream.as_bytes(), endpoint.label.as_bytes()],
    )
}

/// Rendezvous hashing by weight (Schindelhauer and Schomaker, 2005): each target gets its share of the keys.
fn by_weighted_rendezvous(targets: &[(usize, u32)], hash: impl Fn(usize) -> u64) -> Option<usize> {
    let score = |(target, weight): &(usize, u32)| {
        // 53 bits, and never 0 or 1.
        let random = ((hash(*target) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
        f64::from(*weight) / -random.ln()
    };
    let best = targets.iter().max_by(|a, b| score(a).total_cmp(&score(b)));
    best.map(|(target, _)| *target)
}

/// A hash that is the same in every process, so that replicas agree.
pub(super) fn hash(seed: u64, parts: &[&[u8]]) -> u64 {
    use sha2::{Digest, Sha256};
    let mut hasher = Sha256::new();
    hasher.update(seed.to_le_bytes());
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let digest = hasher.finalize();
    let first = digest.first_chunk().copied().unwrap_or_default();
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_are_shares() {
        let targets = [(3, 1), (5, 3)];
        let fives = (0..1000)
            .filter(|i| by_weight(&targets, f64::from(*i) / 1000.0) == Some(5))
            .count();
        assert_eq!(fives, 750);
        assert_eq!(by_weight(&targets, 1.0), Some(5));
        assert_eq!(by_weight(&[], 0.5), None);
    }

    #[test]
    fn keys_are_shared_by_weight() {
        let targets = [(3, 1), (5, 3)];
        let home = |key| by_weighted_rendezvous(&targets, |t| hash(key, &[&t.to_le_bytes()]));
        let fives = (0..1000).filter(|key| home(*key) == Some(5)).count();
        assert!((710..790).contains(&fives), "{fives}");
        assert_eq!(by_weighted_rendezvous(&[], |_| 0), None);
    }

    #[test]
    fn a_hash_knows_where_its_parts_end() {
        assert_ne!(hash(1, &[b"ab", b"c"]), hash(1, &[b"a", b"bc"]));
        assert_eq!(hash(1, &[b"ab"]), hash(1, &[b"ab"]));
    }
}
