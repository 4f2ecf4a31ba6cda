//! Loads the programs on the pinned maps and attaches them under a new generation of pinned links.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Mutex;

use anyhow::Context;
use aya::programs::{
    CgroupAttachMode, CgroupSockAddr, Program, ProgramInfo, SkLookup, SockOps, links::FdLink,
};
use aya::{Ebpf, EbpfLoader};
use guard_common::NETNS_UNSET;
use serde::Serialize;

use super::maps::{LOGS, PINNED, lock};
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
const SHARED: [&str; 4] = ["mine", "who4", "who6", "tie"];

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
fn on_pinned_maps(pins: &Pins, links: &Path) -> EbpfLoader<'static> {
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

/// Where the shared programs are attached.
pub(super) struct Places<'a> {
    pub cgroup_root: &'a Path,
    pub cgroup: &'a Path,
}

/// Attaches the shared programs and pins its link in `links`.
pub(super) fn attach(bpf: &mut Ebpf, places: &Places<'_>, links: &Path) -> anyhow::Result<()> {
    let root = File::open(places.cgroup_root).context("cannot open the cgroup2 root")?;
    let own = File::open(places.cgroup).context("cannot open the guard's cgroup")?;
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

// `Single` is the only mode that cgroup links take; several links live side by side all the same.
fn sock_ops(program: &mut SockOps, cgroup: impl AsFd) -> anyhow::Result<FdLink> {
    let id = program.attach(cgroup, CgroupAttachMode::Single)?;
    Ok(program.take_link(id)?.try_into()?)
}

fn sock_addr(program: &mut CgroupSockAddr, cgroup: impl AsFd) -> anyhow::Result<FdLink> {
    let id = program.attach(cgroup, CgroupAttachMode::Single)?;
    Ok(program.take_link(id)?.try_into()?)
}

/// Loads one instance of `steer` for each network namespace, on the maps that all share.
pub(super) struct Steers {
    loader: Mutex<EbpfLoader<'static>>,
    /// The object, and where in it the namespace's cookie belongs.
    object: Mutex<(Vec<u8>, usize)>,
}

impl Steers {
    /// `links` is the directory of this start. The maps must be there already.
    pub(super) fn new(pins: &Pins, links: &Path) -> anyhow::Result<Self> {
        let object = object()?.to_vec();
        let unset = NETNS_UNSET.to_ne_bytes();
        let mut places = memchr::memmem::find_iter(&object, &unset);
        let (Some(at), None) = (places.next(), places.next()) else {
            anyhow::bail!("the kernel object has no one place for the namespace; build it again")
        };
        Ok(Self { loader: Mutex::new(on_pinned_maps(pins, links)), object: Mutex::new((object, at)) })
    }

    /// Attaches an instance to the namespace `netns` with this `cookie` and pins its link as `pin`. It runs after every
    /// other `sk_lookup` program that is there. No descriptor stays open.
    pub(super) fn attach(&self, cookie: u64, netns: impl AsFd, pin: &Path) -> anyhow::Result<ProgramStatus> {
        let mut bpf = {
            let mut object = lock(&self.object);
            let (bytes, at) = &mut *object;
            if let Some(place) = bytes.get_mut(*at..at.saturating_add(size_of::<u64>())) {
                place.copy_from_slice(&cookie.to_ne_bytes());
            }
            lock(&self.loader).load(bytes).context("cannot open the kernel maps")?
        };
        let status = verify_one(&mut bpf, "steer")?;
        let Some(Program::SkLookup(program)) = bpf.program_mut("steer") else {
            anyhow::bail!("program steer has an unexpected type; build the kernel object again")
        };
        let link: FdLink = steer(program, netns).context("cannot attach program steer")?;
        link.pin(pin).context("cannot pin the link of program steer")?;
        Ok(status)
    }
}

fn steer(program: &mut SkLookup, netns: impl AsFd) -> anyhow::Result<FdLink> {
    let id = program.attach(netns)?;
    Ok(program.take_link(id)?.into())
}
