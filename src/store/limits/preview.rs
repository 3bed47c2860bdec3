//! What limits would say of a call that is not made.

use std::sync::Arc;
use std::time::Duration;

use super::cell::SLOT_WAIT;
use super::dimension::Amount;
use super::headroom::Headroom;
use super::refusal::Refusal;

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

impl Preview {
    /// Tells what a limit would say of a call, by what is left of it.
    pub fn of(room: Headroom, want: &Amount) -> Self {
        let wanted = room.dimension.measure().of(want);
        let refuses = wanted > u64::from(room.remaining);
        Self {
            refusal: refuses.then(|| Refusal {
                holder: room.holder.clone(),
                dimension: room.dimension,
                size: room.size,
                models: Arc::clone(&room.models),
                wanted,
                left: room.remaining,
                retry_after: wait(&room, wanted),
            }),
            room,
            wanted,
        }
    }
}

/// Returns when there will be room for so many; `None`: never.
fn wait(room: &Headroom, wanted: u64) -> Option<Duration> {
    let Some(period) = room.dimension.period() else {
        return Some(SLOT_WAIT);
    };
    // What need not have come back by then is left over when all has.
    let spare = u64::from(room.burst.get()).checked_sub(wanted)?;
    let interval = period.as_nanos() / u128::from(room.size.get());
    let spare = u128::from(spare) * interval;
    let spare = Duration::from_nanos(u64::try_from(spare).unwrap_or(u64::MAX));
    Some(room.reset.saturating_sub(spare))
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
    use crate::store::limits::{Denied, Dimension, Entry, Holder, Limits, Time, Who};

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

    fn preview(limits: &Limits, want: &Amount, now: Time) -> Vec<Preview> {
        let rooms = limits.headroom(&ALICE, now).into_iter();
        rooms.map(|room| Preview::of(room, want)).collect()
    }

    #[test]
    fn looking_takes_nothing_and_sees_what_a_call_would() {
        let limits = limits();
        let want = Amount {
            input: 3,
            output: 8,
        };
        for _ in 0..1000 {
            let seen = preview(&limits, &want, NOW);
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
        let seen = preview(&limits, &want, NOW);
        let told = told(&seen).unwrap();
        let refused = limits.admit(&ALICE, &want, NOW, || Ok::<_, Infallible>(()));
        let Err(Denied::Limit(refusal)) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(told, &*refusal, "the team's is waited for longer");
    }

    #[test]
    fn what_is_foretold_is_what_is_decided() {
        let of = |dimension, size| {
            (
                Holder::Key("alice".into()),
                vec![entry(dimension, size, false)],
            )
        };
        for (dimension, size) in [
            (Dimension::RequestsPerMinute, 7),
            (Dimension::TokensPerMinute, 90),
            (Dimension::OutputTokensPerDay, 1_000_003),
            (Dimension::Concurrent, 2),
        ] {
            let limits = Limits::default();
            limits.replace(&[of(dimension, size)]);
            let mut held = Vec::new();
            for step in 0..200_u64 {
                let now = Time::from_micros(1_000_000 + step * 1_234_567);
                let want = Amount {
                    input: step * 7 % 50,
                    output: step * step % 61,
                };
                let told = preview(&limits, &want, now).remove(0).refusal;
                let decided = limits.admit(&ALICE, &want, now, || Ok::<_, Infallible>(()));
                match (told, decided) {
                    (None, Ok(mut admitted)) => {
                        admitted.reservation.sent();
                        held.push(admitted.reservation);
                    }
                    (Some(told), Err(Denied::Limit(refusal))) => {
                        let waits = [told.retry_after, refusal.retry_after];
                        let [told_wait, wait] = waits.map(Option::unwrap_or_default);
                        assert!(told_wait.abs_diff(wait) <= Duration::from_micros(1));
                        let refusal = Refusal {
                            retry_after: told.retry_after,
                            ..*refusal
                        };
                        assert_eq!(told, refusal);
                    }
                    (told, decided) => panic!("{dimension} {step}: {told:?}, {decided:?}"),
                }
                if step % 5 == 0 {
                    held.clear();
                }
            }
        }
    }
}
