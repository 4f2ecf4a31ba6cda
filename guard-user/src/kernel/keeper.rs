//! Follows the servers: namespaces that come and go, listeners that start, stop and start again.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use guard_common::Port;
use tokio::time::MissedTickBehavior;

use super::census::Census;
use super::events::{self, Events};
use super::guard::{Inner, note_failure, publish};
use super::maps::lock;
use super::netns::NetnsId;
use super::places::{self, Found, Search, Wanted};
use super::proofs::Proofs;
use super::realm::{self, Realm};
use super::{diag, owner, sys};
use crate::config::{Place, Server};

/// How often is looked for servers and namespaces when no event tells of one.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The least time between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// How long a namespace must be deserted before it is given up: a container may start its next process.
const DESERTED_FOR: Duration = Duration::from_secs(2);
/// In the long run, looks are followed by pauses of so many times what they took...
const PAUSE_PER_COST: u32 = 4;
/// ...but pauses may be owed for so long: a few listeners that come at once are seen at once.
const OWED_MAX: Duration = Duration::from_secs(3);
/// Events that are read before a look; the others wait for the next one.
const EVENTS_AT_ONCE_MAX: usize = 2048;
/// New listeners that are remembered until the next look.
const HEARD_MAX: usize = 256;
/// Listeners in namespaces that are not protected of which is told.
const STRANGERS_MAX: usize = 256;
/// How often the counts of ports that are gone are let go.
const PRUNE_EVERY: Duration = Duration::from_secs(10);
/// New namespaces that one look protects; the next look begins soon. Known servers must not wait for all of them.
const RAISED_PER_LOOK_MAX: usize = 256;
/// With more namespaces than this, each one is looked at less often, so that looking costs no more.
const OFTEN_LOOKED_AT_MAX: usize = 50;

/// Since when each namespace has had nothing to protect.
#[derive(Debug, Default)]
struct Absences {
    since: BTreeMap<u64, Instant>,
    /// Nothing is left of a former guard, or of a namespace that is gone.
    is_tidy: bool,
    pruned: Option<Instant>,
    /// Listeners in namespaces that are not protected, of which was told.
    strangers: BTreeSet<Port>,
}

impl Absences {
    /// Notes that `netns` is deserted, and says whether it has been so for long enough.
    fn is_over(&mut self, netns: u64, now: Instant) -> bool {
        now.duration_since(*self.since.entry(netns).or_insert(now)) >= DESERTED_FOR
    }

    fn is_pruning_due(&mut self, now: Instant) -> bool {
        let is_due = self.pruned.is_none_or(|at| now.duration_since(at) >= PRUNE_EVERY);
        if is_due {
            self.pruned = Some(now);
        }
        is_due
    }

    fn end(&mut self, netns: u64) {
        self.since.remove(&netns);
    }
}

/// Listeners that programs have told of since the last look.
#[derive(Debug, Default)]
struct Heard {
    /// Namespace and port, and the process.
    listeners: BTreeMap<Port, u32>,
    /// Something was told, also beyond what is remembered.
    is_told: bool,
}

impl Heard {
    fn note(&mut self, event: &[u8]) {
        self.is_told = true;
        if let Some((port, pid)) = events::listener(event)
            && self.listeners.len() < HEARD_MAX
        {
            self.listeners.insert(port, pid);
        }
    }

    /// The namespaces of their processes.
    fn namespaces(&self) -> BTreeSet<NetnsId> {
        places::namespaces_of(self.listeners.values().copied())
    }
}

/// What one look did.
struct Looked {
    /// Namespaces whose claims are to be tried.
    raised: Vec<Arc<Realm>>,
    /// How long it took, without the work on namespaces that came.
    cost: Duration,
}

