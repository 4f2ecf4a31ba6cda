//! What a guard that is about to take over finds out while the one before still serves: everything about the kernel that
//! would keep it from going on. Changes nothing.

use anyhow::{Context, bail};

use super::features::Features;
use super::guard::pins_dir;
use super::netns::Netns;
use super::{host, load, pins};
use crate::config::Config;

/// Fails if this guard could not follow the one that runs. To be called before that one is asked.
pub fn rehearse(config: &Config) -> anyhow::Result<()> {
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
    host::cgroup2_root()?;
    load::rehearse(features)?;
    Ok(())
}
