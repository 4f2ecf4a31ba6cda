//! A cgroup of a test's own.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::world::cgroup2_root;

/// How long it may stay busy after its last process died.
const BUSY: Duration = Duration::from_secs(10);

/// A directory below the cgroup2 root. Removed when dropped; its processes must be gone by then.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mg-cg-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Self::at(&cgroup2_root().join(name))
    }

    /// One with a name that somebody else gives it, such as a container engine.
    pub fn named(name: &str) -> Self {
        Self::at(&cgroup2_root().join(name))
    }

    /// A cgroup below this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self::at(&self.path.join(name))
    }

    fn at(path: &Path) -> Self {
        fs::create_dir(path).expect("a new cgroup");
        Self { path: path.to_owned() }
    }

    /// Removes it and makes it anew, as a service manager does at a restart: the same path, another cgroup.
    pub fn renew(&self) {
        self.remove();
        fs::create_dir(&self.path).expect("the cgroup again");
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn id(&self) -> u64 {
        fs::metadata(&self.path).expect("the cgroup").ino()
    }

    /// A command that runs `program` in this cgroup as `uid`. Arguments may be added.
    pub fn command(&self, uid: u32, program: &Path) -> Command {
        let mut command = Command::new("sh");
        command.arg("-c").arg(format!(
            "echo $$ > '{}/cgroup.procs' && exec setpriv --reuid={uid} --regid={uid} --clear-groups \"$0\" \"$@\"",
            self.path.display()
        ));
        command.arg(program);
        command
    }

    fn remove(&self) {
        let end = Instant::now() + BUSY;
        while fs::remove_dir(&self.path).is_err() && self.path.exists() && Instant::now() < end {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Default for Cgroup {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        self.remove();
    }
}