/// Starts to follow: at once when a program tells of a listener, and from time to time.
pub(super) fn spawn(events: Events, inner: Weak<Inner>) -> anyhow::Result<()> {
    let mut events = sys::wait_for(events)?;
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut absences = Absences::default();
        let mut debt = Debt::none(Instant::now());
        let proofs = Proofs::new();
        loop {
            let mut heard = Heard::default();
            tokio::select! {
                _ = tick.tick() => {}
                ready = events.readable_mut() => match ready {
                    Ok(mut ready) => {
                        let inner = inner.upgrade();
                        let mut is_all = false;
                        for _ in 0..EVENTS_AT_ONCE_MAX {
                            let Some(event) = ready.get_inner_mut().next() else {
                                is_all = true;
                                break;
                            };
                            heard.note(&event);
                            if let Some(inner) = &inner {
                                inner.watches.note(&event);
                            }
                        }
                        if is_all {
                            ready.clear_ready();
                        }
                    }
                    Err(error) => {
                        tracing::error!(%error, "cannot wait for kernel events; servers are found more slowly");
                        tokio::time::sleep(LOOK_EVERY).await;
                    }
                },
            }
            let Some(inner) = inner.upgrade() else { return };
            // Reading /proc can take a while on a busy host.
            let looked = tokio::task::spawn_blocking(move || {
                let looked = look(&inner, &heard, &mut absences);
                (absences, inner, looked)
            });
            let (inner, Looked { raised, cost }) = match looked.await {
                Ok((back, inner, looked)) => {
                    absences = back;
                    (inner, looked)
                }
                Err(error) if error.is_panic() => {
                    // Without a beat, the watchdog sees it if it goes on.
                    tracing::error!(
                        "a look for servers broke off, which is a fault of the guard: {error}; looking again"
                    );
                    absences = Absences::default();
                    tokio::time::sleep(LOOK_EVERY).await;
                    continue;
                }
                Err(_runtime_ends) => return,
            };
            inner.keeping.beat();
            proofs.start(&inner, raised);
            drop(inner);
            tokio::time::sleep(debt.pause_after(cost, Instant::now())).await;
        }
    });
    Ok(())
}

/// Pauses that are owed. Whoever listens in a loop does not keep us busy, however much a look costs.
#[derive(Debug)]
struct Debt {
    owed: Duration,
    since: Instant,
}

impl Debt {
    fn none(now: Instant) -> Self {
        Self { owed: Duration::ZERO, since: now }
    }

    /// How long to pause `now`, after a look that took `cost`.
    fn pause_after(&mut self, cost: Duration, now: Instant) -> Duration {
        let paid = now.duration_since(self.since).saturating_sub(cost);
        self.owed = self.owed.saturating_sub(paid) + cost * PAUSE_PER_COST;
        self.since = now;
        self.owed.saturating_sub(OWED_MAX).clamp(LOOK_PAUSE, LOOK_EVERY)
    }
}

/// One look.
fn look(inner: &Inner, heard: &Heard, absences: &mut Absences) -> Looked {
    let begun = Instant::now();
    let known: BTreeMap<NetnsId, Arc<Realm>> =
        inner.realms().values().map(|realm| (realm.netns.id, Arc::clone(realm))).collect();
    let ids: BTreeSet<NetnsId> = known.keys().copied().collect();
    let search = Search {
        cgroup_root: &inner.cgroup_root,
        namespaces_max: inner.config.limits.server_namespaces_max,
        known: &ids,
        heard: &heard.namespaces(),
    };
    let Found { wanted, left_out, problems } = places::find(&inner.servers, &search);
    tell(inner, problems);
    let raising = Instant::now();
    let mut raised = Vec::new();
    let new = wanted.iter().filter(|(id, _)| !known.contains_key(id));
    raised.extend(raise(inner, new.take(RAISED_PER_LOOK_MAX)));
    for (id, wanted) in &wanted {
        if let Some(realm) = known.get(id) {
            raised.extend(extend(inner, realm, wanted));
        }
    }
    let raising = raising.elapsed();
    tell_strangers(inner, heard, absences);
    lock(&inner.failed).retain(|id, _| wanted.contains_key(id));
    let slots = inner.maps.sockets();
    let patience = LOOK_EVERY.mul_f64(1.0_f64.max(ratio(known.len(), OFTEN_LOOKED_AT_MAX)));
    for (id, realm) in &known {
        if wanted.contains_key(id) || !is_deserted(realm, left_out.contains(id)) {
            absences.end(realm.netns.cookie);
        } else if absences.is_over(realm.netns.cookie, Instant::now()) {
            absences.is_tidy &= give_up(inner, realm);
            absences.end(realm.netns.cookie);
            continue;
        }
        let is_due = heard.is_told || lock(&realm.scanned).elapsed() >= patience;
        if is_due {
            *lock(&realm.scanned) = Instant::now();
            if let Err(error) = realm.servers.scan(&inner.maps, &realm.netns, &slots) {
                tracing::error!(place = realm.name, "cannot look for the protected servers: {error:#}");
            }
        }
    }
    if let Err(error) = inner.wards.look(&inner.maps, inner.walls.stands()) {
        tracing::error!("cannot look for new listeners in watched cgroups: {error:#}");
    }
    inner.tend();
    if !absences.is_tidy {
        absences.is_tidy = collect(inner, absences);
    }
    if absences.is_pruning_due(Instant::now())
        && let Err(error) = Census::prune(inner)
    {
        tracing::error!("cannot let go of the counts of ports that are gone: {error:#}");
    }
    Looked { raised, cost: begun.elapsed().saturating_sub(raising) }
}

