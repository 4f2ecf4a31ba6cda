//! Each system call by which a running guard writes its trail fails once, or is the guard's last: nothing reaches the server
//! unrecorded, the trail stays sound, and calls go on again by themselves.
//!
//! First a round of traffic is watched: calls, a new file of the trail, the packing of the full one, the removal of old ones. Then
//! the same is done again for each system call that was seen, which fails with EIO or ENOSPC, or is where the guard is killed. A run
//! of all tests does some of them, `cargo xtask faults` all (`GUARD_FAULTS_SITES`, `GUARD_FAULTS_SEED`; `GUARD_FAULTS_SKIP` leaves
//! out so many, which an earlier run with the same seed has done).

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use guard_tests::differ::Random;
use guard_tests::faults;
use guard_tests::faults::rig::{Rig, Said, has_ended, is_packed, packed, segments, wait_for_death};
use guard_tests::faults::strace::{self, Seen, Strace, Whom};
use guard_tests::scene::apart;

/// Those by which files are made, written, kept, named and removed.
const CALLS: &str =
    "openat,write,fdatasync,fsync,?rename,?renameat,renameat2,ftruncate,?unlink,unlinkat,fallocate,utimensat";
/// Faults that are met in a run of all tests.
const SITES: u64 = 6;
/// How full the file is when the round begins.
const LEFT_BYTES: u64 = 40_000;
/// Names of files that may be begun meanwhile: the file's first record is its name.
const NAMES: u64 = 150;
/// How long a new file, or the packing of one, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Records of which a part is written.
const SHORT_WRITES: usize = 4;
/// No record of a call is shorter.
const RECORD_BYTES_MIN: usize = 400;
/// The word of a refusal for want of a record.
const UNAVAILABLE: &str = "audit_unavailable";

/// Whose system calls they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Writer,
    Checkpoint,
    Archive,
    /// Whoever removes old files.
    Prune,
    /// A guard that starts where one was killed in the middle of a line.
    Start,
    /// A guard that starts where one was killed when it had begun a file.
    Begun,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Eio,
    Enospc,
    Kill,
}

/// The `nth` call of this name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Site {
    part: Part,
    call: String,
    nth: usize,
    fault: Fault,
}

/// What became of the calls of a round.
#[derive(Debug, Default)]
struct Round {
    done: usize,
    refused: usize,
    struck: Vec<Seen>,
    died: bool,
    /// Until calls went on again.
    recovered: Option<Duration>,
}

const PARTS: [Part; 6] =
    [Part::Writer, Part::Checkpoint, Part::Archive, Part::Prune, Part::Start, Part::Begun];

impl Part {
    fn starts(self) -> bool {
        matches!(self, Self::Start | Self::Begun)
    }
}

impl Fault {
    fn words(self) -> &'static str {
        match self {
            Self::Eio => "error=EIO",
            Self::Enospc => "error=ENOSPC",
            Self::Kill => "signal=KILL",
        }
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} {} {:?}", self.part, self.call, self.nth, self.fault)
    }
}

impl Site {
    fn injection(&self) -> String {
        format!("{}:{}:when={}", self.call, self.fault.words(), self.nth)
    }
}

/// The files of the trail, and those that it may have soon.
fn paths(rig: &Rig) -> anyhow::Result<Vec<PathBuf>> {
    let dir = rig.trail();
    let mut paths = vec![dir.join("checkpoint"), dir.join("checkpoint.next")];
    for path in segments(&dir)?.into_iter().filter(|path| !is_packed(path)) {
        let next = PathBuf::from(format!("{}.next", packed(&path).display()));
        paths.extend([packed(&path), next, path]);
    }
    let size = rig.size()?;
    paths.extend((size..size + NAMES).map(|first| dir.join(format!("{first:020}.jsonl"))));
    paths.push(dir);
    Ok(paths)
}

fn whom(rig: &Rig, part: Part) -> anyhow::Result<Whom> {
    Ok(match part {
        Part::Writer => Whom::Thread(rig.thread("audit-writer")?),
        Part::Checkpoint => Whom::Thread(rig.thread("audit-checkpoint")?),
        Part::Archive => Whom::Thread(rig.thread("audit-archive")?),
        Part::Prune | Part::Start | Part::Begun => Whom::Process(rig.pid()?),
    })
}

