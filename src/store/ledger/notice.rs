//! Notices that keys or teams were changed by somebody else: every change of them leaves a row in the audit.

use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;

use super::read::ReadError;
use super::schema::open_to_read;

/// Looks again and again whether the audit has grown. It keeps one connection for that.
#[derive(Debug)]
pub struct Notice {
    path: Arc<Path>,
    connection: Option<Connection>,
    /// SQLite's count of what others have committed: as long as it stays, nothing has changed.
    version: Option<i64>,
    /// The last row of the audit that was seen.
    audit: Option<i64>,
}

impl Notice {
    pub(super) fn new(path: &Arc<Path>) -> Self {
        Self {
            path: Arc::clone(path),
            connection: None,
            version: None,
            audit: None,
        }
    }

    /// Runs `read` where the audit has grown since the last look, or at the first one; `read` sees the state that the
    /// audit was found in. Blocks.
    ///
    /// # Errors
    /// SQLite's own; then the next look is a first one.
    pub fn look<T>(
        &mut self,
        read: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<Option<T>, ReadError> {
        let looked = self.look_once(read);
        if looked.is_err() {
            *self = Self::new(&self.path);
        }
        Ok(looked?)
    }

    fn look_once<T>(
        &mut self,
        read: impl FnOnce(&Connection) -> Result<T, rusqlite::Error>,
    ) -> Result<Option<T>, rusqlite::Error> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            none => none.insert(open_to_read(&self.path)?),
        };
        let version = connection.pragma_query_value(None, "data_version", |row| row.get(0))?;
        if self.version == Some(version) {
            return Ok(None);
        }
        // One transaction: nothing comes between the audit and what is read.
        let transaction = connection.transaction()?;
        let audit = transaction.query_row("SELECT coalesce(max(id), 0) FROM audit", [], |row| {
            row.get(0)
        })?;
        let result = match self.audit == Some(audit) {
            true => None,
            false => Some(read(&transaction)?),
        };
        drop(transaction);
        self.version = Some(version);
        self.audit = Some(audit);
        Ok(result)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Ledger, Params, Sync};
    use super::*;

    #[tokio::test]
    async fn a_change_is_noticed_once_and_rows_are_none() {
        let folder = tempfile::tempdir().unwrap();
        let params = Params {
            path: folder.path().join("weir.db"),
            sync: Sync::Always,
            max_open: 1,
            retention: Default::default(),
        };
        let ledger = Ledger::open(&params).unwrap();
        let mut notice = ledger.notice();
        let mut look = || notice.look(|_| Ok(())).unwrap().is_some();
        assert!(look(), "the first look sees everything");
        assert!(!look());
        let change = |sql: &'static str| {
            let change = move |file: &Connection| file.execute_batch(sql).map(Ok::<_, ()>);
            ledger.change(change)
        };
        change("INSERT INTO run (id, began) VALUES (99, 1)")
            .await
            .unwrap();
        assert!(!look(), "no key has changed");
        change("INSERT INTO audit (time, actor, action, target, detail) VALUES (1, 'cli', 'key.create', 'bob', '{}')")
            .await
            .unwrap();
        assert!(look());
        assert!(!look());
        ledger.close();
    }
}
