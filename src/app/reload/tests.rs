//! Reloads of files in a folder, with nothing that listens.

use std::path::Path;

use super::*;
use crate::config::LedgerConfig;
use crate::store::directory::ADMIN;

const TEXT: &str = "[[key]]\nname = \"a\"\nsecret = \"12345678\"\n";

fn context() -> Context<'static> {
    Context {
        env: &|_| None,
        check_model: &|_| Ok(()),
        now: jiff::Timestamp::UNIX_EPOCH,
    }
}

fn write(folder: &Path, text: &str) {
    std::fs::write(folder.join("weir.toml"), format!("{text}{TEXT}")).unwrap();
}

/// A reloader that has been started with what lies in the folder.
fn reloader(folder: &Path) -> Arc<Reloader> {
    let path = folder.join("weir.toml");
    let loaded = config::load(Some(&path), &context()).unwrap_or_else(|report| panic!("{report}"));
    let (metrics, drain) = (Arc::new(Metrics::new().unwrap()), Drain::default());
    let builder = Builder {
        config: &loaded.config,
        drain: &drain,
        metrics: &metrics,
        previous: None,
    };
    let dispatch = builder.dispatch().unwrap();
    let ledger = LedgerConfig {
        path: folder.join("weir.db"),
        ..loaded.config.ledger.clone()
    };
    let stores = Stores::open(&ledger, false, &loaded.config.cache).unwrap();
    let configured = access::configured(&loaded.config);
    let directory = Directory::open(
        &stores.ledger,
        &stores.budgets,
        Arc::default(),
        configured,
        ADMIN,
    );
    let params = build::listener_params("data", &loaded.config.server, &metrics);
    let directory = directory.unwrap();
    let books = stores.books(&loaded.config, &metrics, &drain, directory.limits());
    let ring = directory.ring();
    let parts = build::parts(
        &loaded.config,
        &metrics,
        &drain,
        ring,
        books,
        (None, None),
        dispatch.clone(),
    );
    let fixed = Fixed {
        exports: Arc::default(),
        source: Source {
            path: Some(path),
            context,
        },
        metrics,
        drain,
        made_key: None,
        stores,
        replace: Box::new(|_| {}),
        terms: Terms::new(None, params),
        dispatch: Arc::new(ArcSwap::from_pointee(dispatch)),
        explainer: ArcSwap::from_pointee(Explainer::new(&parts, Arc::clone(&directory))),
        directory,
    };
    Arc::new(Reloader::new(fixed, loaded, None))
}

#[tokio::test]
async fn a_refusal_names_the_files_that_it_waits_for() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "");
    let reloader = reloader(folder.path());
    write(folder.path(), "[admin]\ntoken = \"file:later\"\n");
    let Attempted { outcome, files } = reloader.reload("test").await;
    assert_eq!(outcome.unwrap_err().cause, Cause::Configuration);
    let files: Vec<PathBuf> = files.into_iter().map(|file| file.path).collect();
    assert_eq!(
        files,
        ["weir.toml", "later"].map(|name| folder.path().join(name))
    );
}

#[tokio::test]
async fn what_waits_for_a_restart_is_told_at_every_reload() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "");
    let reloader = reloader(folder.path());
    let waiting = async |text: &str| {
        write(folder.path(), text);
        let outcome = reloader.reload("test").await.outcome;
        outcome.unwrap().restart_needed
    };
    assert_eq!(waiting("[server]\nworkers = 3\n").await, ["server.workers"]);
    assert_eq!(waiting("[server]\nworkers = 3\n").await, ["server.workers"]);
    assert!(waiting("").await.is_empty(), "as it was at the start");
}

#[tokio::test]
async fn a_stop_waits_for_the_answer_to_a_reload_and_a_reload_for_no_stop() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "");
    let reloader = reloader(folder.path());
    let drain = reloader.fixed.drain.clone();
    let reloading = Control::reload(&reloader);
    assert_eq!(drain.tasks().len(), 1);
    drain.began().cancel();
    assert_eq!(reloading.await.unwrap_err().cause, Cause::Stopping);
}
