//! Start: from nothing, or over the pins of a guard that died, to closed ports that only this process serves.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::Context;
use guard_common::{ABI, Block, FAMILY_V4, FAMILY_V6, Meta, Slot};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::approval::{Closed, Wards};
use super::blocks::{All as AllBlocks, Blocks};
use super::canary::Canaries;
use super::census::Witnessed;
use super::egress::Locks;
use super::events::{self, Events};
use super::expected::Expected;
use super::features::Features;
use super::gates::Gates;
use super::hold::Holds;
use super::keeper;
use super::load::{self, Places, ProgramStatus};
use super::maps::{Maps, gone, lock};
use super::netns::{Netns, NetnsId};
use super::pins::{Found, Pins};
use super::places;
use super::process::Witness;
use super::prove::{self, Claim};
use super::realm::{self, Ground, Realm};
use super::status::{Seen, Status};
use super::steers::Steers;
use super::version::Version;
use super::vigil::{self, Drift, Vigil};
use super::wall::Walls;
use super::watch::{OtherPort, Watches};
use super::{Census, DeniedCall, Dialer, Handover, block, denied, egress, gates, host, rules, tend};
use crate::attendance::Attendance;
use crate::config::decisions::Decision;
use crate::config::{Config, Kernel, Server};
use crate::service::Beat;

/// How long the start waits for the names in lock-downs: clients are refused meanwhile.
const NAMES_AT_START: Duration = Duration::from_secs(2);

/// Namespaces that are proven at the same time. Each sends out a process that waits for answers.
pub(super) const PROOFS_AT_ONCE_MAX: usize = 8;

/// The protected namespaces by their cookies.
pub(crate) type Realms = Arc<BTreeMap<u64, Arc<Realm>>>;

/// The running guard's hold on the kernel. Dropping it leaves the ports closed.
#[derive(Clone)]
pub struct Guard {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub config: Arc<Config>,
    pub servers: Vec<Arc<Server>>,
    /// Where this process lives: the namespace of servers without `in`.
    pub own: Netns,
    pub cgroup_root: PathBuf,
    /// Id of the guard's cgroup.
    pub cgroup: u64,
    pub generation: u32,
    /// What this kernel offers.
    pub features: Features,
    pub maps: Maps,
    /// Tells which processes the clients in the own namespace are.
    pub witness: Witness,
    steers: Steers,
    pub gates: Arc<Gates>,
    pub walls: Walls,
    pub wards: Wards,
    pub holds: Holds,
    pub blocks: Blocks,
    pub locks: Locks,
    pub watches: Watches,
    pub denied: Mutex<Option<mpsc::Receiver<DeniedCall>>>,
    /// Programs that serve all namespaces.
    pub shared: Mutex<Vec<ProgramStatus>>,
    pub vigil: Vigil,
    is_closing: AtomicBool,
    pub canaries: Canaries,
    pub seen: Seen,
    /// What became of each accepted connection.
    pub attendance: Attendance,
    /// Every port that was served since the start.
    pub witnessed: Witnessed,
    /// Warnings that the proof under way causes.
    pub expected: Expected,
    pub realms: watch::Sender<Realms>,
    /// Namespaces that could not be protected, and why. Tried again.
    pub failed: Mutex<BTreeMap<NetnsId, String>>,
    /// Held by who changes a namespace, and by who looks whether it is as it was left.
    pub changing: Mutex<()>,
    /// What else of the servers' places is not protected, in words.
    pub problems: Mutex<BTreeMap<String, String>>,
    /// Moves with each look for servers, and with each for holds and blocks.
    pub keeping: Beat,
    pub lifting: Beat,
    /// What the guard before handed on and nobody has taken yet.
    handed: Mutex<Handover>,
    /// Keeps the pins locked for this process.
    pins: Pins,
}

impl Guard {
    /// Protects the configured ports, in this process's network namespace and in those of servers elsewhere, also of those
    /// that come later. To be called inside a tokio runtime, before other threads make sockets: the whole process moves
    /// into the guard's cgroup.
    ///
    /// When it fails, nothing new is left behind, and what a former guard had closed stays closed.
    pub async fn start(config: Arc<Config>) -> anyhow::Result<Self> {
        Self::start_with(config, Handover::default()).await
    }