/// Traffic on a guard whose `part` is watched, or struck at `site`.
fn round(rig: &mut Rig, part: Part, site: Option<&Site>) -> anyhow::Result<Round> {
    rig.fill(LEFT_BYTES)?;
    let (mut round, pid) = (Round::default(), rig.pid()?);
    let injection = site.map(Site::injection);
    let set = site.map_or(CALLS, |site| &site.call);
    let attach =
        |rig: &Rig, paths: &[PathBuf]| Strace::attach(whom(rig, part)?, set, injection.as_deref(), paths);
    let mut strace = if part == Part::Prune { None } else { Some(attach(rig, &paths(rig)?)?) };
    let full = rig.current()?.1;
    calls(rig, 3, &mut round)?;
    until(|| {
        Ok(has_ended(pid) || rig.current()?.1 != full || {
            rig.long_refusal();
            false
        })
    })?;
    // What could not be packed is tried again when the next file is full.
    let is_struck = |strace: &Option<Strace>| {
        strace.as_ref().is_some_and(|strace| strace.seen().is_ok_and(|seen| struck(&seen)))
    };
    until(|| Ok(has_ended(pid) || !full.exists() || is_struck(&strace)))?;
    rig.look()?;
    if part == Part::Prune {
        let mut old = segments(&rig.trail())?;
        old.pop();
        old.push(rig.trail());
        strace = Some(attach(rig, &old)?);
    }
    // It may have nothing to remove, or fail: it says so.
    let pruned = rig.daemon.output("audit prune", &["--before", "0s"])?;
    ensure!(pruned.status.success() || !pruned.stderr.is_empty(), "a silent failure: {pruned:?}");
    calls(rig, 2, &mut round)?;
    if site.is_some_and(|site| site.fault == Fault::Kill)
        && strace.as_ref().is_some_and(|it| it.seen().is_ok_and(|seen| struck(&seen)))
    {
        wait_for_death(pid, PATIENCE)?;
    }
    let seen = strace.context("it was attached")?.detach()?;
    round.died = has_ended(pid);
    round.struck =
        if site.is_some() { seen.into_iter().filter(|seen| seen.is_struck).collect() } else { seen };
    Ok(round)
}

fn struck(seen: &[Seen]) -> bool {
    seen.iter().any(|seen| seen.is_struck)
}

