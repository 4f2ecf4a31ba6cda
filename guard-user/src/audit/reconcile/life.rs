//! The trail as lives of guards, each with its heartbeats, and the arithmetic between them.

use std::collections::{BTreeMap, BTreeSet};

use super::{Balance, Fault, Interval, Moment, Record, Seen, State};

/// Explanations of an accepted connection without a record, as `attendance::Counts` names them.
const EXPLANATIONS: [&str; 5] = ["canaries", "loops", "over_limit", "turned_away", "ended"];

/// Collects records; at the end makes the balance.
#[derive(Debug, Default)]
pub(super) struct Lives {
    all: Vec<Life>,
    starts_without_heartbeat: u64,
    is_started: bool,
}

/// One guard, from its first heartbeat to its last.
#[derive(Debug, Default)]
struct Life {
    /// It goes on where the life before left off.
    continues: bool,
    /// It said that it ends.
    is_over: bool,
    servers: BTreeMap<String, Vec<Beat>>,
    /// Connections with a record, by server and number in this life.
    known: BTreeSet<(String, u64)>,
    /// First records since the last heartbeat, by server.
    fresh: BTreeMap<String, u64>,
}

#[derive(Debug, Clone)]
struct Beat {
    at: Moment,
    seen: Seen,
    /// Connections with their first record since the heartbeat before.
    fresh: u64,
}

impl Beat {
    fn kernel(&self, name: &str) -> i128 {
        self.seen.kernel.get(name).copied().unwrap_or_default().into()
    }

    fn is_of_the_same_port(&self, other: &Self) -> bool {
        (self.seen.netns, self.seen.port) == (other.seen.netns, other.seen.port)
    }

    fn waiting(&self) -> i128 {
        self.kernel("established") - i128::from(self.seen.before) - self.guard("accepted")
    }

    fn guard(&self, name: &str) -> i128 {
        self.seen.guard.get(name).copied().unwrap_or_default().into()
    }
}

impl Lives {
    pub(super) fn take(&mut self, record: Record) {
        match record.kind.as_str() {
            "start" => {
                // The life's own heartbeat follows; records before it belong to it already.
                self.starts_without_heartbeat += u64::from(self.is_started);
                self.is_started = true;
                self.all.push(Life::default());
            }
            "heartbeat" => self.heartbeat(record),
            "call" => {
                if let (Some(life), Some(server), Some(conn)) =
                    (self.all.last_mut(), record.server, record.conn)
                    && life.known.insert((server.clone(), conn))
                {
                    *life.fresh.entry(server).or_default() += 1;
                }
            }
            _ => {}
        }
    }

    fn heartbeat(&mut self, record: Record) {
        self.is_started = false;
        let Some(life) = self.all.last_mut() else { return };
        match record.occasion.as_deref() {
            Some("take_over") => life.continues = true,
            Some("stop" | "hand_over") => life.is_over = true,
            _ => {}
        }
        let at = Moment { seq: record.seq, time: record.time };
        for seen in record.servers {
            let fresh = life.fresh.remove(&seen.server).unwrap_or_default();
            life.servers.entry(seen.server.clone()).or_default().push(Beat { at: at.clone(), seen, fresh });
        }
    }

    pub(super) fn balance(self) -> Balance {
        let mut faults = Vec::new();
        if self.all.iter().all(|life| life.servers.is_empty()) {
            faults
                .push("the trail has no heartbeat: there is nothing to compare its connections with".into());
        }
        if self.starts_without_heartbeat > 0 {
            faults.push(format!("{} starts are without a heartbeat", self.starts_without_heartbeat));
        }
        let mut intervals = Vec::new();
        for (at, life) in self.all.iter().enumerate() {
            let before = at.checked_sub(1).and_then(|before| self.all.get(before));
            let after = self.all.get(at + 1);
            // Who waits at its end is accepted by the next, or may still be accepted.
            let goes_on = after.map_or(!life.is_over, |after| life.is_over && after.continues);
            for (server, beats) in &life.servers {
                let last = before.and_then(|life| Some((life, life.servers.get(server)?.last()?)));
                if let (Some((before, last)), Some(first)) = (last, beats.first()) {
                    intervals.extend(between(before, last, life, first));
                }
                intervals.extend(during(beats, goes_on));
            }
        }
        intervals.sort_by(|a, b| (a.from.seq, &a.server).cmp(&(b.from.seq, &b.server)));
        Balance::of(intervals, faults)
    }
}

/// How many connections the kernel had established for the guard and the guard not accepted, at each heartbeat.
fn waiting(beats: &[Beat]) -> Vec<i128> {
    beats.iter().map(Beat::waiting).collect()
}

