//! One protected network namespace: its steering, its listeners, its servers.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::net::{IpAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, ensure};
use arc_swap::ArcSwap;
use guard_common::{ANYWHERE, FLAG_CLOSED, MODE_GUARDED, MODE_PRIVATE, Port, Rule};

use super::handover::{Handover, Legacy};
use super::listeners::Listeners;
use super::load::ProgramStatus;
use super::maps::{self, Maps, lock};
use super::netns::{Netns, NetnsId};
use super::pins::{Pins, steer_name};
use super::places::Wanted;
use super::process::Witness;
use super::prove::Claim;
use super::servers::Servers;
use super::steers::Steers;
use super::{local, pending, rules, sweep};
use crate::config::{OtherPorts, Server};

/// A protected port of one network namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Door {
    /// Cookie of the namespace.
    pub netns: u64,
    pub port: u16,
}

/// Dropping it leaves its ports closed, until [`Realm::release`] or `unload`.
pub(crate) struct Realm {
    /// For people: the place that its first server has in `guard.yaml`.
    pub name: String,
    pub netns: Netns,
    pub listeners: Listeners,
    pub servers: Servers,
    /// Tells which processes the clients are.
    pub witness: Witness,
    steer: Mutex<ProgramStatus>,
    /// Connections from before the protection that were ended.
    pub ended: AtomicUsize,
    pub claims: Mutex<Vec<Claim>>,
    /// When these were tried.
    pub tried: Mutex<Instant>,
    /// When it was last scanned for servers.
    pub scanned: Mutex<Instant>,
    by_port: ArcSwap<BTreeMap<u16, Arc<Server>>>,
    /// Handshakes that the kernel had counted on each port before this guard served it.
    before: Mutex<BTreeMap<u16, u64>>,
}

/// What all namespaces share.
pub(super) struct Ground<'a> {
    pub maps: &'a Maps,
    pub pins: &'a Pins,
    pub steers: &'a Steers,
    pub witness: &'a Witness,
    pub cgroup_root: &'a Path,
    pub generation: u32,
    /// Listeners of the guard before, if it handed them on.
    pub handed: &'a Mutex<Handover>,
}

/// Closes the ports of all these namespaces, and serves them from here on. First all are closed: none is open for as long as
/// the work on another one takes. The order matters: each step leaves the ports as closed as they were, or more; so does an
/// error.
pub(super) fn raise_all<'w>(
    wanted: impl IntoIterator<Item = (&'w NetnsId, &'w Wanted)>,
    ground: &Ground<'_>,
) -> Vec<(NetnsId, anyhow::Result<Realm>)> {
    let closed: Vec<(NetnsId, &Wanted, anyhow::Result<Shut>)> =
        wanted.into_iter().map(|(id, wanted)| (*id, wanted, Shut::new(*id, wanted, ground))).collect();
    let steered: Vec<_> = closed
        .into_iter()
        .map(|(id, wanted, shut)| (id, wanted, shut.and_then(|shut| Unswept::new(shut, wanted, ground))))
        .collect();
    let ready = steered.iter().filter_map(|(.., unswept)| unswept.as_ref().ok());
    let places: Vec<(&Netns, &[u16])> =
        ready.map(|unswept| (&unswept.shut.netns, unswept.new.as_slice())).collect();
    // Nothing is served there yet, so every live connection on the ports is one from before.
    let mut swept = sweep::sweep_all(&places).into_iter();
    steered
        .into_iter()
        .map(|(id, wanted, unswept)| {
            let realm = unswept.and_then(|unswept| {
                let ended = swept.next().context("a namespace was not swept")?;
                let cookie = unswept.shut.netns.cookie;
                ended.and_then(|ended| unswept.serve(wanted, ended, ground)).inspect_err(|_| {
                    give_way(cookie, wanted, ground);
                })
            });
            (id, realm.with_context(|| format!("cannot protect {}", name_of(wanted))))
        })
        .collect()
}

/// A namespace whose ports are closed.
struct Shut {
    netns: Netns,
}