fn until(mut is_so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    while !is_so()? && Instant::now() < end {
        thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

fn calls(rig: &mut Rig, count: usize, round: &mut Round) -> anyhow::Result<()> {
    for _ in 0..count {
        match rig.call()? {
            Said::Done => round.done += 1,
            Said::Refused(_, word) => {
                ensure!(word == UNAVAILABLE, "refused with {word}");
                round.refused += 1;
            }
            Said::Gone(why) => {
                ensure!(wait_for_death(rig.pid()?, PATIENCE)?, "no answer from a guard that lives: {why}");
                return Ok(());
            }
        }
        // A checkpoint is due.
        thread::sleep(Duration::from_millis(130));
    }
    Ok(())
}

/// The round with one fault, and what must hold behind it.
fn strike(rig: &mut Rig, site: &Site) -> anyhow::Result<Round> {
    let mut round = if site.part.starts() {
        start(rig, site.part, Some(site))?
    } else {
        round(rig, site.part, Some(site))?
    };
    if round.died {
        ensure!(site.fault == Fault::Kill || site.part.starts(), "the guard ended of {:?}", round.struck);
        rig.look()?;
        if !site.part.starts() {
            rig.daemon.kill()?;
        }
        rig.daemon.start()?;
    }
    // What keeps a file from being packed, or a checkpoint from being written, refuses nobody; but that a checkpoint finds no room shows
    // that the disk is full. Who removes files shares the directory with it.
    let is_full = site.fault == Fault::Enospc && matches!(site.part, Part::Checkpoint | Part::Prune);
    let refuses = site.part.starts() || site.part == Part::Writer || is_full;
    ensure!(refuses || round.refused == 0, "{} calls were refused", round.refused);
    round.recovered = Some(rig.recovers()?);
    rig.is_sound()?;
    rig.compare()?;
    Ok(round)
}

/// Kills the guard, leaves it half a line and what it was packing, and starts it under watch.
fn start(rig: &mut Rig, part: Part, site: Option<&Site>) -> anyhow::Result<Round> {
    rig.look()?;
    rig.daemon.kill()?;
    let ((first, last), next) = (rig.current()?, rig.size()?);
    if part == Part::Begun {
        std::fs::write(rig.trail().join(format!("{next:020}.jsonl")), "")?;
    } else {
        let mut bytes = std::fs::read(&last)?;
        bytes.extend_from_slice(format!("{{\"seq\":{next},\"prev\":\"").as_bytes());
        std::fs::write(&last, bytes)?;
    }
    let mut paths = paths(rig)?;
    for name in ["key", "verifier-key", "digest-key"].iter().map(|name| (*name).to_owned()).chain(
        (first..=rig.size()?).flat_map(|seq| [format!("torn-{seq:020}"), format!("torn-{seq:020}.next")]),
    ) {
        paths.push(rig.trail().join(name));
    }
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("strace.log");
    let injection = site.map(Site::injection);
    let set = site.map_or(CALLS, |site| &site.call);
    let started = rig
        .daemon
        .start_through(|command: Command| strace::around(&command, set, injection.as_deref(), &log, &paths));
    let seen = strace::seen(&std::fs::read_to_string(&log)?);
    let mut round = Round { died: started.is_err(), struck: seen, ..Round::default() };
    if let (Err(error), Some(site)) = (&started, site) {
        round.struck.retain(|seen| seen.is_struck);
        let error = format!("{error:#}");
        ensure!(struck(&round.struck), "it does not start, though nothing failed: {error}");
        let names = rig.trail().display().to_string();
        ensure!(site.fault == Fault::Kill || error.contains(&names), "it does not say which file: {error}");
        return Ok(round);
    }
    started?;
    calls(rig, 1, &mut round)?;
    if site.is_some() {
        round.struck.retain(|seen| seen.is_struck);
    }
    // Without the tracer.
    rig.daemon.kill()?;
    rig.daemon.start()?;
    Ok(round)
}

/// Every system call of a round, by part: how often.
fn watched(rig: &mut Rig) -> anyhow::Result<BTreeMap<(Part, String), usize>> {
    let mut sites = BTreeMap::new();
    for part in PARTS {
        let seen = if part.starts() { start(rig, part, None)? } else { round(rig, part, None)? };
        for seen in seen.struck {
            *sites.entry((part, seen.call)).or_insert(0) += 1;
        }
    }
    Ok(sites)
}

/// All of them, of every part and fault in turn.
fn shuffled(sites: &BTreeMap<(Part, String), usize>, random: &mut Random) -> Vec<Site> {
    let mut groups: BTreeMap<(Fault, Part), Vec<Site>> = BTreeMap::new();
    for ((part, call), count) in sites {
        for fault in [Fault::Eio, Fault::Enospc, Fault::Kill] {
            let group = groups.entry((fault, *part)).or_default();
            group.extend((1..=*count).map(|nth| Site { part: *part, call: call.clone(), nth, fault }));
        }
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    let mut all = Vec::new();
    while !groups.is_empty() {
        let mut at = random.below(groups.len());
        for _ in 0..groups.len() {
            if !groups[at].is_empty() {
                let one = random.below(groups[at].len());
                all.push(groups[at].swap_remove(one));
            }
            at = (at + 1) % groups.len();
        }
        groups.retain(|group| !group.is_empty());
    }
    all
}

/// The name of the file that was struck, without its number.
fn place(line: &str, trail: &Path) -> String {
    let dir = trail.display().to_string();
    let Some((_, rest)) = line.rsplit_once(&dir) else { return "?".into() };
    let name = rest.split(['>', '"']).next().unwrap_or_default().trim_start_matches('/');
    let name = name.replace(|c: char| c.is_ascii_digit(), "");
    if name.is_empty() { "the directory".into() } else { name }
}

/// Faults at one place, and what they came to.
#[derive(Debug, Default)]
struct Line {
    struck: usize,
    refused: usize,
    ended: usize,
    slowest: Duration,
}

#[test]
fn audit_fault_every_syscall() {
    if !strace::is_there() {
        return;
    }
    let (most, seed) = (faults::number("SITES", SITES), faults::seed());
    let mut random = Random::new(seed);
    println!("seed {seed}");
    apart(|| {
        let mut rig = Rig::new(|_daemon| Ok(())).unwrap();
        let sites = watched(&mut rig).unwrap();
        for part in PARTS {
            let of_part = sites.iter().filter(|((of, _), _)| *of == part);
            let calls: Vec<_> = of_part.map(|((_, call), count)| format!("{call} {count}")).collect();
            println!("{part:?}: {}", calls.join(", "));
            assert!(calls.len() > 2, "{part:?} does hardly anything");
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let skipped = usize::try_from(faults::number("SKIP", 0)).unwrap();
        let (mut table, mut done, mut met) = (BTreeMap::<_, Line>::new(), 0, 0);
        for site in shuffled(&sites, &mut random).iter().skip(skipped) {
            // Nobody can say which call is a thread's twentieth: a fault that was not met is no test of anything.
            if met == most {
                break;
            }
            let round = strike(&mut rig, site).unwrap_or_else(|error| {
                panic!("seed {seed}, {site}: {error:#}\n{}", rig.daemon.log().unwrap_or_default())
            });
            println!("{site}: {round:?}");
            (done, met) = (done + 1, met + usize::from(!round.struck.is_empty()));
            let trail = rig.trail();
            for place in round.struck.iter().map(|seen| place(&seen.line, &trail)) {
                let line = table.entry((site.part, site.call.clone(), place, site.fault)).or_default();
                line.struck += 1;
                line.refused += round.refused;
                line.ended += usize::from(round.died);
                line.slowest = line.slowest.max(round.recovered.unwrap_or_default());
            }
        }
        println!(
            "{:<12}{:<12}{:<20}{:<8}{:>7}{:>9}{:>7}{:>13}",
            "part", "call", "file", "fault", "struck", "refused", "ended", "went on, ms"
        );
        for ((part, call, place, fault), line) in &table {
            let (part, fault) = (format!("{part:?}"), format!("{fault:?}"));
            println!(
                "{part:<12}{call:<12}{place:<20}{fault:<8}{:>7}{:>9}{:>7}{:>13}",
                line.struck,
                line.refused,
                line.ended,
                line.slowest.as_millis()
            );
        }
        let (reached, recorded) = rig.compare().unwrap();
        println!(
            "{done} faults, of which {met} were met; {reached} calls reached the server, {recorded} have a durable record"
        );
        assert!(met == most || met * 2 > done, "hardly anything was met");
        assert!(reached > done, "hardly anything reached the server");
        rig.daemon.stop().unwrap();
        rig.is_sound().unwrap();
    });
}

/// The kernel writes a part of a record and then no more: no simulation, but a limit on the size of a file.
#[test]
fn a_record_that_is_written_in_part_is_refused_and_leaves_nothing() {
    let mut random = Random::new(faults::seed());
    apart(|| {
        let mut rig = Rig::new(|_daemon| Ok(())).unwrap();
        rig.daemon.stop().unwrap();
        // A file that is too large is then an error, and no signal.
        let ignoring = |command: Command| {
            let mut shell = Command::new("sh");
            shell.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(command.get_program());
            shell.args(command.get_args());
            shell
        };
        rig.daemon.start_through(ignoring).unwrap();
        for written in (0..SHORT_WRITES).map(|_| random.below(RECORD_BYTES_MIN)).chain([0, 1]) {
            // Outcomes are written by then.
            rig.settle().unwrap();
            let (reached, length) =
                (rig.reached(), std::fs::metadata(rig.current().unwrap().1).unwrap().len());
            rig.limit_file_bytes(Some(length + u64::try_from(written).unwrap())).unwrap();
            let said = rig.call().unwrap();
            assert!(matches!(&said, Said::Refused(_, word) if word == UNAVAILABLE), "{written}: {said:?}");
            assert_eq!(rig.reached(), reached, "{written}");
            let failed = rig.daemon.status().unwrap()["audit"]["failed"].to_string();
            assert!(failed.contains("File too large"), "{failed}");
            rig.limit_file_bytes(None).unwrap();
            rig.recovers().unwrap();
            rig.is_sound().unwrap();
            rig.compare().unwrap();
        }
    });
}
