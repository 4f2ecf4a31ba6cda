//! Program types, map types and helpers: each is loaded once.

use std::io;

use aya::maps::MapType;
use aya::programs::{ProgramError, ProgramType};
use aya::sys::{BpfHelper, SyscallError, is_helper_supported, is_map_supported};

use super::bpf::{self, Kind};
use super::{Outcome, Row};

pub(super) fn rows() -> Vec<Row> {
    let kernel = "the guard cannot run on this kernel; use one with CONFIG_BPF_SYSCALL and this feature (5.15 or later)";
    let mut rows = Vec::new();
    for (name, kind) in [
        ("program: sk_lookup", bpf::SK_LOOKUP),
        ("program: sock_ops", bpf::SOCK_OPS),
        ("program: connect4", bpf::CONNECT4),
        ("program: connect6", bpf::CONNECT6),
    ] {
        rows.push(Row::needed(name, load(kind), kernel));
    }
    for (name, kind) in [
        ("map: array", MapType::Array),
        ("map: hash", MapType::Hash),
        ("map: LRU hash", MapType::LruHash),
        ("map: per-CPU array", MapType::PerCpuArray),
        ("map: per-CPU hash", MapType::PerCpuHash),
        ("map: longest-prefix trie", MapType::LpmTrie),
        ("map: sockhash", MapType::SockHash),
        ("map: ring buffer", MapType::RingBuf),
    ] {
        rows.push(Row::needed(name, map(kind), kernel));
    }
    for (name, program, helper) in [
        ("helper: sk_assign in sk_lookup", ProgramType::SkLookup, BpfHelper::BPF_FUNC_sk_assign),
        ("helper: get_netns_cookie in sock_ops", ProgramType::SockOps, BpfHelper::BPF_FUNC_get_netns_cookie),
        (
            "helper: get_socket_cookie in connect4/6",
            ProgramType::CgroupSockAddr,
            BpfHelper::BPF_FUNC_get_socket_cookie,
        ),
        (
            "helper: get_current_comm in connect4/6",
            ProgramType::CgroupSockAddr,
            BpfHelper::BPF_FUNC_get_current_comm,
        ),
        (
            "helper: get_current_cgroup_id in connect4/6",
            ProgramType::CgroupSockAddr,
            BpfHelper::BPF_FUNC_get_current_cgroup_id,
        ),
        (
            "helper: get_current_ancestor_cgroup_id in connect4/6",
            ProgramType::CgroupSockAddr,
            BpfHelper::BPF_FUNC_get_current_ancestor_cgroup_id,
        ),
    ] {
        rows.push(Row::needed(name, call(program, helper), kernel));
    }
    rows.push(Row::useful(
        "helper: get_current_ancestor_cgroup_id in sock_ops",
        call(ProgramType::SockOps, BpfHelper::BPF_FUNC_get_current_ancestor_cgroup_id),
        "no `kernel.watch`, no `other_ports: protect` or `deny`; other ports of servers are found up to half a second later \
         (Linux 6.4 has it)",
    ));
    rows.push(Row::useful(
        "helper: get_netns_cookie in cgroup_skb",
        call(ProgramType::CgroupSkb, BpfHelper::BPF_FUNC_get_netns_cookie),
        "no second wall, and locked servers' raw packets leave: steering and refused calls are all there is (Linux 6.15 has it)",
    ));
    rows
}

fn load(kind: Kind) -> Outcome {
    match bpf::load(kind) {
        Ok(_) => Outcome::yes("loaded"),
        Err(error) => Outcome::refused("loading it", &error),
    }
}

fn map(kind: MapType) -> Outcome {
    match is_map_supported(kind) {
        Ok(true) => Outcome::yes("made"),
        Ok(false) => Outcome::no("this kernel does not know it"),
        Err(SyscallError { io_error, .. }) => Outcome::refused("making it", &io_error),
    }
}

fn call(program: ProgramType, helper: BpfHelper) -> Outcome {
    match is_helper_supported(program, helper) {
        Ok(true) => Outcome::yes("the verifier takes the call"),
        Ok(false) => Outcome::no("this kernel does not offer it to such programs"),
        Err(ProgramError::SyscallError(SyscallError { io_error, .. })) => {
            Outcome::refused("loading it", &io_error)
        }
        Err(error) => Outcome::refused("loading it", &io::Error::other(error)),
    }
}
