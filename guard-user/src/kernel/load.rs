//! Loads the programs on the pinned maps and attaches them under a new generation of pinned links.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::Context;
use aya::programs::{
    CgroupAttachMode, CgroupSockAddr, Program, ProgramInfo, SkLookup, SockOps, links::FdLink,
};
use aya::{Ebpf, EbpfLoader};
use serde::Serialize;

use super::maps::PINNED;
use super::netns::Netns;
use super::object::object;
use super::pins::{Pins, steer_name};

/// A loaded program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProgramStatus {
    pub name: String,
    /// The id under which `bpftool` knows it.
    pub id: u32,
    /// Instructions that the verifier walked.
    pub verified: Option<u32>,
}

/// The programs that serve all namespaces, in the order in which they are attached: `mine` comes first so that no
/// upstream connection goes unrecorded. What only watches comes before what steers.
const SHARED: [&str; 4] = ["mine", "who4", "who6", "tie"];
/// The program of which each namespace has an instance.
const STEER: &str = "steer";
/// The programs' log. Each start has its own; it goes with the links.
const LOG: &str = "AYA_LOGS";

/// Creates or opens the pinned maps and reads the programs that serve all namespaces. Nothing is attached yet.
pub(super) fn shared(pins: &Pins, links: &Path) -> anyhow::Result<Ebpf> {
    pins.make_maps_dir()?;
    load(pins, links, 0)
}

/// Loads an instance of `steer` for a namespace, attaches it there, and pins its link in `links`. After [`shared`].
pub(super) fn steer(pins: &Pins, links: &Path, netns: &Netns) -> anyhow::Result<ProgramStatus> {
    let mut bpf = load(pins, links, netns.cookie)?;
    let loaded = verify_one(&mut bpf, STEER)?;
    let Some(Program::SkLookup(program)) = bpf.program_mut(STEER) else {
        anyhow::bail!("program {STEER} has an unexpected type; build the kernel object again");
    };
    let link = attach_steer(program, netns).with_context(|| format!("cannot attach program {STEER}"))?;
    link.pin(links.join(steer_name(netns.cookie)))
        .with_context(|| format!("cannot pin the link of program {STEER}"))?;
    Ok(loaded)
}

fn load(pins: &Pins, links: &Path, netns: u64) -> anyhow::Result<Ebpf> {
    let object = object()?;
    let mut loader = EbpfLoader::new();
    loader.override_global("NETNS", &netns, true);
    for name in PINNED {
        loader.map_pin_path(name, pins.map(name));
    }
    loader.map_pin_path(LOG, links.join(LOG));
    loader
        .load(object)
        .context("cannot create the kernel maps; `mcp-guard doctor` tells what this kernel lacks")
}

/// Puts the shared programs through the verifier.
pub(super) fn verify(bpf: &mut Ebpf) -> anyhow::Result<Vec<ProgramStatus>> {
    SHARED.into_iter().map(|name| verify_one(bpf, name)).collect()
}

fn verify_one(bpf: &mut Ebpf, name: &str) -> anyhow::Result<ProgramStatus> {
    let program =
        bpf.program_mut(name).with_context(|| format!("the kernel object has no program {name}"))?;
    let result = match program {
        Program::SkLookup(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        _ => anyhow::bail!("program {name} has an unexpected type; build the kernel object again"),
    };
    result.with_context(|| {
        format!("the kernel does not take program {name}; `mcp-guard doctor` tells what this kernel lacks")
    })?;
    let info = program.info().with_context(|| format!("cannot look at program {name}"))?;
    Ok(status(name, &info))
}

fn status(name: &str, info: &ProgramInfo) -> ProgramStatus {
    ProgramStatus { name: name.to_owned(), id: info.id(), verified: info.verified_instruction_count() }
}

/// Attaches the shared programs and pins their links in `links`.
pub(super) fn attach(
    bpf: &mut Ebpf,
    cgroup_root: &Path,
    guards_cgroup: &Path,
    links: &Path,
) -> anyhow::Result<()> {
    let root = File::open(cgroup_root).context("cannot open the cgroup2 root")?;
    let own = File::open(guards_cgroup).context("cannot open the guard's cgroup")?;
    for name in SHARED {
        let cgroup = if name == "mine" { &own } else { &root };
        let link = match bpf.program_mut(name) {
            Some(Program::SockOps(program)) => sock_ops(program, cgroup),
            Some(Program::CgroupSockAddr(program)) => sock_addr(program, cgroup),
            _ => anyhow::bail!("program {name} is not loaded"),
        }
        .with_context(|| format!("cannot attach program {name}"))?;
        // The pin keeps the link; our handle may go.
        link.pin(links.join(name)).with_context(|| format!("cannot pin the link of program {name}"))?;
    }
    Ok(())
}

fn attach_steer(program: &mut SkLookup, netns: impl AsFd) -> anyhow::Result<FdLink> {
    let id = program.attach(netns)?;
    Ok(program.take_link(id)?.into())
}

// `Single` is the only mode that cgroup links take; several links live side by side all the same.
fn sock_ops(program: &mut SockOps, cgroup: impl AsFd) -> anyhow::Result<FdLink> {
    let id = program.attach(cgroup, CgroupAttachMode::Single)?;
    Ok(program.take_link(id)?.try_into()?)
}

fn sock_addr(program: &mut CgroupSockAddr, cgroup: impl AsFd) -> anyhow::Result<FdLink> {
    let id = program.attach(cgroup, CgroupAttachMode::Single)?;
    Ok(program.take_link(id)?.try_into()?)
}
