//! Event streams, after <https://html.spec.whatwg.org/multipage/server-sent-events.html#parsing-an-event-stream>.
//!
//! Events pass through as the upstream's own bytes. A [`Framer`] cuts what arrives into blocks of whole events, an
//! [`StreamObserver`] learns from a block what Weir must know of the answer, a [`UsageRemover`] takes out of it what the
//! client did not ask for; [`ending`] finishes a stream before its time, and an [`Outline`] one of the responses API.

mod ending;
mod event;
mod framer;
mod observer;
mod outline;
mod remover;
#[cfg(test)]
mod tests;
mod text;

pub use self::ending::ending;
pub use self::event::{Event, Events};
pub use self::framer::{EventTooLarge, Framer, MAX_EVENT, Tail};
pub use self::observer::{Observed, StreamObserver};
pub use self::outline::Outline;
pub use self::remover::UsageRemover;
pub use self::text::each_delta;
