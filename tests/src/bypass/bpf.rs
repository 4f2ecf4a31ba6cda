//! Pulling the guard out of the kernel.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::libc;
use serde_json::{Value, json};

use super::connect::owned;

/// Commands of `bpf(2)`.
const OBJ_GET: libc::c_long = 7;
const PROG_GET_NEXT_ID: libc::c_long = 11;
const PROG_GET_FD_BY_ID: libc::c_long = 13;
const MAP_GET_FD_BY_ID: libc::c_long = 14;
const LINK_GET_FD_BY_ID: libc::c_long = 30;
/// Ids are counted from 1 since the host's start; a host on which many programs came and went is far on.
const IDS_MAX: u32 = 100_000_000;

/// The parts of `union bpf_attr` that these commands read.
#[repr(C)]
#[derive(Default)]
struct Attr {
    path_or_id: u64,
    fd: u32,
    flags: u32,
}

/// Everything that was possible, in words: getting at maps, programs and links by path and by id, and removing the links
/// below `pins`.
pub fn run(pins: &Path) -> Value {
    let mut done = Vec::new();
    if fs::read_dir(pins).is_ok() {
        done.push("list the pins");
    }
    if by_path(&pins.join("maps/POLICY")).is_ok() {
        done.push("open a map by its pin");
    }
    for (words, command) in [
        ("open a program by its id", PROG_GET_FD_BY_ID),
        ("open a map by its id", MAP_GET_FD_BY_ID),
        ("open a link by its id", LINK_GET_FD_BY_ID),
    ] {
        if any_by_id(command) {
            done.push(words);
        }
    }
    if call(PROG_GET_NEXT_ID, &mut Attr::default()).is_ok() {
        done.push("list programs");
    }
    let links = pins.join("links");
    let removed: Vec<PathBuf> =
        crate::residue::files(&links).into_iter().filter(|link| fs::remove_file(link).is_ok()).collect();
    if !removed.is_empty() {
        done.push("remove the links");
    }
    if fs::rename(&links, pins.join("away")).is_ok() {
        done.push("rename the links");
    }
    json!({"done": done})
}

fn by_path(path: &Path) -> io::Result<()> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let fd = call(OBJ_GET, &mut Attr { path_or_id: path.as_ptr() as u64, ..Attr::default() })?;
    owned(fd).map(drop)
}

/// Whether any object of this kind could be opened. Without the right to, the first number is refused.
fn any_by_id(command: libc::c_long) -> bool {
    for id in 1..IDS_MAX {
        match call(command, &mut Attr { path_or_id: id.into(), ..Attr::default() }).and_then(owned) {
            Ok(_) => return true,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {}
            Err(_) => return false,
        }
    }
    false
}

fn call(command: libc::c_long, attr: &mut Attr) -> io::Result<libc::c_int> {
    // SAFETY: `attr` has the stated size; a path in it outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<Attr>()) };
    super::checked(libc::c_int::try_from(result).map_err(io::Error::other)?)
}
