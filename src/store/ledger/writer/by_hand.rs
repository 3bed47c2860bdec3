//! A writer whose rounds a test does.

use std::path::Path;
use std::sync::Arc;

use super::super::{Params, Sync, schema};
use super::{Queue, Shared, Writer};

/// Returns a writer to a new file that rounds are done with by hand, its queue, and what it shares.
pub(super) fn writer(path: &Path) -> (Writer, Arc<Queue>, Arc<Shared>) {
    let params = Params {
        path: path.to_owned(),
        sync: Sync::EverySecond,
        max_open: 1,
        retention: Default::default(),
    };
    let mut opened = schema::open(&params).unwrap();
    let shared = Arc::new(Shared::new(0));
    let queue = Arc::new(Queue::new(opened.journal.take()));
    let writer = Writer::new(opened, params.sync, Arc::clone(&queue), Arc::clone(&shared));
    (writer, queue, shared)
}
