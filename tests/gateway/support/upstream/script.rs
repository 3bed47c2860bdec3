//! What an upstream is told to do with one request.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use tokio::sync::Semaphore;

/// An answer, step by step. After its last step the connection waits for the next request.
#[derive(Clone, Default)]
pub struct Script {
    pub(super) steps: Vec<Step>,
}

#[derive(Clone)]
pub(super) enum Step {
    Send(Vec<u8>),
    Fill(u64),
    Pause(Duration),
    Until(Gate),
    Stall,
    Cut,
    Reset,
}

/// Holds a script until the test opens it.
#[derive(Clone)]
pub struct Gate(Arc<Semaphore>);

impl Script {
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends these bytes.
    pub fn send(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.then(Step::Send(bytes.into()))
    }

    /// Sends these bytes cut into pieces of the given length, with a moment between them.
    pub fn pieces(mut self, bytes: &[u8], length: usize) -> Self {
        for piece in bytes.chunks(length) {
            self = self.send(piece).pause(Duration::from_millis(1));
        }
        self
    }

    /// Sends this many bytes of [`pattern`].
    pub fn fill(self, length: u64) -> Self {
        self.then(Step::Fill(length))
    }

    /// Waits.
    pub fn pause(self, time: Duration) -> Self {
        self.then(Step::Pause(time))
    }

    /// Waits for the test.
    pub fn until(self, gate: &Gate) -> Self {
        self.then(Step::Until(gate.clone()))
    }

    /// Says nothing more until the other side leaves.
    pub fn stall(self) -> Self {
        self.then(Step::Stall)
    }

    /// Closes the connection.
    pub fn cut(self) -> Self {
        self.then(Step::Cut)
    }

    /// Closes the connection with a reset.
    pub fn reset(self) -> Self {
        self.then(Step::Reset)
    }

    fn then(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }
}

impl Gate {
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(0)))
    }

    /// Lets one waiting step pass.
    pub fn open(&self) {
        self.0.add_permits(1);
    }

    pub(super) async fn pass(&self) {
        self.0.acquire().await.unwrap().forget();
    }
}

/// Bytes that are told apart by their place: a lost, doubled or swapped piece shows.
pub fn pattern(offset: u64, length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    each_piece(offset, length, |piece| bytes.extend_from_slice(piece));
    bytes
}

/// Returns whether these bytes are the [`pattern`] at this offset.
pub fn is_pattern(offset: u64, bytes: &[u8]) -> bool {
    let mut rest = bytes;
    let mut same = true;
    each_piece(offset, bytes.len(), |piece| {
        let (start, end) = rest.split_at(piece.len());
        same &= start == piece;
        rest = end;
    });
    same
}

/// Visits the pattern in slices: it repeats with a period that no buffer has.
fn each_piece(offset: u64, mut length: usize, mut visit: impl FnMut(&[u8])) {
    static PERIOD: LazyLock<Vec<u8>> = LazyLock::new(|| {
        (0..1_048_583_u32)
            .map(|i| (i ^ (i >> 8) ^ (i >> 16)) as u8)
            .collect()
    });
    let mut at = usize::try_from(offset).unwrap() % PERIOD.len();
    while length > 0 {
        let piece = &PERIOD[at..PERIOD.len().min(at + length)];
        visit(piece);
        length -= piece.len();
        at = 0;
    }
}
