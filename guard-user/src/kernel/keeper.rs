//! Follows the servers: namespaces that come and go, listeners that start, stop and start again.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use super::events::Events;
use super::guard::{Inner, note_failure, publish};
use super::maps::lock;
use super::netns::NetnsId;
use super::places::{self, Wanted};
use super::realm::{self, Realm};
use super::{diag, prove, sys};
use crate::config::Place;

/// How often is looked for servers and namespaces when no event tells of one.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// The least time between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(20);
/// How long a namespace must be deserted before it is given up: a container may start its next process.
const DESERTED_FOR: Duration = Duration::from_secs(2);
/// With more namespaces than this, each one is looked at less often, so that looking costs no more.
const OFTEN_LOOKED_AT_MAX: usize = 50;

/// Since when each namespace has had nothing to protect.
#[derive(Debug, Default)]
struct Absences {
    since: BTreeMap<u64, Instant>,
    /// Nothing is left of a former guard, or of a namespace that is gone.
    is_tidy: bool,
}

impl Absences {
    /// Notes that `netns` is deserted, and says whether it has been so for long enough.
    fn is_over(&mut self, netns: u64, now: Instant) -> bool {
        now.duration_since(*self.since.entry(netns).or_insert(now)) >= DESERTED_FOR
    }

    fn end(&mut self, netns: u64) {
        self.since.remove(&netns);
    }
}

/// Starts to follow: at once when a program tells of a listener, and from time to time.
pub(super) fn spawn(events: Events, inner: Weak<Inner>) -> anyhow::Result<()> {
    let mut events = sys::wait_for(events)?;
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut absences = Absences::default();
        loop {
            let mut told = false;
            tokio::select! {
                _ = tick.tick() => {}
                ready = events.readable_mut() => match ready {
                    Ok(mut ready) => {
                        let inner = inner.upgrade();
                        while let Some(event) = ready.get_inner_mut().next() {
                            if let Some(inner) = &inner {
                                inner.watches.note(&event);
                            }
                        }
                        ready.clear_ready();
                        told = true;
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
                let raised = look(&inner, told, &mut absences);
                (absences, inner, raised)
            });
            let Ok((back, inner, raised)) = looked.await else { return };
            absences = back;
            for realm in raised {
                let inner = Arc::clone(&inner);
                tokio::spawn(async move { prove::prove(&inner, &realm).await });
            }
            drop(inner);
            // Whoever listens in a loop does not keep us busy.
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    });
    Ok(())
}

/// One look. `told`: a listener has just come somewhere. Returns the namespaces whose claims are to be tried.
fn look(inner: &Inner, told: bool, absences: &mut Absences) -> Vec<Arc<Realm>> {
    let wanted = places::find(&inner.servers, &inner.cgroup_root);
    let known: BTreeMap<NetnsId, Arc<Realm>> =
        inner.realms().values().map(|realm| (realm.netns.id, Arc::clone(realm))).collect();
    let mut raised = Vec::new();
    for (id, wanted) in &wanted {
        match known.get(id) {
            Some(realm) => raised.extend(extend(inner, realm, wanted)),
            None => raised.extend(raise(inner, *id, wanted)),
        }
    }
    lock(&inner.failed).retain(|id, _| wanted.contains_key(id));
    let slots = inner.maps.sockets();
    let patience = LOOK_EVERY.mul_f64(1.0_f64.max(ratio(known.len(), OFTEN_LOOKED_AT_MAX)));
    for (id, realm) in &known {
        if wanted.contains_key(id) || !is_deserted(realm) {
            absences.end(realm.netns.cookie);
        } else if absences.is_over(realm.netns.cookie, Instant::now()) {
            absences.is_tidy &= give_up(inner, realm);
            absences.end(realm.netns.cookie);
            continue;
        }
        let is_due = told || lock(&realm.scanned).elapsed() >= patience;
        if is_due {
            *lock(&realm.scanned) = Instant::now();
            if let Err(error) = realm.servers.scan(&inner.maps, &realm.netns, &slots) {
                tracing::error!(place = realm.name, "cannot look for the protected servers: {error:#}");
            }
        }
    }
    if let Err(error) = inner.wards.look(&inner.maps) {
        tracing::error!("cannot look for new listeners in watched cgroups: {error:#}");
    }
    inner.tend();
    if !absences.is_tidy {
        absences.is_tidy = collect(inner, absences);
    }
    raised
}

fn ratio(count: usize, unit: usize) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / f64::from(u32::try_from(unit).unwrap_or(u32::MAX))
}

fn raise(inner: &Inner, id: NetnsId, wanted: &Wanted) -> Option<Arc<Realm>> {
    match Realm::raise(wanted, &inner.ground()) {
        Ok(realm) => {
            let realm = Arc::new(realm);
            tracing::info!(place = realm.name, netns = realm.netns.cookie, "protected");
            publish(inner, |realms| {
                realms.insert(realm.netns.cookie, Arc::clone(&realm));
            });
            lock(&inner.failed).remove(&id);
            Some(realm)
        }
        Err(error) => {
            note_failure(inner, id, &error);
            None
        }
    }
}

fn extend(inner: &Inner, realm: &Arc<Realm>, wanted: &Wanted) -> Option<Arc<Realm>> {
    match realm.extend(wanted, &inner.ground()) {
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
/// A name that is gone is not enough: `ip netns del` leaves the processes running.
fn is_deserted(realm: &Realm) -> bool {
    if realm.netns.is_own {
        return false;
    }
    let ports = realm.ports();
    let listens = realm.netns.run(|| {
        diag::listening().is_ok_and(|all| !all.iter().any(|socket| ports.contains_key(&socket.local.port())))
    });
    matches!(listens, Ok(true)) && !processes().any(|path| NetnsId::of(&path) == Some(realm.netns.id))
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
    // The self-watch must not put back what is let go of.
    let _alone = lock(&inner.changing);
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
}
