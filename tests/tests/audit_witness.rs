//! Witnesses that sign the trail's checkpoints.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use guard_tests::ca::TestCa;
use guard_tests::daemon::{Credential, Daemon, Programs};
use guard_tests::https::{Https, Request};
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::scene::{PORT, Scene, apart, call, done_for};
use guard_tests::witness::{Manner, Witness};
use mcp_guard::audit::{AuditLog, Options, Retention};
use mcp_guard::config::Durability;
use serde_json::{Value, json};

const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8444);

/// A guard with a witness, which is shown a checkpoint each second.
struct Stage {
    daemon: Daemon,
    credential: Credential,
    https: Https,
    witness: Witness,
    dir: tempfile::TempDir,
    _ca: TestCa,
}

impl Stage {
    /// The witness knows the trail, and has signed some of it.
    fn known() -> Self {
        let stage = Self::new();
        stage.introduce();
        stage
    }

    fn new() -> Self {
        let (ca, dir) = (TestCa::new().unwrap(), tempfile::tempdir().unwrap());
        let witness = Witness::start(ADDRESS, dir.path(), Some(&ca)).unwrap();
        let scene = Scene::with(&json!({}), |daemon| {
            let entry = json!({"url": witness.url(), "key": witness.key(), "ca_file": ca.ca()});
            let checkpoints = &mut daemon.config.audit.checkpoints;
            checkpoints.witnesses = serde_json::from_value(json!([entry]))?;
            checkpoints.every_seconds = 1;
            Ok(())
        });
        let Scene { daemon, puppet, credential, https } = scene.unwrap();
        puppet.answer_all(done_for);
        Self { daemon, credential, https, witness, dir, _ca: ca }
    }

    fn introduce(&self) {
        self.witness.trust(&fs::read_to_string(self.trail().join("witness-verifier-key")).unwrap());
        self.until("it signs", |one| one["error"].is_null() && one["size"].as_u64() > Some(0));
    }

    fn trail(&self) -> PathBuf {
        self.daemon.config.audit_dir()
    }

    fn calls(&self, count: usize) {
        for _ in 0..count {
            self.https.ask(&Request::post(&call(1, "open")).by(&self.credential)).unwrap();
        }
    }

    /// Waits until `status` says this of the witness.
    fn until(&self, what: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let found = eventually(START_LIMIT, || {
            let copies = self.daemon.status()?["checkpoints"].as_array().cloned().unwrap_or_default();
            last = copies.into_iter().find(|one| one["kind"] == "witness").unwrap_or_default();
            Ok(Some(last.clone()).filter(&is_wanted))
        });
        found.unwrap().unwrap_or_else(|| panic!("{what}: {last}"))
    }

    fn witnessed(&self) -> Option<PathBuf> {
        let names = fs::read_dir(self.trail()).unwrap().map(|entry| entry.unwrap().path());
        names.into_iter().find(|path| path.to_string_lossy().contains("/witnessed-"))
    }

    /// What it signed last, once that covers as much as the trail's own checkpoint.
    fn signed(&self) -> String {
        let is_all = || {
            let note = fs::read_to_string(self.witnessed().unwrap())?;
            let own = fs::read_to_string(self.trail().join("checkpoint"))?;
            Ok((size_of(&note) == size_of(&own)).then_some(note))
        };
        eventually(START_LIMIT, is_all).unwrap().expect("it signs all")
    }

    /// Exit codes of the three verifiers.
    fn since(&self, note: &str, trail: &Path) -> [Option<i32>; 3] {
        let file = self.dir.path().join("since");
        fs::write(&file, note).unwrap();
        let (file, dir) = (file.to_str().unwrap(), trail.to_str().unwrap());
        let own = self.daemon.output("audit verify", &["--since", file, "--dir", dir]).unwrap();
        let verifier = Programs::built().unwrap().verifier;
        let other = Command::new(verifier).args([dir, "--since", file]).output().unwrap();
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/verify_trail.py");
        let key = trail.join("verifier-key");
        let python = Command::new("python3").arg(script).arg(trail).arg(key).arg(file).output().unwrap();
        [own.status.code(), other.status.code(), python.status.code()]
    }

    /// The trail as it is now; the guard is stopped for it.
    fn back_up(&mut self) -> PathBuf {
        self.daemon.stop().unwrap();
        let backup = self.dir.path().join("backup");
        copy_dir(&self.trail(), &backup);
        self.daemon.start().unwrap();
        backup
    }

