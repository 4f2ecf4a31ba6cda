//! What a guard that is about to take over finds out while the one before still serves: everything about the kernel that
//! would keep it from going on. Changes nothing.

use anyhow::{Context, bail};

use super::features::Features;
use super::guard::pins_dir;
use super::netns::Netns;
use super::{egress, host, load, pins};
use crate::config::Config;

/// What is known of the guard that runs.
#[derive(Debug, Default)]
pub struct Running {
    pub pid: Option<u32>,
    /// The servers that it has pinned, each with the cgroup2 path of its process.
    pub pinned: Vec<(String, String)>,
}

/// Fails if this guard could not follow the one that runs. To be called before that one is asked.
pub fn rehearse(config: &Config, running: &Running) -> anyhow::Result<()> {
    let dir = pins_dir(&config.kernel);
    let features = Features::find();
    features.suffice(config)?;
    let runs = pins::is_locked(&dir).with_context(|| format!("cannot look at {}", dir.display()))?;
    if !runs {
        bail!(
            "the guard that runs here does not hold the pins in {}, so this one cannot go on with its ports; give both the same \
             `kernel.bpffs` and `kernel.pins`, or stop that one first",
            dir.display()
        );
    }
    pins::inspect(&dir, Netns::own()?.cookie)?;
    let root = host::cgroup2_root()?;
    host::only_guards(&root.join(&config.kernel.cgroup), running.pid)?;
    for (name, path) in &running.pinned {
        if let Some(server) = config.servers.iter().find(|server| server.name.as_str() == name) {
            egress::check_cgroup(server, path)?;
        }
    }
    load::rehearse(features)?;
    Ok(())
}
