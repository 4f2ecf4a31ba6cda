//! Loads the programs on the pinned maps and attaches them under a new generation of pinned links.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use anyhow::Context;
use aya::programs::{CgroupAttachMode, Program, ProgramInfo, links::FdLink};
use aya::{Ebpf, EbpfLoader};
use serde::Serialize;

use super::maps::{LOGS, PINNED};
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

/// Names of the programs that all namespaces share, in the order in which they are attached: `mine` comes first so that
/// no upstream connection goes unrecorded.
pub(super) const SHARED: [&str; 8] = ["mine", "who4", "who6", "hold4", "hold6", "held4", "held6", "tie"];

/// Creates or opens the pinned maps and reads the programs. Nothing is attached yet. `links` is the directory of this
/// start.
pub(super) fn load(pins: &Pins, links: &Path) -> anyhow::Result<Ebpf> {
    let object = object()?;
    pins.make_maps_dir()?;
    on_pinned_maps(pins, links)
        .load(object)
        .context("cannot create the kernel maps; `mcp-guard doctor` tells what this kernel lacks")
}

/// A loader that takes the pinned maps. Making one reads the kernel's type information, which takes longer than the
/// rest of a load.
pub(super) fn on_pinned_maps<'a>(pins: &Pins, links: &Path) -> EbpfLoader<'a> {
    let mut loader = EbpfLoader::new();
    // No program follows the kernel's own structures.
    loader.btf(None);
    for name in PINNED {
        loader.map_pin_path(name, pins.map(name));
    }
    loader.map_pin_path(LOGS, links.join(LOGS));
    loader
}

/// Puts the shared programs through the verifier.
pub(super) fn verify_shared(bpf: &mut Ebpf) -> anyhow::Result<Vec<ProgramStatus>> {
    SHARED.into_iter().map(|name| verify(bpf, name)).collect()
}

/// Puts one program through the verifier.
pub(super) fn verify(bpf: &mut Ebpf, name: &str) -> anyhow::Result<ProgramStatus> {
    let program =
        bpf.program_mut(name).with_context(|| format!("the kernel object has no program {name}"))?;
    let result = match program {
        Program::SkLookup(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSkb(program) => program.load(),
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

/// Where the shared programs are attached.
pub(super) struct Places<'a> {
    pub cgroup_root: &'a Path,
    pub cgroup: &'a Path,
}

/// Attaches every shared program and pins its link in `links`.
pub(super) fn attach_shared(bpf: &mut Ebpf, places: &Places<'_>, links: &Path) -> anyhow::Result<()> {
    SHARED.into_iter().try_for_each(|name| attach_one(bpf, name, places, links))
}

/// Attaches one of the shared programs and pins its link in `links`.
pub(super) fn attach_one(
    bpf: &mut Ebpf,
    name: &str,
    places: &Places<'_>,
    links: &Path,
) -> anyhow::Result<()> {
    let place = if name == "mine" { places.cgroup } else { places.cgroup_root };
    let cgroup = File::open(place).with_context(|| format!("cannot open the cgroup {}", place.display()))?;
    attach(bpf, name, &cgroup, &links.join(name))
}

/// Attaches a loaded program to a cgroup and pins its link, which keeps it attached.
pub(super) fn attach(bpf: &mut Ebpf, name: &str, cgroup: impl AsFd, pin: &Path) -> anyhow::Result<()> {
    // The only mode that links take; several links live side by side all the same.
    const MODE: CgroupAttachMode = CgroupAttachMode::Single;
    let attached = || -> anyhow::Result<FdLink> {
        Ok(match bpf.program_mut(name) {
            Some(Program::SockOps(program)) => {
                let id = program.attach(cgroup, MODE)?;
                program.take_link(id)?.try_into()?
            }
            Some(Program::CgroupSock(program)) => {
                let id = program.attach(cgroup, MODE)?;
                program.take_link(id)?.try_into()?
            }
            Some(Program::CgroupSockAddr(program)) => {
                let id = program.attach(cgroup, MODE)?;
                program.take_link(id)?.try_into()?
            }
            Some(Program::CgroupSkb(program)) => {
                let direction = program.expected_attach_type().context("a program without a direction")?;
                let id = program.attach(cgroup, direction, MODE)?;
                program.take_link(id)?.try_into()?
            }
            _ => anyhow::bail!("it is not loaded"),
        })
    };
    let link = attached().with_context(|| format!("cannot attach program {name}"))?;
    // The pin keeps the link; our handle may go.
    link.pin(pin).with_context(|| format!("cannot pin the link of program {name}"))?;
    Ok(())
}
