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
use super::object::object;
use super::pins::Pins;

/// A loaded program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProgramStatus {
    pub name: String,
    /// The id under which `bpftool` knows it.
    pub id: u32,
    /// Instructions that the verifier walked.
    pub verified: Option<u32>,
}

/// Names of the programs in the order in which they are attached: what only watches comes before what steers, and
/// `mine` comes first so that no upstream connection goes unrecorded.
const PROGRAMS: [&str; 5] = ["mine", "who4", "who6", "tie", "steer"];

/// Creates or opens the pinned maps and reads the programs. Nothing is attached yet.
pub(super) fn load(pins: &Pins, netns: u64) -> anyhow::Result<Ebpf> {
    let object = object()?;
    pins.make_maps_dir()?;
    let mut loader = EbpfLoader::new();
    loader.override_global("NETNS", &netns, true);
    for name in PINNED {
        loader.map_pin_path(name, pins.map(name));
    }
    loader
        .load(object)
        .context("cannot create the kernel maps; `mcp-guard doctor` tells what this kernel lacks")
}

/// Puts every program through the verifier.
pub(super) fn verify(bpf: &mut Ebpf) -> anyhow::Result<Vec<ProgramStatus>> {
    let mut loaded = Vec::new();
    for name in PROGRAMS {
        let program =
            bpf.program_mut(name).with_context(|| format!("the kernel object has no program {name}"))?;
        let result = match program {
            Program::SkLookup(program) => program.load(),
            Program::SockOps(program) => program.load(),
            Program::CgroupSockAddr(program) => program.load(),
            _ => anyhow::bail!("program {name} has an unexpected type; build the kernel object again"),
        };
        result.with_context(|| {
            format!(
                "the kernel does not take program {name}; `mcp-guard doctor` tells what this kernel lacks"
            )
        })?;
        let info = program.info().with_context(|| format!("cannot look at program {name}"))?;
        loaded.push(status(name, &info));
    }
    Ok(loaded)
}

fn status(name: &str, info: &ProgramInfo) -> ProgramStatus {
    ProgramStatus { name: name.to_owned(), id: info.id(), verified: info.verified_instruction_count() }
}

/// Where programs are attached.
pub(super) struct Places<'a> {
    pub netns: &'a File,
    pub cgroup_root: &'a Path,
    pub cgroup: &'a Path,
}

/// Attaches every program and pins its link in `links`.
pub(super) fn attach(bpf: &mut Ebpf, places: &Places<'_>, links: &Path) -> anyhow::Result<()> {
    let root = File::open(places.cgroup_root).context("cannot open the cgroup2 root")?;
    let own = File::open(places.cgroup).context("cannot open the guard's cgroup")?;
    for name in PROGRAMS {
        let cgroup = if name == "mine" { &own } else { &root };
        let link = match bpf.program_mut(name) {
            Some(Program::SkLookup(program)) => steer(program, places.netns),
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

fn steer(program: &mut SkLookup, netns: impl AsFd) -> anyhow::Result<FdLink> {
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