    /// Puts the trail back, with its checkpoint, and removes every copy of a later one but the witness's.
    fn put_back(&mut self, backup: &Path) {
        self.daemon.stop().unwrap();
        copy_dir(backup, &self.trail());
        self.forget_copies();
    }

    /// The same without what witnesses know the trail by.
    fn put_back_key_less(&self, backup: &Path) {
        copy_dir(backup, &self.trail());
        fs::remove_file(self.trail().join("witness-key")).unwrap();
    }

    fn forget_copies(&self) {
        for own in [&self.daemon.config.state_dir, &self.daemon.config.runtime_dir] {
            fs::remove_file(own.join("audit-checkpoint")).unwrap();
        }
    }

    fn refusal(&mut self) -> String {
        format!("{:#}", self.daemon.start().expect_err("it must not start"))
    }

    /// What the trail says of losses that were accepted.
    fn losses(&self) -> Vec<Value> {
        let ledger = self.daemon.ledger().unwrap();
        ledger.of_kind("gap").filter(|gap| gap["reason"] == "loss_accepted").cloned().collect()
    }
}

fn copy_dir(from: &Path, to: &Path) {
    drop(fs::remove_dir_all(to));
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

fn size_of(note: &str) -> u64 {
    note.lines().nth(1).unwrap().parse().unwrap()
}

/// The trail's key is replaced by the next one, as after `audit.key_epoch_seconds`.
fn hand_over(dir: &Path) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let log = AuditLog::open(Options {
            dir: dir.to_owned(),
            host: "box".into(),
            durability: Durability::Os,
            wait: Duration::from_secs(20),
            calls_in_flight_max: 8,
            calls_in_flight_per_agent_max: 8,
            retention: Retention { key_epoch: Duration::from_millis(200), ..Retention::default() },
        })
        .unwrap();
        let before = log.keys().epoch();
        while log.keys().epoch() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        log.close().await;
    });
}

#[test]
fn a_witness_signs_that_the_trail_only_grew_whatever_key_signs_it_and_across_restarts() {
    apart(|| {
        let mut stage = Stage::new();
        let unknown = stage.until("it is not known yet", |one| one["error"].is_string());
        assert!(unknown["error"].as_str().unwrap().contains("witness-verifier-key"), "{unknown}");
        assert!(stage.witnessed().is_none(), "nothing was signed");
        let key = stage.trail().join("witness-key");
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&key).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        let key = fs::read(key).unwrap();
        stage.introduce();
        stage.calls(3);
        let first = stage.signed();
        stage.calls(2);
        stage.daemon.stop().unwrap();
        let own = fs::read_to_string(stage.trail().join("checkpoint")).unwrap();
        assert_eq!(stage.witness.size(), size_of(&own), "it was shown the last one, too");

        // The key that signed so far is destroyed; the witness goes on with the one that it knows.
        hand_over(&stage.trail());
        hand_over(&stage.trail());
        stage.daemon.start().unwrap();
        stage.calls(2);
        stage.until("it signs again", |one| {
            one["error"].is_null() && one["size"].as_u64() > Some(size_of(&own))
        });
        let latest = stage.signed();
        assert_eq!(fs::read(stage.trail().join("witness-key")).unwrap(), key, "it is the same key");
        for note in [&first, &latest] {
            assert!(stage.witness.has_signed(note), "{note}");
            assert_eq!(stage.since(note, &stage.trail()), [Some(0); 3], "{note}");
        }
        // Each time it was shown what is new, and not all again. A start believes no file, and asks what it has.
        let shown = stage.witness.shown();
        let after: Vec<_> = shown.iter().filter(|(old, size)| *old > 0 && old < size).collect();
        assert!(after.len() > 2 && after.windows(2).all(|two| two[0].0 <= two[1].0), "{shown:?}");

        // Kept elsewhere, what it signed shows a trail that was put back.
        let older = stage.back_up();
        stage.calls(2);
        let newest = stage.signed();
        assert_eq!(stage.since(&newest, &older), [Some(2); 3]);
        let metrics = stage.daemon.output("metrics", &[]).unwrap();
        let metrics = String::from_utf8_lossy(&metrics.stdout).into_owned();
        let place = format!("{{kind=\"witness\",place=\"{}\"}}", stage.witness.url());
        assert!(metrics.contains(&format!("mcp_guard_checkpoint_copy_age_seconds{place}")), "{metrics}");
    });
}