/// Problems that are new are told once; `status` has their words of now.
fn tell(inner: &Inner, problems: BTreeMap<String, String>) {
    let mut before = lock(&inner.problems);
    for (about, words) in problems.iter().filter(|(about, _)| !before.contains_key(*about)) {
        tracing::error!("{about}: {words}");
    }
    *before = problems;
}

/// Tells of new listeners on the ports of servers elsewhere, in namespaces that are not protected. Anybody can make such a
/// listener, so there is an end to it.
fn tell_strangers(inner: &Inner, heard: &Heard, absences: &mut Absences) {
    let is_server =
        |server: &Server, port: &Port| server.place != Place::Host && server.port.get() == port.port;
    for (port, pid) in heard.listeners.iter().filter(|(port, _)| inner.realm(port.netns).is_none()) {
        let servers: Vec<_> = inner.servers.iter().filter(|server| is_server(server, port)).collect();
        if servers.is_empty()
            || absences.strangers.len() >= STRANGERS_MAX
            || !absences.strangers.insert(*port)
        {
            continue;
        }
        let cgroup = owner::cgroup_path(*pid).unwrap_or_default();
        let is_in = |server: &&&Arc<Server>| {
            server.place.is_by_cgroup() && places::is_in(&server.place, &inner.cgroup_root, *pid, &cgroup)
        };
        let (netns, port) = (port.netns, port.port);
        if let Some(Server { place, name, .. }) = servers.iter().find(is_in).map(AsRef::as_ref) {
            tracing::error!(
                port,
                pid,
                netns,
                "a process of {place} listens on the port of server {name} in a network namespace that is not protected"
            );
        } else {
            tracing::info!(
                port,
                pid,
                cgroup = owner::printable(&cgroup),
                netns,
                "somebody listens on the port of a server, in a network namespace where guard.yaml has none"
            );
        }
        if absences.strangers.len() == STRANGERS_MAX {
            tracing::warn!("more such listeners are not told");
        }
    }
}

fn ratio(count: usize, unit: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / f64::from(u32::try_from(unit).unwrap_or(u32::MAX))
}

fn raise<'w>(inner: &Inner, wanted: impl Iterator<Item = (&'w NetnsId, &'w Wanted)>) -> Vec<Arc<Realm>> {
    let mut all = Vec::new();
    for (id, raised) in realm::raise_all(wanted, &inner.ground()) {
        match raised {
            Ok(realm) => {
                let realm = Arc::new(realm);
                tracing::info!(place = realm.name, netns = realm.netns.cookie, "protected");
                publish(inner, |realms| {
                    realms.insert(realm.netns.cookie, Arc::clone(&realm));
                });
                lock(&inner.failed).remove(&id);
                all.push(realm);
            }
            Err(error) => note_failure(inner, id, &error),
        }
    }
    all
}

fn extend(inner: &Inner, realm: &Arc<Realm>, wanted: &Wanted) -> Option<Arc<Realm>> {
    let extended = {
        let _alone = lock(&inner.changing);
        realm.extend(wanted, &inner.ground())
    };
    match extended {
        Ok(is_new) => {
            lock(&inner.failed).remove(&realm.netns.id);
            is_new.then(|| Arc::clone(realm))
        }
        Err(error) => {
            note_failure(inner, realm.netns.id, &error);
            None
        }
    }
}

/// Whether nobody could serve there: no process lives in the namespace and nothing but the guard listens on its ports.
/// A name that is gone is not enough: `ip netns del` leaves the processes running. Of a namespace that is left out, since its
/// server has too many, it is enough that nobody listens.
fn is_deserted(realm: &Realm, is_left_out: bool) -> bool {
    if realm.netns.is_own {
        return false;
    }
    let ports = realm.ports();
    let listens = realm.netns.run(|| {
        diag::listening().is_ok_and(|all| !all.iter().any(|socket| ports.contains_key(&socket.local.port())))
    });
    matches!(listens, Ok(true))
        && (is_left_out || !processes().any(|path| NetnsId::of(&path) == Some(realm.netns.id)))
}

fn processes() -> impl Iterator<Item = PathBuf> {
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
        let is_pid = entry.file_name().to_str()?.bytes().all(|b| b.is_ascii_digit());
        is_pid.then(|| entry.path().join("ns/net"))
    })
}

