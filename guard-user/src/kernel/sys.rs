//! The raw kernel calls that no library at hand offers.
#![expect(unsafe_code, reason = "system calls and one registration without a safe wrapper")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use nix::libc;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// `BPF_OBJ_GET` in `bpf(2)`.
const BPF_OBJ_GET: libc::c_long = 7;
/// `BPF_MAP_LOOKUP_AND_DELETE_ELEM` in `bpf(2)`.
const BPF_MAP_LOOKUP_AND_DELETE_ELEM: libc::c_long = 21;
/// `BPF_OBJ_GET_INFO_BY_FD` in `bpf(2)`.
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
/// `BPF_PROG_QUERY` in `bpf(2)`.
const BPF_PROG_QUERY: libc::c_long = 16;
/// `enum bpf_attach_type`.
const BPF_SK_LOOKUP: u32 = 36;
/// More programs than this on one namespace are reported as an error.
const PROGRAMS_MAX: usize = 64;

/// The part of `union bpf_attr` that `BPF_MAP_LOOKUP_AND_DELETE_ELEM` reads.
#[repr(C)]
#[derive(Default)]
struct ElementAttr {
    map_fd: u32,
    zero: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// Takes the value of a key out of a hash map, in one step (Linux 5.14). `room` is where the kernel puts it.
pub(super) fn take_from_map<K: aya::Pod, V: aya::Pod>(
    map: impl AsFd,
    key: K,
    mut room: V,
) -> io::Result<Option<V>> {
    let mut attr = ElementAttr {
        map_fd: u32::try_from(map.as_fd().as_raw_fd()).map_err(io::Error::other)?,
        key: (&raw const key) as u64,
        value: (&raw mut room) as u64,
        ..ElementAttr::default()
    };
    // SAFETY: `attr` is a valid attribute of the stated size. The kernel reads as many bytes of `key` and writes as many of
    // `room` as the map's own types have; the callers name those types, which any bytes are good for (`Pod`).
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_MAP_LOOKUP_AND_DELETE_ELEM, &raw mut attr, size_of::<ElementAttr>())
    };
    if result == 0 {
        return Ok(Some(room));
    }
    match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        error => Err(error),
    }
}

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

/// The part of `union bpf_attr` that `BPF_OBJ_GET` reads.
#[repr(C)]
#[derive(Default)]
struct ObjectAttr {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// The part of `union bpf_attr` that `BPF_OBJ_GET_INFO_BY_FD` reads.
#[repr(C)]
#[derive(Default)]
struct InfoAttr {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// `struct bpf_link_info` of a link to a network namespace.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    zero: u32,
    netns_inode: u32,
    attach_type: u32,
}

/// What a pinned link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    /// Id of its program.
    pub program: u32,
    /// Inode of the network namespace, or the lower half of the cgroup's id; 0: it is detached, or its target is dead.
    pub target: u32,
}

/// Inode of the network namespace that the pinned link is attached to; 0 once it is dead.
pub(super) fn netns_of_link(pin: &Path) -> io::Result<u32> {
    link(pin).map(|link| link.target)
}

/// Reads what is pinned there as a link.
pub(super) fn link(pin: &Path) -> io::Result<Link> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = ObjectAttr { pathname: path.as_ptr() as u64, ..ObjectAttr::default() };
    // SAFETY: `attr` is a valid attribute of the stated size, and the path it points to ends with a zero and outlives
    // the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw mut attr, size_of::<ObjectAttr>()) };
    let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor, and nobody else knows it.
    let link = unsafe { OwnedFd::from_raw_fd(fd) };
    let mut info = LinkInfo::default();
    let mut attr = InfoAttr {
        bpf_fd: u32::try_from(link.as_raw_fd()).map_err(io::Error::other)?,
        info_len: u32::try_from(size_of::<LinkInfo>()).map_err(io::Error::other)?,
        info: (&raw mut info) as u64,
    };
    // SAFETY: `attr` is a valid attribute of the stated size; the kernel writes at most `info_len` bytes to `info`, which
    // outlives the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw mut attr, size_of::<InfoAttr>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    // A link to a cgroup has the cgroup's id here, in eight bytes.
    Ok(Link { program: info.program, target: info.netns_inode })
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

/// `FILEID_KERNFS`: a file handle that holds the 64-bit id of a file in cgroup2 (Linux 5.5).
const FILEID_KERNFS: libc::c_int = 0xfe;

/// `struct file_handle` with a kernfs id.
#[repr(C)]
struct KernfsHandle {
    handle_bytes: libc::c_uint,
    handle_type: libc::c_int,
    id: [u8; 8],
}

/// Opens the directory of the cgroup with this id, as a path only. `tree` is any file of the mounted cgroup2 tree.
/// Needs `CAP_DAC_READ_SEARCH`.
pub(super) fn open_cgroup(tree: impl AsFd, id: u64) -> io::Result<OwnedFd> {
    let mut handle = KernfsHandle { handle_bytes: 8, handle_type: FILEID_KERNFS, id: id.to_ne_bytes() };
    // SAFETY: the handle states the size of the id that follows its head; the kernel only reads it. A result that is
    // not negative is a new descriptor that nobody else owns.
    unsafe {
        let fd = libc::syscall(
            libc::SYS_open_by_handle_at,
            tree.as_fd().as_raw_fd(),
            &raw mut handle,
            libc::O_PATH | libc::O_CLOEXEC,
        );
        match i32::try_from(fd) {
            Ok(fd) if fd >= 0 => Ok(OwnedFd::from_raw_fd(fd)),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

/// Where an open file is, as this process sees the tree.
pub(super) fn path_of(file: impl AsFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", file.as_fd().as_raw_fd()))
}

/// Owners of one file that they keep open and never exchange.
pub(super) trait OwnsFile: AsRawFd {}

impl OwnsFile for RingBuf<MapData> {}
impl<T> OwnsFile for EbpfLogger<T> {}
impl OwnsFile for OwnedFd {}

/// [`wait_for`] for those who watch something else than the kernel's own tables.
pub fn readable(file: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    wait_for(file)
}

/// Lets a task wait until a file has something to read. To be called inside a tokio runtime.
pub(super) fn wait_for<T: OwnsFile>(file: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: `OwnsFile` is implemented, in this file only, for types that hold one descriptor from their
    // making to their drop and return it from every `as_raw_fd`.
    unsafe { AsyncFd::register_with_interest(file, Interest::READABLE) }.map_err(|error| error.into_parts().1)
}