    /// The same with the listeners of the guard before, whose clients wait. That guard must be gone.
    pub async fn start_with(config: Arc<Config>, handed: Handover) -> anyhow::Result<Self> {
        let started = tokio::task::spawn_blocking(move || start(config, handed))
            .await
            .context("the start broke off")??;
        let Started { inner, mut bpf, events, refusals } = started;
        let inner = Arc::new(inner);
        events::spawn_log(&mut bpf, Arc::downgrade(&inner))?;
        keeper::spawn(events, Arc::downgrade(&inner))?;
        tend::spawn_lift(Arc::downgrade(&inner))?;
        tend::spawn_names(Arc::downgrade(&inner));
        vigil::spawn(&inner)?;
        let denied = denied::spawn(refusals, Arc::downgrade(&inner))?;
        *lock(&inner.denied) = Some(denied);
        Ok(Self { inner })
    }

    /// System calls that the kernel refuses from now on, for whoever records them. The first caller gets them.
    pub fn denied(&self) -> Option<mpsc::Receiver<DeniedCall>> {
        lock(&self.inner.denied).take()
    }

    /// The name of the server whose port or cgroup a refused call was about.
    pub fn server_of(&self, call: &DeniedCall) -> Option<String> {
        let of_port = || Some(self.inner.realm(call.netns)?.server(call.address.port())?.name.to_string());
        self.inner.locks.server_of(call.because).or_else(of_port)
    }

    /// What is blocked.
    pub fn blocks(&self) -> Blocks {
        self.inner.blocks.clone()
    }

    /// Blocks that were taken back and are not recorded yet.
    pub fn lifted(&self) -> AllBlocks {
        let lifted = lock(&self.inner.maps.lifted);
        let all = lifted.iter().filter_map(Result::ok);
        all.map(|(key, value)| (key, block::status(&key, &value))).collect()
    }

    /// It is recorded.
    pub fn forget_lifted(&self, key: &Block) -> anyhow::Result<()> {
        gone(lock(&self.inner.maps.lifted).remove(key)).context("cannot forget a block that was taken back")
    }

    /// Cgroups that are to be watched and are not there.
    pub fn unwatched(&self) -> Vec<&str> {
        let watch = self.inner.config.kernel.watch.iter().map(String::as_str);
        watch.filter(|path| !self.inner.cgroup_root.join(path.trim_start_matches('/')).is_dir()).collect()
    }

    /// Reads what `mcp-guard block` has written, at once.
    pub fn refresh_blocks(&self) -> anyhow::Result<()> {
        self.inner.blocks.refresh(&self.inner.maps)
    }

    /// Differences that come and go in the kernel from now on, for whoever records them. The first caller gets them.
    pub fn drifts(&self) -> Option<mpsc::Receiver<Drift>> {
        self.inner.vigil.told()
    }

    /// Moves with each look at the kernel.
    pub fn beat(&self) -> Beat {
        self.inner.vigil.beat.clone()
    }

    /// Moves with each look for servers and listeners.
    pub fn keeping(&self) -> Beat {
        self.inner.keeping.clone()
    }

    /// Moves with each look at holds and blocks.
    pub fn lifting(&self) -> Beat {
        self.inner.lifting.clone()
    }

