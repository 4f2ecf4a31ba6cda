//! What the host must have ready: bpffs, and a cgroup of our own.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// Inode of the root of the whole cgroup2 tree; any other directory is a part of it.
const TREE_INODE: u64 = 1;
/// How long a guard that has just ended may still be in its cgroup.
const LEAVING: Duration = Duration::from_millis(500);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// Makes sure that bpffs is mounted at `dir`. Two guards that start at the same time mount it once.
pub(super) fn mount_bpffs(dir: &Path) -> anyhow::Result<()> {
    let mounted = || statfs(dir).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC);
    if mounted() {
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .with_context(|| format!("cannot make {}", dir.display()))?;
    // The directory below the mount is the lock: who waited for it looks again.
    let lock = File::open(dir).with_context(|| format!("cannot open {}", dir.display()))?;
    lock.lock().with_context(|| format!("cannot lock {}", dir.display()))?;
    if mounted() {
        return Ok(());
    }
    if !is_in_hosts_mounts() {
        bail!(
            "no bpffs is mounted at {0}, and this process has a mount namespace of its own: one that is mounted here would end with \
             it, and the ports would open. Under `ip netns exec`, use `nsenter --net=/run/netns/NAME` instead; else mount it on the host \
             first: `mount -t bpf bpf {0}`",
            dir.display()
        );
    }
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), dir, Some("bpf"), flags, Some("mode=0700")).with_context(|| {
        format!(
            "cannot mount bpffs at {} (root is needed); try `mount -t bpf bpf {}`",
            dir.display(),
            dir.display()
        )
    })
}

/// Whether pins may be there that this process cannot see: where it looks is no bpffs, and its mounts are not the host's.
pub(super) fn hides_bpffs(dir: &Path) -> bool {
    !statfs(dir).is_ok_and(|fs| fs.filesystem_type() == BPF_FS_MAGIC) && !is_in_hosts_mounts()
}

/// That in words.
pub(super) fn hidden(dir: &Path) -> String {
    format!(
        "this process sees no bpffs at {}, so it cannot tell what is in the kernel; `ip netns exec` hides the host's. Run this with \
         `nsenter --net=/run/netns/NAME`",
        dir.display()
    )
}

/// Whether what this process mounts is there for the whole host: its mount namespace is that of the first process or of the
/// kernel's own. What cannot be found out counts as yes.
pub(super) fn is_in_hosts_mounts() -> bool {
    let of =
        |pid: &str| fs::metadata(format!("/proc/{pid}/ns/mnt")).ok().map(|file| (file.dev(), file.ino()));
    let hosts: Vec<_> = ["1", "2"].into_iter().filter_map(of).collect();
    hosts.is_empty() || of("self").is_none_or(|own| hosts.contains(&own))
}

/// Where cgroup2 is mounted; on a hybrid host that is not `/sys/fs/cgroup`.
pub(super) fn cgroup2_root() -> anyhow::Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    let root = cgroup2_mount(&table)
        .context("no cgroup2 is mounted; mount one: `mount -t cgroup2 none /sys/fs/cgroup/unified`")?;
    if !is_whole_tree(&root)? {
        bail!(
            "the cgroup2 at {} is only a part of the host's tree (a cgroup namespace): programs that are attached there do not see \
             the processes outside. Start the guard in the host's own, such as `nsenter --cgroup=/proc/1/ns/cgroup`",
            root.display()
        );
    }
    Ok(root)
}

/// Whether this is the root of the whole tree, and not what a cgroup namespace takes for it.
pub(super) fn is_whole_tree(root: &Path) -> anyhow::Result<bool> {
    let meta = fs::metadata(root).with_context(|| format!("cannot look at {}", root.display()))?;
    Ok(meta.ino() == TREE_INODE)
}

/// A line is: id, parent, device, root, mount point, options, optional fields, "-", type, source, options.
fn cgroup2_mount(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut left = left.split(' ').skip(3);
        let (root, point) = (left.next()?, left.next()?);
        (right.split(' ').next() == Some("cgroup2") && root == "/").then(|| PathBuf::from(unescape(point)))
    })
}

/// Mount points write blanks as three octal digits.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

/// Makes the guard's cgroup, if it is not there.
pub(super) fn make_cgroup(dir: &Path) -> anyhow::Result<()> {
    match fs::create_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error)
            .with_context(|| format!("cannot make the guard's cgroup {} (root is needed)", dir.display())),
        _ => Ok(()),
    }
}

/// Makes the guard's cgroup, moves this process into it, and makes sure that nobody else is in it: a socket made
/// in it can be registered as the guard's own.
pub(super) fn enter_cgroup(dir: &Path) -> anyhow::Result<()> {
    make_cgroup(dir)?;
    let owner = fs::metadata(dir).with_context(|| format!("cannot look at {}", dir.display()))?.uid();
    if owner != 0 {
        bail!(
            "the guard's cgroup {} belongs to uid {owner}, not to root; who owns it could join it",
            dir.display()
        );
    }
    let procs = dir.join("cgroup.procs");
    fs::write(&procs, std::process::id().to_string())
        .with_context(|| format!("cannot join {}", procs.display()))?;
    let own = std::process::id().to_string();
    let others = || -> anyhow::Result<Vec<String>> {
        let members =
            fs::read_to_string(&procs).with_context(|| format!("cannot read {}", procs.display()))?;
        Ok(members.lines().filter(|pid| *pid != own).map(str::to_owned).collect())
    };
    let end = Instant::now() + LEAVING;
    while Instant::now() < end && !others()?.is_empty() {
        sleep(LOOK);
    }
    let others = others()?;
    none(dir, &others)
}

/// Fails if anybody but the guard that runs is in the cgroup. It need not be there yet.
pub(super) fn only_guards(dir: &Path, running: Option<u32>) -> anyhow::Result<()> {
    let others = || -> Vec<String> {
        let members = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
        members.lines().filter(|pid| pid.parse().ok() != running).map(str::to_owned).collect()
    };
    // A canary is born there and leaves at once.
    let end = Instant::now() + LEAVING;
    while Instant::now() < end && !others().is_empty() {
        sleep(LOOK);
    }
    none(dir, &others())
}

fn none(dir: &Path, others: &[String]) -> anyhow::Result<()> {
    if !others.is_empty() {
        bail!(
            "other processes are in the guard's cgroup {}: pid {}. Is another guard running with the same `kernel.cgroup`? \
             End them, or set another name",
            dir.display(),
            others.join(", ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cgroup2_mount_is_found_on_unified_and_hybrid_hosts() {
        let hybrid = "30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                      31 30 0:27 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n\
                      32 30 0:28 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n";
        assert_eq!(cgroup2_mount(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(cgroup2_mount("26 22 0:23 / /a\\040b rw shared:4 - cgroup2 c rw"), Some("/a b".into()));
        assert_eq!(
            cgroup2_mount("26 22 0:23 /x /sub rw shared:4 - cgroup2 c rw"),
            None,
            "a part of the tree is not its root"
        );
        assert_eq!(cgroup2_mount(""), None);
    }
}
