//! What other gateways have made, taken over into this one's ledger and what opens it.

use std::sync::Arc;

use jiff::Timestamp;
use rusqlite::Connection;
use tokio::sync::watch;

use crate::store::directory::counting::Counting;
use crate::store::directory::{Directory, DirectoryError};
use crate::store::keys::audit::micros;
use crate::store::keys::{Adopted, Author, Record, Refusal, adopt};

/// Who the audit says has made what another gateway did.
const REPLICA: &str = "replica";
/// How many records are written in one transaction.
const AT_ONCE: usize = 64;

impl Directory {
    /// Returns a number that changes whenever keys or teams may have.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Takes records of other gateways over, and returns what has become of those that are not known. Their budgets are to
    /// be counted then.
    pub(in crate::store::directory) async fn adopt(
        &self,
        mut records: Vec<Record>,
    ) -> Result<Vec<(String, Adopted)>, DirectoryError> {
        let mut counting = self.changing.lock().await;
        {
            let entries = self.entries();
            records.retain(|record| !entries.made.says(record));
        }
        self.close(&counting, &records);
        let author = Author {
            actor: REPLICA,
            at: micros(Timestamp::now()),
        };
        let (mut adopted, mut says, mut failed) = (Vec::new(), Vec::new(), None);
        while !records.is_empty() {
            // Rows of requests wait while one transaction lasts.
            let rest = records.split_off(records.len().min(AT_ONCE));
            let some = std::mem::replace(&mut records, rest);
            let adopting = self.ledger.change(move |file: &Connection| {
                let adopt = |record: &Record| {
                    let (adopted, says) = adopt(file, record, &author)?;
                    Ok((record.field(), adopted, says))
                };
                let adopted = some.iter().map(adopt).collect::<Result<Vec<_>, _>>();
                adopted.map(Ok::<_, Refusal>)
            });
            match adopting.await {
                Ok(some) => {
                    for (field, what, record) in some {
                        adopted.push((field, what));
                        says.extend(record);
                    }
                }
                // What was written before counts.
                Err(error) => {
                    failed = Some(error);
                    break;
                }
            }
        }
        if !says.is_empty() {
            tracing::info!("keys or teams were changed at another gateway");
            let list = self.update(&counting, |entries| {
                says.into_iter().for_each(|record| entries.made.put(record));
                entries.warn();
            });
            counting.owe(list);
        }
        match failed {
            Some(error) => Err(error.into()),
            None => Ok(adopted),
        }
    }

    /// Lets keys that were revoked elsewhere open nothing any more, whether or not the ledger can be told.
    fn close(&self, counting: &Counting, records: &[Record]) {
        let closed: Vec<_> = {
            let entries = self.entries();
            let revoked = records.iter().filter_map(|record| match record {
                Record::Key(key) if key.revoked.is_some() => entries.made.keys.get(&key.terms.name),
                Record::Key(_) | Record::Team(_) | Record::NoTeam { .. } => None,
            });
            let open = revoked.filter(|own| entries.is_living(own));
            open.map(|own| Arc::clone(&own.terms.name)).collect()
        };
        if !closed.is_empty() {
            self.update(counting, |entries| entries.closed.extend(closed));
        }
    }
}
