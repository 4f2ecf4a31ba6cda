//! cgroups of a test's own, with the names that units and containers have.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::world::cgroup2_root;

/// How long a cgroup may stay busy after its last process ended.
const BUSY_MAX: Duration = Duration::from_secs(10);

/// A slice of a test's own, below the cgroup2 root. Removed when dropped, with everything below; its processes must
/// have ended.
#[derive(Debug)]
pub struct Slice {
    dir: PathBuf,
}

impl Slice {
    /// # Panics
    /// If this is not root.
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mg-{}-{}.slice", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let dir = cgroup2_root().join(name);
        fs::create_dir(&dir).expect("the privileged tests need root: they make cgroups");
        Self { dir }
    }

    /// A cgroup below, such as `agent.service`. Its path below the cgroup2 root.
    pub fn make(&self, name: &str) -> String {
        fs::create_dir_all(self.dir.join(name)).expect("a new cgroup");
        self.path_of(name)
    }

    /// The path of a cgroup below, as the kernel names it.
    pub fn path_of(&self, name: &str) -> String {
        let slice = self.dir.file_name().expect("a name").to_str().expect("text");
        format!("/{slice}/{name}")
    }

    /// The command will run in that cgroup, also as another user.
    pub fn put(&self, name: &str, command: &mut Command) {
        self.make(name);
        // The kernel judges by who opened the file, so this works for a command of any user.
        let procs =
            File::options().write(true).open(self.dir.join(name).join("cgroup.procs")).expect("cgroup.procs");
        // SAFETY: between fork and exec, the closure makes one write call with a constant on an open file.
        unsafe {
            command.pre_exec(move || (&procs).write_all(b"0"));
        }
    }
}

impl Default for Slice {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Slice {
    fn drop(&mut self) {
        let end = Instant::now() + BUSY_MAX;
        while let Err(error) = remove(&self.dir) {
            if Instant::now() > end {
                eprintln!("{} stays: {error}", self.dir.display());
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }
}

/// Deepest first. The files of a cgroup go with it.
fn remove(dir: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    fs::remove_dir(dir)
}
