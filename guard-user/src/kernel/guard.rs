//! Start: from nothing, or over the pins of a guard that died, to closed ports that only this process serves.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::{Context, bail};
use guard_common::{ABI, MODE_GUARDED, MODE_PRIVATE, Meta, Port, Rule};

use super::canary::Canaries;
use super::events::{self, Events};
use super::expected::Expected;
use super::listeners::Listeners;
use super::load::{self, Places, ProgramStatus};
use super::maps::{self, Maps, lock};
use super::pins::{Found, Pins};
use super::prove::{self, Claim};
use super::servers::Servers;
use super::status::{Seen, Status};
use super::{Dialer, host, sweep};
use crate::config::{Config, Kernel, Server};

/// The running guard's hold on the kernel. Dropping it leaves the ports closed.
#[derive(Clone)]
pub struct Guard {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub config: Arc<Config>,
    /// Protected servers by port.
    pub by_port: BTreeMap<u16, Arc<Server>>,
    pub netns: u64,
    pub netns_file: File,
    pub cgroup_root: PathBuf,
    /// Id of the guard's cgroup.
    pub cgroup: u64,
    pub generation: u32,
    pub maps: Maps,
    pub listeners: Listeners,
    pub servers: Servers,
    pub programs: Vec<ProgramStatus>,
    pub canaries: Canaries,
    pub seen: Seen,
    /// Warnings that the proof under way causes.
    pub expected: Expected,
    pub claims: Mutex<Vec<Claim>>,
    /// Connections from before this start that were ended.
    pub ended: usize,
    /// Keeps the pins locked for this process.
    _pins: Pins,
}

impl Guard {
    /// Protects the configured ports in this process's network namespace. To be called inside a tokio runtime, before
    /// other threads make sockets: the whole process moves into the guard's cgroup.
    ///
    /// When it fails, nothing new is left behind, and what a former guard had closed stays closed.
    pub async fn start(config: Arc<Config>) -> anyhow::Result<Self> {
        let started =
            tokio::task::spawn_blocking(move || start(config)).await.context("the start broke off")??;
        let Started { inner, mut bpf, events } = started;
        let inner = Arc::new(inner);
        events::spawn_log(&mut bpf, Arc::downgrade(&inner))?;
        events::spawn_watch(events, Arc::downgrade(&inner))?;
        Ok(Self { inner })
    }

    /// Makes connections to the protected servers.
    pub fn dialer(&self) -> Dialer {
        Dialer::new(Arc::clone(&self.inner))
    }

    /// What the guard does and what was proven, for `status`.
    pub fn status(&self) -> Status {
        Status::of(&self.inner)
    }

    /// Tries every claim anew, with real connections, and remembers the answers for `status`. The `Acceptor` must
    /// exist, since it answers them. Takes some 100 ms.
    pub async fn prove(&self) -> Vec<Claim> {
        let claims = prove::prove(&self.inner).await;
        lock(&self.inner.claims).clone_from(&claims);
        claims
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }
}

struct Started {
    inner: Inner,
    bpf: aya::Ebpf,
    events: Events,
}

pub(super) fn pins_dir(config: &Kernel) -> PathBuf {
    config.bpffs.join(&config.pins)
}

fn start(config: Arc<Config>) -> anyhow::Result<Started> {
    super::object()?;
    let by_port: BTreeMap<u16, Arc<Server>> =
        config.servers.iter().map(|server| (server.port.get(), Arc::new(server.clone()))).collect();
    if by_port.len() != config.servers.len() {
        bail!("two servers in guard.yaml have the same port");
    }
    host::mount_bpffs(&config.kernel.bpffs)?;
    let (netns_file, netns) = host::netns()?;
    let cgroup_root = host::cgroup2_root()?;
    let pins = Pins::open(&pins_dir(&config.kernel))?;
    let before = pins.inspect(netns)?;
    let generation = match before {
        Found::Ours(meta) => pins.next_generation(meta.generation)?,
        Found::Nothing => {
            // What is there without a finished META was never in charge of a port.
            pins.clear()?;
            1
        }
    };
    let ports: Vec<u16> = by_port.keys().copied().collect();
    let result = build(&config, &pins, generation, (netns, &netns_file), &cgroup_root, &ports);
    let built = match result {
        Ok(built) => built,
        Err(error) => {
            let cleaned = match before {
                Found::Ours(meta) => pins.undo_takeover(meta.generation, generation),
                Found::Nothing => pins.remove_all().map(drop),
            };
            return Err(match cleaned {
                Ok(()) => error,
                Err(cleaning) => error.context(format!("and cleaning up failed: {cleaning:#}")),
            });
        }
    };
    let cgroup = cgroup_root.join(&config.kernel.cgroup);
    let cgroup =
        std::fs::metadata(&cgroup).with_context(|| format!("cannot look at {}", cgroup.display()))?.ino();
    let Built { maps, bpf, events, listeners, servers, programs, ended } = built;
    let inner = Inner {
        by_port,
        netns,
        netns_file,
        cgroup_root,
        cgroup,
        generation,
        maps,
        listeners,
        servers,
        programs,
        canaries: Canaries::new().context("cannot make a nonce")?,
        seen: Seen::default(),
        expected: Expected::default(),
        claims: Mutex::default(),
        ended,
        _pins: pins,
        config,
    };
    Ok(Started { inner, bpf, events })
}

