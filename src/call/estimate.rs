//! What a call is expected to use, and the room that is kept for it.

use std::task::{Context, Poll};

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

/// Room that is kept for a call where what it may use is bounded. Dropped before the call has gone to an upstream, all of
/// it is given back.
pub trait Room: Send {
    /// Notes that the call goes to an upstream now: what stands in the ledger of a call under way stands there.
    fn sent(&mut self);

    /// Keeps room for so many generated tokens, all in all, and returns whether there is some. There is none where a limit
    /// or a budget has run out, and the answer is to end there.
    fn holds(&mut self, generated: u64) -> bool;

    /// Is pending while nobody knows whether what [`Room::holds`] said was true: that is asked for elsewhere, for a bounded
    /// time, while what was generated goes out. Nothing more is to be read until it is ready.
    fn poll_known(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Settles it at what was really used, all tries together. Where that is a guess, if only in part, limits of rates
    /// give nothing back.
    fn settle(self: Box<Self>, used: &Priced, is_guess: bool);
}
