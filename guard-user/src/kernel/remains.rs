//! What a guard that does not run has left in the kernel, for who only looks.

use guard_common::{ABI, Meta};

use super::guard::pins_dir;
use super::netns::Netns;
use super::{host, version};
use crate::config::Kernel;

/// What the pins tell of the ports of this network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remains {
    /// No guard's programs, or none that ever steered.
    Nothing,
    /// They refuse every connection to the ports that were protected here.
    Here,
    /// They do so in another network namespace, and nothing is protected in this one.
    Elsewhere,
    /// This process does not see where they would be.
    Hidden,
    /// This user may not look, or another version of the guard made them.
    Unknown,
}

/// Cookie of the network namespace of this process; none if the kernel does not tell it.
pub fn this_netns() -> Option<u64> {
    Netns::own().ok().map(|netns| netns.cookie)
}

/// Changes nothing and takes no lock, so a guard may start meanwhile.
pub fn remains(config: &Kernel) -> Remains {
    let path = pins_dir(config).join("maps").join("META");
    match path.try_exists() {
        Ok(true) => {}
        Ok(false) if host::hides_bpffs(&config.bpffs) => return Remains::Hidden,
        Ok(false) => return Remains::Nothing,
        Err(_not_allowed) => return Remains::Unknown,
    }
    match (version::meta(config), this_netns()) {
        (Some(Meta { abi: 0, .. }), _) => Remains::Nothing,
        (Some(meta), Some(netns)) if meta.abi == ABI => {
            if meta.netns == netns {
                Remains::Here
            } else {
                Remains::Elsewhere
            }
        }
        _ => Remains::Unknown,
    }
}
