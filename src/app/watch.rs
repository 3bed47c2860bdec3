//! Notices that the files of a configuration have changed.
//!
//! Looked at are the files themselves, through all links, and what tells one content from another: so a file that was
//! replaced by a rename, or a Kubernetes ConfigMap whose folder was exchanged behind a link, is seen like one that was
//! written in place, on network file systems too, where nobody sends notices.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

/// How often the files are looked at: soon enough for a person who waits, and cheap.
const PERIOD: Duration = Duration::from_secs(1);

/// What tells one content of a file from another: device, inode, size and the time of its last change, seconds and
/// nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

/// Returns a file's stamp; `None` while it is not there.
pub(super) fn stamp(path: &Path) -> Option<Stamp> {
    let found = std::fs::metadata(path).ok()?;
    Some(Stamp {
        device: found.dev(),
        inode: found.ino(),
        size: found.size(),
        changed: (found.mtime(), found.mtime_nsec()),
    })
}

/// The files of a configuration, and how they were when it was read.
pub(super) struct Watch<F> {
    files: Vec<PathBuf>,
    stamp: F,
    read: Vec<Option<Stamp>>,
    seen: Vec<Option<Stamp>>,
    missed: bool,
}

impl<F: FnMut(&Path) -> Option<Stamp>> Watch<F> {
    /// Watches these, which have just been read.
    pub(super) fn new(files: Vec<PathBuf>, mut stamp: F) -> Self {
        let read: Vec<_> = files.iter().map(|file| stamp(file)).collect();
        Self {
            files,
            stamp,
            seen: read.clone(),
            read,
            missed: false,
        }
    }

    /// Looks once. True when something differs from what was read, and has not changed since the last look: nobody is in
    /// the middle of writing it.
    pub(super) fn look(&mut self) -> bool {
        let now: Vec<_> = self.files.iter().map(|file| (self.stamp)(file)).collect();
        let is_away = now.iter().any(Option::is_none);
        if is_away && !self.missed && now == self.seen {
            let files = self.files.iter().zip(&now);
            let away = files.filter(|(_, stamp)| stamp.is_none());
            let away: Vec<_> = away.map(|(file, _)| file.display().to_string()).collect();
            tracing::warn!(
                files = away.join(", "),
                "files of the configuration are not there; going on with what was read of them"
            );
        }
        self.missed = is_away && now == self.seen;
        let has_settled = now == self.seen;
        self.seen = now;
        !is_away && has_settled && self.seen != self.read
    }

    /// Notes how the files are before they are read.
    pub(super) fn note(&mut self) {
        self.seen = self.files.iter().map(|file| (self.stamp)(file)).collect();
        self.read.clone_from(&self.seen);
    }

    /// Goes on with the files of another configuration. Those that were watched before keep the look that they had
    /// before it was read: what was written since is seen.
    pub(super) fn of(mut self, files: Vec<PathBuf>) -> Self {
        let stamps: Vec<_> = files
            .iter()
            .map(|file| {
                let known = self.files.iter().position(|known| known == file);
                match known {
                    Some(index) => self.read[index],
                    None => (self.stamp)(file),
                }
            })
            .collect();
        Self {
            files,
            seen: stamps.clone(),
            read: stamps,
            ..self
        }
    }

    /// Waits until the files have changed.
    pub(super) async fn changed(&mut self) {
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if self.look() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    fn stamp_of(inode: u64) -> Option<Stamp> {
        Some(Stamp {
            device: 1,
            inode,
            size: 1,
            changed: (1, 0),
        })
    }

    #[test]
    fn a_change_counts_once_it_has_settled() {
        let now = Cell::new(stamp_of(1));
        let mut watch = Watch::new(vec!["weir.toml".into()], |_: &Path| now.get());
        assert!(!watch.look());
        now.set(stamp_of(2));
        assert!(!watch.look(), "perhaps still being written");
        now.set(stamp_of(3));
        assert!(!watch.look());
        assert!(watch.look());
    }

    #[test]
    fn a_file_that_is_away_for_a_moment_is_no_change() {
        let now = Cell::new(stamp_of(1));
        let mut watch = Watch::new(vec!["weir.toml".into()], |_: &Path| now.get());
        now.set(None);
        assert!(!watch.look());
        assert!(!watch.look());
        now.set(stamp_of(1));
        assert!(!watch.look());
        assert!(!watch.look(), "it is what was read");
        now.set(stamp_of(2));
        assert!(!watch.look());
        assert!(watch.look());
    }

    #[tokio::test(start_paused = true)]
    async fn each_change_is_told_once() {
        let now = Cell::new(stamp_of(1));
        let mut watch = Watch::new(vec!["weir.toml".into()], |_: &Path| now.get());
        now.set(stamp_of(2));
        watch.changed().await;
        watch.note();
        let again = tokio::time::timeout(10 * PERIOD, watch.changed()).await;
        assert!(again.is_err());
    }

    #[test]
    fn links_are_followed_to_the_file_behind_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for version in ["one", "two"] {
            std::fs::create_dir(path(version)).unwrap();
            std::fs::write(path(version).join("weir.toml"), version).unwrap();
        }
        // As Kubernetes lays out a ConfigMap.
        std::os::unix::fs::symlink("one", path("..data")).unwrap();
        std::os::unix::fs::symlink("..data/weir.toml", path("weir.toml")).unwrap();
        let mut watch = Watch::new(vec![path("weir.toml")], stamp);
        assert!(!watch.look());
        std::os::unix::fs::symlink("two", path("..new")).unwrap();
        std::fs::rename(path("..new"), path("..data")).unwrap();
        assert!(!watch.look());
        assert!(watch.look());
    }
}
