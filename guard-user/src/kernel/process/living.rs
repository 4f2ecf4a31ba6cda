//! A process by its directory in /proc. The open directory stands for this one process for ever, like a pidfd: when the
//! process is gone, reading fails, whoever gets its number later.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, RawDir, openat, readlinkat};

/// A clock tick of /proc, in milliseconds: `USER_HZ` is 100 on every architecture that runs the kernel programs.
const TICK_MILLISECONDS: u64 = 10;
/// Most bytes read of a small file in /proc: the kernel gives that much at once.
const SMALL_BYTES_MAX: usize = 4096;
/// Open files of one process that are looked at to find a socket.
const FILES_LOOKED_AT_MAX: usize = 65_536;

#[derive(Debug)]
pub(super) struct Living {
    dir: OwnedFd,
    /// Milliseconds from the host's boot to the process's start, rounded down to a tick.
    pub(super) started: u64,
}

/// Whether a process was there before a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Before,
    /// In the same tick of the clock: before or after.
    SameTick,
    After,
}

impl Living {
    /// The process that has this number now.
    pub(super) fn open(pid: u32) -> io::Result<Self> {
        let path = format!("/proc/{pid}");
        let dir = openat(
            rustix::fs::CWD,
            path,
            OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC,
            Mode::empty(),
        )?;
        let started = stat(&dir)?.started;
        Ok(Self { dir, started })
    }

    /// `at`: nanoseconds since boot.
    pub(super) fn start(&self, at: u64) -> Start {
        start(self.started, at)
    }

    /// It runs: it has not ended, not even as a zombie that nobody has waited for.
    pub(super) fn is_alive(&self) -> bool {
        stat(&self.dir).is_ok_and(|stat| !matches!(stat.state, b'Z' | b'X' | b'x'))
    }

    /// The file that runs, also if it was replaced or is in another mount namespace.
    pub(super) fn executable(&self) -> io::Result<File> {
        Ok(openat(&self.dir, "exe", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?.into())
    }

    /// Its path as the process sees it; ` (deleted)` stands behind it if the file was replaced.
    pub(super) fn executable_path(&self) -> io::Result<String> {
        let path = readlinkat(&self.dir, "exe", Vec::new())?;
        path.into_string().map_err(io::Error::other)
    }

    pub(super) fn cgroups(&self) -> io::Result<String> {
        read(&self.dir, "cgroup")
    }

    /// Whether one of its open files is the socket with this inode.
    pub(super) fn holds_socket(&self, inode: u32) -> io::Result<bool> {
        let wanted = format!("socket:[{inode}]");
        let files =
            openat(&self.dir, "fd", OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        let mut buffer = Vec::with_capacity(8192);
        let mut entries = RawDir::new(&files, buffer.spare_capacity_mut());
        let mut looked_at = 0;
        while let Some(entry) = entries.next() {
            let entry = entry?;
            looked_at += 1;
            if looked_at > FILES_LOOKED_AT_MAX {
                break;
            }
            if readlinkat(&files, entry.file_name(), Vec::new())
                .is_ok_and(|link| link.as_bytes() == wanted.as_bytes())
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn start(started: u64, at: u64) -> Start {
    let at = at / 1_000_000;
    if started > at {
        Start::After
    } else if at - started < TICK_MILLISECONDS {
        Start::SameTick
    } else {
        Start::Before
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Stat {
    state: u8,
    started: u64,
}

fn stat(dir: &OwnedFd) -> io::Result<Stat> {
    parse_stat(&read(dir, "stat")?).ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// Fields 3 and 22 of `/proc/<pid>/stat`. Field 2 is the name in parentheses, which may hold any characters.
fn parse_stat(text: &str) -> Option<Stat> {
    let (_, fields) = text.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = *fields.next()?.as_bytes().first()?;
    let ticks: u64 = fields.nth(18)?.parse().ok()?;
    Some(Stat { state, started: ticks.checked_mul(TICK_MILLISECONDS)? })
}

fn read(dir: &OwnedFd, name: &str) -> io::Result<String> {
    let mut file = File::from(openat(dir, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?);
    let mut bytes = [0; SMALL_BYTES_MAX];
    let read = file.read(&mut bytes)?;
    // Only the name of a process may be no text, and it is not used.
    Ok(String::from_utf8_lossy(bytes.get(..read).unwrap_or_default()).into_owned())
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;
    use std::os::unix::fs::MetadataExt;
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn this_process_is_alive_and_runs_this_file() {
        let living = Living::open(std::process::id()).unwrap();
        assert!(living.is_alive());
        let file = living.executable().unwrap().metadata().unwrap();
        let own = std::fs::metadata(std::env::current_exe().unwrap()).unwrap();
        assert_eq!((file.dev(), file.ino()), (own.dev(), own.ino()));
        assert_eq!(living.executable_path().unwrap(), std::env::current_exe().unwrap().to_str().unwrap());
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let inode = u32::try_from(
            std::fs::metadata(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&socket)))
                .unwrap()
                .ino(),
        )
        .unwrap();
        assert!(living.holds_socket(inode).unwrap());
        drop(socket);
        assert!(!living.holds_socket(inode).unwrap());
    }

    #[test]
    fn a_process_that_ended_is_not_alive_as_a_zombie_nor_after() {
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let living = Living::open(child.id()).unwrap();
        assert!(living.is_alive());
        child.kill().unwrap();
        while living.is_alive() {
            std::thread::yield_now();
        }
        assert_eq!(stat(&living.dir).unwrap().state, b'Z');
        child.wait().unwrap();
        assert!(!living.is_alive());
        assert!(living.executable().is_err());
    }

    #[test]
    fn a_process_is_told_from_one_that_has_its_number_later() {
        let millisecond = 1_000_000;
        assert_eq!(start(500, 499 * millisecond), Start::After);
        assert_eq!(start(500, 500 * millisecond), Start::SameTick);
        assert_eq!(start(500, 510 * millisecond - 1), Start::SameTick);
        assert_eq!(start(500, 510 * millisecond), Start::Before);
    }

    proptest! {
        #[test]
        fn a_name_cannot_forge_the_fields_behind_it(name in "\\PC{0,15}", ticks in 0..u64::MAX / 10) {
            let fields = format!("S 1{} {ticks} 5 6", " 7".repeat(17));
            let stat = parse_stat(&format!("12 ({name}) {fields}"));
            // Only fields of a name with `) ` in it could be read wrong; the kernel's own come last.
            prop_assert_eq!(stat, Some(Stat { state: b'S', started: ticks * 10 }));
        }

        #[test]
        fn any_text_is_read(text in "\\PC{0,80}") {
            let _stat = parse_stat(&text);
        }
    }
}
