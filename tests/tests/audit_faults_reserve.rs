//! Each system call on the reserve of a full disk fails once, or is the guard's last: nothing reaches the server unrecorded, and calls go on
//! once there is room.
//!
//! A run of all tests does some of them, `cargo xtask faults` all (`GUARD_FAULTS_SITES`, `GUARD_FAULTS_SEED`).

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use guard_tests::differ::Random;
use guard_tests::faults;
use guard_tests::faults::rig::{Rig, Said, has_ended, wait_for_death};
use guard_tests::faults::strace::{self, Seen, Strace, Whom};
use guard_tests::scene::apart;
use guard_tests::small_disk::{Mounted, fill, small_disk};

const CALLS: &str = "openat,write,fdatasync,fsync,ftruncate,fallocate,?unlink,unlinkat";
/// Faults that are met in a run of all tests.
const SITES: u64 = 2;
/// How many places are tried for each that is to be met.
const TRIES_EACH: u64 = 4;
const RESERVE_BYTES: u64 = 1 << 20;
/// For a disk that fills, or that calls go on with.
const PATIENCE: Duration = Duration::from_secs(30);
const FAULTS: [&str; 3] = ["error=EIO", "error=ENOSPC", "signal=KILL"];

/// Fills the disk, until calls are refused, and frees it again, until they go on. What happened to the reserve meanwhile.
fn round(rig: &mut Rig, disk: &Path, injection: Option<&str>) -> anyhow::Result<Vec<Seen>> {
    let reserve = rig.trail().join("reserve");
    ensure!(fs::metadata(&reserve)?.len() == RESERVE_BYTES, "the reserve is not whole");
    let (pid, ballast) = (rig.pid()?, disk.join("ballast"));
    let set = injection.and_then(|words| words.split(':').next()).unwrap_or(CALLS);
    let writer = Whom::Thread(rig.thread("audit-writer")?);
    let strace = Strace::attach(writer, set, injection, &[reserve])?;
    until(|| {
        fill(&ballast);
        Ok(has_ended(pid) || matches!(rig.call()?, Said::Refused(_, word) if word == "audit_unavailable"))
    })?;
    let reached = rig.reached();
    if !has_ended(pid) {
        // What is refused is not forwarded.
        ensure!(rig.call()? != Said::Done, "a call went through on a full disk");
        ensure!(rig.reached() == reached, "a call reached the server on a full disk");
    }
    fs::remove_file(&ballast)?;
    until(|| Ok(has_ended(pid) || rig.call()? == Said::Done))?;
    // Whoever dies of the signal dies a moment later.
    let seen = strace.seen()?;
    if injection.is_some_and(|words| words.contains("KILL")) && seen.iter().any(|seen| seen.is_struck) {
        ensure!(wait_for_death(pid, PATIENCE)?, "it lives");
    }
    strace.detach()
}

fn until(mut is_so: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let end = Instant::now() + PATIENCE;
    while !is_so()? {
        if Instant::now() > end {
            bail!("never");
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// The round with one fault, and what must hold behind it.
fn strike(rig: &mut Rig, disk: &Path, injection: &str) -> anyhow::Result<bool> {
    let struck = round(rig, disk, Some(injection))?.iter().any(|seen| seen.is_struck);
    let died = has_ended(rig.pid()?);
    ensure!(!died || injection.contains("KILL"), "the guard ended");
    rig.look()?;
    // Each guard waits longer before it makes the reserve whole once more.
    if died {
        rig.daemon.kill()?;
    } else {
        rig.recovers()?;
        rig.is_sound()?;
        rig.daemon.stop()?;
    }
    rig.daemon.start()?;
    rig.recovers()?;
    rig.is_sound()?;
    rig.compare()?;
    Ok(struck)
}

#[test]
fn audit_fault_every_syscall_of_the_reserve() {
    if !strace::is_there() {
        return;
    }
    let (most, seed) = (faults::number("SITES", SITES), faults::seed());
    let mut random = Random::new(seed);
    apart(|| {
        let place = tempfile::tempdir().unwrap();
        let disk = place.path().join("disk");
        fs::create_dir(&disk).unwrap();
        small_disk(&disk, "24m").expect("a tmpfs");
        let mounted = Mounted(disk.clone());
        let mut rig = Rig::new(|daemon| {
            daemon.config.audit.dir = Some(disk.join("audit"));
            daemon.config.audit.reserve_bytes = RESERVE_BYTES;
            Ok(())
        })
        .unwrap();
        assert_eq!(rig.call().unwrap(), Said::Done);
        let mut sites = BTreeMap::<String, usize>::new();
        for seen in round(&mut rig, &disk, None).unwrap() {
            *sites.entry(seen.call).or_default() += 1;
        }
        println!("seed {seed}: {sites:?}");
        assert!(sites.contains_key("fallocate") && sites.contains_key("ftruncate"), "{sites:?}");
        rig.daemon.stop().unwrap();
        rig.daemon.start().unwrap();
        let mut all: Vec<String> = Vec::new();
        for (call, count) in &sites {
            for nth in 1..=*count {
                all.extend(FAULTS.iter().map(|fault| format!("{call}:{fault}:when={nth}")));
            }
        }
        let (mut done, mut met) = (0, 0);
        // A fault that was not met is no test of anything: how often the guard tries is for it to say.
        while met < most && done < most.saturating_mul(TRIES_EACH) && !all.is_empty() {
            let injection = all.swap_remove(random.below(all.len()));
            let struck = strike(&mut rig, &disk, &injection).unwrap_or_else(|error| {
                panic!("seed {seed}, {injection}: {error:#}\n{}", rig.daemon.log().unwrap())
            });
            println!("{injection}: {}", if struck { "met" } else { "not met" });
            (done, met) = (done + 1, met + u64::from(struck));
        }
        let (reached, recorded) = rig.compare().unwrap();
        println!(
            "{done} faults, of which {met} were met; {reached} calls reached the server, {recorded} have a durable record"
        );
        assert!(met == most || met * 2 > done, "hardly anything was met");
        rig.daemon.stop().unwrap();
        rig.is_sound().unwrap();
        drop(rig);
        drop(mounted);
    });
}
