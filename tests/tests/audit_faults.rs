//! Each system call by which a running guard writes its trail fails once, or is the guard's last: nothing reaches the server
//! unrecorded, the trail stays sound, and calls go on again by themselves.
//!
//! First a round of traffic is watched: calls, a new file of the trail, the packing of the full one, the removal of old ones, copies of
//! the checkpoint, starts and a key's end. Then the same is done again for each system call that was seen, which fails with EIO, ENOSPC
//! or EROFS, or is where the guard is killed. A run of all tests does some of them, `cargo xtask faults` all (`GUARD_FAULTS_SITES`,
//! `GUARD_FAULTS_SEED`; `GUARD_FAULTS_SKIP` leaves out so many, which an earlier run with the same seed has done, and
//! `GUARD_FAULTS_PART` all but one part, counted from 1).

#[path = "audit_faults/short.rs"]
mod short;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use guard_tests::differ::Random;
use guard_tests::faults;
use guard_tests::faults::rig::{Rig, Said, has_ended, is_packed, packed, segments, wait_for_death};
use guard_tests::faults::saved::{KEY_SECONDS_MIN, Saved, copies};
use guard_tests::faults::sites::{Fault, Part, Site, place, shuffled};
use guard_tests::faults::strace::{self, Seen, Strace, Whom};
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::scene::{ADDRESS, apart};
use mcp_guard::config::Audit;

/// Those by which files are made, read, written, kept, named and removed.
const CALLS: &str = "openat,read,?pread64,getdents64,write,?pwrite64,fdatasync,fsync,?rename,?renameat,renameat2,?link,linkat,ftruncate,\
                     ?unlink,unlinkat,fallocate,utimensat,?mkdir,mkdirat,?chmod,fchmod";
/// Faults that are met in a run of all tests.
const SITES: u64 = 6;
/// How many places are tried for each that is to be met.
const TRIES_EACH: usize = 4;
/// How full the file is when the round begins.
const LEFT_BYTES: u64 = 40_000;
/// Names of files that may be begun meanwhile: the file's first record is its name.
const NAMES: u64 = 150;
/// How long a new file, or the packing of one, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The word of a refusal for want of a record.
const UNAVAILABLE: &str = "audit_unavailable";

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

/// Every how many seconds the checkpoint is copied.
const COPY_SECONDS: u64 = 1;
/// Why copies are given up.
const REASON: &str = "faults";

/// Files of the trail beside its records, which are replaced by new ones.
const REPLACED: [&str; 7] = ["key", "key-next", "keys", "verifier-key", "digest-key", "clock", "checkpoint"];

/// The files of the trail, and those that it may have soon.
fn paths(rig: &Rig) -> anyhow::Result<Vec<PathBuf>> {
    let dir = rig.trail();
    let mut paths: Vec<_> =
        REPLACED.iter().flat_map(|name| [dir.join(name), dir.join(format!("{name}.next"))]).collect();
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
        _ => Whom::Process(rig.pid()?),
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
    round.died = has_died(pid, site, &seen)?;
    round.struck =
        if site.is_some() { seen.into_iter().filter(|seen| seen.is_struck).collect() } else { seen };
    Ok(round)
}

/// Copies of the checkpoint, and where they are.
fn paths_of_copies(rig: &Rig) -> Vec<PathBuf> {
    let with_directory = |copy: PathBuf| {
        let next = PathBuf::from(format!("{}.next", copy.display()));
        [copy.parent().map(Into::into).unwrap_or_default(), next, copy]
    };
    copies(rig).into_iter().flat_map(with_directory).collect()
}

