//! Journals beside the ledger that are not as they should be: unreadable, another ledger's, deleted.

use super::replay::{ROWS, journal_path, leave_run, opened, settled, write};
use super::*;
use crate::store::ledger::journal::{self, Journal};
use crate::store::ledger::left::Settlement;
use crate::store::ledger::presence::Presence;
use crate::store::ledger::run::Name;

fn read_rows(params: &Params) -> Vec<String> {
    let ledger = Ledger::open(params).unwrap();
    ledger.close();
    strings(&ledger, ROWS)
}

#[tokio::test]
async fn a_journal_that_cannot_be_read_is_kept_and_its_rows_stay_open() {
    let whole = |path: &Path| {
        let mut journal = Journal::begin(path).unwrap();
        let (a, five) = (intent("a"), entry(Some(counts(5, 5))));
        write(&mut journal, &settled(1, &a, &five));
    };
    let newer = |path: &Path| {
        whole(path);
        let mut bytes = std::fs::read(path).unwrap();
        bytes[7] = b'9';
        std::fs::write(path, bytes).unwrap();
    };
    let other_shape = |path: &Path| {
        let mut journal = Journal::begin(path).unwrap();
        let frame = journal::Frame::of(b"\xffnothing of ours");
        journal.place(&frame).write(frame).unwrap();
    };
    let foreign = |path: &Path| std::fs::write(path, "something else").unwrap();
    let unreadable = |path: &Path| std::fs::create_dir(path).unwrap();
    let spoils: [&dyn Fn(&Path); 4] = [&newer, &other_shape, &foreign, &unreadable];
    for spoil in spoils {
        let folder = tempfile::tempdir().unwrap();
        let params = params(&folder);
        Ledger::open(&params).unwrap().close();
        leave_run(&params, 99);
        let open_row =
            "INSERT INTO request (id, request_id, run, serial, key, endpoint, stream, status)
            VALUES (9000000000000000, 'a', 99, 1, 'alice', '/v1/completions', 0, 'open')";
        let connection = Connection::open(&params.path).unwrap();
        connection.execute(open_row, []).unwrap();
        drop(connection);
        let path = journal_path(&params, 99);
        spoil(&path);
        for _ in 0..2 {
            assert_eq!(read_rows(&params), ["a open 0 0"]);
            assert!(path.exists(), "it is kept");
        }
        // Somebody has mended it.
        let _ = std::fs::remove_dir(&path);
        whole(&path);
        assert_eq!(read_rows(&params), ["a complete 5 1"]);
        assert!(!path.exists());
    }
}

#[tokio::test]
async fn what_another_ledger_was_promised_waits_for_it() {
    let folder = tempfile::tempdir().unwrap();
    let params = params(&folder);
    Ledger::open(&params).unwrap().close();
    leave_run(&params, 2);
    let path = journal_path(&params, 2);
    let mut journal = Journal::begin(&path).unwrap();
    let (a, five) = (intent("a"), entry(Some(counts(5, 5))));
    write(&mut journal, &settled(1, &a, &five));
    journal.turn();
    write(&mut journal, &opened(2, &intent("b")));
    let old = Name::unmarked(2).path(&params.path);
    let mut journal = Journal::begin(&old).unwrap();
    journal.turn();
    write(&mut journal, &opened(9, &intent("stale")));
    std::fs::remove_file(&old).unwrap();
    let away = folder.path().join("away.db");
    std::fs::rename(&params.path, &away).unwrap();
    // Another one lies there, whose runs have the same numbers.
    let elsewhere = Params {
        path: folder.path().join("elsewhere").join("weir.db"),
        ..params.clone()
    };
    for _ in 0..2 {
        Ledger::open(&elsewhere).unwrap().close();
    }
    std::fs::rename(&elsewhere.path, &params.path).unwrap();
    for _ in 0..2 {
        assert_eq!(read_rows(&params), [""; 0]);
        assert!(path.exists());
    }
    std::fs::rename(&away, &params.path).unwrap();
    // Of the time before ledgers had ids: it may be of this one.
    assert_eq!(
        read_rows(&params),
        [
            "a complete 5 1",
            "b interrupted 9 1",
            "stale interrupted 9 1"
        ]
    );
    assert!(!path.exists());
}

