//! What the privileged tests must not leave behind: pins, programs and network namespaces.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::command::Tool;

/// Our prefixes of pins, cgroups and network namespaces.
const PREFIXES: [&str; 2] = ["mcp-guard", "mg-"];
/// Program types that the guard loads.
const PROGRAMS: [&str; 4] = ["sk_lookup", "sock_ops", "cgroup_sock_addr", "cgroup_skb"];
/// The kernel frees a program some time after its last user is gone.
const PATIENCE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(100);

/// What was there before the tests; a guard that the operator runs on this host is not theirs.
pub(super) struct Before(BTreeSet<String>);

impl Before {
    pub(super) fn now() -> Self {
        Self(present())
    }

    /// One sentence for each thing that came and did not go.
    pub(super) fn left(&self) -> Vec<String> {
        let started = Instant::now();
        loop {
            let left: Vec<String> = present()
                .difference(&self.0)
                .map(|thing| format!("the tests left behind: {thing}"))
                .collect();
            if left.is_empty() || started.elapsed() > PATIENCE {
                return left;
            }
            std::thread::sleep(POLL);
        }
    }
}

fn present() -> BTreeSet<String> {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mut all = BTreeSet::new();
    for (kind, of) in [("pin", "bpf"), ("cgroup", "cgroup2")] {
        all.extend(mounted(&mounts, of).iter().flat_map(|mount| ours(mount, kind)));
    }
    all.extend(ours(Path::new("/run/netns"), "network namespace"));
    // Programs have no name of their owner, so all of our types count. Without bpftool the pins must do.
    let programs = Tool::new("bpftool").args(["prog", "show"]).read().unwrap_or_default();
    all.extend(programs.lines().filter(|line| is_program(line)).map(|line| format!("program {line}")));
    all
}

/// Where file systems of a type are mounted, from `/proc/self/mounts`.
fn mounted(mounts: &str, of: &str) -> Vec<PathBuf> {
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ').skip(1);
            let place = fields.next()?;
            (fields.next() == Some(of)).then(|| PathBuf::from(place))
        })
        .collect()
}

fn ours(dir: &Path, kind: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| {
            let name = entry.file_name();
            PREFIXES.iter().any(|prefix| name.to_string_lossy().starts_with(prefix))
        })
        .map(|entry| format!("{kind} {}", entry.path().display()))
        .collect()
}

/// Whether a line is the first one about a program of our types: `12: sk_lookup  name steer  tag ...`.
fn is_program(line: &str) -> bool {
    line.split_once(": ").is_some_and(|(id, rest)| {
        id.parse::<u32>().is_ok() && rest.split(' ').next().is_some_and(|kind| PROGRAMS.contains(&kind))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpffs_is_found_wherever_it_is_mounted() {
        let mounts = "sysfs /sys sysfs rw 0 0\nbpf /sys/fs/bpf bpf rw 0 0\nnone /mnt/x bpf rw,mode=700 0 0\n";
        assert_eq!(mounted(mounts, "bpf"), [PathBuf::from("/sys/fs/bpf"), PathBuf::from("/mnt/x")]);
    }

    #[test]
    fn a_program_of_ours_is_told_from_others_and_from_the_details_below_it() {
        assert!(is_program("12: sk_lookup  name steer  tag 1f  gpl"));
        assert!(!is_program("3: cgroup_device  tag 3f  gpl"));
        assert!(!is_program("\tloaded_at 2026-01-01  uid 0"));
    }
}
