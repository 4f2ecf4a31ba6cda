//! A disk under a running guard's trail that is full, stuck or slow: calls are refused in time, nothing reaches the server, and all goes on
//! once the disk does.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use guard_tests::faults::rig::{RECOVERY_LIMIT, Rig, Said};
use guard_tests::faults::strace::{self, Strace, Whom};
use guard_tests::ledger::segments;
use guard_tests::process::eventually;
use guard_tests::scene::apart;
use guard_tests::small_disk::{Mounted, fill, own_mounts, small_disk};
use serde_json::Value;

/// The word of a refusal for want of a record.
const UNAVAILABLE: &str = "audit_unavailable";
/// A refusal comes within `audit_wait_milliseconds` (2 s). A busy machine takes some seconds besides, and a test must not fail for that: this
/// tells a guard that refuses in time from one that waits for the disk.
const REFUSED_WITHIN: Duration = Duration::from_secs(8);
/// How long the disk is stuck.
const STUCK_FOR: Duration = Duration::from_secs(10);

/// A guard whose trail is on a disk of its own, in a network and among mounts of its own.
fn on_a_disk(disk: fn(&Path), body: impl FnOnce(&mut Rig, &Path) + Send) {
    apart(|| {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("disk");
        fs::create_dir(&dir).unwrap();
        disk(&dir);
        let mounted = Mounted(dir.clone());
        let mut rig = Rig::new(|daemon| {
            daemon.config.audit.dir = Some(dir.join("audit"));
            Ok(())
        })
        .unwrap();
        assert_eq!(rig.call().unwrap(), Said::Done);
        body(&mut rig, &dir);
        rig.is_sound().unwrap();
        let (reached, recorded) = rig.compare().unwrap();
        assert!(reached > 1 && recorded >= reached, "{reached} {recorded}");
        drop(rig);
        drop(mounted);
        let left = eventually(RECOVERY_LIMIT, || Ok(loops_on(place.path()).is_empty().then_some(())));
        assert!(left.unwrap().is_some(), "left behind: {:?}", loops_on(place.path()));
    });
}

/// Loop devices whose file is in `dir`.
fn loops_on(dir: &Path) -> Vec<String> {
    let devices = fs::read_dir("/sys/block").unwrap().flatten();
    let files = devices.filter_map(|device| fs::read_to_string(device.path().join("loop/backing_file")).ok());
    files.filter(|file| Path::new(file).starts_with(dir)).collect()
}

/// In memory.
fn small(dir: &Path) {
    small_disk(dir, "16m").expect("a tmpfs");
}

/// An ext4 file system in a file, which can be frozen.
fn ext4(dir: &Path) {
    own_mounts().expect("mounts of its own");
    let image = dir.with_extension("ext4");
    File::create(&image).and_then(|file| file.set_len(32 << 20)).unwrap();
    ran(Command::new("mkfs.ext4").arg("-q").arg(&image));
    ran(Command::new("mount").args(["-o", "loop"]).args([&image, dir]));
}

fn ran(command: &mut Command) {
    try_run(command).unwrap_or_else(|error| panic!("{error}"));
}

fn try_run(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    output.status.success().then_some(()).ok_or_else(|| format!("{command:?}: {said}"))
}

/// A refused call, in time, of which no byte reached the server.
fn is_refused(rig: &mut Rig) {
    let (bytes, started) = (rig.bytes(), Instant::now());
    let said = rig.call().unwrap();
    assert!(matches!(&said, Said::Refused(_, word) if word == UNAVAILABLE), "{said:?}");
    assert!(started.elapsed() < REFUSED_WITHIN, "after {:?}", started.elapsed());
    assert_eq!(rig.bytes(), bytes);
}

fn failure(rig: &Rig) -> String {
    rig.daemon.status().unwrap()["audit"]["failed"].to_string()
}

/// The gaps that the trail tells of.
fn gaps(trail: &Path) -> Vec<Value> {
    let text: String =
        segments(trail).unwrap().iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let records = text.lines().map(|line| serde_json::from_str(line).unwrap());
    records.filter(|record: &Value| record["kind"] == "gap" && record["reason"] == "write_failed").collect()
}

#[test]
fn audit_enospc_recovers() {
    on_a_disk(small, |rig, disk| {
        for _round in 0..2 {
            let ballast = disk.join("ballast");
            fill(&ballast);
            let started = Instant::now();
            // There may be room for a few records in the last page, and in what the guard holds in reserve.
            while rig.call().unwrap() == Said::Done {
                assert!(started.elapsed() < Duration::from_secs(60), "the disk never fills");
                fill(&ballast);
            }
            is_refused(rig);
            let failed = failure(rig);
            assert!(failed.contains("No space left") || failed.contains("space"), "{failed}");
            let shown = rig.daemon.output("status", &[]).unwrap();
            let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
            assert!(shown.contains("NO AUDIT TRAIL"), "{shown}");

            fs::remove_file(&ballast).unwrap();
            rig.recovers().unwrap();
            assert_eq!(failure(rig), "null");
        }
        let gaps = gaps(&rig.trail());
        assert!(!gaps.is_empty() && gaps.iter().all(|gap| gap["cause"].is_string()), "{gaps:?}");
    });
}

/// A file system that is frozen until this is dropped.
struct Frozen(Child);

