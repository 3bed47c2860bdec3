mod beside;
mod failing;
mod replay;

use std::time::{Duration, SystemTime};

use rusqlite::Connection;

use super::*;
use crate::money::Nanos;
use crate::openai::usage::Usage;

fn params(folder: &tempfile::TempDir) -> Params {
    Params {
        path: folder.path().join("below").join("weir.db"),
        sync: Sync::EverySecond,
        max_open: 100,
        retention: Default::default(),
    }
}

fn counts(input: u64, output: u64) -> Counts {
    Counts {
        usage: Usage {
            input,
            output,
            ..Usage::default()
        },
        provenance: Provenance::Upstream,
        cost: Some(Nanos::new(input + output)),
    }
}

fn intent(id: &str) -> Intent {
    Intent {
        request_id: id.into(),
        received: SystemTime::now(),
        key: "o'brien; DROP TABLE request; --/../%00".into(),
        team: Some("research".into()),
        endpoint: "/v1/chat/completions".into(),
        model: Some("gpt-4o".into()),
        stream: true,
        estimate: Some(Counts {
            provenance: Provenance::Estimated,
            ..counts(9, 0)
        }),
        upstream: None,
    }
}

fn entry(counts: Option<Counts>) -> Entry {
    Entry {
        status: Status::Complete,
        http_status: Some(200),
        error: None,
        served_model: Some("gpt-4o".into()),
        upstream: Some("openai".into()),
        counts,
        uncounted: false,
        served_from: Some(ServedFrom::Upstream),
        cache: "bypass".into(),
        degraded: false,
        received_bytes: 3,
        sent_bytes: 4,
        times: Times::default(),
        attempts: vec![Attempt {
            upstream: "openai".into(),
            endpoint: "api.openai.com".into(),
            model: Some("gpt-4o".into()),
            began: Duration::ZERO,
            time: Some(Duration::from_millis(5)),
            result: "answered".into(),
            http_status: Some(200),
            counts,
        }],
        unrecorded: None,
    }
}

fn strings(ledger: &Ledger, sql: &str) -> Vec<String> {
    let read = |connection: &Connection| {
        let mut select = connection.prepare(sql)?;
        let rows = select.query_map([], |row| row.get(0))?;
        rows.collect()
    };
    ledger.reader().read_now(read).unwrap()
}

fn count(ledger: &Ledger, sql: &str) -> i64 {
    let read = |connection: &Connection| connection.query_row(sql, [], |row| row.get(0));
    ledger.reader().read_now(read).unwrap()
}

async fn begin(ledger: &Ledger, id: &str) -> OpenRow {
    ledger
        .begin(intent(id))
        .await
        .map_err(|(error, _)| error)
        .unwrap()
}

#[tokio::test]
async fn a_request_is_one_row_open_and_then_settled() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&params(&folder)).unwrap();
    let row = begin(&ledger, "a").await;
    assert_eq!(strings(&ledger, "SELECT status FROM request"), ["open"]);
    row.settle(entry(Some(counts(7, 5)))).await.unwrap();
    assert_eq!(
        strings(
            &ledger,
            "SELECT status || ' ' || input_tokens || ' ' || output_tokens || ' ' || cost || ' ' || provenance || ' ' || key
             FROM request"
        ),
        ["complete 7 5 12 upstream o'brien; DROP TABLE request; --/../%00"]
    );
    assert_eq!(count(&ledger, "SELECT sum(input_tokens) FROM attempt"), 7);
    ledger.close();
}

#[tokio::test]
async fn what_arrives_in_the_same_microsecond_has_rows_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&params(&folder)).unwrap();
    let same = intent("a");
    let rows = futures_util::future::join_all((0..50).map(|_| ledger.begin(same.clone()))).await;
    for row in rows {
        row.map_err(|(error, _)| error)
            .unwrap()
            .settle(entry(None))
            .await
            .unwrap();
    }
    assert_eq!(count(&ledger, "SELECT count(DISTINCT id) FROM request"), 50);
    ledger.close();
}

