//! Puts back what is gone.

use std::fs;
use std::sync::Arc;

use anyhow::Context;
use guard_common::{Block, Port, SWITCH_WALL};

use crate::kernel::gates::Gate;
use crate::kernel::guard::Inner;
use crate::kernel::load::{self, Places};
use crate::kernel::maps::lock;
use crate::kernel::pins::steer_name;
use crate::kernel::realm::{self, Realm};
use crate::kernel::{block, rules};

/// What is attached or written anew.
pub(super) enum Remedy {
    /// A program that serves all namespaces.
    Shared(&'static str),
    /// A program at a server's cgroup.
    Gate(Gate),
    Steer(Arc<Realm>),
    Slots(Arc<Realm>),
    Rule(Arc<Realm>, u16),
    /// The rules of servers in other namespaces.
    Awaited,
    Block(Block),
    /// Where a server in this cgroup may connect.
    Lock(u64),
    /// Who may bind this port.
    Hold(Port),
    Wall,
}

/// Puts it right.
pub(super) fn mend(inner: &Inner, remedy: &Remedy) -> anyhow::Result<()> {
    match remedy {
        Remedy::Shared(name) => {
            let dir = inner.links();
            let mut bpf = load::load(inner.ground().pins, &dir)?;
            let status = load::verify(&mut bpf, name)?;
            let _gone = fs::remove_file(dir.join(name));
            let cgroup = inner.cgroup_root.join(&inner.config.kernel.cgroup);
            let places = Places { cgroup_root: &inner.cgroup_root, cgroup: &cgroup };
            load::attach_one(&mut bpf, name, &places, &dir)?;
            lock(&inner.shared)
                .iter_mut()
                .filter(|old| old.name == status.name)
                .for_each(|old| *old = status.clone());
            Ok(())
        }
        Remedy::Gate(gate) => inner.gates.mend(*gate),
        Remedy::Awaited => {
            rules::wait_for(&inner.maps, &inner.servers, inner.generation).context("cannot write the rules")
        }
        Remedy::Block(key) => block::apply_again(&inner.maps, key),
        Remedy::Lock(cgroup) => {
            inner.locks.write_again(*cgroup);
            Ok(())
        }
        Remedy::Hold(port) => {
            inner.holds.write_again(*port);
            Ok(())
        }
        Remedy::Wall => {
            inner.maps.set_switch(SWITCH_WALL, inner.walls.wanted()).context("cannot set the switch")
        }
        Remedy::Steer(realm) => {
            let pin = inner.links().join(steer_name(realm.netns.cookie));
            let _gone = fs::remove_file(&pin);
            let steer = inner.ground().steers.attach(realm.netns.cookie, &realm.netns, &pin)?;
            realm.set_steer(steer);
            Ok(())
        }
        Remedy::Slots(realm) => realm.listeners.install(&inner.maps, realm.netns.cookie),
        Remedy::Rule(realm, port) => {
            let (netns, generation) = (realm.netns.cookie, inner.generation);
            match realm.server(*port) {
                Some(server) => {
                    rules::protect(&inner.maps, Port::new(netns, *port), generation, &server.name)
                }
                None => realm::set_private(&inner.maps, netns, generation, &[*port]),
            }
        }
    }
}
