//! How a call is answered: for itself, or by what another one got.

/// What the cache did for a call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cached {
    /// Nothing: it went its way.
    #[default]
    Bypass,
    /// It had no answer.
    Miss,
    /// It had one.
    Hit,
    /// Another call's answer was under way, and was for this one, too.
    Joined,
}

/// An answer that several may get.
pub trait Sharing: Send + Sync {
    /// Says that the client has left whose call it was. Returns whether the answer goes on, since others get it, or has more
    /// to tell: then it is to be read on for what it uses, by nobody's wish but the books'. If not, nobody gets it any more.
    fn goes_on_without_leader(&self) -> bool;

    /// Closes it to others, unless somebody gets it already; returns whether that is so, and it may end.
    fn closes(&self) -> bool;
}

impl Cached {
    /// Returns the word of the ledger: `bypass`, `miss`, `hit` or `joined`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Miss => "miss",
            Self::Hit => "hit",
            Self::Joined => "joined",
        }
    }

    /// Returns whether the answer cost nothing: another call had paid for it, or does.
    pub fn is_free(self) -> bool {
        matches!(self, Self::Hit | Self::Joined)
    }
}
