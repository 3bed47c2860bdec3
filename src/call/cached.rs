//! How a call is answered: for itself, or by what another one got.

use std::any::Any;

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
    /// It had one that was too old, and its upstream failed.
    Stale,
}

/// Whether answers are kept for a caller, and which: what its key or its team says, where one of them does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeps {
    /// `off`: none, and none is served to it.
    Nothing,
    /// `deterministic`: those of embeddings, and what is generated with temperature 0 or a seed.
    Deterministic,
    /// `always`: all.
    Always,
    /// `on-request`: what asks for it itself.
    OnRequest,
}

/// What was found out of a call before it was let in, by the layer that answers it further in.
pub struct Looked {
    /// Whether its answer is there already: it goes to no upstream, and uses nothing.
    pub is_answered: bool,
    /// The notes of that layer, which it alone can read.
    pub notes: Box<dyn Any + Send>,
}

/// An answer that several may get.
pub trait Sharing: Send + Sync {
    /// Says that the client has left whose call it was. Returns whether the answer goes on, since others get it, or has more
    /// to tell, or somebody may yet ask for it again: then it is to be read on for what it uses, by nobody's wish but the
    /// books'. If not, nobody gets it any more. `reads_on`: the books want its end in any case.
    fn goes_on_without_leader(&self, reads_on: bool) -> bool;

    /// Says that the books have read of it what they may for whoever has left. Returns whether it ends, since nobody gets it and
    /// it is not wanted whole; then nobody can get it any more.
    fn ends_without_leader(&self) -> bool;

    /// Closes it to others, unless somebody gets it already; returns whether that is so, and it may end.
    fn closes(&self) -> bool;
}

impl Keeps {
    /// All of them.
    pub const ALL: [Self; 4] = [
        Self::Nothing,
        Self::Deterministic,
        Self::Always,
        Self::OnRequest,
    ];

    /// Returns the word of the configuration and of the admin API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "off",
            Self::Deterministic => "deterministic",
            Self::Always => "always",
            Self::OnRequest => "on-request",
        }
    }

    /// Reads such a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|keeps| keeps.as_str() == word)
    }

    /// Returns what holds for a key of a team: `off` of either, else what the key says.
    pub fn of_key(key: Option<Self>, team: Option<Self>) -> Option<Self> {
        match team {
            Some(Self::Nothing) => team,
            _ => key.or(team),
        }
    }
}

impl Cached {
    /// Returns the word of the ledger: `bypass`, `miss`, `hit`, `joined` or `stale`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bypass => "bypass",
            Self::Miss => "miss",
            Self::Hit => "hit",
            Self::Joined => "joined",
            Self::Stale => "stale",
        }
    }

    /// Returns whether the answer cost nothing: another call had paid for it, or does.
    pub fn is_free(self) -> bool {
        matches!(self, Self::Hit | Self::Joined | Self::Stale)
    }
}
