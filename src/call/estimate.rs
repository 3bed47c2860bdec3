//! What a call is expected to use, and the room that is kept for it.

use crate::money::Nanos;
use crate::openai::usage::Usage;

/// What a call is expected to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Estimate {
    /// What it is booked at when nobody can tell what it used.
    pub likely: Priced,
    /// What is reserved for it: as much as it may generate, where it says so.
    pub reserved: Priced,
}

/// Tokens and what they cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Priced {
    /// The tokens.
    pub usage: Usage,
    /// What they cost; `None`: no price is known.
    pub cost: Option<Nanos>,
}

/// Room that is kept for a call where what it may use is bounded. Dropped, it is given back: nothing was used.
pub trait Room: Send {
    /// Settles it at what was really used, all tries together.
    fn settle(self: Box<Self>, used: &Priced);
}
