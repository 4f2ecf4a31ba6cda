//! How often it may be done: sliding windows, and calls under way. Time comes in as an argument.
//!
//! Counts belong to what a rule counts (its filters, what it counts apart, its window), not to a policy version: they
//! outlive a reload, and a changed limit judges the calls already made. They outlive the guard, too: [`counted`] is what a
//! call's record says of them, and [`snapshot`] a file that shortens the reading of such records.
//!
//! A key takes about 160 bytes, and 8 bytes for each moment at which calls began beyond the first four, at most 4 KiB. Keys come from names in
//! the policy, and from users and sessions; there is room for so many of them, and for so many by one agent's calls.

mod clock;
mod counted;
mod fullest;
mod key;
mod owners;
mod shard;
mod snapshot;
mod window;

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use clock::{Anchor, Clock};
pub use counted::{Counted, RECORDED_WINDOWS_MAX, Recounted};
pub use fullest::Fullest;
pub use key::Call;
pub use owners::Room;
pub use snapshot::{Damaged, Restored, SNAPSHOT_FILE};
pub use window::{MOMENTS_MAX, PARTS};

use owners::{Full, Owners};
use shard::{Entry, Shard};

use crate::policy::{ExceededAction, Measure, Meter, RuleName, ScopeId, VelocityRule};
use crate::types::AgentName;

/// Locks that keys are spread over.
///
/// With as many keys as there is room for by default, each has some 800: three quarters of its table.
const SHARDS: usize = 1280;
/// Places that are looked at for a key that counts nothing any more: by a call that brings a new key, and by one for which
/// there is no room.
const SWEEP: usize = 4;
const SWEEP_FULL: usize = 32;
/// When to try again where there is no room for a key.
const FULL_RETRY_MILLISECONDS: u64 = 1000;

/// All counts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Velocity(Arc<Store>);

#[derive(Debug)]
struct Store {
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    /// Locked after shards.
    owners: Mutex<Owners>,
    /// Of the last admission.
    number: AtomicU64,
}

/// Whether a call is within its rules.
#[must_use]
#[derive(Debug)]
pub enum Admission {
    /// It is, and was counted.
    Within(Pass),
    /// It is not, and was not counted by any rule.
    Exceeded(Exceeded),
}

/// What a call has that may go on.
#[derive(Debug, Default)]
pub struct Pass {
    /// For its record; empty: no window counted it.
    pub counted: Counted,
    /// Of the windows that it fits, the one with the least room left, this call counted.
    pub fullest: Option<Filled>,
    /// Rules in shadow that it exceeds.
    pub would_deny: Vec<RuleName>,
    /// To be kept until it has ended.
    pub lease: Lease,
}

/// How much is in a rule's window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filled {
    pub rule: RuleName,
    pub count: u64,
    pub max: u64,
}

/// A call that is under way. When this is dropped, it has ended.
#[must_use]
#[derive(Debug, Default)]
pub struct Lease {
    store: Option<Arc<Store>>,
    keys: Vec<(u64, Box<[u8]>)>,
}

/// Which rule a call exceeds. Of several, a deny rule before an escalate rule, then the one to wait for longest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    pub rule: RuleName,
    pub action: ExceededAction,
    /// The rule's reason, or a sentence about its limit.
    pub reason: Arc<str>,
    /// Until this rule has room for the call, as far as that can be known.
    pub retry_after_milliseconds: u64,
    /// How much is in the window now, or under way.
    pub count: u64,
    pub max: u64,
}

/// One key that an admission is about.
#[derive(Debug)]
struct Touch {
    /// Its bytes among those of all keys.
    from: usize,
    to: usize,
    hash: u64,
    shard: usize,
    /// Which of the locked shards that is.
    guard: usize,
    meter: usize,
    /// Where it is in its shard, until that changes.
    place: Option<usize>,
    /// In shadow, and exceeded: it would not count what it would have refused.
    is_skipped: bool,
}

impl Velocity {
    pub fn new(room: Room) -> Self {
        Self(Arc::new(Store {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            owners: Mutex::new(Owners::new(room)),
            number: AtomicU64::new(0),
        }))
    }

