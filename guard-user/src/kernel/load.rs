//! Loads the programs on the pinned maps and attaches them under a new generation of pinned links.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::Context;
use aya::programs::{CgroupAttachMode, Program, ProgramError, ProgramInfo, links::FdLink};
use aya::{Ebpf, EbpfLoader};
use serde::Serialize;

use super::features::Features;
use super::maps::{LOGS, PINNED};
use super::object::object;
use super::pins::Pins;
use super::{gates, sys};

/// A loaded program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProgramStatus {
    pub name: String,
    /// The id under which `bpftool` knows it.
    pub id: u32,
    /// The kernel's digest of its instructions, in hex: the same program has the same one under every guard.
    pub tag: String,
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
    let mut loader = on_pinned_maps(pins, links);
    Features::find().write(&mut loader);
    loader
        .load(object)
        .context("cannot create the kernel maps; `mcp-guard doctor` tells what this kernel lacks")
}

/// Puts every program that the guard cannot do without through the verifier, on maps that nobody else has and that are
/// gone when this returns.
pub(super) fn rehearse(features: Features) -> anyhow::Result<Vec<ProgramStatus>> {
    let mut loader = EbpfLoader::new();
    loader.btf(None);
    features.write(&mut loader);
    let mut bpf = loader
        .load(object()?)
        .context("cannot create kernel maps; `mcp-guard doctor` tells what this kernel lacks")?;
    SHARED.into_iter().chain(gates::NEEDED).chain(["steer"]).map(|name| verify(&mut bpf, name)).collect()
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
    result.map_err(|error| anyhow::anyhow!(why(error))).with_context(|| {
        format!("the kernel does not take program {name}; `mcp-guard doctor` tells what this kernel lacks")
    })?;
    let info = program.info().with_context(|| format!("cannot look at program {name}"))?;
    Ok(status(name, &info))
}

/// Why a program was not loaded, in one line: the verifier's log goes through every instruction before it comes to the
/// point. The whole log is for who sets `RUST_LOG=debug`.
fn why(error: ProgramError) -> String {
    let ProgramError::LoadError { io_error, verifier_log } = error else { return error.to_string() };
    let log = verifier_log.to_string();
    tracing::debug!("the verifier: {log}");
    match last_word(&log) {
        Some(word) => format!("{io_error}: {word}"),
        None => io_error.to_string(),
    }
}

/// The verifier's last line that is no statistics.
fn last_word(log: &str) -> Option<&str> {
    let is_word = |line: &&str| {
        const STATISTICS: [&str; 4] = ["processed ", "verification time", "stack depth", "insns processed"];
        !line.is_empty() && !STATISTICS.iter().any(|begin| line.starts_with(begin))
    };
    log.trim_end_matches('\0').lines().map(str::trim).rfind(is_word)
}

/// The programs of two guards, by what they do: names of those whose instructions differ, and of those that only one has.
pub(super) fn changed(before: &[ProgramStatus], now: &[ProgramStatus]) -> Vec<String> {
    let of = |programs: &[ProgramStatus]| -> BTreeMap<String, String> {
        programs.iter().map(|program| (program.name.clone(), program.tag.clone())).collect()
    };
    let (before, now) = (of(before), of(now));
    let names: BTreeSet<&String> = before.keys().chain(now.keys()).collect();
    names.into_iter().filter(|name| before.get(*name) != now.get(*name)).cloned().collect()
}

/// The shared programs behind pinned links, as a former guard loaded them.
pub(super) fn shared_at(pins: &[PathBuf]) -> Vec<ProgramStatus> {
    let shared = |pin: &PathBuf| {
        let name = SHARED.into_iter().find(|name| pin.file_name() == Some(name.as_ref()))?;
        Some((sys::link(pin).ok()?.program, name))
    };
    let names: BTreeMap<u32, &str> = pins.iter().filter_map(shared).collect();
    if names.is_empty() {
        return Vec::new();
    }
    let all = aya::programs::loaded_programs().filter_map(Result::ok);
    all.filter_map(|info| Some(status(names.get(&info.id())?, &info))).collect()
}

fn status(name: &str, info: &ProgramInfo) -> ProgramStatus {
    ProgramStatus {
        name: name.to_owned(),
        id: info.id(),
        tag: format!("{:016x}", info.tag()),
        verified: info.verified_instruction_count(),
    }
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
    let link = attached().map_err(|error| {
        let is_taken = error.chain().filter_map(|cause| cause.downcast_ref::<std::io::Error>()).any(|cause| {
            cause.raw_os_error() == Some(nix::libc::EPERM)
        });
        let error = error.context(format!("cannot attach program {name}"));
        if !is_taken {
            return error;
        }
        error.context(
            "another program may hold a hook of that cgroup, or of one above it, without sharing it: `bpftool cgroup tree` shows it; \
             end whoever attached it",
        )
    })?;
    // The pin keeps the link; our handle may go.
    link.pin(pin).with_context(|| format!("cannot pin the link of program {name}"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verifiers_last_word_is_what_an_operator_hears() {
        let log = "0: R1=ctx\n; \n715: (85) call bpf_x#123\nunknown func bpf_x#123\nprocessed 97 insns (limit 1000000) peak_states 7 \n\n";
        assert_eq!(last_word(log), Some("unknown func bpf_x#123"));
        assert_eq!(last_word("processed 97 insns\n"), None);
        assert_eq!(last_word(""), None);
    }

    #[test]
    fn programs_are_compared_by_their_instructions() {
        let program = |name: &str, id, tag: &str| ProgramStatus {
            name: name.into(),
            id,
            tag: tag.into(),
            verified: None,
        };
        let before = [program("tie", 1, "aa"), program("mine", 2, "bb"), program("old", 3, "cc")];
        let now = [program("tie", 9, "aa"), program("mine", 8, "b0"), program("new", 7, "dd")];
        assert_eq!(changed(&before, &now), ["mine", "new", "old"]);
    }
}
