//! What the host's files tell: capabilities, mounts, settings, disk, clock.

use std::fs;
use std::path::{Path, PathBuf};

use super::{Found, Outcome, Row, bpf};
use crate::privilege::Privileges;

pub(super) const CGROUP2: &str = "cgroup2";

/// Free space below which the state directory is reported, in bytes: about a day of audit trail at 100 calls a second.
const STATE_FREE_BYTES_MIN: u64 = 8 << 30;

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mount {
    /// Which part of the file system is mounted.
    pub(super) root: String,
    pub(super) point: PathBuf,
}

/// The mounts of a file system type, in the order of the table.
pub(super) fn mounts(mountinfo: &str, of: &str) -> Vec<Mount> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mut fields = left.split(' ').skip(3);
            let (root, point) = (fields.next()?, fields.next()?);
            (right.split(' ').next() == Some(of))
                .then(|| Mount { root: unescape(root), point: unescape(point).into() })
        })
        .collect()
}

/// The kernel writes blanks and backslashes in mount points as octal numbers.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// Those that the running guard keeps; it does not start without any one of them.
pub(super) fn capabilities() -> Row {
    let outcome = match Privileges::now() {
        Err(error) => Outcome::refused("capget", &error),
        Ok(Privileges { capabilities, missing, .. }) => judge(&capabilities, &missing),
    };
    Row::needed(
        "capabilities",
        outcome,
        "run the guard as root; in a unit or a container grant what docs/privileges.md lists",
    )
}

fn judge(have: &[&str], lack: &[&str]) -> Outcome {
    if lack.is_empty() {
        return Outcome::yes(have.join(", "));
    }
    let found = if have.is_empty() { Found::NeedsRoot } else { Found::No };
    Outcome { found, detail: format!("missing {}", lack.join(", ")) }
}

pub(super) fn rows(state_dir: &Path) -> Vec<Row> {
    vec![
        Row::useful(
            "type information (BTF)",
            match fs::metadata("/sys/kernel/btf/vmlinux") {
                Ok(meta) => Outcome::yes(format!("{} bytes", meta.len())),
                Err(error) => Outcome::refused("/sys/kernel/btf/vmlinux", &error),
            },
            "the guard's programs do without; tools show less about them",
        ),
        Row::useful(
            "BPF compiler (JIT)",
            jit(),
            "the programs run interpreted, slower: `sysctl net.core.bpf_jit_enable=1`",
        ),
        Row::useful(
            "security modules",
            lsm(),
            "nothing follows; for your information (`mount -t securityfs none /sys/kernel/security` shows them)",
        ),
        Row::useful(
            "127.0.0.0/8 closed to other hosts",
            route_localnet(&["all", "default", "lo"]),
            "other hosts can reach what listens on loopback: `sysctl net.ipv4.conf.all.route_localnet=0`",
        ),
        Row::useful(
            "disk space for the audit trail",
            disk(state_dir),
            "calls are refused when the trail cannot be written; free some space or move `state_dir`",
        ),
        Row::useful(
            "clock",
            clock(),
            "audit records carry this host's time; let NTP or the hypervisor set it",
        ),
    ]
}

fn jit() -> Outcome {
    match fs::read_to_string("/proc/sys/net/core/bpf_jit_enable") {
        Ok(text) if text.trim() == "0" => Outcome::no("net.core.bpf_jit_enable is 0"),
        Ok(text) => Outcome::yes(format!("net.core.bpf_jit_enable is {}", text.trim())),
        Err(error) => Outcome::refused("net.core.bpf_jit_enable", &error),
    }
}

fn lsm() -> Outcome {
    match fs::read_to_string("/sys/kernel/security/lsm") {
        Ok(text) => Outcome::yes(text.trim()),
        Err(error) => Outcome::refused("/sys/kernel/security/lsm", &error),
    }
}

/// `all` or an interface's own setting opens it.
fn route_localnet(always: &[&str]) -> Outcome {
    let dir = Path::new("/proc/sys/net/ipv4/conf");
    let listed = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut names: Vec<String> = always.iter().map(|name| (*name).to_owned()).chain(listed).collect();
    names.sort();
    names.dedup();
    let open: Vec<String> = names
        .into_iter()
        .filter(|name| {
            fs::read_to_string(dir.join(name).join("route_localnet")).is_ok_and(|text| text.trim() == "1")
        })
        .collect();
    if open.is_empty() {
        Outcome::yes("route_localnet is 0 everywhere")
    } else {
        Outcome::partly(format!("route_localnet is 1 for {}", open.join(", ")))
    }
}

/// Looks at the nearest directory that exists: the guard makes the rest.
fn disk(state_dir: &Path) -> Outcome {
    let Some(place) = state_dir.ancestors().find(|dir| dir.exists()) else {
        return Outcome::no(format!("no part of {} exists", state_dir.display()));
    };
    match rustix::fs::statvfs(place) {
        Err(error) => Outcome::refused("statvfs", &error.into()),
        Ok(about) => {
            let free = about.f_bavail.saturating_mul(about.f_frsize);
            let detail = format!("{} MiB free at {}", free >> 20, place.display());
            if free < STATE_FREE_BYTES_MIN { Outcome::partly(detail) } else { Outcome::yes(detail) }
        }
    }
}

fn clock() -> Outcome {
    match bpf::clock_is_synchronized() {
        Ok(true) => Outcome::yes("synchronized"),
        Ok(false) => Outcome::partly("the kernel was not told that it is synchronized"),
        Err(error) => Outcome::refused("adjtimex", &error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_with_their_roots_and_escapes() {
        let table = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
                     41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n\
                     42 31 0:38 /a\\040b /mnt/x\\134y rw - cgroup2 cgroup2 rw\n";
        assert_eq!(
            mounts(table, CGROUP2),
            [
                Mount { root: "/".into(), point: "/sys/fs/cgroup/unified".into() },
                Mount { root: "/a b".into(), point: "/mnt/x\\y".into() },
            ]
        );
        assert_eq!(mounts(table, "bpf"), []);
    }

    #[test]
    fn capabilities_are_judged_one_by_one() {
        assert_eq!(judge(&["A", "B"], &[]).found, Found::Yes);
        assert_eq!(judge(&[], &["A"]).found, Found::NeedsRoot);
        let one = judge(&["A"], &["B"]);
        assert_eq!((one.found, one.detail.as_str()), (Found::No, "missing B"));
    }

    #[test]
    fn disk_space_is_that_of_the_nearest_directory_that_exists() {
        assert!(disk(Path::new("/proc/no/such")).detail.ends_with("free at /proc"));
    }
}