    /// This guard's listeners for the next one. To be called when nothing is accepted any more.
    pub fn hand_over(&self) -> std::io::Result<Handover> {
        Handover::of(&self.inner)
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
    /// exist, since it answers them. Takes some 100 ms for each namespace.
    pub async fn prove(&self) -> Vec<Claim> {
        let mut all = Vec::new();
        let mut proofs = JoinSet::new();
        for realm in self.inner.realms().values() {
            if proofs.len() >= PROOFS_AT_ONCE_MAX {
                all.extend(proofs.join_next().await.and_then(Result::ok).unwrap_or_default());
            }
            let inner = Arc::clone(&self.inner);
            let realm = Arc::clone(realm);
            proofs.spawn(async move { prove::prove(&inner, &realm).await });
        }
        all.extend(proofs.join_all().await.into_iter().flatten());
        all
    }

    /// Hands the guard's listeners to the kernel again where a claim did not hold: another socket may be in their place,
    /// which nothing but a connection tells.
    pub fn install_again(&self) -> anyhow::Result<()> {
        let _alone = lock(&self.inner.changing);
        if self.inner.is_closing() || !self.inner.config.kernel.reattach {
            return Ok(());
        }
        for (netns, realm) in self.inner.realms().iter() {
            if lock(&realm.claims).iter().any(|claim| !claim.holds) {
                realm.listeners.install(&self.inner.maps, *netns)?;
            }
        }
        Ok(())
    }

    /// Whether the guard does what is its own to do: what it claims of the host's namespace holds. Whoever is root in a
    /// container, or stops a server, changes what `status` says, and not this.
    pub fn serves(&self) -> bool {
        let realms = self.inner.realms();
        realms.values().filter(|realm| realm.netns.is_own).all(|realm| {
            let claims = lock(&realm.claims);
            !claims.is_empty() && claims.iter().all(|claim| claim.holds || claim.of_server)
        })
    }

    /// What kernel and guard have counted so far.
    pub fn census(&self) -> Census {
        Census::read(&self.inner)
    }

    pub fn attendance(&self) -> &Attendance {
        &self.inner.attendance
    }

    /// Listeners in watched cgroups that are closed.
    pub fn closed(&self) -> Vec<Closed> {
        self.inner.wards.closed()
    }

    /// Tells of each listener that is closed for want of a decision. For the first caller.
    pub fn listener_news(&self) -> Option<mpsc::Receiver<Closed>> {
        self.inner.wards.news()
    }

    /// Tells of each listener of a server beside its own. For the first caller.
    pub fn other_ports(&self) -> Option<mpsc::Receiver<OtherPort>> {
        self.inner.watches.news()
    }

    /// Carries out what an operator decided about a closed listener, and remembers it. Writes to the disk.
    pub fn decide(&self, closed: &Closed, decision: Decision) -> anyhow::Result<()> {
        self.inner.wards.decide(&self.inner.maps, closed, decision, self.inner.walls.stands())
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }
}

impl Inner {
    pub(crate) fn realms(&self) -> Realms {
        Arc::clone(&self.realms.borrow())
    }

    pub(crate) fn realm(&self, netns: u64) -> Option<Arc<Realm>> {
        self.realms.borrow().get(&netns).cloned()
    }

    pub(super) fn ground(&self) -> Ground<'_> {
        Ground {
            maps: &self.maps,
            pins: &self.pins,
            steers: &self.steers,
            witness: &self.witness,
            cgroup_root: &self.cgroup_root,
            generation: self.generation,
            handed: &self.handed,
        }
    }

    /// The directory of this start's links.
    pub(super) fn links(&self) -> PathBuf {
        self.pins.links_of(self.generation)
    }

    /// Whether connections are refused since the guard stops.
    pub(super) fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::SeqCst)
    }

    /// Takes the guard's listeners out of the programs' sight: connections are refused as if no guard were alive.
    pub(crate) fn refuse_new(&self) -> anyhow::Result<()> {
        self.is_closing.store(true, Ordering::SeqCst);
        for netns in self.realms().keys() {
            for family in [FAMILY_V4, FAMILY_V6] {
                self.maps.clear_socket(Slot::guard(*netns, family)).context("cannot take a listener away")?;
            }
        }
        Ok(())
    }
}

impl Drop for Inner {
    /// Nobody would be here to end a hold; the ports stay closed all the same.
    fn drop(&mut self) {
        if let Err(error) = self.holds.lift_all(&self.maps) {
            tracing::warn!("a port stays held by its server's cgroup: {error:#}");
        }
    }
}

struct Started {
    inner: Inner,
    bpf: aya::Ebpf,
    events: Events,
    refusals: denied::Ring,
}

pub(super) fn pins_dir(config: &Kernel) -> PathBuf {
    config.bpffs.join(&config.pins)
}

