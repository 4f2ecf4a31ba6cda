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
use super::sys;

/// Programs that this kernel may not have.
const OPTIONAL: [&str; 2] = ["wall", "leave"];
pub(super) const NEEDED: [&str; 4] = ["out4", "out6", "say4", "say6"];

/// Attaches the programs of servers' cgroups, and takes them away.
pub(crate) struct Gates {
    bpf: Mutex<Ebpf>,
    links: PathBuf,
    loaded: Vec<ProgramStatus>,
    missing: BTreeMap<&'static str, String>,
    /// What stands where.
    attached: Mutex<BTreeMap<Gate, PathBuf>>,
}

/// A program, and the id of the cgroup that it stands at.
pub(super) type Gate = (&'static str, u64);

impl Gates {
    /// Loads the programs on the maps that are there. `guard` is the id of the guard's cgroup, `links` the directory of
    /// this start.
    pub(super) fn new(pins: &Pins, links: &Path, guard: u64) -> anyhow::Result<Self> {
        let mut loader = on_pinned_maps(pins, links);
        let mut bpf = loader
            .override_global("GUARD_CGROUP", &guard, true)
            .load(object()?)
            .context("cannot open the kernel maps")?;
        let mut taken = Vec::new();
        let mut missing = BTreeMap::new();
        for name in NEEDED {
            taken.push(load::verify(&mut bpf, name)?);
        }
        for name in OPTIONAL {
            match load::verify(&mut bpf, name) {
                Ok(status) => taken.push(status),
                Err(error) => {
                    missing.insert(name, format!("{error:#}"));
                }
            }
        }
        Ok(Self {
            bpf: Mutex::new(bpf),
            links: links.to_owned(),
            loaded: taken,
            missing,
            attached: Mutex::default(),
        })
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
    pub(super) fn attach(&self, name: &'static str, cgroup: &Path, id: u64) -> anyhow::Result<()> {
        let mut attached = lock(&self.attached);
        if !self.pin(name, id).exists() {
            self.stand(name, cgroup, id)?;
        }
        attached.insert((name, id), cgroup.to_owned());
        Ok(())
    }

    fn stand(&self, name: &str, cgroup: &Path, id: u64) -> anyhow::Result<()> {
        let dir = File::open(cgroup).with_context(|| format!("cannot open {}", cgroup.display()))?;
        load::attach(&mut lock(&self.bpf), name, dir, &self.pin(name, id))
    }

    /// What does not stand any more where it was put, in words. A cgroup that is gone needs nothing.
    pub(super) fn differ(&self) -> Vec<(Gate, String)> {
        let attached = lock(&self.attached);
        let alive = attached.iter().filter(|((_, cgroup), dir)| id(dir).ok() == Some(*cgroup));
        alive.filter_map(|(gate, _)| Some((*gate, self.differs(*gate)?))).collect()
    }

    fn differs(&self, (name, cgroup): Gate) -> Option<String> {
        let ours = self.loaded.iter().find(|program| program.name == name)?.id;
        match sys::link(&self.pin(name, cgroup)) {
            Err(error) => Some(format!("its pin is gone ({error})")),
            // The kernel tells the lower half of the id.
            Ok(link) if u64::from(link.target) != cgroup & u64::from(u32::MAX) => {
                Some("it is detached".into())
            }
            Ok(link) if link.program != ours => {
                Some(format!("it runs program {}, not ours ({ours})", link.program))
            }
            Ok(_) => None,
        }
    }

    /// Puts it there anew, unless it was taken away meanwhile.
    pub(super) fn mend(&self, (name, id): Gate) -> anyhow::Result<()> {
        let attached = lock(&self.attached);
        let Some(dir) = attached.get(&(name, id)) else { return Ok(()) };
        let _gone = fs::remove_file(self.pin(name, id));
        self.stand(name, dir, id)
    }

    /// Attaches what a guard before this one had attached, so that there is no moment without. `older` are the pins of
    /// its links, `root` is where cgroup2 is mounted. Returns the program, the id and the directory of each.
    pub(super) fn adopt(
        &self,
        older: &[PathBuf],
        root: &Path,
    ) -> anyhow::Result<Vec<(&'static str, u64, PathBuf)>> {
        let wanted: BTreeMap<u64, Vec<&'static str>> =
            older.iter().filter_map(|pin| read_pin(pin)).fold(BTreeMap::new(), |mut wanted, (name, id)| {
                wanted.entry(id).or_insert_with(Vec::new).push(name);
                wanted
            });
        let mut adopted = Vec::new();
        if wanted.is_empty() {
            return Ok(adopted);
        }
        for (id, dir) in all_below(root) {
            for name in wanted.get(&id).into_iter().flatten().filter(|name| self.missing(name).is_none()) {
                self.attach(name, &dir, id)?;
                adopted.push((*name, id, dir.clone()));
            }
        }
        Ok(adopted)
    }

    /// Takes a program from the cgroup with this id. It may be gone already.
    pub(super) fn detach(&self, name: &'static str, id: u64) -> anyhow::Result<()> {
        let mut attached = lock(&self.attached);
        attached.remove(&(name, id));
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

/// The program and the cgroup's id in the name of a pin.
fn read_pin(pin: &Path) -> Option<(&'static str, u64)> {
    let (name, id) = pin.file_name()?.to_str()?.split_once('-')?;
    let name = NEEDED.into_iter().chain(OPTIONAL).find(|known| *known == name)?;
    Some((name, id.parse().ok()?))
}

/// A cgroup and all below it, with their ids.
fn all_below(dir: &Path) -> Vec<(u64, PathBuf)> {
    let mut found: Vec<_> = id(dir).ok().map(|id| (id, dir.to_owned())).into_iter().collect();
    let children = fs::read_dir(dir).into_iter().flatten().flatten();
    for child in children.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        found.extend(all_below(&child.path()));
    }
    found
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
    fn the_name_of_a_pin_tells_program_and_cgroup() {
        assert_eq!(read_pin("/x/wall-17".as_ref()), Some(("wall", 17)));
        for other in ["/x/steer-17", "/x/wall-", "/x/wall", "/x/AYA_LOGS", "/x/ns-1-steer"] {
            assert_eq!(read_pin(other.as_ref()), None, "{other}");
        }
    }

    #[test]
    fn a_cgroup_path_counts_from_the_root() {
        let root = Path::new("/sys/fs/cgroup");
        assert_eq!(directory(root, "/system.slice/a.service"), root.join("system.slice/a.service"));
        assert_eq!(directory(root, "/").as_os_str(), root.as_os_str());
    }
}
