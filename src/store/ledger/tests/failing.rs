//! Files that cannot be written for a while.

use super::*;
use crate::call::Cause;
use crate::store::ledger::presence::Presence;

/// A file that was moved away.
struct Away {
    from: PathBuf,
    to: PathBuf,
}

impl Away {
    fn of(params: &Params) -> Self {
        let (from, to) = (params.path.clone(), params.path.with_extension("away"));
        std::fs::rename(&from, &to).unwrap();
        Self { from, to }
    }

    fn back(self) {
        std::fs::rename(self.to, self.from).unwrap();
    }
}

#[tokio::test]
async fn rows_that_cannot_be_written_are_written_later() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&params(&folder)).unwrap();
    let row = begin(&ledger, "a").await;
    let away = Away::of(&params(&folder));
    let receipt = row.settle(entry(Some(counts(1, 1))));
    assert_eq!(receipt.await, Ok(()), "the journal holds it");
    let change = ledger.change(|_| Ok(Ok::<_, ()>(()))).await;
    assert!(matches!(
        change,
        Err(ChangeError::Ledger(LedgerError::Unwritable))
    ));
    assert!(!ledger.is_ready());
    let (error, unopened) = ledger.begin(intent("b")).await.map(|_| ()).unwrap_err();
    assert_eq!(error, LedgerError::Unwritable);
    unopened.unwrap().forget();
    ledger.set_refuses(false);
    assert!(ledger.is_ready());
    let row = begin(&ledger, "c").await;
    row.settle(entry(Some(counts(2, 2)))).await.unwrap();
    away.back();
    ledger.close();
    assert_eq!(
        count(
            &ledger,
            "SELECT count(*) FROM request WHERE status = 'complete'"
        ),
        2
    );
    assert_eq!(ledger.snapshot().owed, 0);
}

#[tokio::test]
async fn a_file_that_is_gone_or_replaced_is_noticed_and_nothing_is_lost_when_it_comes_back() {
    for is_replaced in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let params = params(&folder);
        let ledger = Ledger::open(&params).unwrap();
        begin(&ledger, "before")
            .await
            .settle(entry(None))
            .await
            .unwrap();
        let row = begin(&ledger, "under way").await;
        assert_eq!(count(&ledger, "SELECT count(*) FROM request"), 2);
        let away = folder.path().join("away.db");
        std::fs::rename(&params.path, &away).unwrap();
        if is_replaced {
            std::fs::copy(&away, &params.path).unwrap();
        }
        // Whoever is under way has the journal's word.
        row.settle(entry(Some(counts(7, 7)))).await.unwrap();
        let change = ledger.change(|_| Ok(Ok::<_, ()>(()))).await;
        assert!(matches!(
            change,
            Err(ChangeError::Ledger(LedgerError::Unwritable))
        ));
        assert!(!ledger.is_ready());
        assert_eq!(ledger.snapshot().owed, 1);
        std::fs::rename(&away, &params.path).unwrap();
        ledger.change(|_| Ok(Ok::<_, ()>(()))).await.unwrap();
        assert!(ledger.is_ready());
        assert_eq!(
            strings(&ledger, "SELECT request_id FROM request ORDER BY 1"),
            ["before", "under way"]
        );
        ledger.close();
    }
}

#[tokio::test]
async fn another_program_that_holds_the_file_for_a_moment_refuses_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&params(&folder)).unwrap();
    let other = Connection::open(&params(&folder).path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let row = begin(&ledger, "a").await;
    row.settle(entry(Some(counts(1, 1)))).await.unwrap();
    // Whoever needs a commit is told that there is none.
    let change = ledger.change(|_| Ok(Ok::<_, ()>(()))).await;
    assert!(matches!(
        change,
        Err(ChangeError::Ledger(LedgerError::Unwritable))
    ));
    let seen = ledger.snapshot();
    assert!(
        seen.failures > 0 && seen.owed > 0 && !seen.failing,
        "{seen:?}"
    );
    assert!(ledger.is_ready());
    let row = begin(&ledger, "b").await;
    row.settle(entry(Some(counts(2, 2)))).await.unwrap();
    other.execute_batch("COMMIT").unwrap();
    ledger.close();
    let rows = "SELECT count(*) FROM request WHERE status = 'complete'";
    assert_eq!(count(&ledger, rows), 2);
}

