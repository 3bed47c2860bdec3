//! A limit that has no room for a call.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use super::account::Holder;
use super::cell::{Cell, Shortage};
use super::dimension::Dimension;
use crate::pattern::Pattern;

/// A limit that has no room for a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Whose.
    pub holder: Holder,
    /// Of what.
    pub dimension: Dimension,
    /// How many there are in its time.
    pub size: NonZeroU32,
    /// The models whose calls count; empty for all.
    pub models: Arc<[Pattern]>,
    /// How many the call would take.
    pub wanted: u64,
    /// How many are left.
    pub left: u32,
    /// After which time there is room, if nobody else takes it; `None`: never, since the call would take more than may
    /// ever come at once.
    pub retry_after: Option<Duration>,
}

/// Why a call is not let in.
#[derive(Debug)]
pub enum Denied<E> {
    /// A limit has no room; of several the one that is waited for longest.
    Limit(Box<Refusal>),
    /// What was to be done together with it was not.
    Other(E),
}

impl Refusal {
    pub(super) fn new(holder: &Holder, cell: &Cell, wanted: u64, shortage: Shortage) -> Self {
        Self {
            holder: holder.clone(),
            dimension: cell.subject.dimension,
            size: cell.size,
            models: Arc::clone(&cell.subject.models),
            wanted,
            left: shortage.left,
            retry_after: shortage.retry_after,
        }
    }

    /// Returns whether waiting does not help.
    pub fn is_final(&self) -> bool {
        self.retry_after.is_none()
    }

    /// Returns whether it is waited for longer than another one.
    pub(super) fn outlasts(&self, other: &Self) -> bool {
        let wait = |refusal: &Self| refusal.retry_after.unwrap_or(Duration::MAX);
        wait(self) > wait(other)
    }
}

/// `key alice has no room: 60 requests per minute, 0 left, 1 wanted`
impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            holder,
            size,
            left,
            wanted,
            ..
        } = self;
        let what = self.dimension.words();
        write!(
            f,
            "{holder} has no room: {size} {what}, {left} left, {wanted} wanted"
        )
    }
}
