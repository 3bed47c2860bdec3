//! What the journal holds, and what is made of it behind a process that died.

use super::*;
use crate::store::ledger::journal::{self, Journal, Record, Shared};
use crate::store::ledger::run::Name;

/// Leaves a run that nobody has ended.
pub(super) fn leave_run(params: &Params, run: i64) {
    let connection = Connection::open(&params.path).unwrap();
    connection
        .execute(
            "INSERT INTO run (id, began) VALUES (?, 1) ON CONFLICT (id) DO UPDATE SET ended = NULL",
            [run],
        )
        .unwrap();
}

pub(super) fn journal_path(params: &Params, run: i64) -> PathBuf {
    let ledger = Connection::open(&params.path).unwrap();
    let sql = "SELECT value FROM meta WHERE name = 'ledger_id'";
    let id: String = ledger.query_row(sql, [], |row| row.get(0)).unwrap();
    Name::of(&id, run).path(&params.path)
}

pub(super) fn opened(serial: u64, intent: &Intent) -> Record<'_> {
    let intent = Shared::Borrowed(intent);
    Record::Open { serial, intent }
}

pub(super) fn settled<'a>(serial: u64, intent: &'a Intent, entry: &'a Entry) -> Record<'a> {
    let (intent, entry) = (Shared::Borrowed(intent), Shared::Borrowed(entry));
    Record::Settled {
        serial,
        intent,
        entry,
    }
}

pub(super) fn write(journal: &mut Journal, record: &Record<'_>) {
    let frame = record.framed().unwrap();
    journal.place(&frame).write(frame).unwrap();
}

pub(super) const ROWS: &str = "SELECT request_id || ' ' || status || ' ' || input_tokens || ' ' || attempts FROM request ORDER BY 1";

#[tokio::test]
async fn what_a_dead_process_had_promised_is_written_once() {
    let folder = tempfile::tempdir().unwrap();
    let params = params(&folder);
    Ledger::open(&params).unwrap().close();
    let [a, b, c, d, e] = ["a", "b", "c", "done", "torn"].map(intent);
    let (five, seven) = (entry(Some(counts(5, 5))), entry(Some(counts(7, 7))));
    let expected = ["a complete 5 1", "b interrupted 9 1", "c complete 7 1"];
    for time in 0..3 {
        // The second time it is as if the files had not been removed; the third, as if a part were committed already.
        if time == 2 {
            let connection = Connection::open(&params.path).unwrap();
            connection
                .execute("DELETE FROM request WHERE request_id <> 'a'", [])
                .unwrap();
        }
        leave_run(&params, 99);
        let path = journal_path(&params, 99);
        let mut journal = Journal::begin(&path).unwrap();
        // What is committed counts no more, whatever of it still stands there.
        write(&mut journal, &settled(8, &d, &five));
        write(&mut journal, &settled(9, &d, &five));
        journal.turn();
        journal.empty().unwrap();
        write(&mut journal, &opened(1, &a));
        write(&mut journal, &opened(2, &b));
        write(&mut journal, &settled(3, &c, &seven));
        journal.turn();
        write(&mut journal, &settled(1, &a, &five));
        // The process is killed in the middle of a record.
        let torn = opened(4, &e).framed().unwrap();
        journal.place(&torn).tear(torn);
        let ledger = Ledger::open(&params).unwrap();
        assert_eq!(strings(&ledger, ROWS), expected, "time {time}");
        ledger.close();
        let left = std::fs::read_dir(params.path.parent().unwrap()).unwrap();
        assert_eq!(left.count(), 1, "the ledger alone is left");
    }
}

#[tokio::test]
async fn what_an_older_version_had_promised_is_written_too() {
    let folder = tempfile::tempdir().unwrap();
    let params = params(&folder);
    Ledger::open(&params).unwrap().close();
    let [a, b] = ["a", "b"].map(intent);
    let five = entry(Some(counts(5, 5)));
    let line = |record: &Record<'_>| {
        let mut json = serde_json::to_value(record).unwrap();
        // What it did not know.
        for (of, name) in [("intent", "upstream"), ("entry", "uncounted")] {
            for record in json.as_object_mut().unwrap().values_mut() {
                let part = record.get_mut(of).and_then(|part| part.as_object_mut());
                part.map(|part| part.remove(name));
            }
        }
        format!("\n{json}\n")
    };
    let torn = line(&opened(3, &intent("torn")));
    leave_run(&params, 99);
    let path = Name::unmarked(99).path(&params.path);
    std::fs::write(&path, line(&opened(1, &a)) + &line(&opened(2, &b))).unwrap();
    std::fs::write(
        format!("{}-2", path.display()),
        line(&settled(1, &a, &five)) + &torn[..torn.len() / 2],
    )
    .unwrap();
    let ledger = Ledger::open(&params).unwrap();
    assert_eq!(
        strings(&ledger, ROWS),
        ["a complete 5 1", "b interrupted 9 1"]
    );
    ledger.close();
}

#[test]
fn a_record_that_could_not_be_written_harms_none_behind_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = Journal::begin(&path).unwrap();
    let [a, b] = ["a", "b"].map(intent);
    write(&mut journal, &opened(1, &a));
    // The disk was full.
    let lost = opened(2, &a).framed().unwrap();
    journal.place(&lost).tear(lost);
    write(&mut journal, &opened(3, &b));
    let serials: Vec<_> = journal::read(&path)
        .unwrap()
        .iter()
        .map(|record| match record {
            Record::Open { serial, .. } | Record::Settled { serial, .. } => *serial,
        })
        .collect();
    assert_eq!(serials, [1, 3]);
}