#[tokio::test]
async fn all_its_files_are_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&params(&folder)).unwrap();
    begin(&ledger, "a").await.settle(entry(None)).await.unwrap();
    let below = folder.path().join("below");
    let files: Vec<_> = std::fs::read_dir(below).unwrap().collect();
    assert!(
        files.len() >= 4,
        "the database, its log, its index and a journal"
    );
    let counted = files.iter().flatten();
    let counted = counted.filter(|file| !file.path().to_string_lossy().ends_with("-shm"));
    let sizes = counted.map(|file| file.metadata().unwrap().len());
    assert_eq!(ledger.file_size(), Some(sizes.sum()));
    for file in files.into_iter().map(Result::unwrap) {
        let mode = file.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?}: {mode:o}", file.file_name());
    }
    ledger.close();
}

#[tokio::test]
async fn places_are_bounded_and_given_back() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&Params {
        max_open: 1,
        ..params(&folder)
    })
    .unwrap();
    let first = begin(&ledger, "a").await;
    let second = ledger.begin(intent("b")).await;
    assert!(matches!(second, Err((LedgerError::Crowded, None))));
    first.settle(entry(None)).await.unwrap();
    // A place is given back with the commit.
    assert_eq!(count(&ledger, "SELECT count(*) FROM request"), 1);
    begin(&ledger, "c").await.settle(entry(None)).await.unwrap();
    ledger.close();
}

#[tokio::test]
async fn a_dropped_row_is_settled_at_its_estimate() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&params(&folder)).unwrap();
    drop(begin(&ledger, "a").await);
    ledger.close();
    assert_eq!(
        strings(
            &ledger,
            "SELECT status || input_tokens || provenance FROM request"
        ),
        ["interrupted9estimated"]
    );
}

#[tokio::test]
async fn what_is_open_at_the_end_is_settled_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&params(&folder)).unwrap();
    let open = begin(&ledger, "a").await;
    ledger.close();
    assert_eq!(open.settle(entry(None)).await, Err(LedgerError::Closed));
    assert_eq!(
        strings(&ledger, "SELECT status FROM request"),
        ["interrupted"]
    );
}

#[tokio::test]
async fn rows_of_the_dead_are_settled_and_those_of_the_living_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let params = params(&folder);
    let living = Ledger::open(&params).unwrap();
    let open = begin(&living, "living").await;
    // A process that died: its run has an open row, and nobody holds its lock.
    living
        .change(|connection| {
            connection.execute("INSERT INTO run (id, began) VALUES (99, 1)", [])?;
            connection.execute(
                "INSERT INTO request (id, request_id, run, key, endpoint, stream, status, input_tokens, provenance, cost)
                 VALUES (1, 'dead', 99, 'alice', '/v1/completions', 0, 'open', 11, 'estimated', 5)",
                [],
            )?;
            Ok(Ok::<_, ()>(()))
        })
        .await
        .unwrap();
    let second = Ledger::open(&params).unwrap();
    assert_eq!(second.snapshot().interrupted, 1);
    assert_eq!(
        strings(
            &second,
            "SELECT request_id || ' ' || status FROM request ORDER BY id"
        ),
        ["dead interrupted", "living open"]
    );
    assert_eq!(
        count(&second, "SELECT input_tokens + cost FROM attempt"),
        16
    );
    open.settle(entry(None)).await.unwrap();
    let third = Ledger::open(&params).unwrap();
    assert_eq!(third.snapshot().interrupted, 0, "nothing counts twice");
    for ledger in [living, second, third] {
        ledger.close();
    }
    let left: Vec<_> = std::fs::read_dir(params.path.parent().unwrap())
        .unwrap()
        .map(|file| file.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.contains("-run-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

#[tokio::test]
async fn a_refused_change_leaves_nothing_and_harms_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&params(&folder)).unwrap();
    let refused = ledger.change(|connection| {
        connection.execute(
            "INSERT INTO team (name, models, budgets, created) VALUES ('a', '[]', '[]', 0)",
            [],
        )?;
        Ok(Err::<(), _>("no"))
    });
    let panics = ledger.change(|_| -> Result<Result<(), ()>, rusqlite::Error> { panic!("a bug") });
    let misread = ledger.change(|connection| {
        connection.execute(
            "INSERT INTO team (name, models, budgets, created) VALUES ('b', '[]', '[]', 0)",
            [],
        )?;
        connection.query_row("SELECT name FROM team", [], |row| row.get::<_, i64>(0))?;
        Ok(Ok::<_, ()>(()))
    });
    let (refused, panics, misread, row) =
        tokio::join!(refused, panics, misread, begin(&ledger, "a"));
    assert!(matches!(refused, Err(ChangeError::Refused("no"))));
    assert!(panics.is_err());
    // No disk is full.
    assert!(matches!(misread, Err(ChangeError::Row(_))), "{misread:?}");
    assert!(ledger.is_ready());
    row.settle(entry(None)).await.unwrap();
    assert_eq!(count(&ledger, "SELECT count(*) FROM team"), 0);
    ledger.close();
}

