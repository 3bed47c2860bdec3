//! What `limits` say: one or several entries, in the configuration and in the admin API alike.

use std::num::NonZeroU32;

use super::dimension::Dimension;
use crate::pattern::Pattern;

/// One entry of `limits`: some numbers, and which calls they are for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// How much of what; no two of one dimension, and at least one. Each is in its dimension's range.
    pub sizes: Vec<(Dimension, NonZeroU32)>,
    /// How many requests of `requests_per_minute` may come at once, at most all of them. Default: all of them.
    pub burst: Option<NonZeroU32>,
    /// The models whose calls count, all together. Default: none are written, and every call counts.
    pub models: Vec<Pattern>,
    /// Whether it counts and reports alone, and refuses nothing.
    pub shadow: bool,
}

/// What the fields of an entry say of each other, and cannot mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Slip {
    /// There is no number in it.
    #[error("limits nothing; write such as `requests_per_minute = 60`, or leave it out")]
    Nothing,
    /// A burst of nothing.
    #[error(
        "is for `requests_per_minute`, which is not there; write that beside it, or leave it out"
    )]
    LoneBurst,
    /// Requests that could never come at once.
    #[error("is more than `requests_per_minute`; write {most} or less, or leave it out")]
    LargeBurst {
        /// The most that it can be.
        most: NonZeroU32,
    },
}

impl Entry {
    /// Returns the limit in a dimension.
    pub fn size(&self, dimension: Dimension) -> Option<NonZeroU32> {
        let mut sizes = self.sizes.iter();
        let (_, size) = sizes.find(|(other, _)| *other == dimension)?;
        Some(*size)
    }

    /// Returns what is wrong with it as a whole.
    pub fn slip(&self) -> Option<Slip> {
        if self.sizes.is_empty() {
            return Some(Slip::Nothing);
        }
        let burst = self.burst?;
        match self.size(Dimension::RequestsPerMinute) {
            None => Some(Slip::LoneBurst),
            Some(most) if burst > most => Some(Slip::LargeBurst { most }),
            Some(_) => None,
        }
    }

    /// Returns the first dimension in which two entries count the same calls, so that only the smaller number ever
    /// matters.
    pub fn overlap(&self, other: &Self) -> Option<Dimension> {
        let is_like = self.shadow == other.shadow && self.canonical() == other.canonical();
        let mut dimensions = self.sizes.iter().map(|(dimension, _)| *dimension);
        dimensions.find(|dimension| is_like && other.size(*dimension).is_some())
    }

    /// Returns the patterns in an order that says nothing.
    pub(super) fn canonical(&self) -> Vec<Pattern> {
        let mut models = self.models.clone();
        models.sort_unstable_by(|one, other| one.as_str().cmp(other.as_str()));
        models.dedup();
        models
    }
}

impl Slip {
    /// Returns the field at fault, where it is one.
    pub fn field(self) -> Option<&'static str> {
        match self {
            Self::Nothing => None,
            Self::LoneBurst | Self::LargeBurst { .. } => Some("burst"),
        }
    }
}
