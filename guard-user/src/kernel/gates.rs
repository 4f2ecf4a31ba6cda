//! The programs that stand at the servers' own cgroups. A kernel that lacks what one of them needs runs the guard
//! without it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::Context;
use aya::Ebpf;

use super::load::{self, ProgramStatus, on_pinned_maps};
use super::maps::lock;
use super::object::object;
use super::pins::Pins;

/// Programs that this kernel may not have.
const OPTIONAL: [&str; 2] = ["wall", "leave"];
const NEEDED: [&str; 4] = ["out4", "out6", "say4", "say6"];

/// Attaches the programs of servers' cgroups, and takes them away.
pub(crate) struct Gates {
    bpf: Mutex<Ebpf>,
    links: PathBuf,
    loaded: Vec<ProgramStatus>,
    missing: BTreeMap<&'static str, String>,
}

impl Gates {
    /// Loads the programs on the maps that are there. `guard` is the id of the guard's cgroup, `links` the directory of
    /// this start.
    pub(super) fn new(pins: &Pins, links: &Path, guard: u64) -> anyhow::Result<Self> {
        let mut loader = on_pinned_maps(pins, links);
        let mut bpf = loader
            .override_global("GUARD_CGROUP", &guard, true)
            .load(object()?)
            .context("cannot open the kernel maps")?;
        let mut loaded = Vec::new();
        let mut missing = BTreeMap::new();
        for name in NEEDED {
            loaded.push(load::verify(&mut bpf, name)?);
        }
        for name in OPTIONAL {
            match load::verify(&mut bpf, name) {
                Ok(status) => loaded.push(status),
                Err(error) => {
                    missing.insert(name, format!("{error:#}"));
                }
            }
        }
        Ok(Self { bpf: Mutex::new(bpf), links: links.to_owned(), loaded, missing })
    }

    /// The programs that the kernel took.
    pub(super) fn programs(&self) -> &[ProgramStatus] {
        &self.loaded
    }

    /// Why the kernel did not take this program.
    pub(super) fn missing(&self, name: &str) -> Option<&str> {
        self.missing.get(name).map(String::as_str)
    }

    /// Attaches a program to a cgroup. One that is there already stays.
    pub(super) fn attach(&self, name: &str, cgroup: &Path, id: u64) -> anyhow::Result<()> {
        let pin = self.pin(name, id);
        if pin.exists() {
            return Ok(());
        }
        let dir = File::open(cgroup).with_context(|| format!("cannot open {}", cgroup.display()))?;
        load::attach(&mut lock(&self.bpf), name, dir, &pin)
    }

    /// Takes a program from the cgroup with this id. It may be gone already.
    pub(super) fn detach(&self, name: &str, id: u64) -> anyhow::Result<()> {
        let pin = self.pin(name, id);
        match fs::remove_file(&pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", pin.display()))
            }
            _ => Ok(()),
        }
    }

    fn pin(&self, name: &str, id: u64) -> PathBuf {
        self.links.join(format!("{name}-{id}"))
    }
}

/// The id of a cgroup by its directory.
pub(super) fn id(cgroup: &Path) -> io::Result<u64> {
    fs::metadata(cgroup).map(|meta| meta.ino())
}

/// The directory of a cgroup2 path as `/proc/<pid>/cgroup` gives it.
pub(super) fn directory(root: &Path, path: &str) -> PathBuf {
    match path.trim_matches('/') {
        "" => root.to_owned(),
        below => root.join(below),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cgroup_path_counts_from_the_root() {
        let root = Path::new("/sys/fs/cgroup");
        assert_eq!(directory(root, "/system.slice/a.service"), root.join("system.slice/a.service"));
        assert_eq!(directory(root, "/").as_os_str(), root.as_os_str());
    }
}