/// The same while the checkpoint is copied.
fn copying(rig: &mut Rig, site: Option<&Site>) -> anyhow::Result<Round> {
    let (mut round, pid) = (Round::default(), rig.pid()?);
    let injection = site.map(Site::injection);
    let set = site.map_or(CALLS, |site| &site.call);
    let strace = Strace::attach(whom(rig, Part::Copies)?, set, injection.as_deref(), &paths_of_copies(rig))?;
    for _ in 0..2 {
        calls(rig, 2, &mut round)?;
        thread::sleep(Duration::from_secs(COPY_SECONDS) + Duration::from_millis(200));
    }
    if site.is_some_and(|site| site.fault == Fault::Kill) && strace.seen().is_ok_and(|seen| struck(&seen)) {
        wait_for_death(pid, PATIENCE)?;
    }
    let seen = strace.detach()?;
    round.died = has_died(pid, site, &seen)?;
    round.struck = seen.into_iter().filter(|seen| seen.is_struck || site.is_none()).collect();
    Ok(round)
}

/// Who was killed while the tracer let go of it dies a moment later.
fn has_died(pid: u32, site: Option<&Site>, seen: &[Seen]) -> anyhow::Result<bool> {
    if site.is_some_and(|site| site.fault == Fault::Kill) && struck(seen) {
        wait_for_death(pid, PATIENCE)?;
    }
    Ok(has_ended(pid))
}