impl Frozen {
    /// What thaws it waits in a process of its own, which ends with the test, however that does: whoever writes to a frozen file
    /// system cannot even be killed.
    fn new(dir: &Path) -> Self {
        let thaws = "trap '' INT TERM HUP; read -r _; exec fsfreeze -u \"$0\"";
        let mut thaws =
            Command::new("sh").args(["-c", thaws]).arg(dir).stdin(Stdio::piped()).spawn().unwrap();
        if let Err(error) = try_run(Command::new("fsfreeze").arg("-f").arg(dir)) {
            let _ = thaws.kill();
            let _ = thaws.wait();
            panic!("{error}");
        }
        Self(thaws)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Whether a disk can be frozen here. With `GUARD_REQUIRE_PRIVILEGED` it must be possible.
fn can_freeze() -> bool {
    let is_there = |program: &str| {
        let asked = Command::new(program).arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
        asked.is_ok_and(|status| status.success())
    };
    let missing = match (is_there("mkfs.ext4"), is_there("fsfreeze"), Path::new("/dev/loop-control").exists())
    {
        (true, true, true) => return true,
        (false, ..) => "no mkfs.ext4; the package e2fsprogs has it",
        (_, false, _) => "no fsfreeze; the package util-linux has it",
        (.., false) => "no /dev/loop-control; the kernel's module `loop` makes it",
    };
    assert!(std::env::var_os("GUARD_REQUIRE_PRIVILEGED").is_none(), "there is {missing}");
    println!("skipped: there is {missing}");
    false
}

#[test]
fn audit_no_receipt_no_forward() {
    if !can_freeze() {
        return;
    }
    on_a_disk(ext4, |rig, disk| {
        rig.settle().unwrap();
        let (bytes, started) = (rig.bytes(), Instant::now());
        assert!(bytes > 0, "bytes are counted");
        let frozen = Frozen::new(disk);
        let mut refused = 0;
        while started.elapsed() < STUCK_FOR {
            is_refused(rig);
            refused += 1;
        }
        thread::sleep(Duration::from_millis(200));
        assert_eq!(rig.bytes(), bytes, "not a byte reaches the server");
        drop(frozen);
        let after = rig.recovers().unwrap();
        println!(
            "{refused} calls refused in {STUCK_FOR:?}, no byte forwarded; calls went on {after:?} after the disk"
        );
    });
}

#[test]
fn a_reload_that_is_recorded_too_late_has_not_the_last_word() {
    if !can_freeze() {
        return;
    }
    on_a_disk(ext4, |rig, disk| {
        let told = |rig: &Rig| -> Vec<Value> {
            rig.daemon.ledger().unwrap().of_kind("policy").map(|record| record["digests"].clone()).collect()
        };
        let before = told(rig).pop().unwrap();
        rig.settle().unwrap();
        rig.daemon.issue("tester").unwrap();
        let frozen = Frozen::new(disk);
        let refused = rig.daemon.reload().unwrap_err().to_string();
        assert!(refused.contains("the audit trail cannot tell of it"), "{refused}");
        drop(frozen);
        rig.recovers().unwrap();
        let after = told(rig);
        let [.., late, last] = after.as_slice() else { panic!("{after:?}") };
        assert!(late["credentials"] != before["credentials"] && *last == before, "{after:?}");
        rig.daemon.reload().unwrap();
        assert_eq!(told(rig).pop().unwrap()["credentials"], late["credentials"], "now it takes effect");
    });
}

#[test]
fn a_slow_disk_costs_calls_their_time_and_no_more() {
    if !strace::is_there() {
        return;
    }
    apart(|| {
        let mut rig = Rig::new(|_daemon| Ok(())).unwrap();
        assert_eq!(rig.call().unwrap(), Said::Done);
        rig.settle().unwrap();
        let writer = Whom::Thread(rig.thread("audit-writer").unwrap());
        // Longer than a call waits.
        let slow = Strace::attach(writer, "fdatasync", Some("fdatasync:delay_enter=3s"), &[]).unwrap();
        is_refused(&mut rig);
        is_refused(&mut rig);
        slow.detach().unwrap();
        rig.recovers().unwrap();
        // One that is slow enough to notice, and fast enough.
        let slow = Strace::attach(writer, "fdatasync", Some("fdatasync:delay_enter=300ms"), &[]).unwrap();
        let started = Instant::now();
        assert_eq!(rig.call().unwrap(), Said::Done);
        assert!(started.elapsed() > Duration::from_millis(250), "{:?}", started.elapsed());
        slow.detach().unwrap();
        rig.is_sound().unwrap();
        rig.compare().unwrap();
    });
}

#[test]
fn a_guard_on_a_disk_that_takes_no_writes_does_not_start_and_says_so() {
    on_a_disk(small, |rig, disk| {
        rig.daemon.kill().unwrap();
        ran(Command::new("mount").args(["-o", "remount,ro"]).arg(disk));
        let refused = rig.daemon.start().unwrap_err().to_string();
        assert!(refused.contains("Read-only file system"), "{refused}");
        ran(Command::new("mount").args(["-o", "remount,rw"]).arg(disk));
        rig.daemon.start().unwrap();
        assert_eq!(rig.call().unwrap(), Said::Done);
    });
}
