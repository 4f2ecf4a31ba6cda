//! The raw kernel calls that no library at hand offers.
#![expect(unsafe_code, reason = "two system calls and one registration without a safe wrapper")]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `BPF_PROG_QUERY` in `bpf(2)`.
const BPF_PROG_QUERY: libc::c_long = 16;
/// `enum bpf_attach_type`.
const BPF_SK_LOOKUP: u32 = 36;
/// More programs than this on one namespace are reported as an error.
const PROGRAMS_MAX: usize = 64;

/// The part of `union bpf_attr` that `BPF_PROG_QUERY` reads, of `include/uapi/linux/bpf.h`.
#[repr(C)]
#[derive(Default)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    zero: u32,
    prog_attach_flags: u64,
}

/// Ids of the `sk_lookup` programs on a network namespace, in the order in which they run.
pub(super) fn sk_lookup_programs(netns: impl AsFd) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; PROGRAMS_MAX];
    let mut attr = QueryAttr {
        target_fd: u32::try_from(netns.as_fd().as_raw_fd()).map_err(io::Error::other)?,
        attach_type: BPF_SK_LOOKUP,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: u32::try_from(PROGRAMS_MAX).map_err(io::Error::other)?,
        ..QueryAttr::default()
    };
    // SAFETY: `attr` is a valid attribute of the stated size; the kernel writes at most `prog_cnt` ids into `ids`,
    // which outlives the call, and changes `attr` in place.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut attr, size_of::<QueryAttr>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    ids.truncate(attr.prog_cnt as usize);
    Ok(ids)
}

/// `SO_NETNS_COOKIE`: the cookie of the network namespace of a socket (Linux 5.14).
pub(super) fn netns_cookie(socket: impl AsFd) -> io::Result<u64> {
    let mut cookie = 0_u64;
    let mut len = libc::socklen_t::try_from(size_of::<u64>()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `len` bytes to `cookie`, which has that size.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// Owners of one file that they keep open and never exchange.
pub(super) trait OwnsFile: AsRawFd {}

impl OwnsFile for RingBuf<MapData> {}
impl<T> OwnsFile for EbpfLogger<T> {}

/// Lets a task wait until a ring buffer holds something. To be called inside a tokio runtime.
pub(super) fn wait_for<T: OwnsFile>(ring: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: `OwnsFile` is implemented, in this file only, for types that hold the map's descriptor from their
    // making to their drop and return it from every `as_raw_fd`.
    unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }.map_err(|error| error.into_parts().1)
}
