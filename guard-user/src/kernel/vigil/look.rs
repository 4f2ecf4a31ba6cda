//! What could have changed, and whether it has.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use guard_common::{
    ANYWHERE, Blocked, FAMILY_V4, FAMILY_V6, MODE_AWAITED, MODE_GUARDED, MODE_PRIVATE, Port, SWITCH_WALL,
    Slot,
};

use super::mend::Remedy;
use crate::kernel::guard::Inner;
use crate::kernel::maps::lock;
use crate::kernel::pins::steer_name;
use crate::kernel::realm::Realm;
use crate::kernel::{block, load, rules, sys};
use crate::privilege::Privileges;

/// Who is in the guard's cgroup for less than this was only born there, as the canary is.
const BORN_WITHIN: Duration = Duration::from_millis(100);
/// Within this, whoever writes a block has written all of it.
const SETTLED_WITHIN: Duration = Duration::from_secs(2);

/// One difference, and how to put it right, if there is a way.
pub(super) struct Found {
    pub what: String,
    pub words: String,
    pub remedy: Option<Remedy>,
}

/// All that differs.
pub(super) fn look(inner: &Inner, settled: &Privileges) -> Vec<Found> {
    let mut found = links(inner);
    found.extend(gates(inner));
    for realm in inner.realms().values() {
        found.extend(order(realm));
        found.extend(rules_of(inner, realm));
    }
    found.extend(awaited(inner));
    found.extend(slots(inner));
    found.extend(blocks(inner));
    found.extend(wall(inner));
    found.extend(locks(inner));
    found.extend(holds(inner));
    found.extend(privileges(settled));
    found.extend(cgroup(inner));
    found
}

fn links(inner: &Inner) -> Vec<Found> {
    let dir = inner.links();
    let mut found = Vec::new();
    let mut check = |name: &str, id: u32, remedy: Remedy| {
        let words = match sys::link(&dir.join(name)) {
            Err(error) => format!("its pin is gone ({error})"),
            Ok(link) if link.target == 0 => "it is detached".into(),
            Ok(link) if link.program != id => format!("it runs program {}, not ours ({id})", link.program),
            Ok(_) => return,
        };
        found.push(Found { what: format!("link {name}"), words, remedy: Some(remedy) });
    };
    for program in lock(&inner.shared).iter() {
        if let Some(name) = load::SHARED.iter().find(|name| **name == program.name) {
            check(name, program.id, Remedy::Shared(name));
        }
    }
    for (netns, realm) in inner.realms().iter() {
        check(&steer_name(*netns), realm.steer().id, Remedy::Steer(Arc::clone(realm)));
    }
    found
}

fn gates(inner: &Inner) -> Vec<Found> {
    let differ = inner.gates.differ().into_iter();
    differ
        .map(|(gate, words)| Found {
            what: format!("link {}-{}", gate.0, gate.1),
            words,
            remedy: Some(Remedy::Gate(gate)),
        })
        .collect()
}

/// Another program that runs after ours could undo its choice. Nothing is done about it: if both wanted to be the last,
/// there would be no end.
fn order(realm: &Realm) -> Option<Found> {
    let running = match sys::sk_lookup_programs(&realm.netns) {
        Ok(running) => running,
        Err(error) => {
            return Some(Found {
                what: format!("order in {}", realm.name),
                words: format!("the programs that run there cannot be listed: {error}"),
                remedy: None,
            });
        }
    };
    let ours = realm.steer().id;
    let is_there = running.contains(&ours);
    (is_there && running.last() != Some(&ours)).then(|| Found {
        what: format!("order in {}", realm.name),
        words: format!("programs {running:?} run there, and ours ({ours}) is not the last"),
        remedy: None,
    })
}

fn rules_of(inner: &Inner, realm: &Arc<Realm>) -> Vec<Found> {
    let netns = realm.netns.cookie;
    let policy = lock(&inner.maps.policy);
    let private = realm.listeners.addresses().into_iter().map(|address| (address.port(), MODE_PRIVATE));
    let guarded: Vec<_> = realm.ports().keys().map(|port| (*port, MODE_GUARDED)).collect();
    guarded
        .into_iter()
        .chain(private)
        .filter_map(|(port, mode)| {
            let words = match policy.get(&Port::new(netns, port), 0) {
                Ok(rule) if rule.mode == mode => return None,
                Ok(rule) => format!("mode {} instead of {mode}", rule.mode),
                Err(error) => format!("it is gone ({error})"),
            };
            let what = format!("rule of port {port} in {}", realm.name);
            Some(Found { what, words, remedy: Some(Remedy::Rule(Arc::clone(realm), port)) })
        })
        .collect()
}

