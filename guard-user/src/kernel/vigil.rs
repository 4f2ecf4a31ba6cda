//! Looks every second whether the kernel still has what the guard put there, and puts back what is gone.
//!
//! It looks at what others with enough power could change behind the guard's back: links and pins, the order of programs,
//! the guard's listeners in their slots, the rules of ports, the guard's own cgroup and its capabilities. A difference is
//! told once when it comes and once when it goes; as long as it is there, the guard does not say "protected".

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use anyhow::Context;
use guard_common::{FAMILY_V4, FAMILY_V6, MODE_GUARDED, MODE_PRIVATE, Port, Slot};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::guard::Inner;
use super::load::{self, Places};
use super::maps::lock;
use super::pins::steer_name;
use super::realm::{self, Realm};
use super::{rules, sys};
use crate::privilege::Privileges;
use crate::service::Beat;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Who is in the guard's cgroup for less than this was only born there, as the canary is.
const BORN_WITHIN: Duration = Duration::from_millis(100);
/// Differences that wait to be recorded; more are in the log only.
const WAITING_MAX: usize = 256;

/// A difference that came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// What it is about, such as `link steer-1`.
    pub what: String,
    /// What was seen.
    pub words: String,
    pub change: Change,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Found,
    /// Found, and put back by the guard.
    Mended,
    /// Gone by itself.
    Gone,
}

/// The differences that are there now.
#[derive(Debug, Default)]
pub(crate) struct Vigil {
    now: Mutex<BTreeMap<String, String>>,
    /// How often one was found.
    pub found: std::sync::atomic::AtomicU64,
    /// Moves with each look.
    pub beat: Beat,
    told: Mutex<Option<mpsc::Receiver<Drift>>>,
}

/// One difference, and how to put it right, if there is a way.
struct Found {
    what: String,
    words: String,
    remedy: Option<Remedy>,
}

/// What is attached or written anew.
enum Remedy {
    /// A program that serves all namespaces.
    Shared(&'static str),
    Steer(Arc<Realm>),
    Slots(Arc<Realm>),
    Rule(Arc<Realm>, u16),
}

impl Vigil {
    /// In words, for `status`.
    pub(super) fn differences(&self) -> Vec<String> {
        lock(&self.now).iter().map(|(what, words)| format!("{what}: {words}")).collect()
    }

    /// The differences to come, for whoever records them. The first caller gets them.
    pub(super) fn told(&self) -> Option<mpsc::Receiver<Drift>> {
        lock(&self.told).take()
    }
}

/// Starts to look. Ends with the guard's last handle.
pub(super) fn spawn(inner: &Arc<Inner>) -> std::io::Result<()> {
    let (tell, told) = mpsc::channel(WAITING_MAX);
    *lock(&inner.vigil.told) = Some(told);
    let settled = Privileges::now()?;
    let weak: Weak<Inner> = Arc::downgrade(inner);
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.reset();
        loop {
            tick.tick().await;
            let Some(inner) = weak.upgrade() else { return };
            let (settled, tell) = (settled.clone(), tell.clone());
            let looked = tokio::task::spawn_blocking(move || turn(&inner, &settled, &tell)).await;
            if looked.is_err() {
                return;
            }
        }
    });
    Ok(())
}

/// One look, and what follows from it.
fn turn(inner: &Inner, settled: &Privileges, tell: &mpsc::Sender<Drift>) {
    let found = look(inner, settled);
    let before = lock(&inner.vigil.now).clone();
    let mut now = BTreeMap::new();
    for Found { what, words, remedy } in found {
        let is_new = !before.contains_key(&what);
        if is_new {
            inner.vigil.found.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tracing::error!("the kernel is not as the guard left it: {what}: {words}");
        }
        let mended = match remedy.filter(|_| inner.config.kernel.reattach) {
            Some(remedy) => mend(inner, &remedy).inspect_err(|error| {
                tracing::error!("{what} cannot be put back: {error:#}");
            }),
            None => Err(anyhow::anyhow!("nothing is done about it")),
        };
        let change = if mended.is_ok() { Change::Mended } else { Change::Found };
        if is_new {
            if mended.is_ok() {
                tracing::warn!("{what} is put back");
            }
            let _full = tell.try_send(Drift { what: what.clone(), words: words.clone(), change });
        }
        // What was put back is a difference until the next look has seen it in its place.
        now.insert(what, words);
    }
    for (what, words) in before.iter().filter(|(what, _)| !now.contains_key(*what)) {
        tracing::info!("as the guard left it again: {what}");
        let drift = Drift { what: what.clone(), words: words.clone(), change: Change::Gone };
        let _full = tell.try_send(drift);
    }
    *lock(&inner.vigil.now) = now;
    inner.vigil.beat.beat();
}

fn look(inner: &Inner, settled: &Privileges) -> Vec<Found> {
    let mut found = links(inner);
    for realm in inner.realms().values() {
        found.extend(order(realm));
        found.extend(rules_of(inner, realm));
    }
    found.extend(slots(inner));
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

/// Another program that runs after ours could undo its choice. Nothing is done about it: if both wanted to be the last,
/// there would be no end.
fn order(realm: &Realm) -> Option<Found> {
    let running = sys::sk_lookup_programs(&realm.netns).ok()?;
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

fn mend(inner: &Inner, remedy: &Remedy) -> anyhow::Result<()> {
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
