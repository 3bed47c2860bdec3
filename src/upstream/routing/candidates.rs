//! Which places count for the next try of a call: pure functions over what is known of each place.

use std::time::Duration;

use crate::upstream::member::Aside;
use crate::upstream::member::health::Standing;

/// A place as one call sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Spot {
    /// The index of the target.
    pub(super) target: usize,
    /// The index of its upstream's endpoint.
    pub(super) endpoint: usize,
    /// The target's priority.
    pub(super) priority: u32,
    /// What the endpoint may be asked.
    pub(super) standing: Standing,
    /// Whether the endpoint is asked for want of a better one, however it fails.
    pub(super) kept: bool,
    /// Why none of its upstream's credentials is of use now; `None`: one is, or none is needed.
    pub(super) aside: Option<Aside>,
    /// What the call has heard here.
    pub(super) past: Past,
}

/// What a call has heard at a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// Nothing: it has not asked.
    Fresh,
    /// It may ask after so long: again, or for the first time with a credential whose limit is spent.
    Tried(Duration),
    /// Nothing that another try could mend.
    Closed,
}

/// What a place is asked as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Well, or due for a trial that the call can bear; not tried by this call.
    Fresh,
    /// As fresh, but for a limit of its upstream's credentials that will be over soon.
    Limited,
    /// Tried by this call, and well or kept in use.
    Tried,
    /// Left out, but asked for want of a better one; not tried by this call.
    LastResort,
}

impl Spot {
    /// Returns whether a call may ask here; `bears_trials`: that a failed trial here need not be the call's own failure.
    pub(super) fn is(&self, kind: Kind, bears_trials: bool) -> bool {
        let is_well = self.standing == Standing::Well;
        let is_due = self.standing == Standing::Due;
        match (kind, self.past) {
            (Kind::Fresh, Past::Fresh) => {
                self.aside.is_none() && (is_well || (is_due && bears_trials))
            }
            (Kind::Limited, Past::Fresh) => self.aside == Some(Aside::Limited) && is_well,
            (Kind::LastResort, Past::Fresh) => match self.aside {
                Some(_) => is_well || is_due || self.kept,
                None => !is_well && (self.kept || (is_due && !bears_trials)),
            },
            (Kind::Tried, Past::Tried(_)) => is_well || self.kept,
            (Kind::Fresh | Kind::Limited | Kind::LastResort, Past::Tried(_))
            | (Kind::Tried, Past::Fresh)
            | (_, Past::Closed) => false,
        }
    }
}

/// Returns which of an upstream's endpoints are asked although they are left out: as many as `floor` wants beside those
/// that are well, and of them those whose ejection ends first.
pub(super) fn kept(standings: &[Standing], floor: usize) -> Vec<bool> {
    let left = |standing: Standing| match standing {
        Standing::Well => None,
        Standing::Due => Some(Duration::ZERO),
        Standing::Ejected(left) => Some(left),
    };
    let mut out: Vec<(Duration, usize)> = standings
        .iter()
        .enumerate()
        .filter_map(|(index, standing)| Some((left(*standing)?, index)))
        .collect();
    out.sort_unstable();
    let spare = floor.saturating_sub(standings.len() - out.len());
    let mut kept = vec![false; standings.len()];
    for (_, index) in out.into_iter().take(spare) {
        kept[index] = true;
    }
    kept
}

/// Returns which places can be asked again first, and after which wait; whatever asks for less than `pause` counts as
/// asking for nothing. Whoever was asked last is left out where others are there.
pub(super) fn again(
    spots: &[Spot],
    priority: u32,
    pause: Duration,
    last: (usize, usize),
) -> Option<(Duration, Vec<Spot>)> {
    let wait = |spot: &Spot| match spot.past {
        Past::Tried(wait) if wait > pause => wait,
        Past::Tried(_) | Past::Fresh | Past::Closed => Duration::ZERO,
    };
    let of = |spot: &&Spot| spot.priority == priority && spot.is(Kind::Tried, true);
    let mut found: Vec<Spot> = spots.iter().filter(of).copied().collect();
    let least = found.iter().map(wait).min()?;
    found.retain(|spot| wait(spot) == least);
    if found.len() > 1 {
        found.retain(|spot| (spot.target, spot.endpoint) != last);
    }
    Some((least, found))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const OUT: Standing = Standing::Ejected(SECOND);
    const TRIED: Past = Past::Tried(Duration::ZERO);

    fn spot(standing: Standing, kept: bool, past: Past) -> Spot {
        Spot {
            target: 0,
            endpoint: 0,
            priority: 0,
            standing,
            kept,
            aside: None,
            past,
        }
    }

    #[test]
    fn what_a_place_is_asked_as() {
        use Standing::{Due, Well};
        for (standing, kept, past, bears_trials, expected) in [
            (Well, false, Past::Fresh, true, Some(Kind::Fresh)),
            (Well, false, TRIED, true, Some(Kind::Tried)),
            (Well, false, Past::Closed, true, None),
            (Due, false, Past::Fresh, true, Some(Kind::Fresh)),
            (Due, false, Past::Fresh, false, Some(Kind::LastResort)),
            (Due, false, TRIED, true, None),
            (Due, true, TRIED, true, Some(Kind::Tried)),
            (OUT, false, Past::Fresh, true, None),
            (OUT, true, Past::Fresh, true, Some(Kind::LastResort)),
            (OUT, true, TRIED, true, Some(Kind::Tried)),
            (OUT, true, Past::Closed, true, None),
        ] {
            let spot = spot(standing, kept, past);
            for kind in [Kind::Fresh, Kind::Tried, Kind::LastResort] {
                let is = Some(kind) == expected;
                assert_eq!(spot.is(kind, bears_trials), is, "{spot:?} {kind:?}");
            }
        }
    }

    #[test]
    fn the_floor_keeps_those_that_come_back_first() {
        use Standing::{Due, Ejected, Well};
        let out = |secs| Ejected(secs * SECOND);
        for (standings, floor, expected) in [
            (&[out(3), out(1), out(2)][..], 1, &[false, true, false][..]),
            (&[out(3), out(1), out(2)], 2, &[false, true, true]),
            (&[out(3), Due, out(2)], 1, &[false, true, false]),
            (&[out(3), Well, out(2)], 1, &[false, false, false]),
            (&[out(3), Well, out(2)], 2, &[false, false, true]),
            (&[out(3)], 0, &[false]),
            (&[out(3)], 9, &[true]),
        ] {
            assert_eq!(kept(standings, floor), expected, "{standings:?} {floor}");
        }
    }

    #[test]
    fn whoever_asks_for_the_shortest_wait_is_asked_again() {
        let at = |endpoint, past| Spot {
            endpoint,
            ..spot(Standing::Well, false, past)
        };
        let find = |spots: &[Spot]| {
            let (wait, found) = again(spots, 0, SECOND, (0, 1))?;
            let endpoints: Vec<_> = found.iter().map(|spot| spot.endpoint).collect();
            Some((wait, endpoints))
        };
        let (long, short) = (Past::Tried(20 * SECOND), Past::Tried(SECOND));
        assert_eq!(
            find(&[at(0, long), at(1, TRIED)]),
            Some((Duration::ZERO, vec![1]))
        );
        assert_eq!(
            find(&[at(0, short), at(1, TRIED)]),
            Some((Duration::ZERO, vec![0]))
        );
        assert_eq!(
            find(&[at(0, long), at(1, Past::Closed)]),
            Some((20 * SECOND, vec![0]))
        );
        assert_eq!(find(&[at(0, Past::Fresh), at(1, Past::Closed)]), None);
    }
}
