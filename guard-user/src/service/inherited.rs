//! File descriptors that the service manager kept over a restart, as `sd_listen_fds(3)` describes it.
#![expect(unsafe_code, reason = "taking over numbers that the environment names")]

use std::ffi::OsString;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// The first number that the manager uses.
const FIRST: RawFd = 3;
/// More than this is no list of ours.
const COUNT_MAX: RawFd = 4096;

/// One descriptor, with the name under which it was stored.
#[derive(Debug)]
pub struct Inherited {
    pub name: String,
    pub fd: OwnedFd,
}

/// The descriptors that this process was started with; a second call finds none. To be called before anything else
/// opens files. From here on no child inherits them.
pub fn inherited() -> Vec<Inherited> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Vec::new();
    }
    let variable = |name: &str| std::env::var_os(name);
    let names =
        names(variable("LISTEN_PID"), variable("LISTEN_FDS"), variable("LISTEN_FDNAMES"), std::process::id());
    (FIRST..).zip(names).filter_map(|(number, name)| Some(Inherited { name, fd: adopt(number)? })).collect()
}

/// `None`: no such descriptor is open.
fn adopt(number: RawFd) -> Option<OwnedFd> {
    // SAFETY: `fcntl` reports a number that is not open as an error, and this function is called once per number:
    // `TAKEN` sees to that. By the protocol these numbers were opened for this process, and nothing in it knows them.
    let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
    // SAFETY: the line above found it open, and nobody else owns it, as said there.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// The names in the order of the descriptors; one without a name is "unknown", as the manager has it.
fn names(pid: Option<OsString>, count: Option<OsString>, names: Option<OsString>, own: u32) -> Vec<String> {
    let number = |text: Option<OsString>| text?.to_str()?.parse::<i64>().ok();
    if number(pid) != Some(own.into()) {
        return Vec::new();
    }
    let count = number(count).filter(|count| (0..=i64::from(COUNT_MAX)).contains(count)).unwrap_or(0);
    let names = names.and_then(|names| names.into_string().ok()).unwrap_or_default();
    let mut names = names.split(':').map(str::to_owned);
    (0..count)
        .map(|_| names.next().filter(|name| !name.is_empty()).unwrap_or_else(|| "unknown".into()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pid: &str, count: &str, given: &str) -> Vec<String> {
        let text = |text: &str| (!text.is_empty()).then(|| OsString::from(text));
        names(text(pid), text(count), text(given), 7)
    }

    #[test]
    fn descriptors_for_another_process_are_left_alone() {
        assert_eq!(read("7", "2", "a:b"), ["a", "b"]);
        for (pid, count) in [("8", "2"), ("", "2"), ("x", "2"), ("7", ""), ("7", "-1"), ("7", "5000")] {
            assert!(read(pid, count, "a:b").is_empty(), "{pid} {count}");
        }
    }

    #[test]
    fn a_descriptor_without_a_name_is_unknown() {
        assert_eq!(read("7", "3", "a"), ["a", "unknown", "unknown"]);
        assert_eq!(read("7", "1", "a:b"), ["a"]);
    }
}
