//! What limits would say of a call that is not made.

use super::dimension::Amount;
use super::headroom::Headroom;
use super::refusal::Refusal;
use super::time::Time;
use super::{Limits, Who};

/// What one limit would say of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preview {
    /// What is left of it.
    pub room: Headroom,
    /// How many the call would take.
    pub wanted: u64,
    /// Why it would refuse the call, or would if it did more than report.
    pub refusal: Option<Refusal>,
}

impl Limits {
    /// Returns what each limit that a call would count towards would say of it; takes nothing.
    pub fn preview(&self, who: &Who<'_>, want: &Amount, now: Time) -> Vec<Preview> {
        let accounts = self.accounts.load().of(who);
        let mut all = Vec::new();
        for account in accounts.iter().flatten() {
            for cell in account.lock().of(who.model) {
                let wanted = cell.weight(want);
                let shortage = cell.attempt(wanted, now).err();
                all.push(Preview {
                    room: Headroom::of(&account.holder, cell, now),
                    wanted,
                    refusal: shortage
                        .map(|shortage| Refusal::new(&account.holder, cell, wanted, shortage)),
                });
            }
        }
        all
    }
}

/// Returns the refusal that the client would be told of: of several the one that is waited for longest.
pub fn told(previews: &[Preview]) -> Option<&Refusal> {
    let refusing = previews.iter().filter(|preview| !preview.room.shadow);
    let refusals = refusing.filter_map(|preview| preview.refusal.as_ref());
    refusals.reduce(|told, other| match other.outlasts(told) {
        true => other,
        false => told,
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::num::NonZeroU32;

    use super::*;
    use crate::store::limits::{Denied, Dimension, Entry, Holder};

    const NOW: Time = Time::from_micros(1_000_000);
    const ALICE: Who<'_> = Who {
        key: "alice",
        team: Some("research"),
        route: None,
        model: Some("gpt-4o"),
    };

    fn entry(dimension: Dimension, size: u32, shadow: bool) -> Entry {
        Entry {
            sizes: vec![(dimension, NonZeroU32::new(size).unwrap())],
            shadow,
            ..Entry::default()
        }
    }

    fn limits() -> Limits {
        let limits = Limits::default();
        limits.replace(&[
            (
                Holder::Key("alice".into()),
                vec![
                    entry(Dimension::RequestsPerMinute, 1, false),
                    entry(Dimension::TokensPerDay, 10, true),
                ],
            ),
            (
                Holder::Team("research".into()),
                vec![entry(Dimension::RequestsPerDay, 1, false)],
            ),
        ]);
        limits
    }

    #[test]
    fn looking_takes_nothing_and_sees_what_a_call_would() {
        let limits = limits();
        let want = Amount {
            input: 3,
            output: 8,
        };
        for _ in 0..1000 {
            let seen = limits.preview(&ALICE, &want, NOW);
            let seen: Vec<_> = seen
                .iter()
                .map(|seen| (seen.room.remaining, seen.wanted, seen.refusal.is_some()))
                .collect();
            assert_eq!(seen, [(1, 1, false), (10, 11, true), (1, 1, false)]);
        }
        let admitted = limits.admit(&ALICE, &want, NOW, || Ok::<_, Infallible>(()));
        let mut admitted = admitted.unwrap();
        assert_eq!(admitted.shadow.len(), 1);
        admitted.reservation.sent();
        let seen = limits.preview(&ALICE, &want, NOW);
        let told = told(&seen).unwrap();
        let refused = limits.admit(&ALICE, &want, NOW, || Ok::<_, Infallible>(()));
        let Err(Denied::Limit(refusal)) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(told, &*refusal, "the team's is waited for longer");
    }
}