#[tokio::test]
async fn a_report_adds_up_and_leaves_open_rows_out() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&params(&folder)).unwrap();
    for (input, output) in [(1, 2), (3, 4)] {
        begin(&ledger, "a")
            .await
            .settle(entry(Some(counts(input, output))))
            .await
            .unwrap();
    }
    let unpriced = Counts {
        cost: None,
        ..counts(10, 0)
    };
    begin(&ledger, "b")
        .await
        .settle(entry(Some(unpriced)))
        .await
        .unwrap();
    for (cache, input) in [("hit", 100), ("joined", 20), ("stale", 3)] {
        let unpaid = Counts {
            cost: Some(Nanos::ZERO),
            ..counts(input, 1000)
        };
        let saved = Entry {
            cache: cache.into(),
            attempts: Vec::new(),
            ..entry(Some(unpaid))
        };
        begin(&ledger, "d").await.settle(saved).await.unwrap();
    }
    let _open = begin(&ledger, "c").await;
    let query = |group_by| Query {
        from: None,
        to: None,
        key: None,
        team: None,
        group_by,
    };
    for group_by in GroupBy::WORDS {
        let group_by = GroupBy::parse(group_by).unwrap();
        let report = ledger
            .reader()
            .read(move |c| query(group_by).run(c))
            .await
            .unwrap();
        assert_eq!(report.groups.len(), 1, "{report:?}");
        assert_eq!(
            report.total,
            Sums {
                requests: 6,
                prompt_tokens: 14,
                completion_tokens: 6,
                cached_tokens: 0,
                reasoning_tokens: 0,
                cost: Nanos::new(10),
                unpriced_requests: 1,
                cache_hits: 3,
                saved_tokens: 3123,
            }
        );
    }
    let none = Query {
        to: Some(SystemTime::UNIX_EPOCH),
        ..query(GroupBy::Day)
    };
    assert_eq!(
        ledger.reader().read_now(|c| none.run(c)).unwrap(),
        Report::default()
    );
    ledger.close();
}

