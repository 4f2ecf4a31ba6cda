//! Loading and attaching one tiny program with the `bpf` system call.
#![expect(
    unsafe_code,
    reason = "the probe must attach to places where the library cannot, with bpf(2) itself"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd, RawFd};

use nix::libc;

/// What is loaded: a program type with its attach type, numbers from `linux/bpf.h`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    program: u32,
    attach: u32,
}

pub(super) const SK_LOOKUP: Kind = Kind { program: 30, attach: 36 };
pub(super) const CONNECT4: Kind = Kind { program: 18, attach: 10 };
pub(super) const CONNECT6: Kind = Kind { program: 18, attach: 11 };
pub(super) const SOCK_OPS: Kind = Kind { program: 13, attach: 3 };

const BPF_PROG_LOAD: u32 = 5;
const BPF_LINK_CREATE: u32 = 28;

/// `r0 = 1; exit`: pass, allow, go on, for each of the kinds above.
const PASS: [u64; 2] = [0x0000_0001_0000_00b7, 0x0000_0000_0000_0095];

/// The head of `union bpf_attr` for `BPF_PROG_LOAD`; the kernel takes what is left out as zero.
#[repr(C)]
struct Load {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The head of `union bpf_attr` for `BPF_LINK_CREATE`.
#[repr(C)]
struct Link {
    prog_fd: RawFd,
    target_fd: RawFd,
    attach_type: u32,
    flags: u32,
}

/// Loads a program that changes nothing. It is gone when the descriptor is.
pub(super) fn load(kind: Kind) -> io::Result<OwnedFd> {
    let license = c"GPL";
    let mut name = [0; 16];
    name[..9].copy_from_slice(b"mcp_probe");
    call(
        BPF_PROG_LOAD,
        &Load {
            prog_type: kind.program,
            insn_cnt: 2,
            insns: PASS.as_ptr() as u64,
            license: license.as_ptr() as u64,
            log_level: 0,
            log_size: 0,
            log_buf: 0,
            kern_version: 0,
            prog_flags: 0,
            prog_name: name,
            prog_ifindex: 0,
            expected_attach_type: kind.attach,
        },
    )
}

/// Attaches a loaded program to a cgroup or a network namespace. It is detached when the descriptor is closed.
pub(super) fn attach(program: impl AsFd, kind: Kind, target: impl AsFd) -> io::Result<OwnedFd> {
    call(
        BPF_LINK_CREATE,
        &Link {
            prog_fd: program.as_fd().as_raw_fd(),
            target_fd: target.as_fd().as_raw_fd(),
            attach_type: kind.attach,
            flags: 0,
        },
    )
}

fn call<T>(command: u32, attr: &T) -> io::Result<OwnedFd> {
    // SAFETY: `attr` is one of the two structs above, valid for reads of its own size, laid out as `union bpf_attr`
    // of that command; the addresses in it point to statics. Both commands only read it.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_ref(attr), size_of::<T>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: both commands return a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// `SO_NETNS_COOKIE` of a socket.
pub(super) fn netns_cookie(socket: impl AsFd) -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0_u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: both pointers are to locals; the kernel writes at most `length` bytes, the size of `cookie`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// Whether the kernel holds its clock for synchronized (`adjtimex` without changing anything).
pub(super) fn clock_is_synchronized() -> io::Result<bool> {
    // SAFETY: `timex` is plain numbers, for which all-zero is valid; `modes` zero means only read.
    let mut about: libc::timex = unsafe { std::mem::zeroed() };
    // SAFETY: the pointer is to a local of the right type.
    let state = unsafe { libc::adjtimex(&raw mut about) };
    if state < 0 { Err(io::Error::last_os_error()) } else { Ok(about.status & libc::STA_UNSYNC == 0) }
}
