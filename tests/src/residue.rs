//! Checks that a guard left nothing in the kernel.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::loaded_maps;
use aya::programs::loaded_programs;
use serde_json::Value;

use crate::world::{World, cgroup2_root};

/// Every file below `dir`; none if it is not there.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .flat_map(|entry| match entry.file_type() {
            Ok(kind) if kind.is_dir() => files(&entry.path()),
            _ => vec![entry.path()],
        })
        .collect()
}

/// Kernel objects of guards, by the ids that their `status` told.
#[derive(Debug, Default)]
pub struct Ids {
    programs: BTreeSet<u32>,
    maps: BTreeSet<u32>,
}

impl Ids {
    /// Adds what a guard says that it loaded.
    pub fn add(&mut self, status: &Value) {
        let ids = |key: &str| -> Vec<u32> {
            status[key]
                .as_array()
                .expect("a list")
                .iter()
                .map(|object| u32::try_from(object["id"].as_u64().expect("an id")).expect("a small id"))
                .collect()
        };
        self.programs.extend(ids("programs"));
        self.maps.extend(ids("maps"));
        assert!(
            !self.programs.is_empty() && !self.maps.is_empty(),
            "a guard without programs or maps: {status:#}"
        );
    }

    /// Which of them the kernel still has.
    fn alive(&self) -> Vec<String> {
        let programs = loaded_programs().filter_map(Result::ok).map(|program| program.id());
        let maps = loaded_maps().filter_map(Result::ok).map(|map| map.id());
        let programs = programs.filter(|id| self.programs.contains(id)).map(|id| format!("program {id}"));
        programs.chain(maps.filter(|id| self.maps.contains(id)).map(|id| format!("map {id}"))).collect()
    }

    pub fn count(&self) -> usize {
        self.programs.len() + self.maps.len()
    }

    /// Which of them the kernel has not freed in time. It frees objects some time after their last user is gone.
    ///
    /// Links keep programs, programs keep maps: with the programs gone, so are the links.
    pub fn left(&self) -> Vec<String> {
        let end = Instant::now() + Duration::from_secs(10);
        while !self.alive().is_empty() && Instant::now() < end {
            thread::sleep(Duration::from_millis(20));
        }
        self.alive()
    }

    pub fn assert_gone(&self, world: &World) {
        let left = self.left();
        assert!(left.is_empty(), "left in the kernel: {left:?}");
        assert!(!world.pins().exists(), "pins are left in {}", world.pins().display());
        let cgroup = cgroup2_root().join(&world.kernel.cgroup);
        assert!(!cgroup.exists(), "the cgroup {} is left", cgroup.display());
    }
}