/// Each copy covers what the checkpoint covers now, or will soon.
fn are_copied(rig: &Rig) -> anyhow::Result<()> {
    let size = |path: PathBuf| -> anyhow::Result<u64> {
        let text = fs::read_to_string(&path)?;
        Ok(text.lines().nth(1).context("no checkpoint")?.parse()?)
    };
    let wanted = size(rig.trail().join("checkpoint"))?;
    for copy in copies(rig) {
        let arrives = eventually(PATIENCE, || Ok((size(copy.clone())? >= wanted).then_some(())))?;
        arrives.with_context(|| format!("{} is behind", copy.display()))?;
    }
    Ok(())
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

/// A round of one part.
fn do_part(rig: &mut Rig, saved: &Saved, part: Part, site: Option<&Site>) -> anyhow::Result<Round> {
    match part {
        Part::Copies => copying(rig, site),
        _ if part.starts() => start(rig, saved, part, site),
        _ => round(rig, part, site),
    }
}

/// The round with one fault, and what must hold behind it.
fn strike(rig: &mut Rig, saved: &Saved, site: &Site) -> anyhow::Result<Round> {
    let mut round = do_part(rig, saved, site.part, Some(site))?;
    if round.died {
        ensure!(site.fault == Fault::Kill || site.part.starts(), "the guard ended of {:?}", round.struck);
        let port = TcpStream::connect(ADDRESS).map_err(|error| error.kind());
        ensure!(port.as_ref().err() == Some(&ErrorKind::ConnectionRefused), "{port:?} without a guard");
        rig.look()?;
        if !site.part.starts() {
            rig.daemon.kill()?;
        }
        match site.part {
            Part::GivenUp => rig.daemon.start_by(&format!("run --accept-loss {REASON}"), START_LIMIT)?,
            _ => rig.daemon.start()?,
        }
    }
    // What keeps a file from being packed, or a checkpoint from being written, refuses nobody; but that a checkpoint finds no room shows
    // that the disk is full. Who removes files shares the directory with it.
    let is_full = site.fault == Fault::Enospc && matches!(site.part, Part::Checkpoint | Part::Prune);
    let refuses = site.part.starts() || site.part == Part::Writer || is_full;
    ensure!(refuses || round.refused == 0, "{} calls were refused", round.refused);
    round.recovered = Some(rig.recovers()?);
    rig.is_sound()?;
    rig.compare()?;
    match site.part {
        Part::Copies | Part::GivenUp => are_copied(rig)?,
        Part::HandOver => has_handed_over(rig)?,
        _ => {}
    }
    Ok(round)
}

/// There is one key after the first, and nothing of the first.
fn has_handed_over(rig: &mut Rig) -> anyhow::Result<()> {
    let (trail, mut said) = (rig.trail(), String::new());
    let is_over = eventually(PATIENCE, || {
        let keys = fs::read_to_string(trail.join("keys")).unwrap_or_default().lines().count();
        let is_next_there = trail.join("key-next").try_exists()?;
        said = format!("{keys} in `keys`; key-next: {is_next_there}");
        Ok((keys > 0 && !is_next_there).then_some(()))
    })?;
    is_over.with_context(|| format!("no other key: {said}"))?;
    // Later parts are about something else.
    rig.daemon.config.audit.key_epoch_seconds = Audit::default().key_epoch_seconds;
    Ok(())
}

/// Kills the guard, leaves it what the part is about, and starts it under watch.
fn start(rig: &mut Rig, saved: &Saved, part: Part, site: Option<&Site>) -> anyhow::Result<Round> {
    rig.look()?;
    rig.daemon.kill()?;
    match part {
        Part::HandOver => {
            saved.wait_for_its_key();
            saved.put_back(rig)?;
            // Else they tell that it was put back.
            copies(rig).into_iter().try_for_each(fs::remove_file)?;
            rig.daemon.config.audit.key_epoch_seconds = KEY_SECONDS_MIN;
        }
        Part::GivenUp => saved.put_back(rig)?,
        _ => {}
    }
    let ((first, last), next) = (rig.current()?, rig.size()?);
    if part == Part::Begun {
        fs::write(rig.trail().join(format!("{next:020}.jsonl")), "")?;
    } else if part == Part::Start {
        let mut bytes = fs::read(&last)?;
        bytes.extend_from_slice(format!("{{\"seq\":{next},\"prev\":\"").as_bytes());
        fs::write(&last, bytes)?;
    }
    let mut paths = paths(rig)?;
    let torn = |seq| [format!("torn-{seq:020}"), format!("torn-{seq:020}.next")];
    paths.extend((first..=rig.size()?).flat_map(torn).map(|name| rig.trail().join(name)));
    paths.extend(paths_of_copies(rig));
    let dir = tempfile::tempdir()?;
    let log = dir.path().join("strace.log");
    let injection = site.map(Site::injection);
    let set = site.map_or(CALLS, |site| &site.call);
    let started = rig.daemon.start_through(|mut command: Command| {
        if part == Part::GivenUp {
            command.args(["--accept-loss", REASON]);
        }
        strace::around(&command, set, injection.as_deref(), &log, &paths)
    });
    let read = || -> anyhow::Result<_> { Ok(strace::seen(&fs::read_to_string(&log)?)) };
    if started.is_err() && site.is_some() {
        // The tracer writes its last line when the guard is gone.
        until(|| Ok(struck(&read()?)))?;
    }
    let seen = read()?;
    let mut round = Round { died: started.is_err(), struck: seen, ..Round::default() };
    if let (Err(error), Some(site)) = (&started, site) {
        round.struck.retain(|seen| seen.is_struck);
        let error = format!("{error:#}");
        ensure!(struck(&round.struck), "it does not start, though nothing failed: {error}");
        let mut files = copies(rig).into_iter().chain([rig.trail()]);
        let says = files.any(|file| error.contains(&file.display().to_string()));
        ensure!(site.fault == Fault::Kill || says, "it does not say which file: {error}");
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

/// Every system call of a round, by part: how often a thread does it.
fn watched(rig: &mut Rig, saved: &Saved, parts: &[Part]) -> anyhow::Result<BTreeMap<(Part, String), usize>> {
    let mut sites = BTreeMap::new();
    for part in parts {
        let seen = do_part(rig, saved, *part, None)?.struck;
        for file in files_of(*part) {
            let is_there = seen.iter().any(|seen| place(&seen.line, rig.daemon.dir()) == *file);
            ensure!(is_there, "{part:?} does nothing to {file}: {seen:#?}");
        }
        let mut of_thread = BTreeMap::new();
        for Seen { call, thread, .. } in seen {
            let count = of_thread.entry((call.clone(), thread)).or_insert(0);
            *count += 1;
            let most: &mut usize = sites.entry((*part, call)).or_default();
            *most = (*most).max(*count);
        }
    }
    Ok(sites)
}

/// Of some parts, files that are to be seen.
fn files_of(part: Part) -> &'static [&'static str] {
    match part {
        Part::Checkpoint => &["state/audit/checkpoint"],
        Part::Archive => &["state/audit/.jsonl.gz"],
        Part::Copies => &["run/audit-checkpoint", "state/audit-checkpoint", "other/audit-checkpoint"],
        Part::Start => &["state/audit/torn-", "state/audit/clock"],
        Part::GivenUp => &["other/audit-checkpoint.given-up-"],
        Part::HandOver => &["state/audit/key-next", "state/audit/keys", "state/audit/key"],
        _ => &[],
    }
}

/// Faults at one place, and what they came to.
#[derive(Debug, Default)]
struct Line {
    struck: usize,
    refused: usize,
    ended: usize,
    slowest: Duration,
}

/// A guard that copies its checkpoint to all places, and its trail when it began and had been killed.
fn prepared() -> anyhow::Result<(Rig, Saved)> {
    let mut rig = Rig::new(|daemon| {
        let other = daemon.dir().join("other");
        fs::create_dir(&other)?;
        let audit = &mut daemon.config.audit;
        audit.keep_days = Some(365);
        audit.checkpoints.copy_to = Some(other);
        audit.checkpoints.every_seconds = COPY_SECONDS;
        audit.checkpoints.journal = Some(false);
        Ok(())
    })?;
    rig.fill(LEFT_BYTES)?;
    rig.look()?;
    rig.daemon.kill()?;
    let saved = Saved::of(&rig)?;
    rig.daemon.start()?;
    Ok((rig, saved))
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
        let (mut rig, saved) = prepared().unwrap();
        let parts: &[Part] = match usize::try_from(faults::number("PART", 0)).unwrap().checked_sub(1) {
            Some(at) => &Part::ALL[at..=at],
            // A key lives for a minute at least: who does many faults waits for that.
            None if most <= SITES => Part::ALL.strip_suffix(&[Part::HandOver]).unwrap(),
            None => &Part::ALL,
        };
        let sites = watched(&mut rig, &saved, parts).unwrap();
        for part in parts {
            let of_part = sites.iter().filter(|((of, _), _)| of == part);
            let calls: Vec<_> = of_part.map(|((_, call), count)| format!("{call} {count}")).collect();
            println!("{part:?}: {}", calls.join(", "));
            assert!(calls.len() > 2, "{part:?} does hardly anything");
        }
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let skipped = usize::try_from(faults::number("SKIP", 0)).unwrap();
        let (mut table, mut done, mut met) = (BTreeMap::<_, Line>::new(), 0, 0);
        for site in shuffled(&sites, &mut random).iter().skip(skipped) {
            // Nobody can say which call is a thread's twentieth: a fault that was not met is no test of anything.
            if met == most || done == most.saturating_mul(TRIES_EACH) {
                break;
            }
            let round = strike(&mut rig, &saved, site).unwrap_or_else(|error| {
                panic!("seed {seed}, {site}: {error:#}\n{}", rig.daemon.log().unwrap_or_default())
            });
            println!("{site}: {round:?}");
            (done, met) = (done + 1, met + usize::from(!round.struck.is_empty()));
            let dir = rig.daemon.dir().to_owned();
            for place in round.struck.iter().map(|seen| place(&seen.line, &dir)) {
                let line = table.entry((site.part, site.call.clone(), place, site.fault)).or_default();
                line.struck += 1;
                line.refused += round.refused;
                line.ended += usize::from(round.died);
                line.slowest = line.slowest.max(round.recovered.unwrap_or_default());
            }
        }
        println!(
            "{:<12}{:<12}{:<30}{:<8}{:>7}{:>9}{:>7}{:>13}",
            "part", "call", "file", "fault", "struck", "refused", "ended", "went on, ms"
        );
        for ((part, call, place, fault), line) in &table {
            let (part, fault) = (format!("{part:?}"), format!("{fault:?}"));
            println!(
                "{part:<12}{call:<12}{place:<30}{fault:<8}{:>7}{:>9}{:>7}{:>13}",
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