#[test]
fn who_only_looks_makes_no_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weir.db");
    assert!(check_file(&path).is_err());
    assert!(peek(&path, |_| Ok(())).is_err());
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn files_that_are_not_ours_are_refused_and_stay_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("weir.db");
    let open = || {
        Ledger::open(&Params {
            path: path.clone(),
            ..params(&folder)
        })
        .unwrap_err()
    };
    std::fs::write(
        &path,
        "this is no database, and longer than a header of one would ever have to be. ".repeat(20),
    )
    .unwrap();
    assert!(matches!(open(), OpenError::Foreign { .. }));
    assert!(
        std::fs::read_to_string(&path)
            .unwrap()
            .starts_with("this is no database")
    );

    std::fs::remove_file(&path).unwrap();
    let other = Connection::open(&path).unwrap();
    other.execute_batch("CREATE TABLE theirs (a)").unwrap();
    assert!(matches!(open(), OpenError::Foreign { .. }));

    let newer = format!(
        "PRAGMA application_id = {}; PRAGMA user_version = 99",
        0x5765_6972
    );
    other.execute_batch(&newer).unwrap();
    assert!(matches!(open(), OpenError::Newer { found: 99, .. }));
    let message = open().to_string();
    assert!(
        message.contains("newer Weir") && message.contains("[ledger] path"),
        "{message}"
    );
}

#[tokio::test]
async fn old_rows_go_and_leave_their_sums() {
    let folder = tempfile::tempdir().unwrap();
    let params = params(&folder);
    let ledger = Ledger::open(&params).unwrap();
    let old = Intent {
        received: SystemTime::now() - Duration::from_secs(1000),
        ..intent("old")
    };
    ledger.note(old, entry(Some(counts(5, 6)))).await.unwrap();
    let older = Intent {
        received: SystemTime::now() - Duration::from_secs(40 * 86_400),
        ..intent("older")
    };
    ledger.note(older, entry(Some(counts(1, 1)))).await.unwrap();
    ledger
        .change(|connection| {
            let sql =
                "INSERT INTO forgotten SELECT key, team, id - 86400000000, 1, 2, 2 FROM request
                 WHERE request_id = 'older'";
            connection.execute_batch(
                "INSERT INTO run VALUES (97, 1, 2), (98, 1, NULL);
                 INSERT INTO audit SELECT 1, 5, 'cli', 'key.create', 'long ago', '{}';
                 INSERT INTO audit SELECT 2, id, 'cli', 'key.create', 'older', '{}' FROM request
                 WHERE request_id = 'older'",
            )?;
            Ok(Ok::<_, ()>(connection.execute(sql, [])?))
        })
        .await
        .unwrap();
    ledger
        .note(intent("new"), entry(Some(counts(1, 1))))
        .await
        .unwrap();
    ledger.close();
    let ledger = Ledger::open(&Params {
        retention: Retention {
            rows: Some(Duration::from_secs(100)),
            audit: Some(Duration::from_secs(41 * 86_400)),
            vacuum: true,
        },
        ..params
    })
    .unwrap();
    let forgotten =
        "SELECT (since > 0) || ' ' || requests || ' ' || tokens || ' ' || cost FROM forgotten
         WHERE team = 'research' ORDER BY since";
    let mut tries = 0;
    let done = "SELECT 'x' FROM forgotten WHERE since = 0 AND tokens = 4 AND NOT EXISTS (SELECT 1 FROM run WHERE id = 97)";
    while strings(&ledger, done).is_empty() && tries < 100 {
        tries += 1;
        std::thread::sleep(Duration::from_millis(100));
    }
    // What a month's budget may still count keeps its time; what is older, and was kept until now, is put together.
    assert_eq!(strings(&ledger, forgotten), ["0 2 4 4", "1 1 11 11"]);
    assert_eq!(strings(&ledger, "SELECT request_id FROM request"), ["new"]);
    // Who made keys is known for longer; a run is, for as long as its rows.
    let beside = "SELECT (SELECT count(*) FROM run WHERE id = 97) || (SELECT count(*) FROM run WHERE id = 98)
        || ' ' || (SELECT group_concat(target) FROM audit)";
    assert_eq!(strings(&ledger, beside), ["01 older"]);
    assert_eq!(count(&ledger, "SELECT count(*) FROM attempt"), 1);
    ledger.close();
}