    /// Counts a call that began at `now` (milliseconds of a clock that does not go back) with all `meters` or, if one of
    /// them has no room, with none. Calls with a key in common are judged one after another.
    pub fn admit(&self, now: u64, call: &Call<'_>, meters: &[Meter]) -> Admission {
        if meters.is_empty() {
            return Admission::Within(Pass::default());
        }
        let store = &*self.0;
        let (keys, mut touches) = store.touches(call, meters);
        let mut shards = store.lock_all(&mut touches);
        store.find(now, call.agent, &keys, &mut touches, &mut shards);
        let mut pass = Pass::default();
        let mut exceeded: Option<Exceeded> = None;
        for touch in &mut touches {
            let (Some(shard), Some(meter)) = (shards.get_mut(touch.guard), meters.get(touch.meter)) else {
                continue;
            };
            let entry = touch.place.and_then(|place| shard.get_mut(place));
            let (count, wait) =
                entry.map_or((0, None), |entry| entry.room(now, meter.rule.max, meter.weight));
            let Some(wait) = wait else {
                let count = count.saturating_add(meter.weight.into());
                if pass.fullest.as_ref().is_none_or(|other| other.has_more_room_than(count, meter.rule.max)) {
                    pass.fullest = Some(Filled { rule: meter.rule.name.clone(), count, max: meter.rule.max });
                }
                continue;
            };
            if meter.rule.action == ExceededAction::Shadow {
                touch.is_skipped = true;
                pass.would_deny.push(meter.rule.name.clone());
                continue;
            }
            let found = over(meter, count, wait);
            let rank = |e: &Exceeded| (e.action == ExceededAction::Deny, e.retry_after_milliseconds);
            if exceeded.as_ref().is_none_or(|before| rank(&found) > rank(before)) {
                exceeded = Some(found);
            }
        }
        if let Some(exceeded) = exceeded {
            return Admission::Exceeded(exceeded);
        }
        if let Err((full, meter)) = store.make(call.agent, &keys, &mut touches, &mut shards, meters) {
            return Admission::Exceeded(no_room(meter, full));
        }
        let number = store.number.fetch_add(1, Ordering::Relaxed) + 1;
        for touch in touches.iter().filter(|touch| !touch.is_skipped) {
            let (Some(shard), Some(meter)) = (shards.get_mut(touch.guard), meters.get(touch.meter)) else {
                continue;
            };
            let Some(entry) = touch.place.and_then(|place| shard.get_mut(place)) else { continue };
            // Several rules may look at one count.
            if entry.number == number {
                continue;
            }
            entry.number = number;
            entry.count(now, meter.weight);
            if meter.rule.measure == Measure::Concurrent {
                pass.lease.keys.push((touch.hash, touch.key(&keys).into()));
            } else {
                pass.counted.push(touch.from..touch.to, meter.rule.window_milliseconds, meter.weight);
            }
        }
        drop(shards);
        pass.counted.seal(number, now, keys);
        if !pass.lease.keys.is_empty() {
            pass.lease.store = Some(Arc::clone(&self.0));
        }
        pass.would_deny.sort();
        pass.would_deny.dedup();
        Admission::Within(pass)
    }

    /// Gives back the memory of keys that count nothing, or that `rules` have no window for. Call it now and then: whoever has
    /// no room may wait for it.
    pub fn tidy(&self, now: u64, rules: &[Arc<VelocityRule>]) {
        let scopes: HashSet<ScopeId> = rules.iter().map(|rule| rule.scope()).collect();
        let is_counted = |key: &[u8]| key::scope(key).is_some_and(|scope| scopes.contains(&scope));
        let store = &*self.0;
        for shard in &store.shards {
            lock(shard).tidy(now, &store.hasher, is_counted, |owner| lock(&store.owners).give_back(owner, 1));
        }
    }

    /// Keys that are held.
    pub fn keys(&self) -> usize {
        self.0.shards.iter().map(|shard| lock(shard).len()).sum()
    }

