//! A program of somebody else's on a cgroup, attached so that it shares its hook with nobody.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::libc;

/// Commands of `bpf(2)`, and numbers of `linux/bpf.h`.
const PROG_LOAD: libc::c_long = 5;
const PROG_ATTACH: libc::c_long = 8;
const PROG_DETACH: libc::c_long = 9;
const TYPE_SOCK_OPS: u32 = 13;
const ATTACH_SOCK_OPS: u32 = 3;

/// `r0 = 1; exit`.
const PASS: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];

#[repr(C)]
#[derive(Default)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
}

#[repr(C)]
#[derive(Default)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

/// A `sock_ops` program that does nothing and lets nobody beside it. Dropping it takes it away.
#[derive(Debug)]
pub struct Exclusive {
    cgroup: File,
    program: OwnedFd,
}

impl Exclusive {
    pub fn at(cgroup: &Path) -> io::Result<Self> {
        let cgroup = File::open(cgroup)?;
        let load = Load {
            kind: TYPE_SOCK_OPS,
            count: 2,
            instructions: PASS.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
        };
        let program = call(PROG_LOAD, &load)?;
        // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
        let program = unsafe { OwnedFd::from_raw_fd(program) };
        let this = Self { cgroup, program };
        call(PROG_ATTACH, &this.attach())?;
        Ok(this)
    }

    fn attach(&self) -> Attach {
        let number = |fd: libc::c_int| u32::try_from(fd).expect("a descriptor");
        Attach {
            target: number(self.cgroup.as_raw_fd()),
            program: number(self.program.as_raw_fd()),
            kind: ATTACH_SOCK_OPS,
            flags: 0,
        }
    }
}

impl Drop for Exclusive {
    fn drop(&mut self) {
        // The cgroup may be gone, and the program with it.
        let _gone = call(PROG_DETACH, &self.attach());
    }
}

fn call<T>(command: libc::c_long, attr: &T) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is one of the two structs above, of the stated size, and what it points to is static; the kernel
    // takes what is left out as zero, and only reads.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        libc::c_int::try_from(result).map_err(io::Error::other)
    }
}