fn start(config: Arc<Config>, handed: Handover) -> anyhow::Result<Started> {
    super::object()?;
    let features = Features::find();
    features.suffice(&config)?;
    host::mount_bpffs(&config.kernel.bpffs)?;
    let own = Netns::own()?;
    let cgroup_root = host::cgroup2_root()?;
    let pins = Pins::open(&pins_dir(&config.kernel))?;
    let before = pins.inspect(own.cookie)?;
    let handed = Mutex::new(match before {
        Found::Ours(meta) => handed.of_pins(pins.policy_id(), meta.generation),
        // Whoever removed the pins has opened the ports: what was swept before that counts for nothing.
        Found::Nothing => handed.of_pins(None, 0),
    });
    let generation = match before {
        Found::Ours(meta) => pins.next_generation(meta.generation)?,
        Found::Nothing => {
            // What is there without a finished META was never in charge of a port.
            pins.clear()?;
            1
        }
    };
    let servers: Vec<Arc<Server>> = config.servers.iter().cloned().map(Arc::new).collect();
    let built = build(&config, &pins, generation, &own, &cgroup_root, &servers, &handed);
    let built = built.map_err(|error| {
        let cleaned = match before {
            Found::Ours(_) => pins.undo_takeover(generation),
            Found::Nothing => pins.remove_all().map(drop),
        };
        match cleaned {
            Ok(()) => error,
            Err(cleaning) => error.context(format!("and cleaning up failed: {cleaning:#}")),
        }
    })?;
    let cgroup = cgroup_root.join(&config.kernel.cgroup);
    let cgroup =
        std::fs::metadata(&cgroup).with_context(|| format!("cannot look at {}", cgroup.display()))?.ino();
    for words in features.reduced() {
        tracing::warn!("{words}");
    }
    let Built {
        maps,
        steers,
        gates,
        walls,
        holds,
        locks,
        bpf,
        events,
        refusals,
        programs,
        realms,
        failed,
        witness,
    } = built;
    let blocks = Blocks::new(&cgroup_root);
    let wards = Wards::new(&cgroup_root, &config.state_dir, &config.kernel.watch)?;
    // Whoever listens in a watched cgroup does not keep the guard from its servers.
    if let Err(error) = wards.look(&maps, walls.stands()) {
        tracing::error!("cannot look for listeners in watched cgroups: {error:#}; trying again");
    }
    let inner = Inner {
        servers,
        own,
        cgroup_root,
        cgroup,
        generation,
        features,
        maps,
        steers,
        gates,
        walls,
        wards,
        holds,
        blocks,
        locks,
        watches: Watches::new(features.knows_caller),
        denied: Mutex::default(),
        witness,
        shared: Mutex::new(programs),
        vigil: Vigil::default(),
        is_closing: AtomicBool::default(),
        canaries: Canaries::new().context("cannot make a nonce")?,
        seen: Seen::default(),
        attendance: Attendance::of(config.servers.iter().map(|server| &server.name)),
        witnessed: Witnessed::default(),
        expected: Expected::default(),
        realms: watch::Sender::new(Arc::new(realms)),
        failed: Mutex::new(failed),
        changing: Mutex::default(),
        problems: Mutex::default(),
        keeping: Beat::default(),
        lifting: Beat::default(),
        handed,
        pins,
        config,
    };
    inner.blocks.refresh(&inner.maps)?;
    inner.tend();
    inner.walls.enforce(&inner.maps)?;
    let meta = Meta { abi: ABI, generation, netns: inner.own.cookie, version: Version::own().0 };
    inner.maps.set_meta(meta).context("cannot write META")?;
    Ok(Started { inner, bpf, events, refusals })
}

struct Built {
    maps: Maps,
    steers: Steers,
    gates: Arc<Gates>,
    bpf: aya::Ebpf,
    events: Events,
    refusals: denied::Ring,
    walls: Walls,
    holds: Holds,
    locks: Locks,
    programs: Vec<ProgramStatus>,
    realms: BTreeMap<u64, Arc<Realm>>,
    failed: BTreeMap<NetnsId, String>,
    witness: Witness,
}

