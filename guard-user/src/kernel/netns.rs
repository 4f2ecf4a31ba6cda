//! A network namespace, and a way in and out of it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;

use anyhow::{Context, bail};
use nix::sys::statfs::{FsType, fstatfs};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Socket, Type};

use super::sys;

/// `NSFS_MAGIC` of `include/uapi/linux/magic.h`.
const NSFS_MAGIC: FsType = FsType(0x6e73_6673);
/// This process's own namespace. Its other threads are in the same one: whoever enters another does so on a thread
/// that ends there.
const OWN: &str = "/proc/self/ns/net";

/// That of the thread that opens it.
const INSIDE: &str = "/proc/thread-self/ns/net";

/// Which namespace it is, as long as it lives; the numbers of a dead one may be given to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct NetnsId {
    device: u64,
    inode: u64,
}

impl NetnsId {
    /// The namespace that the file at `path` stands for; none if there is no such file, or it is another kind of file.
    pub(super) fn of(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        let is_nsfs = nix::sys::statfs::statfs(path).is_ok_and(|fs| fs.filesystem_type() == NSFS_MAGIC);
        is_nsfs.then(|| Self { device: meta.dev(), inode: meta.ino() })
    }

    /// That of a thread, by its file in `/proc`.
    pub(super) fn of_thread(path: &Path) -> Option<Self> {
        let meta = std::fs::metadata(path).ok()?;
        Some(Self { device: meta.dev(), inode: meta.ino() })
    }

    /// This process's own.
    pub(super) fn own() -> anyhow::Result<Self> {
        Self::of(Path::new(OWN)).context("cannot tell which network namespace this is; is /proc mounted?")
    }
}

/// A handle of a network namespace. It keeps the namespace alive, so it must not outlive what is protected in it.
#[derive(Debug)]
pub(crate) struct Netns {
    file: File,
    pub id: NetnsId,
    /// `SO_NETNS_COOKIE`: never given to another namespace until the next boot.
    pub cookie: u64,
    /// This process lives in it.
    pub is_own: bool,
}

impl Netns {
    /// This process's own.
    pub(super) fn own() -> anyhow::Result<Self> {
        Self::open(Path::new(OWN))
    }

    /// The namespace that the file at `path` stands for.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let meta = file.metadata().with_context(|| format!("cannot look at {}", path.display()))?;
        if !fstatfs(&file).is_ok_and(|fs| fs.filesystem_type() == NSFS_MAGIC) {
            bail!(
                "{} is no namespace; `ip netns add` and `/proc/<pid>/ns/net` make such files",
                path.display()
            );
        }
        let id = NetnsId { device: meta.dev(), inode: meta.ino() };
        let is_own = id == NetnsId::own()?;
        let named = Self { file, id, cookie: 0, is_own };
        // The file that is kept is another one: `path` may be a mount, which an open file would keep from being undone.
        let inside = || -> anyhow::Result<Self> {
            let file = File::open(INSIDE).with_context(|| format!("cannot open {INSIDE}"))?;
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).context("cannot make a socket")?;
            let cookie =
                sys::netns_cookie(&socket).context("this kernel has no SO_NETNS_COOKIE (Linux 5.14 has)")?;
            Ok(Self { file, id, cookie, is_own })
        };
        named.run(inside).with_context(|| format!("cannot enter {}", path.display()))?
    }

    /// Runs `f` in this namespace: sockets that it makes and processes that it starts are in it.
    pub(super) fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        if self.is_own {
            return Ok(f());
        }
        // A thread of its own: one that could not get back would do somebody else's work in the wrong namespace.
        thread::scope(|scope| {
            let entered = thread::Builder::new().name("netns".into()).spawn_scoped(scope, || {
                move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(f())
            })?;
            entered.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_is_entered_by_staying() {
        let own = Netns::own().unwrap();
        assert!(own.is_own && own.cookie != 0);
        let here = thread::current().id();
        assert_eq!(own.run(|| thread::current().id()).unwrap(), here);
    }

    #[test]
    fn what_is_no_namespace_is_told() {
        let words = Netns::open(Path::new("/proc/self/status")).unwrap_err().to_string();
        assert!(words.contains("is no namespace"), "{words}");
        assert!(NetnsId::of(Path::new("/proc/self/status")).is_none());
        assert!(NetnsId::of(Path::new("/no/such/file")).is_none());
        // Another kind of namespace has the same file system; entering it is what fails.
        assert!(Netns::open(Path::new("/proc/self/ns/mnt")).is_err());
    }
}