/// The rules by which the guard is told of listeners in namespaces that it does not know.
fn awaited(inner: &Inner) -> Option<Found> {
    let policy = lock(&inner.maps.policy);
    let is_there =
        |port| policy.get(&Port::new(ANYWHERE, port), 0).is_ok_and(|rule| rule.mode == MODE_AWAITED);
    let lacks: Vec<u16> = rules::awaited(&inner.servers).filter(|port| !is_there(*port)).collect();
    (!lacks.is_empty()).then(|| Found {
        what: "rules of servers elsewhere".into(),
        words: format!("those of ports {lacks:?} are gone"),
        remedy: Some(Remedy::Awaited),
    })
}

/// What a block says must be in what the programs look at.
fn blocks(inner: &Inner) -> Vec<Found> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // A block that is just being written is not all there yet.
    let is_settled = |block: &Blocked| Duration::from_millis(block.since) + SETTLED_WITHIN < now;
    let all: Vec<_> = lock(&inner.maps.blocks).iter().filter_map(Result::ok).collect();
    all.into_iter()
        .filter(|(key, block)| is_settled(block) && !block::is_applied(&inner.maps, key, block))
        .map(|(key, block)| Found {
            what: format!(
                "block of {} {}",
                block::status(&key, &block).kind,
                block::status(&key, &block).name
            ),
            words: "the programs do not know of it".into(),
            remedy: Some(Remedy::Block(key)),
        })
        .collect()
}

fn locks(inner: &Inner) -> Vec<Found> {
    let differ = inner.locks.differ(&inner.maps).into_iter();
    differ
        .map(|(cgroup, of)| Found {
            what: format!("lock {of}"),
            words: "its destinations are not those that were written".into(),
            remedy: Some(Remedy::Lock(cgroup)),
        })
        .collect()
}

fn holds(inner: &Inner) -> Vec<Found> {
    let differ = inner.holds.differ(&inner.maps).into_iter();
    differ
        .map(|port| Found {
            what: format!("hold of port {} in namespace {}", port.port, port.netns),
            words: "others may bind it".into(),
            remedy: Some(Remedy::Hold(port)),
        })
        .collect()
}

fn wall(inner: &Inner) -> Option<Found> {
    let wanted = inner.walls.wanted();
    let now = inner.maps.switch(SWITCH_WALL).ok();
    (now != Some(wanted)).then(|| Found {
        what: "the second wall".into(),
        words: format!("its switch stands at {now:?} instead of {wanted}"),
        remedy: Some(Remedy::Wall),
    })
}

fn slots(inner: &Inner) -> Vec<Found> {
    let there = inner.maps.sockets();
    let lacks = |netns: u64, realm: &Realm| {
        !there.contains(&Slot::guard(netns, FAMILY_V4))
            || (realm.listeners.v6.is_some() && !there.contains(&Slot::guard(netns, FAMILY_V6)))
    };
    let realms = inner.realms();
    let empty = realms.iter().filter(|(netns, realm)| !inner.is_closing() && lacks(**netns, realm));
    empty
        .map(|(_, realm)| Found {
            what: format!("listeners in {}", realm.name),
            words: "one is not in its slot: connections are refused".into(),
            remedy: Some(Remedy::Slots(Arc::clone(realm))),
        })
        .collect()
}

fn privileges(settled: &Privileges) -> Option<Found> {
    let words = match Privileges::now() {
        Ok(now) if now == *settled => return None,
        Ok(now) => now.faults().join(", "),
        Err(error) => format!("they cannot be read: {error}"),
    };
    Some(Found { what: "privileges".into(), words, remedy: None })
}

fn cgroup(inner: &Inner) -> Option<Found> {
    let dir = inner.cgroup_root.join(&inner.config.kernel.cgroup);
    let words = match strangers(inner, &dir) {
        Ok(None) => return None,
        Ok(Some(words)) => words,
        Err(error) => format!("{error:#}"),
    };
    Some(Found { what: format!("cgroup {}", dir.display()), words, remedy: None })
}

fn strangers(inner: &Inner, dir: &Path) -> anyhow::Result<Option<String>> {
    let meta = fs::metadata(dir).context("it cannot be looked at")?;
    if meta.uid() != 0 {
        return Ok(Some(format!("it belongs to uid {}", meta.uid())));
    }
    if meta.ino() != inner.cgroup {
        return Ok(Some("it is another one than at the start".into()));
    }
    let others = || -> anyhow::Result<Vec<u32>> {
        let members = fs::read_to_string(dir.join("cgroup.procs")).context("its members cannot be read")?;
        let pids = members.lines().filter_map(|line| line.parse().ok());
        Ok(pids.filter(|pid| *pid != std::process::id() && !inner.canaries.knows(*pid)).collect())
    };
    let first = others()?;
    if first.is_empty() {
        return Ok(None);
    }
    std::thread::sleep(BORN_WITHIN);
    let stayed: Vec<u32> = others()?.into_iter().filter(|pid| first.contains(pid)).collect();
    Ok((!stayed.is_empty()).then(|| format!("pid {stayed:?} is in it and could connect as the guard")))
}