impl Shut {
    /// First closed, then all that can fail: who owns the namespace could see to it that it does.
    fn new(id: NetnsId, wanted: &Wanted, ground: &Ground<'_>) -> anyhow::Result<Self> {
        let netns = Netns::open(&wanted.path)?;
        // Its process may have gone elsewhere since it was found.
        ensure!(netns.id == id, "its process is in another network namespace now");
        close(ground, netns.cookie, wanted.servers.keys().copied())?;
        Ok(Self { netns })
    }
}

/// A namespace that is steered to listeners which nobody serves yet. Connections from before may live in it.
struct Unswept {
    shut: Shut,
    steer: ProgramStatus,
    listeners: Listeners,
    witness: Witness,
    servers: Servers,
    /// What had come to the ports that the guard before handed on.
    accepted: BTreeMap<u16, u64>,
    /// Ports that were not.
    new: Vec<u16>,
}

impl Unswept {
    fn new(shut: Shut, wanted: &Wanted, ground: &Ground<'_>) -> anyhow::Result<Self> {
        let cookie = shut.netns.cookie;
        Self::build(shut, wanted, ground).inspect_err(|_| give_way(cookie, wanted, ground))
    }

    fn build(shut: Shut, wanted: &Wanted, ground: &Ground<'_>) -> anyhow::Result<Self> {
        let Ground { maps, pins, steers, witness, generation, handed, .. } = ground;
        let netns = &shut.netns;
        let cookie = netns.cookie;
        // Old and new programs run side by side on the same maps until the old link goes.
        let links = pins.make_generation(*generation)?;
        let steer = steers.attach(cookie, netns, &links.join(steer_name(cookie)))?;
        pins.remove_older_steering(cookie, *generation)?;
        let ports: Vec<u16> = wanted.servers.keys().copied().collect();
        let legacy = lock(handed).take(cookie);
        let (listeners, accepted) = if let Some(Legacy { listeners, accepted }) = legacy {
            (listeners, accepted)
        } else {
            let opened = netns.run(Listeners::open)?;
            (
                opened.context("cannot open the guard's listeners; is `lo` up there, with 127.0.0.1?")?,
                BTreeMap::new(),
            )
        };
        let witness =
            netns.run(|| witness.also_here())?.context("cannot ask for sockets there (sock_diag)")?;
        let private = private_ports(&listeners)?;
        set_private(maps, cookie, *generation, &private)?;

        let servers = Servers::new(cookie, ground.cgroup_root);
        servers.set_ports(&wanted.servers);
        servers.scan(maps, netns, &HashSet::new())?;
        // A port that was handed on is swept, and clients wait at its listener. Beside it a new one is closed to all until
        // it is swept, too.
        let (swept, new): (Vec<u16>, Vec<u16>) = ports.iter().partition(|port| accepted.contains_key(port));
        if !swept.is_empty() {
            set_closed(maps, cookie, *generation, &new)?;
        }
        protect(wanted, ground, cookie, if swept.is_empty() { &new } else { &swept })?;
        let keep = [ports.as_slice(), &private].concat();
        close_others(maps, cookie, &keep, wanted)?;
        forget_rules(maps, cookie, &keep)?;
        Ok(Self { shut, steer, listeners, witness, servers, accepted, new })
    }

    /// `ended`: connections from before.
    fn serve(self, wanted: &Wanted, ended: usize, ground: &Ground<'_>) -> anyhow::Result<Realm> {
        let Self { shut: Shut { netns }, steer, listeners, witness, servers, accepted, new } = self;
        let (maps, cookie) = (ground.maps, netns.cookie);
        let mut before = established(maps, cookie, &new);
        before.extend(accepted.into_iter().filter(|(port, _)| wanted.servers.contains_key(port)));
        protect(wanted, ground, cookie, &new)?;
        // A server may have started to listen while its port was not protected yet.
        servers.scan(maps, &netns, &maps.sockets())?;
        listeners.install(maps, cookie).context("cannot hand the guard's listeners to the kernel")?;
        Ok(Realm {
            name: name_of(wanted),
            netns,
            listeners,
            servers,
            witness,
            steer: Mutex::new(steer),
            ended: AtomicUsize::new(ended),
            claims: Mutex::default(),
            tried: Mutex::new(Instant::now()),
            scanned: Mutex::new(Instant::now()),
            by_port: ArcSwap::from_pointee(wanted.servers.clone()),
            before: Mutex::new(before),
        })
    }
}

