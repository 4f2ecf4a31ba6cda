//! Ports that are closed since nobody has approved who listens there.
//!
//! Kernel programs write them as well, at any moment. So a port is opened only as it was seen before the look that found
//! nothing against it: who has begun to listen since has made it another one.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use aya::maps::MapError;
use guard_common::{PENDING_OF_CGROUP_MAX, Pending, Port, Watch};
use rustix::time::{ClockId, clock_gettime};

use super::maps::{Maps, gone, lock};

/// `BPF_NOEXIST`: an entry that is there stays as it is.
const BPF_NOEXIST: u64 = 1;

/// How long nobody has begun to listen on a port before its entry is taken out.
const QUIET_NANOSECONDS: u64 = 2_000_000_000;

/// What was pending at one moment.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub ports: BTreeMap<Port, Pending>,
    /// Entries of each watched cgroup, with those that were added since.
    counts: BTreeMap<u64, usize>,
    /// They were counted after the listeners were listed.
    is_counted_since: bool,
    /// Watched cgroups that are shut, and since when.
    shut: BTreeMap<u64, u64>,
    /// Those that were shut since.
    shut_since: BTreeSet<u64>,
}

/// What became of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    /// It was closed already.
    Before,
    /// It was open until now.
    Now,
    /// There is no room for it by itself: its whole cgroup is shut.
    WithItsCgroup,
}

impl Seen {
    /// To be called before listeners are looked at.
    pub(super) fn now(maps: &Maps) -> Self {
        let ports: BTreeMap<Port, Pending> = lock(&maps.pending).iter().filter_map(Result::ok).collect();
        let shut = lock(&maps.shut).iter().filter_map(Result::ok).collect();
        let counts = counted(ports.values());
        Self { ports, counts, shut, ..Self::default() }
    }

    /// Counts once more, before the first port is closed: a program made its entry, or found no room, before a listener
    /// could be listed. By an older count what it had no room for would get some here.
    fn count_anew(&mut self, maps: &Maps) {
        if !self.is_counted_since {
            self.is_counted_since = true;
            self.counts = Self::now(maps).counts;
        }
    }