#[tokio::test]
async fn a_new_ledger_is_given_what_was_owed_to_one_that_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let params = params(&folder);
    let ledger = Ledger::open(&params).unwrap();
    let path = journal_path(&params, 1);
    ledger.set_refuses(false);
    std::fs::remove_file(&params.path).unwrap();
    for id in ["a", "b"] {
        let row = match ledger.begin(intent(id)).await {
            Ok(row) | Err((_, Some(row))) => row,
            Err((error, None)) => panic!("{error}"),
        };
        row.settle(entry(Some(counts(5, 5)))).await.unwrap();
        assert!(ledger.change(|_| Ok(Ok::<_, ()>(()))).await.is_err());
    }
    ledger.close();
    drop(ledger);
    assert!(path.exists());
    for _ in 0..2 {
        assert_eq!(read_rows(&params), ["a complete 5 1", "b complete 5 1"]);
        assert!(!path.exists());
    }
}

#[tokio::test]
async fn a_run_that_began_after_the_copy_that_lies_here_was_made_is_written_too() {
    let folder = tempfile::tempdir().unwrap();
    let params = params(&folder);
    Ledger::open(&params).unwrap().close();
    // The copy knows of run 1 alone.
    let path = journal_path(&params, 2);
    let mut journal = Journal::begin(&path).unwrap();
    write(
        &mut journal,
        &settled(1, &intent("a"), &entry(Some(counts(5, 5)))),
    );
    drop(journal);
    assert_eq!(read_rows(&params), ["a complete 5 1"]);
    let connection = Connection::open(&params.path).unwrap();
    let runs: i64 = connection
        .query_row(
            "SELECT max(id) FROM run WHERE ended IS NOT NULL",
            [],
            |row| row.get(0),
        )
        .unwrap();
    assert_eq!(runs, 3, "its number was nobody else's");
}

#[tokio::test]
async fn a_process_whose_journal_is_deleted_makes_it_anew_and_is_not_taken_for_dead() {
    let folder = tempfile::tempdir().unwrap();
    for sync in [Sync::EverySecond, Sync::Always] {
        let params = Params {
            path: folder.path().join(format!("{sync:?}.db")),
            sync,
            ..params(&folder)
        };
        let living = Ledger::open(&params).unwrap();
        let row = begin(&living, "a").await;
        // Once it is committed, nothing is promised of it: the journal that is made anew has none of it.
        living.change(|_| Ok(Ok::<_, ()>(()))).await.unwrap();
        let path = journal_path(&params, 1);
        let files: Vec<_> = journal::files(&path)
            .into_iter()
            .filter(|file| file.exists())
            .collect();
        files
            .iter()
            .for_each(|file| std::fs::remove_file(file).unwrap());
        // Another one looks in that moment.
        let connection = Connection::open(&params.path).unwrap();
        connection
            .execute("UPDATE run SET ended = 1 WHERE id = 1", [])
            .unwrap();
        living.change(|_| Ok(Ok::<_, ()>(()))).await.unwrap();
        assert!(files.iter().all(|file| file.exists()));
        let second = Ledger::open(&params).unwrap();
        assert_eq!(strings(&second, ROWS), ["a open 9 0"]);
        second.close();
        // What is promised from now on is found behind it.
        if sync == Sync::EverySecond {
            connection.execute_batch("BEGIN IMMEDIATE").unwrap();
            row.settle(entry(Some(counts(5, 5)))).await.unwrap();
            assert_eq!(journal::read(&path).unwrap().len(), 1);
            connection.execute_batch("COMMIT").unwrap();
        } else {
            row.settle(entry(Some(counts(5, 5)))).await.unwrap();
        }
        living.close();
        assert_eq!(read_rows(&params), ["a complete 5 1"]);
        assert!(files.iter().all(|file| !file.exists()));
    }
}

#[tokio::test]
async fn what_is_promised_but_not_committed_when_the_journal_is_deleted_is_promised_anew() {
    let folder = tempfile::tempdir().unwrap();
    let params = params(&folder);
    let ledger = Ledger::open(&params).unwrap();
    let path = journal_path(&params, 1);
    let away = folder.path().join("away.db");
    std::fs::rename(&params.path, &away).unwrap();
    let row = begin(&ledger, "a").await;
    row.settle(entry(Some(counts(5, 5)))).await.unwrap();
    journal::files(&path)
        .iter()
        .for_each(|file| std::fs::remove_file(file).unwrap());
    assert!(ledger.change(|_| Ok(Ok::<_, ()>(()))).await.is_err());
    assert!(!journal::read(&path).unwrap().is_empty());
    std::fs::rename(&away, &params.path).unwrap();
    ledger.close();
    assert_eq!(strings(&ledger, ROWS), ["a complete 5 1"]);
}