    /// Of the last admission.
    pub fn number(&self) -> u64 {
        self.0.number.load(Ordering::Relaxed)
    }
}

impl Store {
    /// The keys of a call, their bytes one after the other.
    fn touches(&self, call: &Call<'_>, meters: &[Meter]) -> (Vec<u8>, Vec<Touch>) {
        let mut keys = Vec::with_capacity(48 * meters.len());
        let mut touches = Vec::with_capacity(meters.len());
        for (index, meter) in meters.iter().enumerate() {
            let from = keys.len();
            key::write(&mut keys, meter, call);
            let hash = self.hasher.hash_one(keys.get(from..).unwrap_or_default());
            touches.push(Touch {
                from,
                to: keys.len(),
                hash,
                shard: shard_of(hash),
                guard: 0,
                meter: index,
                place: None,
                is_skipped: false,
            });
        }
        (keys, touches)
    }

    /// All shards that are touched; always in the same order, so that no two calls wait for each other.
    fn lock_all(&self, touches: &mut [Touch]) -> Vec<MutexGuard<'_, Shard>> {
        touches.sort_unstable_by_key(|touch| touch.shard);
        let mut guards = Vec::with_capacity(touches.len());
        let mut last = None;
        for touch in touches {
            if last != Some(touch.shard) {
                last = Some(touch.shard);
                guards.extend(self.shards.get(touch.shard).map(lock));
            }
            touch.guard = guards.len().saturating_sub(1);
        }
        guards
    }

    /// Finds the keys. If one is not there yet, some that count nothing make room for it.
    fn find(
        &self,
        now: u64,
        agent: &AgentName,
        keys: &[u8],
        touches: &mut [Touch],
        shards: &mut [MutexGuard<'_, Shard>],
    ) {
        if find_all(keys, touches, shards) {
            return;
        }
        let sweep = if lock(&self.owners).is_full_for(agent) { SWEEP_FULL } else { SWEEP };
        for shard in shards.iter_mut() {
            shard.sweep(now, sweep, |owner| lock(&self.owners).give_back(owner, 1));
        }
        // One that was found may have made room: it was empty.
        find_all(keys, touches, shards);
    }

    /// Makes the keys that are not there yet. Where there is no room, a rule in shadow goes without, and any other has its
    /// call refused.
    fn make<'m>(
        &self,
        agent: &AgentName,
        keys: &[u8],
        touches: &mut [Touch],
        shards: &mut [MutexGuard<'_, Shard>],
        meters: &'m [Meter],
    ) -> Result<(), (Full, &'m Meter)> {
        let is_new = |touch: &&mut Touch| touch.place.is_none() && !touch.is_skipped;
        let (mut binding, mut shadow, mut last) = (0, 0, None);
        for touch in touches.iter_mut().filter(is_new) {
            match meters.get(touch.meter) {
                Some(meter) if meter.rule.action == ExceededAction::Shadow => shadow += 1,
                Some(meter) => (binding, last) = (binding + 1, Some(meter)),
                None => touch.is_skipped = true,
            }
        }
        if binding + shadow == 0 {
            return Ok(());
        }
        let mut owners = lock(&self.owners);
        if let (Err(full), Some(meter)) = (owners.reserve(agent, binding), last) {
            return Err((full, meter));
        }
        if owners.reserve_for_shadow(agent, shadow).is_err() {
            for touch in touches.iter_mut().filter(is_new) {
                let meter = meters.get(touch.meter);
                touch.is_skipped = meter.is_none_or(|meter| meter.rule.action == ExceededAction::Shadow);
            }
        }
        let owner = owners.number(agent);
        drop(owners);
        for touch in touches.iter_mut().filter(is_new) {
            let (Some(shard), Some(meter)) = (shards.get_mut(touch.guard), meters.get(touch.meter)) else {
                continue;
            };
            let key = touch.key(keys);
            // Another rule with the same key may have just made it.
            if shard.find(touch.hash, key).is_some() {
                lock(&self.owners).give_back(owner, 1);
                continue;
            }
            let length = u32::try_from(meter.rule.window_milliseconds).unwrap_or(u32::MAX);
            shard.insert(touch.hash, Entry::new(key, owner, length), &self.hasher);
        }
        // A table that has grown has all of its keys elsewhere.
        find_all(keys, touches, shards);
        Ok(())
    }

    fn release(&self, hash: u64, key: &[u8]) {
        let Some(shard) = self.shards.get(shard_of(hash)) else { return };
        let mut shard = lock(shard);
        let place = shard.find(hash, key);
        if let Some(entry) = place.and_then(|place| shard.get_mut(place))
            && let shard::Count::UnderWay(calls) = &mut entry.count
        {
            *calls = calls.saturating_sub(1);
        }
    }
}