#[test]
fn a_trail_with_fewer_records_than_a_witness_has_signed_does_not_start_unless_an_operator_accepts_the_loss() {
    apart(|| {
        let mut stage = Stage::known();
        let backup = stage.back_up();
        let have = size_of(&fs::read_to_string(backup.join("checkpoint")).unwrap());
        stage.calls(4);
        stage.daemon.stop().unwrap();
        let known = stage.witness.size();
        assert!(known > have);
        stage.daemon.start().unwrap();
        stage.put_back(&backup);
        let said = stage.refusal();
        let known_at_stop = stage.witness.size();
        for part in [
            &format!("holds {have} records, but {known_at_stop} in"),
            &format!("the witness {}", stage.witness.url()),
            "--accept-loss",
        ] {
            assert!(said.contains(part), "no {part:?} in {said}");
        }
        let again = fs::read_to_string(stage.trail().join("checkpoint")).unwrap();
        assert_eq!(size_of(&again), have, "the refused start wrote nothing");

        stage.daemon.start_by("run --accept-loss disk-died", START_LIMIT).unwrap();
        stage.calls(1);
        let losses = stage.losses();
        assert_eq!(losses.len(), 1);
        assert_eq!(
            (&losses[0]["lost_from"], &losses[0]["lost_to"], &losses[0]["text"]),
            (&json!(have), &json!(known_at_stop - 1), &json!("disk-died"))
        );
        // The witness does not forget, and says so; the guard starts without another word.
        stage.until("it signs no more", |one| {
            one["error"].as_str().is_some_and(|why| why.contains("of this trail"))
        });
        stage.daemon.stop().unwrap();
        stage.daemon.start().unwrap();
        stage.calls(usize::try_from(known_at_stop).unwrap());
        let other = |one: &Value| one["error"].as_str().is_some_and(|why| why.contains("are not those"));
        stage.until("its records are others", other);
        assert_eq!(stage.witness.size(), known_at_stop, "it has signed nothing of that");
        stage.daemon.stop().unwrap();
        stage.daemon.start().unwrap();
        assert_eq!(stage.losses().len(), 1);
        assert_eq!(stage.daemon.verify().unwrap().code, Some(0));
    });
}

#[test]
fn a_trail_that_was_written_on_while_its_witness_was_away_does_not_start_once_it_is_back() {
    apart(|| {
        let mut stage = Stage::known();
        let backup = stage.back_up();
        stage.calls(2);
        stage.put_back(&backup);
        let known = stage.witness.size();
        // Away: the start tells, and waits for it no longer than it may.
        stage.witness.behave(Manner::Slow);
        let started = Instant::now();
        stage.daemon.start().unwrap();
        assert!(started.elapsed() < START_LIMIT, "{:?}", started.elapsed());
        assert!(stage.daemon.log().unwrap().contains("this witness of the audit trail cannot be asked"));
        let late = |one: &Value| one["error"].as_str().is_some_and(|why| why == "no answer within 10 s");
        stage.until("it is told", late);
        stage.calls(usize::try_from(known).unwrap());
        stage.daemon.stop().unwrap();
        stage.witness.behave(Manner::Honest);
        let said = stage.refusal();
        for part in [&format!("the first {known} records in"), "the witness https://", "--accept-loss"] {
            assert!(said.contains(part), "no {part:?} in {said}");
        }
        assert_eq!(stage.witness.size(), known);
        stage.daemon.start_by("run --accept-loss known", START_LIMIT).unwrap();
        let losses = stage.losses();
        assert_eq!((losses.len(), &losses[0]["lost_from"]), (1, &Value::Null));
        stage.daemon.stop().unwrap();
        stage.daemon.start().unwrap();
        assert_eq!(stage.losses().len(), 1, "nobody needs to say it again");
    });
}

