//! A body's pieces put together.

use bytes::{Bytes, BytesMut};

/// Joins pieces of a body up to a bound. A body that comes in one piece, as most do, is not copied.
#[derive(Debug)]
pub struct Join {
    limit: u64,
    first: Bytes,
    rest: BytesMut,
}

/// The pieces are more than the bound allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("larger than {limit} bytes")]
pub struct TooLarge {
    /// The bound in bytes.
    pub limit: u64,
}

impl Join {
    /// Takes at most `limit` bytes.
    pub fn new(limit: u64) -> Self {
        Self {
            limit,
            first: Bytes::new(),
            rest: BytesMut::new(),
        }
    }

    /// Adds a piece.
    ///
    /// # Errors
    /// [`TooLarge`]; what came before is kept, the piece is not.
    pub fn push(&mut self, piece: Bytes) -> Result<(), TooLarge> {
        let size = self.first.len() as u64 + self.rest.len() as u64 + piece.len() as u64;
        if size > self.limit {
            return Err(TooLarge { limit: self.limit });
        }
        if self.first.is_empty() && self.rest.is_empty() {
            self.first = piece;
            return Ok(());
        }
        self.rest
            .extend_from_slice(&std::mem::take(&mut self.first));
        self.rest.extend_from_slice(&piece);
        Ok(())
    }

    /// Returns the whole.
    pub fn finish(self) -> Bytes {
        if self.rest.is_empty() {
            self.first
        } else {
            self.rest.freeze()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_piece_is_not_copied_and_several_are_joined() {
        let piece = Bytes::from_static(b"abc");
        let mut join = Join::new(6);
        join.push(piece.clone()).unwrap();
        assert_eq!(join.finish().as_ptr(), piece.as_ptr());
        let mut join = Join::new(6);
        for piece in ["ab", "", "cd", "ef"] {
            join.push(Bytes::from_static(piece.as_bytes())).unwrap();
        }
        assert_eq!(
            join.push(Bytes::from_static(b"g")),
            Err(TooLarge { limit: 6 })
        );
        assert_eq!(join.finish(), "abcdef");
    }
}
