//! `reload: on_change`: notices that policy files have changed, and has them read again once nobody writes them.
//!
//! Half a file can be a policy too, one without its last deny rules. So a file that somebody writes is waited for until it is closed, and
//! after each change the folder has to be quiet for a while. Whoever wants to be sure writes beside it and renames.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::App;
use crate::audit::Cause;
use crate::kernel;
use crate::policy::packs::PACKS_DIR;

/// However often files change, they are read again after this.
const LATEST: Duration = Duration::from_secs(10);
/// A file that is open for so long is told of.
const STILL_WRITTEN: Duration = Duration::from_secs(30);
/// Between two attempts to watch a folder that is not there, or cannot be watched.
const RETRY: Duration = Duration::from_secs(1);
/// Between two looks whether what is watched still stands at its place: nobody tells when a folder far above it is moved.
const PLACE_LOOK: Duration = Duration::from_secs(2);
/// Room for the names of many events.
const BUFFER_BYTES: usize = 16 * 1024;

/// Reads the policy again whenever it has changed. Ends with the guard.
pub(super) async fn watch(app: Arc<App>) {
    let quiet = Duration::from_millis(app.config.limits.reload_quiet_milliseconds);
    let mut is_first = true;
    loop {
        let error = match Watch::open(&app.config.policy_dir) {
            Ok(watch) => {
                app.not_watched(None);
                // What has changed before the watch began was seen by nobody.
                let mut pending = Pending::default();
                pending.changed(None, Instant::now());
                follow(&app, watch, pending, quiet).await
            }
            Err(error) => error,
        };
        let words = format!("{} is not watched: {error}", app.config.policy_dir.display());
        if std::mem::take(&mut is_first) || !app.is_unwatched() {
            tracing::error!("{words}; changes are read at `mcp-guard reload` only until it can be");
        }
        app.not_watched(Some(words));
        tokio::time::sleep(RETRY).await;
    }
}

