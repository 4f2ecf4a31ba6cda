//! A disk that a test can fill.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// From now on, only this thread and what it starts see what it mounts, and that goes with the last of them.
pub fn own_mounts() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
}

/// Unmounts when it is dropped, so that the directory below can be removed.
#[derive(Debug)]
pub struct Mounted(pub PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        // It goes with the namespace at the latest.
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// A file system of its own in this thread's own mount namespace: nothing is left behind, whatever happens. `size` as tmpfs has it.
pub fn small_disk(dir: &Path, size: &str) -> nix::Result<()> {
    own_mounts()?;
    let options = format!("size={size},mode=700");
    mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
}

/// Writes until nothing goes any more.
///
/// # Panics
///
/// If anything but the room is missing.
pub fn fill(path: &Path) {
    let mut ballast = File::options().append(true).create(true).open(path).expect("a file");
    loop {
        match ballast.write(&[0; 4096]) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => return,
            Err(error) => panic!("{error}"),
        }
    }
}