/// The time between two lives.
fn between(before: &Life, last: &Beat, life: &Life, first: &Beat) -> Option<Interval> {
    let established = first.kernel("established") - last.kernel("established");
    let mut interval = interval(last, first, if before.is_over { State::Closed } else { State::Unwitnessed });
    if before.is_over && life.continues {
        // Who waited when the one before handed on, this one accepts: it must count from where the other stopped.
        let hidden = i128::from(first.seen.before) - i128::from(last.seen.before) - last.guard("accepted");
        if hidden != 0 {
            interval
                .faults
                .push(fault(hidden, "the next guard does not own up to connections that were handed to it"));
        }
        return Some(interval);
    }
    if established < 0 || !last.is_of_the_same_port(first) {
        // `unload`, a reboot or a new namespace ended the kernel's counts.
        interval.established = 0;
        interval.steered = 0;
        return (!before.is_over).then_some(interval).map(|mut interval| {
            interval.faults.push(Fault {
                difference: 0,
                words: "the kernel's counts began anew after a guard that ended without a word; how many \
                        connections it had since its last heartbeat is not known"
                    .into(),
            });
            interval
        });
    }
    if before.is_over {
        if established > 0 {
            interval.faults.push(fault(
                established,
                "the kernel gave connections to a guard that had said that it stopped",
            ));
        }
        return Some(interval);
    }
    // Its last heartbeat left some waiting and some open; with those that came since, each may have a record.
    let left = last.waiting().max(0);
    let recorded = before.fresh.get(&last.seen.server).copied().unwrap_or_default();
    let candidates = established + left + last.guard("open");
    interval.recorded = recorded;
    let unknown = candidates - i128::from(recorded);
    if unknown != 0 {
        interval.faults.push(fault(
            unknown,
            "a guard ended without a word: of these connections nobody knows what became of them",
        ));
    }
    Some(interval)
}

/// The times between the heartbeats of one life.
fn during(beats: &[Beat], goes_on: bool) -> Vec<Interval> {
    let waiting = waiting(beats);
    // Who waits is accepted later: what is still missing at every later heartbeat was lost before.
    let mut lost = waiting.clone();
    for at in (0..lost.len().saturating_sub(1)).rev() {
        let later = lost.get(at + 1).copied().unwrap_or_default();
        if let Some(here) = lost.get_mut(at) {
            *here = later.min(*here);
        }
    }
    let mut intervals = Vec::new();
    let mut invented = 0;
    for (at, pair) in beats.windows(2).enumerate() {
        let [before, after] = pair else { continue };
        let mut interval = interval(before, after, State::Served);
        let is_newest = goes_on && at + 2 == beats.len();
        let step = |name: &str| after.guard(name) - before.guard(name);
        let value = |list: &[i128], at: usize| list.get(at).copied().unwrap_or_default();
        let before_it = if at == 0 { 0 } else { value(&lost, at).max(0) };
        let missing = value(&lost, at + 1).max(0) - before_it;
        if missing > 0 && !is_newest {
            interval.faults.push(fault(
                missing,
                "the kernel finished the handshake of connections that the guard never counted as accepted",
            ));
        }
        let surplus = (-value(&waiting, at + 1)).max(invented) - invented;
        if surplus > 0 {
            interval
                .faults
                .push(fault(surplus, "the guard counted connections that the kernel never gave to it"));
        }
        invented += surplus;
        let recorded = step("recorded");
        if recorded != i128::from(after.fresh) {
            let words = if recorded > i128::from(after.fresh) {
                "records of connections that the guard recorded are not in the trail"
            } else {
                "the trail has records of connections that the guard did not count"
            };
            interval.faults.push(fault(recorded - i128::from(after.fresh), words));
        }
        let explained: i128 = EXPLANATIONS.iter().map(|name| step(name)).sum();
        let rest = step("accepted") - recorded - explained - step("open");
        if rest != 0 {
            interval
                .faults
                .push(fault(rest, "the guard accepted connections and does not say what became of them"));
        }
        intervals.push(interval);
    }
    intervals
}

fn interval(before: &Beat, after: &Beat, state: State) -> Interval {
    let kernel = |name: &str| positive(after.kernel(name) - before.kernel(name));
    let guard = |name: &str| positive(after.guard(name) - before.guard(name));
    let served = state == State::Served;
    Interval {
        server: after.seen.server.clone(),
        port: after.seen.port,
        state,
        from: before.at.clone(),
        to: after.at.clone(),
        steered: kernel("steered"),
        established: kernel("established"),
        accepted: if served { guard("accepted") } else { 0 },
        recorded: if served { after.fresh } else { 0 },
        explained: EXPLANATIONS
            .iter()
            .filter(|_| served)
            .map(|name| ((*name).to_owned(), guard(name)))
            .filter(|(_, count)| *count > 0)
            .collect(),
        open: if served { positive(after.guard("open")) } else { 0 },
        faults: Vec::new(),
    }
}

fn fault(difference: i128, words: &str) -> Fault {
    Fault {
        difference: u64::try_from(difference.unsigned_abs()).unwrap_or(u64::MAX),
        words: words.to_owned(),
    }
}

fn positive(number: i128) -> u64 {
    u64::try_from(number.max(0)).unwrap_or(u64::MAX)
}
