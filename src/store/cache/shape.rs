//! What a call is made of, part by part: so that it can be told in which of them two calls differ.

use std::hash::Hasher;

use rustc_hash::FxHasher;
use serde::{Deserialize, Serialize};

/// Digests of the parts of a call, by their names.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape(Vec<(Box<str>, u64)>);

/// More members than any call has; what is beyond is not told apart.
const MOST_PARTS: usize = 64;

impl Shape {
    /// Adds to a part.
    pub fn note(&mut self, name: &str, bytes: &[u8]) {
        let mut hasher = FxHasher::default();
        hasher.write(bytes);
        let digest = hasher.finish();
        let known = self.0.iter_mut().find(|(other, _)| **other == *name);
        if let Some((_, sum)) = known {
            *sum = sum.rotate_left(1) ^ digest;
        } else if self.0.len() < MOST_PARTS {
            self.0.push((name.into(), digest));
        }
    }

    /// Returns the names of the parts that are not alike, those of this one first.
    pub fn differs_from(&self, other: &Self) -> Vec<&str> {
        let has = |shape: &Self, part: &(Box<str>, u64)| shape.0.contains(part);
        let own = self.0.iter().filter(|part| !has(other, part));
        let mut names: Vec<&str> = own.map(|(name, _)| &**name).collect();
        // A part that only the other one has is named by nobody here.
        let knows = |name: &str| self.0.iter().any(|(own, _)| **own == *name);
        let missing = other.0.iter().filter(|(name, _)| !knows(name)).count();
        if missing > 0 {
            names.push("a member that is not there");
        }
        names
    }

    /// Returns how many bytes it takes.
    pub(super) fn size(&self) -> usize {
        let parts = self.0.iter();
        parts
            .map(|(name, _)| name.len() + size_of::<(Box<str>, u64)>())
            .sum()
    }
}