#[test]
fn a_file_is_not_written_to_anew_while_somebody_has_a_place_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = Journal::begin(&path).unwrap();
    let [late, other] = ["late", "other"].map(intent);
    let frame = opened(1, &late).framed().unwrap();
    let place = journal.place(&frame);
    journal.turn();
    // Committed before it is written.
    journal.empty().unwrap();
    journal.turn();
    write(&mut journal, &opened(2, &other));
    place.write(frame).unwrap();
    assert_eq!(journal::read(&path).unwrap().len(), 1);
    journal.turn();
    journal.empty().unwrap();
    assert!(journal::read(&path).unwrap().is_empty());
}

/// Returns a record as it stands in a file of that generation.
fn planted(folder: &Path, generation: u32) -> Vec<u8> {
    let path = folder.join("planted");
    let mut journal = Journal::begin_at(&path, generation).unwrap();
    write(&mut journal, &opened(7, &intent("planted")));
    let bytes = std::fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    bytes[..end].to_vec()
}

/// Empties the file, and writes something to it that is shorter than what stood there.
fn empty_and_write(journal: &mut Journal, record: &Record<'_>) {
    journal.turn();
    journal.empty().unwrap();
    journal.turn();
    write(journal, record);
}

#[test]
fn what_a_client_has_planted_in_a_record_is_not_taken_for_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = Journal::begin(&path).unwrap();
    let plants: Vec<_> = (0..4).map(|next| planted(folder.path(), next)).collect();
    // Its beginning is written over, so that nothing but the plants is whole.
    let frame = journal::Frame::of(&[vec![0; 1000], plants.concat()].concat());
    journal.place(&frame).write(frame).unwrap();
    empty_and_write(&mut journal, &opened(1, &intent("a")));
    assert_eq!(journal::read(&path).unwrap().len(), 1);
}

#[test]
fn what_stands_within_a_record_of_another_generation_is_not_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let mut journal = Journal::begin_at(&path, 7).unwrap();
    let a = intent("a");
    write(&mut journal, &opened(1, &a));
    let frame = journal::Frame::of(&planted(folder.path(), 8));
    journal.place(&frame).write(frame).unwrap();
    empty_and_write(&mut journal, &opened(1, &a));
    assert_eq!(journal::read(&path).unwrap().len(), 1);
}

#[tokio::test]
async fn the_journal_is_empty_when_all_is_committed() {
    let folder = tempfile::tempdir().unwrap();
    let params = params(&folder);
    let ledger = Ledger::open(&params).unwrap();
    let path = journal_path(&params, 1);
    let promised = || journal::read(&path).unwrap().len();
    let other = Connection::open(&params.path).unwrap();
    for _ in 0..3 {
        // Nothing is committed while another holds the file.
        other.execute_batch("BEGIN IMMEDIATE").unwrap();
        let row = begin(&ledger, "a").await;
        row.settle(entry(None)).await.unwrap();
        assert_eq!(promised(), 2);
        other.execute_batch("COMMIT").unwrap();
        assert_eq!(
            count(
                &ledger,
                "SELECT count(*) FROM request WHERE status = 'open'"
            ),
            0
        );
        assert_eq!(promised(), 0);
    }
    drop(other);
    ledger.close();
}

/// A change of these bytes is one of the journal's version.
const GOLDEN: &str = "\
    00776569722d6a310100000000776a72010000004c0000008c464cd70001016180e2cfaa06882705616c6963650108726573\
    6561726368142f76312f636861742f636f6d706c6574696f6e7301066770742d346f01010900000000000002010901066f70\
    656e616900776a7201000000d1000000a066ce520101016180e2cfaa06882705616c69636501087265736561726368142f76\
    312f636861742f636f6d706c6574696f6e7301066770742d346f01010900000000000002010901066f70656e61690001c801\
    010f757073747265616d5f636c6f73656401066770742d346f01066f70656e616901ac020000000500000001b10201010006\
    62797061737300030400000000000001066f70656e61690e6170692e6f70656e61692e636f6d01066770742d346f00000100\
    c096b10208616e73776572656401c80101ac020000000500000001b102";

#[test]
fn a_journal_of_this_version_looks_like_this() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("journal");
    let intent = Intent {
        received: SystemTime::UNIX_EPOCH + Duration::new(1_700_000_000, 5000),
        key: "alice".into(),
        upstream: Some("openai".into()),
        ..intent("a")
    };
    let entry = Entry {
        error: Some("upstream_closed".into()),
        uncounted: true,
        ..entry(Some(counts(300, 5)))
    };
    let mut journal = Journal::begin_at(&path, 1).unwrap();
    write(&mut journal, &opened(1, &intent));
    write(&mut journal, &settled(1, &intent, &entry));
    let bytes = std::fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    let hex: String = bytes[..end]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(hex, GOLDEN);
    let read = format!("{:?}", journal::read(&path).unwrap());
    let Record::Settled { intent, entry, .. } = settled(1, &intent, &entry) else {
        unreachable!()
    };
    for part in [format!("{:?}", intent.get()), format!("{:?}", entry.get())] {
        assert!(read.contains(&part), "{part}\n{read}");
    }
}
