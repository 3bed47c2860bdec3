//! A connection that goes on as a tunnel: its row stays open for as long as that lasts, and says how many bytes went
//! which way.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::booking::{Booking, Used};
use super::complete;
use crate::call::Traffic;

/// Settles the row when the tunnel lets go of it.
pub(super) struct Tunnelling {
    booking: Box<Booking>,
    traffic: Arc<Traffic>,
}

impl Tunnelling {
    pub(super) fn new(booking: Box<Booking>, traffic: &Arc<Traffic>) -> Self {
        Self {
            booking,
            traffic: Arc::clone(traffic),
        }
    }
}

impl Drop for Tunnelling {
    fn drop(&mut self) {
        let Traffic { received, sent } = &*self.traffic;
        self.booking.sent = sent.load(Ordering::Relaxed);
        self.booking.record.facts().received += received.load(Ordering::Relaxed);
        // Nobody waits for the row; it is written all the same.
        drop(self.booking.close(complete(Used::Nothing)));
    }
}
