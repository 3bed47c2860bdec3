//! Where a holder of a name comes from: what tells it from others that had the name before it, or will have it.

/// Where a key or a team comes from. Two holders of one name are the same where this is the same, too.
///
/// A name outlives its holder: a team that was deleted can be made again, for others; and what the configuration no longer
/// has can be made at run time. What is kept for one holder (answers, calls under way, what an `Idempotency-Key` stands for)
/// is not the next one's. What is *told* by name (ledger, metrics, budgets, purges) stays with the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It stands in the configuration. There a name means one holder, whatever secret it has: whoever writes the file knows
    /// whom it means.
    Configured,
    /// It was made at run time, so many microseconds after 1970. With another secret, after a rotation, it is the same one;
    /// so it is at all gateways that share what is made.
    Made(i64),
}

impl Origin {
    /// Returns bytes that no other origin has.
    pub fn to_bytes(self) -> [u8; 9] {
        let (kind, since) = match self {
            Self::Configured => (0, 0),
            Self::Made(since) => (1, since),
        };
        let mut bytes = [kind; 9];
        bytes[1..].copy_from_slice(&since.to_le_bytes());
        bytes
    }
}
