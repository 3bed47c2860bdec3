//! What has come of a call so far: the log, and how far each listener has read in it.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use slab::Slab;
use tokio::time::Instant;

use super::{Asking, Begun, Head, OnWhole, Patience, Whole};
use crate::call::{Reply, ReplyBody, StreamError};

/// The leader's place among the listeners, for as long as it is there.
pub(super) const LEADER: usize = 0;
/// What a block takes besides its bytes.
const BLOCK: usize = 64;
/// How much room is taken at a time for what comes in small pieces.
const ARENA: usize = 4 << 10;

/// What has come of a call, and who listens.
pub(super) struct State<E> {
    pub(super) stage: Stage<E>,
    pub(super) head: Option<Head>,
    /// What has come, and is not forgotten, each with the milliseconds that it came after the head.
    pub(super) log: VecDeque<(Bytes, u32)>,
    /// When the head came.
    pub(super) began: Instant,
    /// Room for what comes next: what came from a connection holds on to all the room that it was read into.
    pub(super) arena: BytesMut,
    /// How many blocks are forgotten.
    pub(super) forgotten: usize,
    pub(super) bytes: usize,
    /// How far each listener has read.
    pub(super) listeners: Slab<usize>,
    /// Whether the leader's client has gone, while others listen: it reads on for the books alone.
    pub(super) is_orphan: bool,
    /// Whether nobody may join any more.
    pub(super) is_closed: bool,
    /// How long it goes on when nobody waits for it.
    pub(super) patience: Patience,
    /// Until when it goes on now that nobody does.
    pub(super) until: Option<Instant>,
    pub(super) on_whole: Option<OnWhole>,
}

/// How far it is.
pub(super) enum Stage<E> {
    Asking(Asking<E>),
    Answering(Box<ReplyBody>),
    /// Over before there was anything to share.
    Failed(Option<Begun<E>>),
    Over(Result<(), StreamError>),
}

/// What is to be done when the lock is open again.
pub(super) struct Aftermath<E> {
    /// Dropped there: what is in it may lock others.
    pub(super) _stage: Option<Stage<E>>,
    pub(super) whole: Option<(OnWhole, Head, Whole)>,
    pub(super) is_over: bool,
}

impl<E> State<E> {
    /// Begins with the leader alone, who has read nothing.
    pub(super) fn new(asking: Asking<E>, patience: Patience, on_whole: OnWhole) -> Self {
        let mut listeners = Slab::new();
        let leader = listeners.insert(0);
        debug_assert_eq!(leader, LEADER, "a slab begins at the beginning");
        Self {
            stage: Stage::Asking(asking),
            head: None,
            log: VecDeque::new(),
            began: Instant::now(),
            arena: BytesMut::new(),
            forgotten: 0,
            bytes: 0,
            listeners,
            is_orphan: false,
            is_closed: false,
            patience,
            until: None,
            on_whole: Some(on_whole),
        }
    }

    pub(super) fn over(&mut self, result: Result<(), StreamError>) -> Aftermath<E> {
        let stage = std::mem::replace(&mut self.stage, Stage::Over(result));
        let on_whole = self.on_whole.take().filter(|_| result.is_ok());
        let whole = on_whole
            .zip(self.head.clone())
            .filter(|_| self.forgotten == 0);
        Aftermath {
            _stage: Some(stage),
            whole: whole.map(|(on_whole, head)| {
                let whole = match head.is_events {
                    true => {
                        let (blocks, offsets) = self.log.iter().cloned().unzip();
                        Whole::Events(blocks, offsets)
                    }
                    false => {
                        let text = self.log.front().map(|(text, _)| text.clone());
                        Whole::Text(text.unwrap_or_default())
                    }
                };
                (on_whole, head, whole)
            }),
            is_over: true,
        }
    }

    /// Takes in what an upstream has answered.
    pub(super) fn begun(&mut self, result: Result<Reply, E>) -> Aftermath<E> {
        let mut reply = match result {
            Ok(reply) => reply,
            Err(error) => return self.alone(Begun::Failed(error)),
        };
        let is_events = reply.body.is_events();
        let is_text = reply.body.as_full().is_some();
        if reply.status != StatusCode::OK || !(is_events || is_text) {
            return self.alone(Begun::Alone(Box::new(reply)));
        }
        self.began = Instant::now();
        self.head = Some(Head {
            headers: std::mem::take(&mut reply.headers),
            is_events,
        });
        if is_events {
            let stage = Stage::Answering(Box::new(reply.body));
            return Aftermath {
                _stage: Some(std::mem::replace(&mut self.stage, stage)),
                whole: None,
                is_over: false,
            };
        }
        let text = reply.body.take_full().unwrap_or_default();
        // It is held for a moment: what is kept of it is a copy.
        self.log.push_back((text, 0));
        self.over(Ok(()))
    }

    pub(super) fn alone(&mut self, begun: Begun<E>) -> Aftermath<E> {
        self.on_whole = None;
        let stage = std::mem::replace(&mut self.stage, Stage::Failed(Some(begun)));
        Aftermath {
            _stage: Some(stage),
            whole: None,
            is_over: true,
        }
    }

    /// Takes in a block of events.
    pub(super) fn add(&mut self, block: &[u8]) {
        if self.arena.capacity() < block.len() {
            self.arena.reserve(block.len().max(ARENA));
        }
        self.arena.extend_from_slice(block);
        self.bytes += block.len() + BLOCK;
        let offset = u32::try_from(self.began.elapsed().as_millis()).unwrap_or(u32::MAX);
        self.log.push_back((self.arena.split().freeze(), offset));
    }

    /// Forgets the oldest where there is too much, whoever has not read it yet; and once that has begun, so that nobody can
    /// join, all that everybody has read. Returns whether it began just now.
    pub(super) fn bound(&mut self, bound: usize) -> bool {
        let had_all = self.forgotten == 0;
        if had_all && self.bytes <= bound {
            return false;
        }
        let orphan = self.is_orphan.then_some(LEADER);
        let readers = self.listeners.iter().filter(|(id, _)| Some(*id) != orphan);
        let slowest = readers.map(|(_, at)| *at).min().unwrap_or_default();
        while self.log.len() > 1
            && (self.bytes > bound || (self.forgotten > 0 && self.forgotten < slowest))
        {
            let Some((block, _)) = self.log.pop_front() else {
                break;
            };
            self.bytes -= block.len() + BLOCK;
            self.forgotten += 1;
        }
        had_all && self.forgotten > 0
    }

    /// Returns whether it goes on though nobody waits for it. Once its head has come to somebody who has left, nobody asks for
    /// it again.
    pub(super) fn lingers(&mut self) -> bool {
        self.until = match self.patience {
            Patience::None => return false,
            Patience::For(_) if !matches!(self.stage, Stage::Asking(_)) => return false,
            Patience::For(time) => Some(Instant::now() + time),
            Patience::Books | Patience::Ever => None,
        };
        true
    }

    /// Returns how many listen for themselves besides the leader.
    pub(super) fn others(&self) -> usize {
        self.listeners.len() - usize::from(self.listeners.contains(LEADER))
    }

    pub(super) fn is_under_way(&self) -> bool {
        matches!(self.stage, Stage::Asking(_) | Stage::Answering(_))
    }
}