/// After a failure: the servers' ports stay closed, of a guard's listeners that are gone nothing stays.
fn give_way(cookie: u64, wanted: &Wanted, ground: &Ground<'_>) {
    let ports: Vec<u16> = wanted.servers.keys().copied().collect();
    let given = close_others(ground.maps, cookie, &ports, wanted)
        .and_then(|()| forget_rules(ground.maps, cookie, &ports));
    if let Err(error) = given {
        tracing::error!(netns = cookie, "rules of a namespace that cannot be protected stay: {error:#}");
    }
}

fn protect(wanted: &Wanted, ground: &Ground<'_>, cookie: u64, ports: &[u16]) -> anyhow::Result<()> {
    let of_port = |port: &u16| Some((*port, wanted.servers.get(port)?));
    ports.iter().filter_map(of_port).try_for_each(|(port, server)| {
        rules::protect(ground.maps, Port::new(cookie, port), ground.generation, &server.name)
    })
}

impl Realm {
    /// The protected server on a port.
    pub(crate) fn server(&self, port: u16) -> Option<Arc<Server>> {
        self.by_port.load().get(&port).cloned()
    }

    /// Its protected ports.
    pub(crate) fn ports(&self) -> Arc<BTreeMap<u16, Arc<Server>>> {
        self.by_port.load_full()
    }

    /// The program that steers here.
    pub(crate) fn steer(&self) -> ProgramStatus {
        lock(&self.steer).clone()
    }

    /// It was attached anew.
    pub(super) fn set_steer(&self, steer: ProgramStatus) {
        *lock(&self.steer) = steer;
    }

    /// What the kernel had counted before a port was served.
    pub(crate) fn established_before(&self, port: u16) -> u64 {
        lock(&self.before).get(&port).copied().unwrap_or_default()
    }

    /// The addresses of this namespace's interfaces that are up.
    pub(crate) fn addresses(&self) -> io::Result<Vec<IpAddr>> {
        self.netns.run(local::addresses)?
    }

    /// Protects what came to this namespace since, and leaves alone what went: a unit that is not running has its port
    /// closed all the same. `Ok(true)`: there was something new.
    pub(super) fn extend(&self, wanted: &Wanted, ground: &Ground<'_>) -> anyhow::Result<bool> {
        let before = self.ports();
        let mut all = before.as_ref().clone();
        for (port, server) in &wanted.servers {
            all.entry(*port).or_insert_with(|| Arc::clone(server));
        }
        let new: Vec<u16> = all.keys().copied().filter(|port| !before.contains_key(port)).collect();
        if new.is_empty() {
            return Ok(false);
        }
        let cookie = self.netns.cookie;
        // Closed to all while what is older is ended: the guard's own connections must not be among it.
        set_closed(ground.maps, cookie, ground.generation, &new)?;
        let ended = self.netns.run(|| sweep::sweep(&new))??;
        self.ended.fetch_add(ended, Ordering::Relaxed);
        self.servers.set_ports(&all);
        self.servers.scan(ground.maps, &self.netns, &ground.maps.sockets())?;
        lock(&self.before).extend(established(ground.maps, cookie, &new));
        // The acceptor knows them before the kernel steers the first connection.
        let all = Arc::new(all);
        self.by_port.store(Arc::clone(&all));
        for (port, server) in all.iter().filter(|(port, _)| new.contains(port)) {
            rules::protect(ground.maps, Port::new(cookie, *port), ground.generation, &server.name)?;
        }
        Ok(true)
    }

    /// Opens the ports of a namespace whose servers are gone, and lets go of it.
    pub(super) fn release(&self, ground: &Ground<'_>) -> anyhow::Result<()> {
        release(self.netns.cookie, ground)
    }
}

/// Removes everything of the namespace with this cookie, dead or alive.
pub(super) fn release(cookie: u64, ground: &Ground<'_>) -> anyhow::Result<()> {
    ground.pins.remove_steering(cookie)?;
    forget_rules(ground.maps, cookie, &[])?;
    ground.maps.forget_owners(cookie).context("cannot forget whose servers they were")
}