#[test]
fn what_is_no_signature_of_the_witness_changes_nothing_and_is_told() {
    apart(|| {
        let stage = Stage::known();
        let before = stage.signed();
        for (manner, said) in [
            (Manner::WrongKey, "does not match"),
            (Manner::OtherText, "does not match"),
            (Manner::WrongTime(7200), "ahead of this host's clock"),
            (Manner::WrongTime(-7200), "behind this host's clock"),
            (Manner::NoSignature, "no list of signatures"),
            (Manner::Oversized, "more than 16384 bytes"),
            (Manner::Status(500), "it answered 500"),
            (Manner::Status(302), "it answered 302"),
            (Manner::Status(403), "does not know this trail's key"),
            (Manner::Climbing(0), "another number of records each time"),
            (Manner::Closed, "no answer"),
        ] {
            stage.witness.behave(manner);
            stage.calls(1);
            stage.until(said, |one| one["error"].as_str().is_some_and(|why| why.contains(said)));
            let kept = fs::read_to_string(stage.witnessed().unwrap()).unwrap();
            assert!(stage.witness.has_signed(&kept), "{manner:?}: {kept}");
            assert_eq!(kept, before, "{manner:?}");
        }
        // One that signs where nothing is kept of it is caught up with.
        stage.witness.behave(Manner::Honest);
        stage.until("it signs again", |one| one["error"].is_null() && one["age_seconds"].as_u64() < Some(3));
        assert!(size_of(&stage.signed()) > size_of(&before));
        let standing = |stage: &Stage| {
            let looked = stage.daemon.output("audit checkpoints", &["--json"]).unwrap();
            let told: Value = serde_json::from_slice(&looked.stdout).unwrap();
            let copy =
                told["copies"].as_array().unwrap().iter().find(|one| one["kind"] == "witness").unwrap();
            (looked.status.code(), copy["standing"].clone())
        };
        assert_eq!(standing(&stage), (Some(0), json!("agrees")));
        stage.witness.behave(Manner::Closed);
        fs::copy(stage.trail().join("checkpoint"), stage.witnessed().unwrap()).unwrap();
        assert_eq!(standing(&stage), (Some(2), json!("unsigned")));
        let log = stage.daemon.log().unwrap();
        assert_eq!(
            log.matches("no copy of the audit checkpoint arrives").count(),
            1 + usize::from(log.contains("witness-verifier-key")),
            "{log}"
        );
    });
}

#[test]
fn a_protected_port_is_no_witness() {
    apart(|| {
        let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new().unwrap());
        let witness = Witness::start(ADDRESS, dir.path(), Some(&ca)).unwrap();
        let scene = Scene::with(&json!({}), |daemon| {
            let entry = json!({"url": format!("http://127.0.0.1:{PORT}/"), "key": witness.key()});
            daemon.config.audit.checkpoints.witnesses = serde_json::from_value(json!([entry]))?;
            Ok(())
        });
        let scene = scene.unwrap();
        let said = eventually(START_LIMIT, || {
            let status = scene.daemon.status()?;
            let copies = status["checkpoints"].as_array().cloned().unwrap_or_default();
            let error =
                copies.into_iter().find(|one| one["kind"] == "witness").map(|one| one["error"].clone());
            Ok(error.and_then(|error| error.as_str().map(str::to_owned)))
        });
        let said = said.unwrap().expect("an error");
        assert!(said.contains("the port of a protected server, which must not be the witness"), "{said}");
        assert_eq!(witness.asked(), 0);
    });
}

#[test]
fn lines_behind_an_older_checkpoint_do_not_make_up_for_what_a_witness_has_signed() {
    apart(|| {
        let mut stage = Stage::known();
        let backup = stage.back_up();
        stage.calls(4);
        stage.daemon.stop().unwrap();
        let (own, known) = (stage.trail().join("checkpoint"), stage.witness.size());
        let later = fs::read(&own).unwrap();
        fs::copy(backup.join("checkpoint"), &own).unwrap();
        stage.forget_copies();
        let said = stage.refusal();
        let have = size_of(&fs::read_to_string(&own).unwrap());
        assert!(said.contains(&format!("holds {have} records, but {known} in")), "{said}");

        // Nor does a key that is not there any more.
        stage.put_back_key_less(&backup);
        let said = stage.refusal();
        assert!(said.contains("the key that witnesses know the trail"), "{said}");
        fs::copy(backup.join("witness-key"), stage.trail().join("witness-key")).unwrap();
        assert!(stage.refusal().contains("--accept-loss"));
        assert!(size_of(std::str::from_utf8(&later).unwrap()) >= known);
    });
}