/// Until the folder cannot be watched any more.
async fn follow(app: &App, mut watch: Watch, mut pending: Pending, quiet: Duration) -> io::Error {
    let mut places = tokio::time::interval(PLACE_LOOK);
    loop {
        let due = pending.due(quiet);
        tokio::select! {
            _ = places.tick() => if let Err(error) = watch.check_place() { return error },
            seen = watch.read() => match seen {
                Ok(seen) => pending.note_all(seen),
                Err(error) => return error,
            },
            () = at(due) => {
                if pending.is_written() {
                    pending.tell();
                    continue;
                }
                pending = Pending::default();
                let mut meanwhile = Ok(Vec::new());
                // What changes while it is read may be read in part.
                let is_still = || {
                    meanwhile = watch.look();
                    meanwhile.as_ref().is_ok_and(Vec::is_empty)
                };
                drop(app.reload_if(Cause::Changed, is_still).await);
                match meanwhile {
                    Ok(seen) => pending.note_all(seen),
                    // The kernel tells it once.
                    Err(error) => return error,
                }
            }
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// What has happened since the files were read.
#[derive(Debug, Default)]
struct Pending {
    first: Option<Instant>,
    last: Option<Instant>,
    /// Files that somebody is writing.
    written: BTreeSet<Vec<u8>>,
    is_told: bool,
}

/// Something that happened to a file of the folder.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    /// Bytes were written; whoever does has it open still.
    Written(Vec<u8>),
    /// It is there, gone, or closed after it was written; `None`: anything may have happened.
    Changed(Option<Vec<u8>>),
}

impl Pending {
    fn note_all(&mut self, seen: Vec<Seen>) {
        let now = Instant::now();
        for seen in seen {
            self.note(seen, now);
        }
    }

    fn note(&mut self, seen: Seen, now: Instant) {
        match seen {
            Seen::Written(name) => {
                self.written.insert(name);
                self.last = Some(now);
            }
            Seen::Changed(name) => self.changed(name.as_deref(), now),
        }
    }

    fn changed(&mut self, name: Option<&[u8]>, now: Instant) {
        match name {
            Some(name) => drop(self.written.remove(name)),
            None => self.written.clear(),
        }
        self.first = self.first.or(Some(now));
        self.last = Some(now);
    }

    fn is_written(&self) -> bool {
        !self.written.is_empty()
    }

    /// When the files are read, or a file that is still being written is told of.
    fn due(&self, quiet: Duration) -> Option<Instant> {
        if self.is_written() {
            return self.last.filter(|_| !self.is_told).map(|last| last + STILL_WRITTEN);
        }
        Some((self.last? + quiet).min(self.first? + LATEST))
    }

    fn tell(&mut self) {
        self.is_told = true;
        let names: Vec<_> = self.written.iter().map(|name| String::from_utf8_lossy(name)).collect();
        tracing::warn!(
            ?names,
            "somebody has policy files open for writing; until they are closed, nothing is read again"
        );
    }
}

/// The kernel's word about the folder.
struct Watch {
    inotify: AsyncFd<OwnedFd>,
    dir: PathBuf,
    /// What the folder is now.
    folder: i32,
    /// Where it stands: another one may take its place.
    parent: i32,
    /// The folder of packs in it, if there is one.
    packs: Option<i32>,
    /// Device and number of what the first two were found as.
    found: Found,
}

/// Of the folder, and of its packs.
type Found = ((u64, u64), Option<(u64, u64)>);

impl Watch {
    fn open(dir: &Path) -> io::Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // First the parent, so that no change of the folder itself falls between the two.
        let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let parent = add(&inotify, parent, places())?;
        let found = found(dir)?;
        let folder = add(&inotify, dir, files())?;
        let packs = add_packs(&inotify, dir)?;
        let watch =
            Self { inotify: kernel::readable(inotify)?, dir: dir.to_owned(), folder, parent, packs, found };
        watch.check_place()?;
        Ok(watch)
    }

    /// An error if something else stands there now than what is watched.
    fn check_place(&self) -> io::Result<()> {
        if found(&self.dir)? == self.found {
            return Ok(());
        }
        Err(io::Error::other("another folder has taken its place, or that of a folder that it stands in"))
    }

    /// What has happened, once something has.
    async fn read(&mut self) -> io::Result<Vec<Seen>> {
        loop {
            let mut ready = self.inotify.readable().await?;
            ready.clear_ready();
            drop(ready);
            let seen = self.look()?;
            if !seen.is_empty() {
                return Ok(seen);
            }
        }
    }

    /// What has happened until now.
    fn look(&mut self) -> io::Result<Vec<Seen>> {
        let mut seen = Vec::new();
        let (mut is_replaced, mut has_other_packs) = (false, false);
        let mut buffer = [MaybeUninit::uninit(); BUFFER_BYTES];
        let mut reader = Reader::new(self.inotify.get_ref().as_fd(), &mut buffer);
        loop {
            let event = match reader.next() {
                Ok(event) => event,
                Err(Errno::AGAIN) => break,
                Err(Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            };
            let name = event.file_name().map(|name| OsStr::from_bytes(name.to_bytes()));
            let is_gone = ReadFlags::IGNORED | ReadFlags::MOVE_SELF | ReadFlags::DELETE_SELF;
            if event.events().contains(ReadFlags::QUEUE_OVERFLOW) {
                seen.push(Seen::Changed(None));
            } else if event.wd() == self.folder {
                seen.extend(of_folder(&self.dir, event.events(), name));
                is_replaced |= event.events().intersects(is_gone);
                has_other_packs |= name == Some(OsStr::new(PACKS_DIR));
            } else if Some(event.wd()) == self.packs {
                seen.extend(of_folder(&self.dir.join(PACKS_DIR), event.events(), name).map(in_packs));
                has_other_packs |= event.events().intersects(is_gone);
            } else if event.wd() == self.parent {
                if event.events().intersects(is_gone) {
                    return Err(io::Error::other("the folder that it stands in was moved or removed"));
                }
                is_replaced |= name == self.dir.file_name();
            }
        }
        if is_replaced || has_other_packs {
            self.renew()?;
            seen.push(Seen::Changed(None));
        }
        Ok(seen)
    }

    /// Watches what stands at the places of the folder and of its packs now.
    fn renew(&mut self) -> io::Result<()> {
        let inotify = self.inotify.get_ref();
        self.found = found(&self.dir)?;
        let folder = add(inotify, &self.dir, files())?;
        if folder != self.folder {
            // The old one may be gone with its watch.
            let _gone = inotify::remove_watch(inotify, self.folder);
            self.folder = folder;
        }
        let packs = add_packs(inotify, &self.dir)?;
        if let Some(old) = self.packs.filter(|old| packs != Some(*old)) {
            let _gone = inotify::remove_watch(inotify, old);
        }
        self.packs = packs;
        self.check_place()
    }
}

fn add(inotify: &OwnedFd, path: &Path, flags: WatchFlags) -> io::Result<i32> {
    Ok(inotify::add_watch(inotify, path, flags | WatchFlags::ONLYDIR)?)
}

/// `None`: there is none.
fn add_packs(inotify: &OwnedFd, dir: &Path) -> io::Result<Option<i32>> {
    unless_missing(add(inotify, &dir.join(PACKS_DIR), files()))
}

fn found(dir: &Path) -> io::Result<Found> {
    let one = |place: &Path| std::fs::metadata(place).map(|folder| (folder.dev(), folder.ino()));
    let packs = dir.join(PACKS_DIR);
    let is_folder = packs.is_dir();
    Ok((one(dir)?, unless_missing(one(&packs))?.filter(|_| is_folder)))
}

fn unless_missing<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The same of a file in the folder of packs.
fn in_packs(seen: Seen) -> Seen {
    let named = |name: Vec<u8>| [PACKS_DIR.as_bytes(), b"/", &name].concat();
    match seen {
        Seen::Written(name) => Seen::Written(named(name)),
        Seen::Changed(name) => Seen::Changed(name.map(named)),
    }
}

fn files() -> WatchFlags {
    WatchFlags::MODIFY
        | WatchFlags::CLOSE_WRITE
        | WatchFlags::CREATE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::DELETE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
}

fn places() -> WatchFlags {
    WatchFlags::CREATE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::DELETE
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
}

fn of_folder(dir: &Path, events: ReadFlags, name: Option<&OsStr>) -> Option<Seen> {
    let (place, name) = (dir.join(name?), name?.as_bytes());
    if !is_read(name) {
        return None;
    }
    // Whoever makes a file has it open; what is linked to its place is whole, and nobody closes it.
    let is_new = || place.symlink_metadata().is_ok_and(|file| file.is_file() && file.nlink() == 1);
    if events.intersects(ReadFlags::MODIFY) || (events.intersects(ReadFlags::CREATE) && is_new()) {
        return Some(Seen::Written(name.to_vec()));
    }
    Some(Seen::Changed(Some(name.to_vec())))
}

/// Whether a file of this name is policy, or leads to some: volumes of Kubernetes are switched by the link `..data`. An editor's swap
/// file is open for as long as somebody edits, and must not be waited for.
fn is_read(name: &[u8]) -> bool {
    let is_yaml = name.ends_with(b".yaml") || name.ends_with(b".yml");
    (is_yaml && !name.starts_with(b".")) || name == b"..data"
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Duration = Duration::from_millis(300);

    #[tokio::test(start_paused = true)]
    async fn files_are_read_when_it_was_quiet_and_after_a_while_in_any_case() {
        let (begin, mut pending) = (Instant::now(), Pending::default());
        assert_eq!(pending.due(QUIET), None);
        let mut now = begin;
        while now < begin + LATEST {
            pending.note(Seen::Changed(Some(b"a.yaml".to_vec())), now);
            assert_eq!(pending.due(QUIET), Some((now + QUIET).min(begin + LATEST)));
            now += Duration::from_millis(250);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_that_is_open_for_writing_is_waited_for() {
        let (now, mut pending) = (Instant::now(), Pending::default());
        pending.note(Seen::Changed(Some(b"b.yaml".to_vec())), now);
        pending.note(Seen::Written(b"a.yaml".to_vec()), now);
        assert_eq!(pending.due(QUIET), Some(now + STILL_WRITTEN));
        pending.tell();
        assert_eq!(pending.due(QUIET), None, "told once");
        pending.note(Seen::Changed(Some(b"a.yaml".to_vec())), now + QUIET);
        assert_eq!(pending.due(QUIET), Some(now + QUIET * 2));
        // Who has lost count of events knows nothing of open files either.
        pending.note(Seen::Written(b"a.yaml".to_vec()), now);
        pending.note(Seen::Changed(None), now);
        assert!(!pending.is_written());
    }

    #[tokio::test]
    async fn what_happens_between_two_looks_is_seen_and_a_place_that_moves_ends_the_watch() {
        let root = tempfile::tempdir().unwrap();
        let [place, elsewhere] = ["place", "elsewhere"].map(|name| root.path().join(name));
        let dir = place.join("policies");
        std::fs::create_dir_all(&dir).unwrap();
        let mut watch = Watch::open(&dir).unwrap();
        assert_eq!(watch.look().unwrap(), []);
        std::fs::write(dir.join("a.yaml"), "# one\n").unwrap();
        let seen = watch.look().unwrap();
        assert_eq!(seen.last(), Some(&Seen::Changed(Some(b"a.yaml".to_vec()))), "closed");
        assert!(seen.contains(&Seen::Written(b"a.yaml".to_vec())));
        assert_eq!(watch.look().unwrap(), []);
        // Made, and not closed yet.
        let _open = std::fs::File::create(dir.join("b.yaml")).unwrap();
        assert_eq!(watch.look().unwrap(), [Seen::Written(b"b.yaml".to_vec())]);
        // A second name of a whole file is whole.
        std::fs::hard_link(dir.join("a.yaml"), dir.join("c.yaml")).unwrap();
        assert_eq!(watch.look().unwrap(), [Seen::Changed(Some(b"c.yaml".to_vec()))]);
        std::fs::rename(&place, &elsewhere).unwrap();
        assert!(watch.look().unwrap_err().to_string().contains("moved"));
    }

    #[tokio::test]
    async fn packs_that_come_change_and_go_are_seen() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("policies");
        let packs = dir.join("packs");
        std::fs::create_dir(&dir).unwrap();
        let mut watch = Watch::open(&dir).unwrap();
        std::fs::create_dir(&packs).unwrap();
        assert_eq!(watch.look().unwrap(), [Seen::Changed(None)], "they come");
        let name = || b"packs/tickets.yaml".to_vec();
        let changed = || Some(Seen::Changed(Some(name())));
        std::fs::write(packs.join("tickets.yaml"), "# one\n").unwrap();
        let seen = watch.look().unwrap();
        assert!(seen.contains(&Seen::Written(name())) && seen.last().cloned() == changed(), "{seen:?}");
        let next = root.path().join("next");
        std::fs::create_dir(&next).unwrap();
        std::fs::rename(&packs, root.path().join("old")).unwrap();
        std::fs::rename(&next, &packs).unwrap();
        assert_eq!(watch.look().unwrap(), [Seen::Changed(None)], "others take their place");
        std::fs::write(packs.join("tickets.yaml"), "# two\n").unwrap();
        assert_eq!(watch.look().unwrap().last().cloned(), changed());
        std::fs::remove_dir_all(&packs).unwrap();
        assert_eq!(watch.look().unwrap().last(), Some(&Seen::Changed(None)), "they go");
        std::fs::write(dir.join("a.yaml"), "# one\n").unwrap();
        assert_eq!(watch.look().unwrap().last(), Some(&Seen::Changed(Some(b"a.yaml".to_vec()))));
    }

    #[tokio::test]
    async fn a_folder_far_above_that_is_replaced_ends_the_watch() {
        let root = tempfile::tempdir().unwrap();
        let [above, next] = ["above", "next"].map(|name| root.path().join(name));
        let dir = above.join("place/policies");
        for above in [&above, &next] {
            std::fs::create_dir_all(above.join("place/policies")).unwrap();
        }
        let mut watch = Watch::open(&dir).unwrap();
        watch.check_place().unwrap();
        std::fs::rename(&above, root.path().join("old")).unwrap();
        assert!(watch.check_place().is_err(), "it is gone");
        std::fs::rename(&next, &above).unwrap();
        assert_eq!(watch.look().unwrap(), [], "nobody tells");
        assert!(watch.check_place().unwrap_err().to_string().contains("taken its place"));
        assert!(Watch::open(&dir).unwrap().check_place().is_ok());
    }

    #[test]
    fn an_editors_own_files_are_no_policy() {
        for name in ["seed.yaml", "credentials.yaml", "seed.yml", "..data"] {
            assert!(is_read(name.as_bytes()), "{name}");
        }
        for name in [
            ".seed.yaml.swp",
            ".seed.yaml",
            "seed.yaml~",
            "4913",
            "#seed.yaml#",
            "seed.yaml.tmp",
            "README.md",
        ] {
            assert!(!is_read(name.as_bytes()), "{name}");
        }
    }
}