#[tokio::test]
async fn without_a_journal_everybody_waits_for_commits() {
    let folder = tempfile::tempdir().unwrap();
    let params = params(&folder);
    let ledger = Ledger::open(&params).unwrap();
    let path = journal_path(&params, 1);
    for file in journal::files(&path) {
        std::fs::remove_file(&file).unwrap();
        // Nothing can be made in its place.
        std::fs::create_dir(&file).unwrap();
    }
    ledger.change(|_| Ok(Ok::<_, ()>(()))).await.unwrap();
    let statuses = || {
        let file = Connection::open(&params.path).unwrap();
        file.query_row("SELECT group_concat(status) FROM request", [], |row| {
            row.get::<_, String>(0)
        })
        .unwrap()
    };
    let row = begin(&ledger, "a").await;
    assert_eq!(statuses(), "open");
    row.settle(entry(None)).await.unwrap();
    assert_eq!(statuses(), "complete");
    ledger.close();
}

#[tokio::test]
async fn a_process_that_was_taken_for_dead_too_soon_loses_nothing_when_it_dies() {
    let folder = tempfile::tempdir().unwrap();
    let params = params(&folder);
    Ledger::open(&params).unwrap().close();
    let path = journal_path(&params, 1);
    let (a, five) = (intent("a"), entry(Some(counts(5, 5))));
    for _ in 0..2 {
        let mut journal = Journal::begin(&path).unwrap();
        write(&mut journal, &settled(1, &a, &five));
        assert_eq!(read_rows(&params), ["a complete 5 1"]);
        assert!(!path.exists());
    }
}

#[tokio::test]
async fn what_belongs_to_a_ledger_behind_a_link_lies_beside_the_file_itself() {
    for is_made_before in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let real = Params {
            path: folder.path().join("real.db"),
            ..params(&folder)
        };
        if is_made_before {
            Ledger::open(&real).unwrap().close();
        }
        let links = folder.path().join("links");
        std::fs::create_dir(&links).unwrap();
        let link = Params {
            path: links.join("link.db"),
            ..real.clone()
        };
        std::os::unix::fs::symlink(&real.path, &link.path).unwrap();
        let ledger = Ledger::open(&link).unwrap();
        let row = begin(&ledger, "a").await;
        // Committed: until then its journal alone knows of it.
        assert_eq!(strings(&ledger, ROWS), ["a open 9 0"]);
        // Who comes the other way sees that it lives.
        let other = Ledger::open(&real).unwrap();
        assert_eq!(strings(&other, ROWS), ["a open 9 0"]);
        other.close();
        assert_eq!(std::fs::read_dir(&links).unwrap().count(), 1);
        let presence = Presence::of(&ledger.path).unwrap();
        assert!(
            presence.of_log().is_some(),
            "its log is where it is looked for"
        );
        row.settle(entry(Some(counts(5, 5)))).await.unwrap();
        ledger.close();
        assert_eq!(read_rows(&real), ["a complete 5 1"]);
    }
}

#[tokio::test]
async fn what_was_promised_counts_more_than_what_an_open_row_was_settled_at_meanwhile() {
    let folder = tempfile::tempdir().unwrap();
    let params = params(&folder);
    Ledger::open(&params).unwrap().close();
    let (a, five) = (intent("a"), entry(Some(counts(5, 5))));
    let path = journal_path(&params, 99);
    let results = "SELECT group_concat(result) FROM attempt";
    let ends = [opened(1, &a), settled(1, &a, &five)];
    for (end, expected) in ends.iter().zip(["a interrupted 9 1", "a complete 5 1"]) {
        leave_run(&params, 99);
        let mut journal = Journal::begin(&path).unwrap();
        write(&mut journal, end);
        assert_eq!(read_rows(&params), [expected]);
    }
    let ledger = Ledger::open(&params).unwrap();
    assert_eq!(strings(&ledger, results), ["answered"]);
    ledger.close();
}