    /// Whether nobody reaches the port: it is pending and not approved.
    pub(super) fn is_closed(&self, maps: &Maps, port: Port) -> Result<bool, MapError> {
        let Some(pending) = self.ports.get(&port) else { return Ok(false) };
        match lock(&maps.approved).get(&port, 0) {
            Ok(at) => Ok(at != pending.at),
            Err(MapError::KeyNotFound) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Closes a port as the kernel program does, for a listener in the cgroup `watched`, unless that has `room` entries. An
    /// entry that came meanwhile stays.
    pub(super) fn close(
        &mut self,
        maps: &Maps,
        port: Port,
        watched: u64,
        server: u64,
        room: usize,
    ) -> anyhow::Result<Closed> {
        if self.ports.contains_key(&port) {
            if self.is_closed(maps, port)? {
                return Ok(Closed::Before);
            }
            gone(lock(&maps.approved).remove(&port)).context("cannot take an approval back")?;
            return Ok(Closed::Now);
        }
        self.count_anew(maps);
        if self.count(watched) < room {
            let pending = Pending { at: now(), watched, server };
            match lock(&maps.pending).insert(port, pending, BPF_NOEXIST) {
                Ok(()) => {
                    *self.counts.entry(watched).or_default() += 1;
                    return Ok(Closed::Now);
                }
                Err(error) if code(&error) == Some(nix::libc::EEXIST) => return Ok(Closed::Before),
                Err(error) if code(&error) == Some(nix::libc::E2BIG) => {}
                Err(error) => return Err(error).context("cannot close a port"),
            }
        }
        if self.shut.contains_key(&watched) {
            return Ok(Closed::WithItsCgroup);
        }
        let at = now();
        lock(&maps.shut).insert(watched, at, BPF_NOEXIST).or_else(|error| match code(&error) {
            Some(nix::libc::EEXIST) => Ok(()),
            _ => Err(error).context("cannot shut a cgroup"),
        })?;
        self.shut.insert(watched, at);
        self.shut_since.insert(watched);
        Ok(Closed::WithItsCgroup)
    }

    /// Opens a port to everybody, for those who listened when this was seen. It stays known, since its cgroup may be shut.
    pub(super) fn approve(&mut self, maps: &Maps, port: Port, watched: u64) -> anyhow::Result<()> {
        if let Some(pending) = self.ports.get(&port) {
            return lock(&maps.approved).insert(port, pending.at, 0).context("cannot open a port");
        }
        let pending = Pending { at: now(), watched, server: 0 };
        lock(&maps.approved).insert(port, pending.at, 0).context("cannot open a port")?;
        match lock(&maps.pending).insert(port, pending, BPF_NOEXIST) {
            // Without room it is closed with its cgroup.
            Err(error) if matches!(code(&error), Some(nix::libc::EEXIST | nix::libc::E2BIG)) => Ok(()),
            other => other.context("cannot open a port"),
        }
    }

    /// Opens a port on which nobody listened when this was seen, and where nobody has begun to for a while: a listener that comes
    /// and goes would be there again in the instant in which its entry is taken out and looked at. False: somebody has begun since, and it stays closed; it may
    /// have been open for a moment.
    pub(super) fn forget(&self, maps: &Maps, port: Port) -> anyhow::Result<bool> {
        let Some(pending) = self.ports.get(&port) else { return Ok(true) };
        if now().saturating_sub(pending.at) < QUIET_NANOSECONDS {
            return Ok(true);
        }
        let taken = maps.take_pending(port).with_context(|| format!("cannot release port {}", port.port))?;
        if let Some(newer) = taken.filter(|taken| taken.at != pending.at) {
            match lock(&maps.pending).insert(port, newer, BPF_NOEXIST) {
                Err(error) if code(&error) == Some(nix::libc::EEXIST) => {}
                other => other.with_context(|| format!("cannot close port {} again", port.port))?,
            }
            return Ok(false);
        }
        gone(lock(&maps.approved).remove(&port)).context("cannot forget an approval")?;
        Ok(true)
    }

    /// Opens a cgroup again that was shut when this was seen, since each of its listeners has an entry now.
    pub(super) fn reopen(&mut self, maps: &Maps, watched: u64) -> anyhow::Result<()> {
        let Some(at) = self.shut.remove(&watched) else { return Ok(()) };
        let taken = maps.take_shut(watched).context("cannot open a cgroup again")?;
        if let Some(newer) = taken.filter(|newer| *newer != at) {
            lock(&maps.shut).insert(watched, newer, 0).context("cannot shut a cgroup again")?;
        }
        Ok(())
    }

    /// Whether the cgroup was shut when this was seen: nobody has reached a new listener in it.
    pub(super) fn was_shut(&self, watched: u64) -> bool {
        self.shut.contains_key(&watched) && !self.shut_since.contains(&watched)
    }

    pub(super) fn count(&self, watched: u64) -> usize {
        self.counts.get(&watched).copied().unwrap_or_default()
    }
}

/// Entries by their watched cgroup.
fn counted<'a>(entries: impl Iterator<Item = &'a Pending>) -> BTreeMap<u64, usize> {
    let mut counts = BTreeMap::new();
    entries.for_each(|pending| *counts.entry(pending.watched).or_default() += 1);
    counts
}

/// Gives the programs room again in watched cgroups that have used theirs up, as far as entries have gone since. While a cgroup
/// has room the programs count alone: an older count would give it more.
pub(super) fn recount(maps: &Maps) -> Result<(), MapError> {
    let is_full = |(_, watch): &(u64, Watch)| watch.pending >= PENDING_OF_CGROUP_MAX;
    let full: Vec<(u64, Watch)> = lock(&maps.watched).iter().filter_map(Result::ok).filter(is_full).collect();
    if full.is_empty() {
        return Ok(());
    }
    let now = Seen::now(maps);
    for (id, watch) in full {
        let pending = u32::try_from(now.count(id)).unwrap_or(u32::MAX);
        if pending < watch.pending {
            lock(&maps.watched).insert(id, Watch { pending, ..watch }, 0)?;
        }
    }
    Ok(())
}

/// Closes a port of a server that the guard before served, for as long as it is not judged anew.
pub(super) fn keep_closed(maps: &Maps, port: Port, server: u64) -> Result<(), MapError> {
    lock(&maps.pending).insert(port, Pending { at: now(), watched: 0, server }, 0)
}

/// Forgets a port that has a rule now.
pub(super) fn ruled(maps: &Maps, port: Port) -> anyhow::Result<()> {
    maps.take_pending(port).with_context(|| format!("cannot forget port {}", port.port))?;
    gone(lock(&maps.approved).remove(&port)).context("cannot forget an approval")
}

/// As the programs count: nanoseconds since boot.
fn now() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let nanoseconds = i128::from(now.tv_sec) * 1_000_000_000 + i128::from(now.tv_nsec);
    u64::try_from(nanoseconds).unwrap_or_default()
}

fn code(error: &MapError) -> Option<i32> {
    match error {
        MapError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    }
}
