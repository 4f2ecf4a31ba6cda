//! The way back: removes everything that the guard put into the kernel. Needs no running guard.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::Serialize;

use super::guard::pins_dir;
use super::host;
use super::netns::Netns;
use super::pins::Pins;
use super::sys;
use crate::config::Kernel;

/// How long the kernel may take to detach what has no pin any more.
const DETACHED: Duration = Duration::from_secs(5);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(2);

/// What `unload` removed. All empty: there was nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Unloaded {
    /// Pins of links and maps. Their programs went with them.
    pub pins: Vec<PathBuf>,
    pub cgroup: Option<PathBuf>,
    /// What could not be removed, and why.
    pub left: Vec<String>,
}

impl std::fmt::Display for Unloaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pins.len() {
            0 => f.write_str("Nothing of the guard was in the kernel.")?,
            pins => write!(f, "Removed {pins} pins with their programs, maps and links.")?,
        }
        if let Some(cgroup) = &self.cgroup {
            write!(f, "\nRemoved the cgroup {}.", cgroup.display())?;
        }
        self.left.iter().try_for_each(|left| write!(f, "\nLeft: {left}"))
    }
}

/// Opens the ports and removes every link, program, map and pin, and the guard's cgroup when it is empty. Fails
/// if a guard is running. A second call finds nothing and succeeds.
pub fn unload(config: &Kernel) -> anyhow::Result<Unloaded> {
    let mut unloaded = Unloaded::default();
    if let Some(pins) = Pins::open_existing(&pins_dir(config))? {
        let steering = pins.steering();
        unloaded.pins = pins.remove_all()?;
        if is_still_attached(&steering) {
            unloaded
                .left
                .push("the kernel has not detached the programs yet: the ports open in a moment".into());
        }
    }
    let cgroup = host::cgroup2_root()?.join(&config.cgroup);
    match fs::remove_dir(&cgroup) {
        Ok(()) => unloaded.cgroup = Some(cgroup),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            unloaded.left.push(format!("{}: processes are still in it", cgroup.display()));
        }
        Err(error) => return Err(error).with_context(|| format!("cannot remove {}", cgroup.display())),
    }
    Ok(unloaded)
}

/// The kernel detaches a moment after the last pin is gone. Waits for it in this network namespace, for a short time.
fn is_still_attached(steering: &[u32]) -> bool {
    let Ok(own) = Netns::own() else { return false };
    let end = Instant::now() + DETACHED;
    loop {
        let running = sys::sk_lookup_programs(&own).unwrap_or_default();
        let is_attached = running.iter().any(|program| steering.contains(program));
        if !is_attached || Instant::now() > end {
            return is_attached;
        }
        sleep(LOOK);
    }
}