#[tokio::test]
async fn a_row_whose_client_was_refused_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let params = Params {
        sync: Sync::Always,
        ..params(&folder)
    };
    let ledger = Ledger::open(&params).unwrap();
    let told = |http_status| Entry {
        unrecorded: Some(Unrecorded {
            http_status: Some(http_status),
            cause: Cause::GatewayLedger,
        }),
        ..entry(Some(counts(3, 4)))
    };
    let safe = begin(&ledger, "safe").await;
    let [whole, streamed] = [
        begin(&ledger, "whole").await,
        begin(&ledger, "streamed").await,
    ];
    safe.settle(told(503)).await.unwrap();
    let away = Away::of(&params);
    let receipts = [whole.settle(told(503)), streamed.settle(told(200))];
    for receipt in receipts {
        assert_eq!(receipt.await, Err(LedgerError::Unwritable));
    }
    away.back();
    ledger.close();
    assert_eq!(
        strings(
            &ledger,
            "SELECT request_id || ' ' || status || ' ' || http_status || ' ' || coalesce(error, '-') || ' ' || tokens
             FROM request ORDER BY 1"
        ),
        [
            "safe complete 200 - 7",
            "streamed failed 200 gateway_ledger 7",
            "whole failed 503 gateway_ledger 7"
        ]
    );
}

#[test]
fn what_was_owed_is_on_the_disk_before_the_journal_forgets_it() {
    let folder = tempfile::tempdir().unwrap();
    let params = params(&folder);
    let mut opened = schema::open(&params).unwrap();
    let synchronous = |connection: &Connection| {
        connection
            .pragma_query_value(None, "synchronous", |row| row.get::<_, i64>(0))
            .unwrap()
    };
    assert_eq!(synchronous(&opened.connection), 1, "normal");
    let shared = Arc::new(Shared::new(0));
    let queue = Arc::new(Queue::new(opened.journal.take()));
    let mut writer = Writer::new(opened, params.sync, Arc::clone(&queue), Arc::clone(&shared));
    let open = || queue.open(queue.serial(), &Arc::new(intent("a"))).map(drop);
    let is_dirty = || shared.dirty.swap(false, Ordering::AcqRel);
    open().unwrap();
    writer.round();
    assert!(is_dirty(), "the keeper has a second");
    let away = Away::of(&params);
    open().unwrap();
    writer.round();
    assert_eq!(shared.snapshot().owed, 1);
    away.back();
    writer.round();
    assert_eq!(shared.snapshot().owed, 0);
    assert!(!is_dirty(), "nobody need make the disk keep it");
    open().unwrap();
    writer.round();
    assert!(is_dirty());
}

#[test]
fn a_log_is_copied_back_at_the_start_and_when_nobody_writes() {
    let folder = tempfile::tempdir().unwrap();
    let params = params(&folder);
    let mut opened = schema::open(&params).unwrap();
    let shared = Arc::new(Shared::new(0));
    let queue = Arc::new(Queue::new(opened.journal.take()));
    let presence = opened.presence.clone();
    let mut keeper = Keeper::new(&params, &shared, Arc::clone(&queue), presence);
    let mut writer = Writer::new(opened, params.sync, Arc::clone(&queue), Arc::clone(&shared));
    let mut write = || {
        drop(queue.open(queue.serial(), &Arc::new(intent("a"))).unwrap());
        writer.round();
    };
    // What the file has without its log.
    let alone = || {
        let copy = folder.path().join("copy.db");
        std::fs::copy(&params.path, &copy).unwrap();
        let copy = Connection::open(&copy).unwrap();
        let rows = copy.query_row("SELECT count(*) FROM request", [], |row| row.get(0));
        rows.unwrap_or(0_i64)
    };
    let start = std::time::Instant::now();
    let at = |seconds| start + Duration::from_secs(seconds);
    write();
    assert_eq!(alone(), 0);
    keeper.copy_back(at(0));
    assert_eq!(alone(), 1);
    write();
    for (second, rows) in [(1, 1), (5, 1), (6, 2)] {
        keeper.copy_back(at(second));
        assert_eq!(alone(), rows, "after {second} seconds");
    }
    // Somebody writes all the time.
    for second in 7..20 {
        write();
        keeper.copy_back(at(second));
    }
    assert_eq!(alone(), 2);
    // Somebody reads what was there before.
    let reader = Connection::open(&params.path).unwrap();
    reader
        .execute_batch("BEGIN; SELECT count(*) FROM request")
        .unwrap();
    write();
    keeper.copy_back(at(20));
    keeper.copy_back(at(25));
    assert_ne!(alone(), 16, "not all of it");
    reader.execute_batch("COMMIT").unwrap();
    keeper.copy_back(at(30));
    assert_eq!(alone(), 16);
}