#[tokio::test]
async fn a_row_that_the_file_refuses_holds_up_no_other() {
    let folder = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(&params(&folder)).unwrap();
    let poison = begin(&ledger, "poison").await;
    let well = begin(&ledger, "well").await;
    ledger
        .change(|connection| {
            connection.execute_batch(
                "CREATE TRIGGER refuse BEFORE UPDATE ON request WHEN old.request_id = 'poison'
                 BEGIN SELECT raise(ABORT, 'never'); END",
            )?;
            Ok(Ok::<_, ()>(()))
        })
        .await
        .unwrap();
    let (poison, well) = (poison.settle(entry(None)), well.settle(entry(None)));
    assert_eq!((poison.await, well.await), (Ok(()), Ok(())));
    assert_eq!(
        strings(
            &ledger,
            "SELECT request_id FROM request WHERE status = 'complete'"
        ),
        ["well"]
    );
    let seen = ledger.snapshot();
    assert_eq!((seen.rows, seen.given_up, seen.owed), (1, 1, 0));
    assert!(!seen.failing);
    ledger.close();
}

#[tokio::test]
async fn tables_of_the_first_version_become_todays() {
    let folder = tempfile::tempdir().unwrap();
    let params = params(&folder);
    let ledger = Ledger::open(&params).unwrap();
    begin(&ledger, "a")
        .await
        .settle(entry(Some(counts(7, 5))))
        .await
        .unwrap();
    ledger.close();
    let described = |ledger: &Ledger| {
        let sql =
            "SELECT m.name || '.' || c.name || ' ' || c.type || ' ' || coalesce(c.dflt_value, '')
             FROM sqlite_schema m, pragma_table_info(m.name) c WHERE m.type = 'table' ORDER BY 1";
        let indices = "SELECT name FROM sqlite_schema WHERE type = 'index' ORDER BY 1";
        [strings(ledger, sql), strings(ledger, indices)].concat()
    };
    let today = described(&ledger);
    let connection = Connection::open(&params.path).unwrap();
    connection
        .execute_batch(
            "DROP TABLE forgotten;
             CREATE TABLE forgotten (
                key TEXT NOT NULL, team TEXT NOT NULL, requests INTEGER NOT NULL, tokens INTEGER NOT NULL,
                cost INTEGER NOT NULL, PRIMARY KEY (key, team)
             ) WITHOUT ROWID, STRICT;
             INSERT INTO forgotten VALUES ('alice', '', 1, 2, 3);
             DROP INDEX request_key; ALTER TABLE request DROP COLUMN tokens; ALTER TABLE request DROP COLUMN serial;
             ALTER TABLE team DROP COLUMN limits; DROP TABLE meta; DROP TABLE deleted_team;
             ALTER TABLE team DROP COLUMN version; ALTER TABLE api_key DROP COLUMN version;
             ALTER TABLE api_key DROP COLUMN rotated;
             ALTER TABLE team DROP COLUMN cache; ALTER TABLE api_key DROP COLUMN cache;
             INSERT INTO team (name, models, budgets, created) VALUES ('research', '[]', '[]', 77);
             ALTER TABLE api_key DROP COLUMN limits; PRAGMA user_version = 1",
        )
        .unwrap();
    drop(connection);
    let ledger = Ledger::open(&params).unwrap();
    assert_eq!(described(&ledger), today);
    assert_eq!(count(&ledger, "SELECT tokens FROM request"), 12);
    assert_eq!(count(&ledger, "SELECT version FROM team"), 77);
    assert_eq!(
        count(&ledger, "SELECT cost FROM forgotten WHERE since = 0"),
        3
    );
    ledger.close();
}