struct Built {
    maps: Maps,
    bpf: aya::Ebpf,
    events: Events,
    listeners: Listeners,
    servers: Servers,
    programs: Vec<ProgramStatus>,
    ended: usize,
}

/// The order matters: each step leaves the ports as closed as they were, or more.
fn build(
    config: &Config,
    pins: &Pins,
    generation: u32,
    (netns, netns_file): (u64, &File),
    cgroup_root: &Path,
    ports: &[u16],
) -> anyhow::Result<Built> {
    let cgroup = cgroup_root.join(&config.kernel.cgroup);
    host::enter_cgroup(&cgroup)?;
    let mut bpf = load::load(pins, netns)?;
    let programs = load::verify(&mut bpf)?;
    let maps = Maps::take(&mut bpf)?;
    let events = bpf.take_map("EVENTS").context("the kernel object has no map EVENTS; build it again")?;
    let events = Events::try_from(events).context("EVENTS is no ring buffer")?;

    let listeners = Listeners::open().context("cannot open the guard's listeners")?;
    let private = private_ports(&listeners)?;
    set_rules(&maps, netns, generation, MODE_PRIVATE, &private)?;

    // Old and new programs run side by side on the same maps until the old links go.
    let links = pins.make_generation(generation)?;
    load::attach(&mut bpf, &Places { netns: netns_file, cgroup_root, cgroup: &cgroup }, &links)?;
    maps.set_meta(Meta { abi: ABI, generation, netns }).context("cannot write META")?;
    pins.remove_generations(Some(generation))?;

    let servers = Servers::new(netns, ports.to_vec());
    servers.scan(&maps)?;
    set_rules(&maps, netns, generation, MODE_GUARDED, ports)?;
    forget_rules(&maps, netns, &[ports, &private].concat())?;
    // Nothing is served yet, so every live connection on the ports is one from before.
    let ended = sweep::sweep(ports)?;
    maps.clear_flows().context("cannot forget the flows of a former guard")?;
    // A server may have started to listen while its port was not protected yet.
    servers.scan(&maps)?;
    listeners.install(&maps, netns).context("cannot hand the guard's listeners to the kernel")?;
    Ok(Built { maps, bpf, events, listeners, servers, programs, ended })
}

fn private_ports(listeners: &Listeners) -> anyhow::Result<Vec<u16>> {
    let listener = |listener: &TcpListener| Ok(listener.local_addr()?.port());
    [Some(&listeners.v4), listeners.v6.as_ref()].into_iter().flatten().map(listener).collect()
}

fn set_rules(maps: &Maps, netns: u64, generation: u32, mode: u32, ports: &[u16]) -> anyhow::Result<()> {
    let mut policy = lock(&maps.policy);
    for port in ports {
        policy
            .insert(Port::new(netns, *port), Rule { mode, generation }, 0)
            .with_context(|| format!("cannot protect port {port}"))?;
    }
    Ok(())
}

/// Drops the rules of ports that are configured no more, and of former private ports.
fn forget_rules(maps: &Maps, netns: u64, keep: &[u16]) -> anyhow::Result<()> {
    let mut policy = lock(&maps.policy);
    let stale: Vec<Port> = policy
        .keys()
        .filter_map(Result::ok)
        .filter(|key| key.netns != netns || !keep.contains(&key.port))
        .collect();
    for key in stale {
        maps::gone(policy.remove(&key)).with_context(|| format!("cannot release port {}", key.port))?;
    }
    Ok(())
}