/// Every port that a guard has closed in the kernel, with its namespace.
pub(super) fn ruled(maps: &Maps) -> Vec<(u64, u16)> {
    let rules = lock(&maps.policy);
    let all = rules.keys().filter_map(Result::ok);
    all.map(|key| (key.netns, key.port)).filter(|(netns, _)| *netns != ANYWHERE).collect()
}

fn established(maps: &Maps, netns: u64, ports: &[u16]) -> BTreeMap<u16, u64> {
    ports.iter().map(|port| (*port, maps.tally(Port::new(netns, *port)).established)).collect()
}

fn name_of(wanted: &Wanted) -> String {
    wanted.servers.values().next().map_or_else(String::new, |server| server.place.to_string())
}

fn private_ports(listeners: &Listeners) -> anyhow::Result<Vec<u16>> {
    let listener = |listener: &TcpListener| Ok(listener.local_addr()?.port());
    [Some(&listeners.v4), listeners.v6.as_ref()].into_iter().flatten().map(listener).collect()
}

pub(super) fn set_private(maps: &Maps, netns: u64, generation: u32, ports: &[u16]) -> anyhow::Result<()> {
    set(maps, netns, ports, Rule { mode: MODE_PRIVATE, flags: 0, generation, zero: 0, server: 0 })
}

/// Closes ports to everybody and everything, the guard too.
fn set_closed(maps: &Maps, netns: u64, generation: u32, ports: &[u16]) -> anyhow::Result<()> {
    set(maps, netns, ports, Rule { mode: MODE_GUARDED, flags: FLAG_CLOSED, generation, zero: 0, server: 0 })
}

fn set(maps: &Maps, netns: u64, ports: &[u16], rule: Rule) -> anyhow::Result<()> {
    let mut policy = lock(&maps.policy);
    ports.iter().try_for_each(|port| {
        policy.insert(Port::new(netns, *port), rule, 0).with_context(|| format!("cannot protect port {port}"))
    })
}

/// Closes ports that have no rule yet. Those that have one are closed already, or clients wait at them.
fn close(ground: &Ground<'_>, netns: u64, ports: impl Iterator<Item = u16>) -> anyhow::Result<()> {
    let has_rule = |port: &u16| lock(&ground.maps.policy).get(&Port::new(netns, *port), 0).is_ok();
    let open: Vec<u16> = ports.filter(|port| !has_rule(port)).collect();
    set_closed(ground.maps, netns, ground.generation, &open)
}

/// Other ports of servers that the guard before served (`other_ports: protect`) are closed until they are judged anew.
fn close_others(maps: &Maps, netns: u64, keep: &[u16], wanted: &Wanted) -> anyhow::Result<()> {
    let protects: HashSet<u64> = wanted
        .servers
        .values()
        .filter(|server| server.other_ports == OtherPorts::Protect)
        .map(|server| rules::server_key(server.name.as_str()))
        .collect();
    let others: Vec<(Port, Rule)> = lock(&maps.policy)
        .iter()
        .filter_map(Result::ok)
        .filter(|(key, rule)| {
            key.netns == netns && !keep.contains(&key.port) && protects.contains(&rule.server)
        })
        .collect();
    others.into_iter().try_for_each(|(key, rule)| {
        pending::keep_closed(maps, key, rule.server)
            .with_context(|| format!("cannot keep port {} closed", key.port))
    })
}

/// Drops a namespace's rules of ports that are configured no more, and of former private ports.
fn forget_rules(maps: &Maps, netns: u64, keep: &[u16]) -> anyhow::Result<()> {
    let mut policy = lock(&maps.policy);
    let stale: Vec<Port> = policy
        .iter()
        .filter_map(Result::ok)
        .map(|(key, _)| key)
        .filter(|key| key.netns == netns && !keep.contains(&key.port))
        .collect();
    for key in stale {
        maps::gone(policy.remove(&key)).with_context(|| format!("cannot release port {}", key.port))?;
    }
    Ok(())
}