/// The order matters: each step leaves the ports as closed as they were, or more.
fn build(
    config: &Config,
    pins: &Pins,
    generation: u32,
    own: &Netns,
    cgroup_root: &Path,
    servers: &[Arc<Server>],
    handed: &Mutex<Handover>,
) -> anyhow::Result<Built> {
    let cgroup = cgroup_root.join(&config.kernel.cgroup);
    host::enter_cgroup(&cgroup)?;
    let links = pins.make_generation(generation)?;
    let mut bpf = load::load(pins, &links)?;
    let mut programs = load::verify_shared(&mut bpf)?;
    let maps = Maps::take(&mut bpf)?;
    let events = bpf.take_map("EVENTS").context("the kernel object has no map EVENTS; build it again")?;
    let events = Events::try_from(events).context("EVENTS is no ring buffer")?;
    let refusals = bpf.take_map("DENIED").context("the kernel object has no map DENIED; build it again")?;
    let refusals = denied::Ring::try_from(refusals).context("DENIED is no ring buffer")?;

    // Old and new programs run side by side on the same maps until the old links go.
    load::attach_shared(&mut bpf, &Places { cgroup_root, cgroup: &cgroup }, &links)?;
    // The version of the guard before stays until this start has come to its end: that guard may be wanted again.
    let version = match maps.meta().context("cannot read META")?.version {
        0 => Version::own().0,
        former => former,
    };
    maps.set_meta(Meta { abi: ABI, generation, netns: own.cookie, version }).context("cannot write META")?;
    let gates =
        Arc::new(Gates::new(pins, &links, gates::id(&cgroup).context("cannot look at the guard's cgroup")?)?);
    programs.extend_from_slice(gates.programs());
    let older = pins.older_links(generation)?;
    tell_of_programs(&older, &programs);
    let adopted = gates.adopt(&older, cgroup_root)?;
    pins.remove_older_shared(generation)?;
    // Nothing dials yet, and the former guard is dead.
    maps.clear_flows().context("cannot forget the flows of a former guard")?;

    let locks = Locks::new(Arc::clone(&gates), cgroup_root);
    locks.free_left(&maps)?;
    // The first look at the servers finds the names resolved. This is a thread that may wait.
    tokio::runtime::Handle::current().block_on(async {
        let resolved = tokio::time::timeout(NAMES_AT_START, locks.resolve(servers)).await;
        if resolved.is_err() {
            tracing::warn!(
                "the names of `egress` are not all resolved yet; servers that are closed wait for theirs"
            );
        }
    });
    let walls = Walls::new(Arc::clone(&gates), &maps, config.kernel.wall)?;
    walls.adopt(&adopted);
    let holds = Holds::new(&maps, cgroup_root)?;
    rules::wait_for(&maps, servers, generation).context("cannot wait for servers elsewhere")?;
    let steers = Steers::new(pins, &links)?;
    let witness = Witness::here(cgroup_root, config.limits.executable_bytes_max)?;
    let ground =
        Ground { maps: &maps, pins, steers: &steers, witness: &witness, cgroup_root, generation, handed };
    let (mut realms, mut failed) = (BTreeMap::new(), BTreeMap::new());
    let none = BTreeSet::new();
    let search = places::Search {
        cgroup_root,
        namespaces_max: config.limits.server_namespaces_max,
        known: &none,
        heard: &none,
    };
    // What is left out is told by the first look of the keeper.
    let found = places::find(servers, &search);
    for (id, raised) in realm::raise_all(&found.wanted, &ground) {
        match raised {
            Ok(realm) => {
                realms.insert(realm.netns.cookie, Arc::new(realm));
            }
            // One container that is just going must not keep the others unserved; the own namespace stays.
            Err(error) if id != own.id => {
                tracing::error!("{error:#}; trying again");
                failed.insert(id, format!("{error:#}"));
            }
            Err(error) => return Err(error),
        }
    }
    for (_, server, path) in tend::pinned(&realms) {
        egress::check_cgroup(&server, &path)?;
    }
    Ok(Built {
        maps,
        steers,
        gates,
        bpf,
        events,
        refusals,
        walls,
        holds,
        locks,
        programs,
        realms,
        failed,
        witness,
    })
}

/// Says in the log whether a guard that follows another one brings other programs.
fn tell_of_programs(older: &[PathBuf], now: &[ProgramStatus]) {
    let before = load::shared_at(older);
    if before.is_empty() {
        return;
    }
    let now: Vec<_> =
        now.iter().filter(|program| load::SHARED.contains(&program.name.as_str())).cloned().collect();
    match load::changed(&before, &now).as_slice() {
        [] => tracing::info!(
            programs = now.len(),
            "the kernel programs are the same as those of the guard before"
        ),
        changed => tracing::info!(?changed, "other kernel programs than those of the guard before"),
    }
}

/// Remembers a realm, or its end. The acceptor and `status` follow.
pub(super) fn publish(inner: &Inner, change: impl FnOnce(&mut BTreeMap<u64, Arc<Realm>>)) {
    inner.realms.send_modify(|realms| change(Arc::make_mut(realms)));
}

/// Remembers why a namespace is not protected, once for the same words.
pub(super) fn note_failure(inner: &Inner, id: NetnsId, error: &anyhow::Error) {
    let words = format!("{error:#}");
    let before = lock(&inner.failed).insert(id, words.clone());
    if before.as_ref() != Some(&words) {
        tracing::error!("{words}; trying again");
    }
}
