//! What this process may do beyond an ordinary one: as little as the guard can work with, from before its first
//! thread until its end. `docs/privileges.md` tells what each capability is for.
//!
//! The daemon stays uid 0, because root owns bpffs and the cgroup tree, and without the rest of root's power.

use std::io;

use anyhow::{Context, bail};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use rustix::process::{DumpableBehavior, dumpable_behavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set, clear_ambient_capability_set,
    no_new_privs, remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use serde::Serialize;

/// A capability that the guard keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needed {
    pub name: &'static str,
    /// What the guard cannot do without it.
    pub purpose: &'static str,
    set: CapabilitySet,
}

/// All that the guard keeps, by name.
pub const NEEDED: [Needed; 6] = [
    Needed {
        name: "CAP_DAC_READ_SEARCH",
        purpose: "see which process holds a listening socket (/proc/<pid>/fd of other users)",
        set: CapabilitySet::DAC_READ_SEARCH,
    },
    Needed {
        name: "CAP_NET_ADMIN",
        purpose: "attach the kernel programs, and end connections that are older than the guard",
        set: CapabilitySet::NET_ADMIN,
    },
    Needed {
        name: "CAP_SETGID",
        purpose: "send the canary out as an ordinary group",
        set: CapabilitySet::SETGID,
    },
    Needed {
        name: "CAP_SETUID",
        purpose: "send the canary out as an ordinary user",
        set: CapabilitySet::SETUID,
    },
    Needed {
        name: "CAP_SYS_ADMIN",
        purpose: "load kernel programs, enter network namespaces, mount bpffs where there is none",
        set: CapabilitySet::SYS_ADMIN,
    },
    Needed {
        name: "CAP_SYS_PTRACE",
        purpose: "take a handle of the server's listening socket (pidfd_getfd)",
        set: CapabilitySet::SYS_PTRACE,
    },
];

/// What this process may do now, for `status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Privileges {
    /// Needed ones that it has, by name.
    pub capabilities: Vec<&'static str>,
    /// Needed ones that it lacks.
    pub missing: Vec<&'static str>,
    /// How many others it could still use or regain; 0 is right.
    pub others: u32,
    pub no_new_privs: bool,
    /// Whether another process of the same user may read its memory or attach to it.
    pub dumpable: bool,
    /// Soft limit of a core file in bytes; 0 is right.
    pub core_bytes_max: u64,
}

/// Gives up everything but [`NEEDED`], for good. To be called before the first thread: capabilities are a thread's,
/// and each new one has those of its maker.
pub fn settle() -> anyhow::Result<()> {
    let have = capabilities(None).context("cannot read this process's capabilities")?;
    let missing: Vec<String> = NEEDED
        .iter()
        .filter(|needed| !have.permitted.contains(needed.set))
        .map(|needed| format!("{} (to {})", needed.name, needed.purpose))
        .collect();
    if !missing.is_empty() {
        bail!(
            "this process lacks {}; start it as root, and in a unit or a container grant what docs/privileges.md lists",
            missing.join(" and ")
        );
    }
    set_no_new_privs(true).context("cannot set no_new_privs")?;
    narrow_bounding_set().context("cannot reduce the capability bounding set")?;
    // A kernel without ambient capabilities has none to clear.
    let _cleared = clear_ambient_capability_set();
    let keep = needed();
    let sets = CapabilitySets { effective: keep, permitted: keep, inheritable: CapabilitySet::empty() };
    set_capabilities(None, sets).context("cannot give up the other capabilities")?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0).context("cannot forbid core files")?;
    // Last: the memory holds keys and agents' secrets. What the guard reads of itself in /proc stays readable for it.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).context("cannot become undumpable")?;
    Ok(())
}

impl Privileges {
    /// Of the calling thread, which has those of all.
    pub fn now() -> io::Result<Self> {
        let have = capabilities(None)?;
        let named = |wanted: bool| {
            let there = move |needed: &&Needed| have.effective.contains(needed.set) == wanted;
            NEEDED.iter().filter(there).map(|needed| needed.name).collect()
        };
        let others = (have.effective | have.permitted | have.inheritable | bounding()) - needed();
        Ok(Self {
            capabilities: named(true),
            missing: named(false),
            others: others.bits().count_ones(),
            no_new_privs: no_new_privs()?,
            dumpable: !matches!(dumpable_behavior()?, DumpableBehavior::NotDumpable),
            core_bytes_max: getrlimit(Resource::RLIMIT_CORE)?.0,
        })
    }

    /// Why they are not what [`settle`] left; empty if they are.
    pub fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = self.missing.iter().map(|name| format!("{name} is gone")).collect();
        if self.others > 0 {
            faults.push(format!("{} capabilities too many", self.others));
        }
        if !self.no_new_privs {
            faults.push("no_new_privs is not set".into());
        }
        if self.dumpable {
            faults.push("the process is dumpable".into());
        }
        if self.core_bytes_max > 0 {
            faults.push("core files are allowed".into());
        }
        faults
    }
}

fn needed() -> CapabilitySet {
    NEEDED.iter().fold(CapabilitySet::empty(), |set, needed| set | needed.set)
}

/// Every capability that this kernel knows and that is in the bounding set.
fn bounding() -> CapabilitySet {
    (0..u64::BITS)
        .map(|bit| CapabilitySet::from_bits_retain(1 << bit))
        .filter(|one| capability_is_in_bounding_set(*one).unwrap_or(false))
        .fold(CapabilitySet::empty(), |set, one| set | one)
}

fn narrow_bounding_set() -> io::Result<()> {
    for one in (bounding() - needed()).iter() {
        remove_capability_from_bounding_set(one)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sets_belong_together() {
        for (at, needed) in NEEDED.iter().enumerate() {
            assert_eq!(needed.set.bits().count_ones(), 1);
            let name = needed.set.iter_names().next().map(|(name, _)| format!("CAP_{name}"));
            assert_eq!(name.as_deref(), Some(needed.name));
            assert!(at == 0 || NEEDED[at - 1].name < needed.name, "in the order of names");
        }
    }

    #[test]
    fn each_thing_that_is_not_as_settled_is_named() {
        let settled = Privileges {
            capabilities: NEEDED.map(|needed| needed.name).to_vec(),
            missing: Vec::new(),
            others: 0,
            no_new_privs: true,
            dumpable: false,
            core_bytes_max: 0,
        };
        assert!(settled.faults().is_empty());
        let loose = Privileges {
            missing: vec!["CAP_SYS_PTRACE"],
            others: 2,
            no_new_privs: false,
            dumpable: true,
            core_bytes_max: 1,
            ..settled
        };
        assert_eq!(loose.faults().len(), 5);
    }
}