#[tokio::test]
async fn no_log_is_copied_into_a_file_that_lies_in_the_place_of_the_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let params = params(&folder);
    let ledger = Ledger::open(&params).unwrap();
    begin(&ledger, "a").await.settle(entry(None)).await.unwrap();
    assert_eq!(count(&ledger, "SELECT count(*) FROM request"), 1);
    let presence = Presence::of(&params.path).unwrap();
    let shared = Arc::new(Shared::new(0));
    let mut keeper = Keeper::new(&params, &shared, Arc::clone(&ledger.queue), presence);
    let away = Away::of(&params);
    let copy = std::fs::read(&away.to).unwrap();
    std::fs::write(&params.path, &copy).unwrap();
    keeper.checkpoint(false).unwrap();
    drop(keeper);
    assert!(
        std::fs::read(&params.path).unwrap() == copy,
        "nothing was copied into it"
    );
    away.back();
    ledger.close();
    assert_eq!(count(&ledger, "SELECT count(*) FROM request"), 1);
}

#[tokio::test]
async fn the_log_of_a_file_that_lies_in_the_place_of_the_ledger_stays() {
    let folder = tempfile::tempdir().unwrap();
    let params = params(&folder);
    let log = schema::log_of(&params.path);
    let ledger = Ledger::open(&params).unwrap();
    let _away = [
        Away::of(&params),
        Away::of(&Params {
            path: log.clone(),
            ..params.clone()
        }),
    ];
    std::fs::remove_file(format!("{}-shm", params.path.display())).unwrap();
    let other = Connection::open(&params.path).unwrap();
    other
        .execute_batch(
            "PRAGMA journal_mode = WAL; CREATE TABLE theirs (a); INSERT INTO theirs VALUES (7)",
        )
        .unwrap();
    ledger.close();
    assert!(log.exists());
    let theirs = Connection::open(&params.path).unwrap();
    let seven: i64 = theirs
        .query_row("SELECT a FROM theirs", [], |row| row.get(0))
        .unwrap();
    assert_eq!(seven, 7);
}

#[tokio::test]
async fn a_log_that_is_deleted_is_noticed_and_nothing_in_it_is_lost() {
    for is_replaced in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let params = params(&folder);
        let ledger = Ledger::open(&params).unwrap();
        let row = begin(&ledger, "before").await;
        row.settle(entry(None)).await.unwrap();
        let under_way = begin(&ledger, "under way").await;
        assert_eq!(count(&ledger, "SELECT count(*) FROM request"), 2);
        let log = schema::log_of(&params.path);
        let away = params.path.with_extension("away");
        std::fs::rename(&log, &away).unwrap();
        if is_replaced {
            std::fs::write(&log, "").unwrap();
        }
        under_way.settle(entry(Some(counts(7, 7)))).await.unwrap();
        let change = ledger.change(|_| Ok(Ok::<_, ()>(()))).await;
        assert!(matches!(
            change,
            Err(ChangeError::Ledger(LedgerError::Unwritable))
        ));
        assert!(!ledger.is_ready());
        // Whoever has the file alone has what was committed.
        let copy = folder.path().join("copy.db");
        std::fs::copy(&params.path, &copy).unwrap();
        let copied = Connection::open(&copy).unwrap();
        let rows = copied.query_row("SELECT count(*) FROM request", [], |row| row.get(0));
        assert_eq!(rows, Ok(2));
        if is_replaced {
            // It ends so, and the next one writes what is owed.
            ledger.close();
            std::fs::remove_file(&away).unwrap();
            let ledger = Ledger::open(&params).unwrap();
            ledger.close();
            let complete = "SELECT count(*) FROM request WHERE status = 'complete'";
            assert_eq!(count(&ledger, complete), 2);
            continue;
        }
        std::fs::rename(&away, &log).unwrap();
        ledger.change(|_| Ok(Ok::<_, ()>(()))).await.unwrap();
        assert!(ledger.is_ready());
        ledger.close();
        assert_eq!(count(&ledger, "SELECT count(*) FROM request"), 2);
    }
}
