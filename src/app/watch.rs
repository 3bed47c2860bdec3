//! Notices that the files of a configuration have changed.
//!
//! Looked at are the files themselves, through all links, and what tells one content from another: so a file that was
//! replaced by a rename, or a Kubernetes ConfigMap whose folder was exchanged behind a link, is seen like one that was
//! written in place, on network file systems too, where nobody sends notices.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use crate::config::{ReadFile, Stamp};

/// How often the files are looked at: soon enough for a person who waits, and cheap.
const PERIOD: Duration = Duration::from_secs(1);

/// Looks at files, on a thread that may wait: a network file system takes its time, and signals must not. `None`: nobody
/// could look.
pub(super) async fn look(files: Vec<PathBuf>) -> Option<Vec<Option<Stamp>>> {
    let looking = move || files.iter().map(|file| Stamp::of(file)).collect();
    tokio::task::spawn_blocking(looking).await.ok()
}

/// The files of a configuration, itself first, and how they were when it was read.
pub(super) struct Watch {
    files: Vec<PathBuf>,
    read: Vec<Option<Stamp>>,
    seen: Vec<Option<Stamp>>,
    missed: bool,
}

impl Watch {
    /// Watches these, which have been read since they were stamped: what was written in between is seen.
    pub(super) fn new(files: Vec<ReadFile>) -> Self {
        let (files, read): (Vec<_>, Vec<_>) = files
            .into_iter()
            .map(|file| (file.path, file.stamp))
            .unzip();
        Self {
            files,
            seen: read.clone(),
            read,
            missed: false,
        }
    }

    /// Learns how the files are now. True when something differs from what was read, and has not changed since the last
    /// look: nobody is in the middle of writing it.
    fn is_due(&mut self, now: Vec<Option<Stamp>>) -> bool {
        // Without the configuration itself there is nothing to read. Any other file may be away for good, and whoever
        // reads the configuration says whether it is missed.
        let is_away = now.first().is_some_and(Option::is_none);
        let has_settled = now == self.seen;
        if is_away && has_settled && !self.missed {
            let file = self.files.first().map(|file| file.display().to_string());
            tracing::warn!(
                file,
                "the configuration file is not there; going on with what was read of it"
            );
        }
        self.missed = is_away && has_settled;
        self.seen = now;
        !is_away && has_settled && self.seen != self.read
    }

    /// Goes on after `files` were read: with them, and where they were `refused` also with those of the configuration
    /// that goes on.
    pub(super) fn after(self, mut files: Vec<ReadFile>, refused: bool) -> Self {
        if refused {
            for (path, stamp) in self.files.into_iter().zip(self.seen) {
                if files.iter().all(|file| file.path != path) {
                    files.push(ReadFile { path, stamp });
                }
            }
        }
        Self::new(files)
    }

    /// Waits until the files have changed.
    pub(super) async fn changed(
        &mut self,
        look: impl AsyncFn(Vec<PathBuf>) -> Option<Vec<Option<Stamp>>>,
    ) {
        if self.files.is_empty() {
            return std::future::pending().await;
        }
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now = look(self.files.clone()).await;
            if now.is_some_and(|now| self.is_due(now)) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn stamp(inode: u64) -> Option<Stamp> {
        Some(Stamp::fake(inode))
    }

    fn file(path: &str, stamp: Option<Stamp>) -> ReadFile {
        ReadFile {
            path: path.into(),
            stamp,
        }
    }

    fn watch() -> Watch {
        Watch::new(vec![file("weir.toml", stamp(1)), file("tls.crt", stamp(1))])
    }

    #[test]
    fn a_change_counts_once_it_has_settled() {
        let mut watch = watch();
        assert!(!watch.is_due(vec![stamp(1), stamp(1)]));
        assert!(
            !watch.is_due(vec![stamp(2), stamp(1)]),
            "perhaps still being written"
        );
        assert!(!watch.is_due(vec![stamp(3), stamp(1)]));
        assert!(watch.is_due(vec![stamp(3), stamp(1)]));
    }

    #[test]
    fn a_configuration_that_is_away_for_a_moment_is_no_change() {
        let mut watch = watch();
        for _ in 0..3 {
            assert!(!watch.is_due(vec![None, stamp(1)]));
        }
        assert!(!watch.is_due(vec![stamp(1), stamp(1)]));
        assert!(
            !watch.is_due(vec![stamp(1), stamp(1)]),
            "it is what was read"
        );
        assert!(!watch.is_due(vec![stamp(2), stamp(1)]));
        assert!(watch.is_due(vec![stamp(2), stamp(1)]));
    }

    #[test]
    fn a_file_that_is_away_for_good_holds_nothing_up() {
        let mut watch = watch();
        assert!(!watch.is_due(vec![stamp(2), None]));
        assert!(watch.is_due(vec![stamp(2), None]));
        let read = vec![file("weir.toml", stamp(2)), file("tls.crt", None)];
        let mut watch = watch.after(read, true);
        for _ in 0..3 {
            assert!(!watch.is_due(vec![stamp(2), None]), "it was told once");
        }
    }

    #[test]
    fn what_a_refused_configuration_misses_is_waited_for() {
        let mut watch = watch();
        let read = vec![file("weir.toml", stamp(2)), file("secret", None)];
        watch = watch.after(read, true);
        assert_eq!(
            watch.files,
            ["weir.toml", "secret", "tls.crt"].map(PathBuf::from)
        );
        assert!(!watch.is_due(vec![stamp(2), None, stamp(1)]));
        assert!(!watch.is_due(vec![stamp(2), stamp(1), stamp(1)]));
        assert!(watch.is_due(vec![stamp(2), stamp(1), stamp(1)]), "it came");
        let read = vec![file("weir.toml", stamp(2)), file("secret", stamp(1))];
        watch = watch.after(read, false);
        assert_eq!(watch.files, ["weir.toml", "secret"].map(PathBuf::from));
    }

    #[tokio::test(start_paused = true)]
    async fn each_change_is_told_once_also_one_from_before_the_watch() {
        let now = Cell::new(stamp(2));
        let look = async |_| Some(vec![now.get()]);
        let mut watch = Watch::new(vec![file("weir.toml", stamp(1))]);
        watch.changed(look).await;
        let mut watch = watch.after(vec![file("weir.toml", stamp(2))], false);
        let again = tokio::time::timeout(10 * PERIOD, watch.changed(look)).await;
        assert!(again.is_err());
    }

    #[tokio::test]
    async fn links_are_followed_to_the_file_behind_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for version in ["one", "two"] {
            std::fs::create_dir(path(version)).unwrap();
            std::fs::write(path(version).join("weir.toml"), version).unwrap();
        }
        // As Kubernetes lays out a ConfigMap.
        std::os::unix::fs::symlink("one", path("..data")).unwrap();
        std::os::unix::fs::symlink("..data/weir.toml", path("weir.toml")).unwrap();
        let file = path("weir.toml");
        let mut watch = Watch::new(vec![ReadFile {
            stamp: Stamp::of(&file),
            path: file.clone(),
        }]);
        let seen = async || look(vec![file.clone()]).await.unwrap();
        assert!(!watch.is_due(seen().await));
        std::os::unix::fs::symlink("two", path("..new")).unwrap();
        std::fs::rename(path("..new"), path("..data")).unwrap();
        assert!(!watch.is_due(seen().await));
        assert!(watch.is_due(seen().await));
    }
}