#[tokio::test]
async fn a_ledger_keeps_its_id_and_no_other_has_it() {
    let folder = tempfile::tempdir().unwrap();
    let params = params(&folder);
    let open = || {
        let ledger = Ledger::open(&params).unwrap();
        ledger.close();
        ledger.id().to_string()
    };
    let id = open();
    assert_eq!(id.len(), 32, "{id}");
    assert_eq!(open(), id);
    std::fs::remove_file(&params.path).unwrap();
    assert_ne!(open(), id);
    // Tables that are older are given one.
    let connection = Connection::open(&params.path).unwrap();
    connection
        .execute_batch(
            "DROP TABLE meta; DROP TABLE deleted_team; ALTER TABLE team DROP COLUMN version;
             ALTER TABLE api_key DROP COLUMN version; ALTER TABLE api_key DROP COLUMN rotated;
             ALTER TABLE team DROP COLUMN cache; ALTER TABLE api_key DROP COLUMN cache; PRAGMA user_version = 3",
        )
        .unwrap();
    let id = open();
    assert_eq!(open(), id);
}

#[tokio::test]
async fn with_every_commit_on_disk_each_request_waits_for_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let params = Params {
        sync: Sync::Always,
        ..params(&folder)
    };
    let ledger = Ledger::open(&params).unwrap();
    let status = || {
        let file = Connection::open(&params.path).unwrap();
        file.query_row("SELECT status FROM request", [], |row| {
            row.get::<_, String>(0)
        })
        .unwrap()
    };
    let row = begin(&ledger, "a").await;
    assert_eq!(status(), "open");
    row.settle(entry(None)).await.unwrap();
    assert_eq!(status(), "complete");
    ledger.close();
}

#[tokio::test]
async fn refusals_are_rows_that_count_for_nothing_and_are_left_out_where_there_are_too_many() {
    let folder = tempfile::tempdir().unwrap();
    let params = params(&folder);
    let ledger = Ledger::open(&params).unwrap();
    let refused = || Entry {
        status: Status::Refused,
        attempts: Vec::new(),
        ..entry(None)
    };
    ledger.note_refusal(intent("refused"), refused());
    assert_eq!(
        strings(
            &ledger,
            "SELECT status || ' ' || tokens || ' ' || cost FROM request"
        ),
        ["refused 0 0"]
    );
    // Nothing is owed for them when the file cannot be written.
    let other = Connection::open(&params.path).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    for _ in 0..1000 {
        ledger.note_refusal(intent("flood"), refused());
    }
    let change = ledger.change(|_| Ok(Ok::<_, ()>(()))).await;
    assert!(change.is_err());
    let seen = ledger.snapshot();
    assert_eq!(seen.owed, 0);
    other.execute_batch("COMMIT").unwrap();
    assert!(seen.left_out >= 1000 - 2 * 256, "{seen:?}");
    let query = Query {
        from: None,
        to: None,
        key: None,
        team: None,
        group_by: GroupBy::Key,
    };
    let report = ledger.reader().read_now(|c| query.run(c)).unwrap();
    assert_eq!(report, Report::default());
    ledger.close();
}

#[test]
fn budgets_count_what_was_tried_in_vain_and_what_counts_though_others_have_paid() {
    let tried = Attempt {
        counts: Some(counts(3, 4)),
        ..entry(Some(counts(3, 4))).attempts.remove(0)
    };
    let tokens = |served_from, attempts: Vec<Attempt>| {
        let entry = Entry {
            served_from: Some(served_from),
            attempts,
            ..entry(Some(counts(10, 20)))
        };
        entry.tokens()
    };
    for (served_from, alone, behind_a_try) in [
        (ServedFrom::Upstream, 30, 7),
        (ServedFrom::Cache, 0, 7),
        (ServedFrom::Joined, 0, 7),
        (ServedFrom::CountedCache, 30, 37),
        (ServedFrom::CountedJoined, 30, 37),
    ] {
        assert_eq!(tokens(served_from, Vec::new()), alone, "{served_from:?}");
        let behind = tokens(served_from, vec![tried.clone()]);
        assert_eq!(behind, behind_a_try, "{served_from:?}");
    }
}
