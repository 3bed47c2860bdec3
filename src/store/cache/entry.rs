//! One answer that is kept: its body, whose it was, and for how long it may be served.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::HeaderMap;

use super::shape::Shape;
use crate::openai::usage::Usage;

/// Whose answer it was, and what of: what can be purged by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tags {
    /// The name of the gateway key that had asked.
    pub key: Arc<str>,
    /// Its team.
    pub team: Option<Arc<str>>,
    /// The model asked for.
    pub model: Arc<str>,
    /// The endpoint's label.
    pub endpoint: &'static str,
}

/// A whole answer, with status 200.
#[derive(Debug)]
pub struct Entry {
    /// The headers that belong to it.
    pub headers: HeaderMap,
    /// The body.
    pub body: Stored,
    /// What it had used, where its upstream said so.
    pub usage: Option<Usage>,
    /// The name by which the upstream was asked for the model.
    pub served_model: Option<Arc<str>>,
    /// Whose it was.
    pub tags: Tags,
    /// What it was an answer to, as far as that can be compared.
    pub shape: Shape,
    /// When it was whole.
    pub stored: Instant,
    /// For how long from then on it may be served.
    pub ttl: Duration,
    /// For how long after that it may be served where an upstream fails.
    pub stale: Duration,
    /// After how many milliseconds each block of events came. Empty: nobody knows.
    pub pace: Arc<[u32]>,
}

/// The body of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stored {
    /// One text.
    Whole(Bytes),
    /// Events, all in one, and where the blocks end in which they came; each holds whole ones.
    Events(Bytes, Arc<[usize]>),
}

/// What an entry takes besides its body: its key, its tags, its place.
const OVERHEAD: usize = 512;

// === impl Entry ===

impl Entry {
    /// Returns how long ago it was whole.
    pub fn age(&self) -> Duration {
        self.stored.elapsed()
    }

    /// Returns how long it may still be served; `None`: no longer.
    pub fn fresh_for(&self) -> Option<Duration> {
        self.ttl
            .checked_sub(self.age())
            .filter(|left| !left.is_zero())
    }

    /// Returns the same answer, kept for so long from when it was whole, and compared with nothing. Its body is shared.
    pub fn lasting(&self, ttl: Duration) -> Self {
        Self {
            headers: self.headers.clone(),
            body: self.body.clone(),
            usage: self.usage,
            served_model: self.served_model.clone(),
            tags: self.tags.clone(),
            shape: Shape::default(),
            stored: self.stored,
            ttl,
            stale: Duration::ZERO,
            pace: Arc::clone(&self.pace),
        }
    }

    /// Returns how long it is kept, be it fresh or stale.
    pub(super) fn lasts_for(&self) -> Duration {
        self.ttl
            .saturating_add(self.stale)
            .saturating_sub(self.age())
    }

    /// Returns how many bytes it takes.
    pub fn size(&self) -> usize {
        let headers = self.headers.iter();
        let headers: usize = headers
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        OVERHEAD + headers + self.shape.size() + self.body.size() + size_of_val(&*self.pace)
    }
}

impl Stored {
    /// Keeps one text. It is copied: what came from a connection holds on to the room that it was read into.
    pub fn text(text: &Bytes) -> Self {
        Self::Whole(Bytes::copy_from_slice(text))
    }

    /// Keeps blocks of events, copied like a text.
    pub fn events(blocks: &[Bytes]) -> Self {
        let mut end = 0;
        let ends = blocks.iter().map(|block| {
            end += block.len();
            end
        });
        let ends: Arc<[usize]> = ends.collect();
        let mut all = BytesMut::with_capacity(end);
        for block in blocks {
            all.extend_from_slice(block);
        }
        Self::Events(all.freeze(), ends)
    }

    /// Returns how many bytes it has, with what its blocks take.
    pub fn size(&self) -> usize {
        match self {
            Self::Whole(bytes) => bytes.len(),
            Self::Events(bytes, ends) => bytes.len() + size_of_val(&**ends),
        }
    }
}
