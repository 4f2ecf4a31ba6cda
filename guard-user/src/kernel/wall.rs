//! The second wall: at each server's cgroup, a program drops what reaches the server's sockets and is not the guard's,
//! by whatever way it came.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use guard_common::{SWITCH_WALL, WALL_COUNT, WALL_ENFORCE, WALL_OFF};
use serde::Serialize;

use super::gates::{self, Gates};
use super::maps::{Maps, lock};
use crate::config::WallMode;

const PROGRAM: &str = "wall";

/// Keeps the wall at the cgroups of the pinned servers.
pub(crate) struct Walls {
    gates: Arc<Gates>,
    mode: WallMode,
    /// Cgroups with a wall, by id.
    covered: Mutex<BTreeMap<u64, PathBuf>>,
    /// Why some cgroup has none, by its path.
    failed: Mutex<BTreeMap<PathBuf, String>>,
}

/// What `status` shows of the wall.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WallStatus {
    /// `off`, `count` or `enforce`: what the kernel does now.
    pub mode: &'static str,
    /// Cgroups whose sockets it stands before.
    pub cgroups: Vec<PathBuf>,
    /// What does not stand, in words.
    pub problems: Vec<String>,
}

impl Walls {
    /// Begins with counting; a wall that a guard before this one has set up to drop goes on dropping.
    pub(super) fn new(gates: Arc<Gates>, maps: &Maps, mode: WallMode) -> anyhow::Result<Self> {
        let now = maps.switch(SWITCH_WALL)?;
        let begin = match mode {
            WallMode::Off => WALL_OFF,
            WallMode::Enforce if now == WALL_ENFORCE => WALL_ENFORCE,
            WallMode::Count | WallMode::Enforce => WALL_COUNT,
        };
        maps.set_switch(SWITCH_WALL, begin)?;
        Ok(Self { gates, mode, covered: Mutex::default(), failed: Mutex::default() })
    }

    /// Knows of walls that were adopted from a guard before this one.
    pub(super) fn adopt(&self, adopted: &[(&'static str, u64, PathBuf)]) {
        let walls = adopted.iter().filter(|(name, ..)| *name == PROGRAM);
        lock(&self.covered).extend(walls.map(|(_, id, dir)| (*id, dir.clone())));
    }

    /// Puts the wall at these cgroups and at no others. Cheap when nothing has changed. What does not work is told by
    /// `status`: `steer` holds without a wall.
    pub(crate) fn cover(&self, cgroups: &[PathBuf]) {
        if self.mode == WallMode::Off || self.gates.missing(PROGRAM).is_some() {
            return;
        }
        let mut covered = lock(&self.covered);
        let mut failed = BTreeMap::new();
        let mut wanted = BTreeMap::new();
        for path in cgroups {
            match gates::id(path) {
                Ok(id) => {
                    wanted.insert(id, path.clone());
                }
                // The server has just ended.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => {
                    failed.insert(path.clone(), error.to_string());
                }
            }
        }
        for (id, path) in &wanted {
            if covered.contains_key(id) {
                continue;
            }
            match self.gates.attach(PROGRAM, path, *id) {
                Ok(()) => {
                    tracing::info!(cgroup = %path.display(), "the second wall stands");
                    covered.insert(*id, path.clone());
                }
                Err(error) => {
                    failed.insert(path.clone(), format!("{error:#}"));
                }
            }
        }
        covered.retain(|id, path| {
            let keep = wanted.contains_key(id);
            if !keep && let Err(error) = self.gates.detach(PROGRAM, *id) {
                failed.insert(path.clone(), format!("{error:#}"));
            }
            keep
        });
        let mut told = lock(&self.failed);
        if *told != failed {
            for (path, words) in &failed {
                tracing::error!(cgroup = %path.display(), "no second wall here: {words}");
            }
            *told = failed;
        }
    }

    /// What its switch says once the sweep is over.
    pub(super) fn wanted(&self) -> u32 {
        match self.mode {
            WallMode::Off => WALL_OFF,
            WallMode::Count => WALL_COUNT,
            WallMode::Enforce => WALL_ENFORCE,
        }
    }

    /// Whether it drops, once the start has come to its end.
    pub(crate) fn stands(&self) -> bool {
        self.mode == WallMode::Enforce && self.gates.missing(PROGRAM).is_none()
    }

    /// From now on, what it counted is dropped. To be called after the sweep.
    pub(crate) fn enforce(&self, maps: &Maps) -> anyhow::Result<()> {
        if self.mode == WallMode::Enforce {
            maps.set_switch(SWITCH_WALL, WALL_ENFORCE)?;
        }
        Ok(())
    }

    pub(crate) fn status(&self, maps: &Maps) -> WallStatus {
        let mut problems = Vec::new();
        if self.mode != WallMode::Off
            && let Some(why) = self.gates.missing(PROGRAM)
        {
            problems.push(format!(
                "this kernel cannot have it, so steering is the only wall: {why} (Linux 6.15 has what it needs)"
            ));
        }
        problems
            .extend(lock(&self.failed).iter().map(|(path, words)| format!("{}: {words}", path.display())));
        WallStatus {
            mode: match maps.switch(SWITCH_WALL) {
                Ok(WALL_ENFORCE) => "enforce",
                Ok(WALL_COUNT) => "count",
                Ok(_) => "off",
                Err(_) => "unknown",
            },
            cgroups: lock(&self.covered).values().cloned().collect(),
            problems,
        }
    }
}

/// The cgroups of pinned servers, from their paths as `/proc/<pid>/cgroup` gives them.
pub(super) fn cgroups<'a>(root: &Path, paths: impl IntoIterator<Item = &'a str>) -> Vec<PathBuf> {
    let mut found: Vec<_> = paths.into_iter().map(|path| gates::directory(root, path)).collect();
    found.sort();
    found.dedup();
    found
}