/// False: something of it is left.
fn give_up(inner: &Inner, realm: &Realm) -> bool {
    tracing::info!(place = realm.name, netns = realm.netns.cookie, "deserted; the guard lets go of it");
    let _alone = lock(&inner.changing);
    inner.witnessed.note(&inner.realms());
    // First nobody takes connections there, then the way is open; with no process there, nobody could use it.
    publish(inner, |realms| {
        realms.remove(&realm.netns.cookie);
    });
    let released = realm.release(&inner.ground());
    if let Err(error) = &released {
        tracing::error!(place = realm.name, "cannot let go of a deserted namespace: {error:#}; trying again");
    }
    released.is_ok()
}

/// Lets go of what a former guard protected: namespaces that are dead, and those whose ports nobody has configured. The
/// rest stays closed until its place is found again. True: nothing is left.
fn collect(inner: &Inner, absences: &mut Absences) -> bool {
    let realms = inner.realms();
    let is_old = |cookie: &u64| !realms.contains_key(cookie);
    let mut rules: BTreeMap<u64, Vec<u16>> = BTreeMap::new();
    for (netns, port) in realm::ruled(&inner.maps) {
        if is_old(&netns) {
            rules.entry(netns).or_default().push(port);
        }
    }
    for cookie in inner.ground().pins.steered() {
        if is_old(&cookie)
            && let Entry::Vacant(entry) = rules.entry(cookie)
        {
            entry.insert(Vec::new());
        }
    }
    let mut is_tidy = true;
    for (cookie, ports) in rules {
        let is_configured = inner
            .servers
            .iter()
            .any(|server| server.place != Place::Host && ports.contains(&server.port.get()));
        let alive = inner.ground().pins.is_steered_alive(cookie);
        // Twice, since a place may not have been found for a moment.
        if alive && (is_configured || !absences.is_over(cookie, Instant::now())) {
            is_tidy = false;
            continue;
        }
        absences.end(cookie);
        match realm::release(cookie, &inner.ground()) {
            Ok(()) => tracing::info!(netns = cookie, "what a former guard protected there is given up"),
            Err(error) => {
                is_tidy = false;
                tracing::error!(netns = cookie, "cannot give up a namespace: {error:#}; trying again");
            }
        }
    }
    is_tidy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_is_given_up_only_after_it_was_deserted_without_a_break() {
        let (mut absences, start) = (Absences::default(), Instant::now());
        assert!(!absences.is_over(1, start));
        assert!(!absences.is_over(1, start + DESERTED_FOR / 2));
        absences.end(1);
        assert!(!absences.is_over(1, start + DESERTED_FOR));
        assert!(absences.is_over(1, start + DESERTED_FOR * 2));
        assert!(!absences.is_over(2, start + DESERTED_FOR * 2));
    }

    #[test]
    fn the_pause_grows_with_what_a_look_costs_and_has_an_end() {
        let mut now = Instant::now();
        let mut debt = Debt::none(now);
        let cost = Duration::from_millis(50);
        let (mut looks, mut paused) = (0_u32, Duration::ZERO);
        while paused < Duration::from_secs(60) {
            now += cost;
            let pause = debt.pause_after(cost, now);
            assert!(looks > 3 || pause == LOOK_PAUSE, "a few at once are seen at once");
            (looks, paused, now) = (looks + 1, paused + pause, now + pause);
        }
        assert!(cost * looks * PAUSE_PER_COST <= paused + OWED_MAX * 2, "{looks} looks");
        assert_eq!(debt.pause_after(Duration::from_secs(9), now), LOOK_EVERY);
        now += Duration::from_secs(90);
        assert_eq!(debt.pause_after(Duration::ZERO, now), LOOK_PAUSE);
    }

    #[test]
    fn listeners_that_nobody_has_room_for_are_still_a_reason_to_look() {
        let mut heard = Heard::default();
        assert!(!heard.is_told);
        for netns in 0..HEARD_MAX as u64 + 5 {
            let mut event = [0; size_of::<guard_common::Listening>()];
            event[..8].copy_from_slice(&netns.to_ne_bytes());
            event[32..36].copy_from_slice(&80_u32.to_ne_bytes());
            event[36..40].copy_from_slice(&7_u32.to_ne_bytes());
            heard.note(&event);
        }
        assert_eq!(heard.listeners.len(), HEARD_MAX);
        assert_eq!(heard.listeners[&Port::new(3, 80)], 7);
        let mut full = Heard::default();
        full.note(&[0; 3]);
        assert!(full.is_told && full.listeners.is_empty());
    }
}