#[test]
fn a_journal_that_is_held_again_by_the_time_it_is_done_with_stays() {
    let folder = tempfile::tempdir().unwrap();
    let [held, free] = ["held", "free"].map(|name| folder.path().join(name));
    let lock = std::fs::File::create(&held).unwrap();
    lock.try_lock().unwrap();
    std::fs::write(&free, "").unwrap();
    let settlement = Settlement {
        interrupted: 0,
        done: vec![held.clone(), free.clone()],
    };
    settlement.remove_done();
    assert!(held.exists() && !free.exists());
}

#[tokio::test]
async fn a_journal_that_was_adopted_and_comes_back_is_not_counted_twice() {
    let (a, five) = (intent("a"), entry(Some(counts(5, 5))));
    for is_own in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let params = params(&folder);
        Ledger::open(&params).unwrap().close();
        let path = journal_path(&params, 7);
        if !is_own {
            std::fs::remove_file(&params.path).unwrap();
        }
        let mut journal = Journal::begin(&path).unwrap();
        write(&mut journal, &settled(1, &a, &five));
        let copy = std::fs::read(&path).unwrap();
        for _ in 0..3 {
            assert_eq!(read_rows(&params), ["a complete 5 1"]);
            assert!(!path.exists());
            std::fs::write(&path, &copy).unwrap();
        }
    }
}

#[tokio::test]
async fn a_journal_of_which_half_is_deleted_is_made_whole_under_a_lock_that_is_never_let_go() {
    for lost in [0, 1] {
        let folder = tempfile::tempdir().unwrap();
        let params = params(&folder);
        let ledger = Ledger::open(&params).unwrap();
        let path = journal_path(&params, 1);
        let files = journal::files(&path);
        let other = Connection::open(&params.path).unwrap();
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let row = begin(&ledger, "a").await;
        std::fs::remove_file(&files[lost]).unwrap();
        // The writer looks with each commit, and nothing can be committed.
        assert!(ledger.change(|_| Ok(Ok::<_, ()>(()))).await.is_err());
        assert!(files.iter().all(|file| file.exists()));
        let lock = std::fs::File::open(&path).unwrap();
        assert!(lock.try_lock().is_err(), "it is held");
        assert_eq!(journal::read(&path).unwrap().len(), 1, "promised anew");
        row.settle(entry(Some(counts(5, 5)))).await.unwrap();
        assert_eq!(journal::read(&path).unwrap().len(), 2, "and promised on");
        other.execute_batch("COMMIT").unwrap();
        drop(other);
        ledger.close();
        assert_eq!(read_rows(&params), ["a complete 5 1"]);
        let left = Name::beside(&params.path).unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
}

#[tokio::test]
async fn what_stands_in_a_journal_that_was_being_made_anew_is_written_and_the_files_go() {
    for is_open in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let params = params(&folder);
        Ledger::open(&params).unwrap().close();
        if is_open {
            leave_run(&params, 7);
        }
        let path = journal_path(&params, 7);
        let id = path.to_str().unwrap();
        let new = PathBuf::from(format!("{id}-new"));
        let (a, five) = (intent("a"), entry(Some(counts(5, 5))));
        write(&mut Journal::begin(&new).unwrap(), &settled(1, &a, &five));
        // Of another one, the first file has come to its place already.
        let half = PathBuf::from(format!("{}-new-2", journal_path(&params, 6).display()));
        std::fs::write(&half, [0; 9]).unwrap();
        assert_eq!(read_rows(&params), ["a complete 5 1"]);
        assert!(!new.exists() && !half.exists());
        assert!(!PathBuf::from(format!("{id}-new-2")).exists());
        assert_eq!(read_rows(&params), ["a complete 5 1"]);
    }
}

#[tokio::test]
async fn a_run_never_has_the_number_of_a_journal_that_names_no_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let params = params(&folder);
    let stray = Name::unmarked(2).path(&params.path);
    std::fs::create_dir_all(params.path.parent().unwrap()).unwrap();
    Ledger::open(&params).unwrap().close();
    write(
        &mut Journal::begin(&stray).unwrap(),
        &opened(1, &intent("stray")),
    );
    let ledger = Ledger::open(&params).unwrap();
    assert_eq!(count(&ledger, "SELECT max(id) FROM run"), 3);
    // Should it die, what lies there is not taken for its own.
    let row = begin(&ledger, "own").await;
    row.settle(entry(Some(counts(5, 5)))).await.unwrap();
    ledger.close();
    assert_eq!(read_rows(&params), ["own complete 5 1"]);
    assert!(stray.exists());
}
