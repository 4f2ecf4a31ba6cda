//! A disk that a test can fill.

use std::fs::File;
use std::io::{ErrorKind, Write};
use std::path::Path;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// A file system of its own in this thread's own mount namespace: nothing is left behind, whatever happens. `size` as tmpfs has it.
pub fn small_disk(dir: &Path, size: &str) -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
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
