//! A ledger that a user may read, and not write.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::answers::{ask, chat};
use crate::support::gateway::{Config, Ended, run, weir};
use crate::support::upstream::Upstream;

/// Owns nothing, and may do what everybody may.
const NOBODY: u32 = 65_534;

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Runs Weir as somebody who has no rights beyond those that files give; whoever has all of them, gives them up.
async fn restricted(home: &Path, arguments: &[&str], file: &Path) -> Ended {
    let program = home.join("weir");
    if !program.exists() {
        // What lies where the tests were built may be out of reach.
        fs::copy(env!("CARGO_BIN_EXE_weir"), &program).unwrap();
        allow(&program, 0o755);
    }
    let mut command = Command::new(program);
    command.current_dir(home).env_clear().env("HOME", home);
    command.args(arguments).arg(file);
    if fs::metadata(home).unwrap().uid() == 0 {
        command.uid(NOBODY).gid(NOBODY);
    }
    run(command).await
}

/// Makes a ledger with one row and one key.
async fn ledger(home: &Path) -> PathBuf {
    allow(home, 0o755);
    let folder = home.join("book");
    fs::create_dir(&folder).unwrap();
    let path = folder.join("weir.db");
    let upstream = Upstream::answering(chat()).await;
    let table = format!("[ledger]\npath = {path:?}\n");
    let mut gateway = Config::over(&upstream).table(&table).start().await;
    assert_eq!(gateway.client().chat(ask()).await.status, 200);
    gateway.signal("TERM");
    assert!(gateway.exit().await.success());
    let mut new = weir(home);
    new.args(["keys", "new", "bob", "--ledger"]).arg(&path);
    assert!(run(new).await.status.success());
    path
}

#[tokio::test]
async fn a_ledger_that_cannot_be_written_is_read_and_check_says_what_serve_says() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let path = ledger(home).await;
    let folder = path.parent().unwrap();
    let config = home.join("weir.toml");
    let upstream = "[[upstream]]\nname = \"a\"\nkind = \"openai\"\nbase_url = \"http://127.0.0.1:1/v1\"\nmodels = [\"*\"]\n";
    let addresses = "[server]\nlisten = \"127.0.0.1:0\"\n[admin]\nlisten = \"127.0.0.1:0\"\n";
    fs::write(
        &config,
        format!("{addresses}[ledger]\npath = {path:?}\n{upstream}"),
    )
    .unwrap();
    for (of_file, of_folder) in [(0o444, 0o777), (0o666, 0o555), (0o444, 0o555)] {
        allow(&path, of_file);
        allow(folder, of_folder);
        let words = "cannot be opened for writing";
        let used = restricted(home, &["usage", "--ledger"], &path).await;
        assert!(used.status.success(), "{}", used.stderr);
        assert!(used.stdout.contains("TOTAL") && used.stderr.is_empty());
        let listed = restricted(home, &["keys", "list", "--ledger"], &path).await;
        assert!(listed.status.success(), "{}", listed.stderr);
        assert!(listed.stdout.contains("bob") && listed.stderr.is_empty());
        let made = restricted(home, &["keys", "new", "eve", "--ledger"], &path).await;
        assert_eq!(made.status.code(), Some(1));
        assert!(made.stderr.contains(words), "{}", made.stderr);
        let served = restricted(home, &["serve", "--config"], &config).await;
        let checked = restricted(home, &["check", "--config"], &config).await;
        assert_eq!(
            (served.status.code(), checked.status.code()),
            (Some(1), Some(1))
        );
        let line = served.stderr.lines().find(|line| line.contains(words));
        let said = line.unwrap_or(&served.stderr).trim_start_matches("weir: ");
        assert!(checked.stdout.contains(said), "{said}: {}", checked.stdout);
        allow(folder, 0o755);
    }
}

#[tokio::test]
async fn what_stands_in_a_log_that_cannot_be_read_is_told_to_be_missing() {
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    let path = ledger(home).await;
    let copy = home.join("copy");
    fs::create_dir(&copy).unwrap();
    let writer = rusqlite::Connection::open(&path).unwrap();
    writer
        .execute("INSERT INTO run (began) VALUES (1)", [])
        .unwrap();
    for name in ["weir.db", "weir.db-wal"] {
        fs::copy(path.with_file_name(name), copy.join(name)).unwrap();
        allow(&copy.join(name), 0o444);
    }
    allow(&copy, 0o555);
    let used = restricted(home, &["usage", "--ledger"], &copy.join("weir.db")).await;
    assert!(used.status.success(), "{}", used.stderr);
    assert!(used.stdout.contains("TOTAL"));
    assert!(
        used.stderr.contains("what was written last is missing"),
        "{}",
        used.stderr
    );
    allow(&copy, 0o755);
}