impl Filled {
    /// By the part of it that is used; of two alike, the first stays.
    pub fn has_more_room_than(&self, count: u64, max: u64) -> bool {
        u128::from(self.count) * u128::from(max) < u128::from(count) * u128::from(self.max)
    }
}

impl Exceeded {
    /// A request that names many things is counted in more windows than its record can tell of.
    pub fn too_much_at_once(rule: RuleName) -> Self {
        let most = u64::try_from(RECORDED_WINDOWS_MAX).unwrap_or(u64::MAX);
        Self {
            rule,
            action: ExceededAction::Deny,
            reason: format!(
                "velocity rules count it in more than {most} windows; ask for fewer things at once"
            )
            .into(),
            retry_after_milliseconds: 0,
            count: most,
            max: most,
        }
    }
}

impl Touch {
    fn key<'k>(&self, keys: &'k [u8]) -> &'k [u8] {
        keys.get(self.from..self.to).unwrap_or_default()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(store) = &self.store else { return };
        for (hash, key) in &self.keys {
            store.release(*hash, key);
        }
    }
}

/// Whether all are there.
fn find_all(keys: &[u8], touches: &mut [Touch], shards: &[MutexGuard<'_, Shard>]) -> bool {
    let mut is_complete = true;
    for touch in touches {
        let shard = shards.get(touch.guard);
        touch.place = shard.and_then(|shard| shard.find(touch.hash, touch.key(keys)));
        is_complete &= touch.place.is_some();
    }
    is_complete
}

fn shard_of(hash: u64) -> usize {
    // The table within a shard uses the other bits.
    usize::try_from(hash >> 20).unwrap_or_default() % SHARDS
}

/// The data is consistent between any two statements that can panic, so a poisoned lock is taken over.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn over(meter: &Meter, count: u64, retry_after_milliseconds: u64) -> Exceeded {
    let rule = &meter.rule;
    let reason = rule.reason.clone().unwrap_or_else(|| {
        let (max, intent, seconds) = (rule.max, &rule.intent, rule.window_milliseconds / 1000);
        let words = match rule.measure {
            Measure::Calls => format!("more than {max} calls with {intent} in {seconds} seconds"),
            Measure::Cost => format!("calls with {intent} cost more than {max} in {seconds} seconds"),
            Measure::Concurrent => format!("more than {max} calls with {intent} at a time"),
        };
        words.into()
    });
    Exceeded {
        rule: rule.name.clone(),
        action: rule.action,
        reason,
        retry_after_milliseconds,
        count,
        max: rule.max,
    }
}

fn no_room(meter: &Meter, full: Full) -> Exceeded {
    let (count, reason) = match full {
        Full::Agent(max) => {
            (max, format!("the agent's calls already need {max} counters, which is its share"))
        }
        Full::All(max) => (
            max,
            format!(
                "calls already need {max} counters beyond those kept for each agent, and there is room for no more"
            ),
        ),
    };
    let count = u64::try_from(count).unwrap_or(u64::MAX);
    Exceeded {
        rule: meter.rule.name.clone(),
        action: ExceededAction::Deny,
        reason: reason.into(),
        retry_after_milliseconds: FULL_RETRY_MILLISECONDS,
        count,
        max: count,
    }
}

#[cfg(test)]
mod tests;
