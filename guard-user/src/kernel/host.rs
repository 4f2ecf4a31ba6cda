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
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    mount(Some("bpf"), dir, Some("bpf"), flags, Some("mode=0700")).with_context(|| {
        format!(
            "cannot mount bpffs at {} (root is needed); try `mount -t bpf bpf {}`",
            dir.display(),
            dir.display()
        )
    })
}

/// Where cgroup2 is mounted; on a hybrid host that is not `/sys/fs/cgroup`.
pub(super) fn cgroup2_root() -> anyhow::Result<PathBuf> {
    let table = fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    cgroup2_mount(&table)
        .context("no cgroup2 is mounted; mount one: `mount -t cgroup2 none /sys/fs/cgroup/unified`")
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
