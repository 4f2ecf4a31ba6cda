//! Copies of the trail's checkpoint, where a guard leaves them and what they say to the next one.

use std::fs;
use std::net::TcpStream;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use guard_tests::daemon::{Credential, Daemon};
use guard_tests::https::{Https, Request};
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::scene::{ADDRESS, Scene, apart, call, done_for};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::{Value, json};

const COPY_FILE: &str = "audit-checkpoint";

/// A guard with a second path, and copies each second.
fn scene() -> (Served, tempfile::TempDir) {
    let other = tempfile::tempdir().unwrap();
    let scene = Scene::with(&json!({}), |daemon| {
        daemon.config.audit.checkpoints.copy_to = Some(other.path().to_owned());
        daemon.config.audit.checkpoints.every_seconds = 1;
        Ok(())
    });
    (scene.unwrap().into(), other)
}

/// One that is served and can be asked for calls.
struct Served {
    daemon: Daemon,
    credential: Credential,
    https: Https,
}

impl From<Scene> for Served {
    fn from(scene: Scene) -> Self {
        let Scene { daemon, puppet, credential, https } = scene;
        puppet.answer_all(done_for);
        Self { daemon, credential, https }
    }
}

fn calls(scene: &Served, count: usize) {
    for _ in 0..count {
        scene.https.ask(&Request::post(&call(1, "open")).by(&scene.credential)).unwrap();
    }
}

/// The directory with its owner, modes and times.
fn copy_dir(from: &Path, to: &Path) {
    drop(fs::remove_dir_all(to));
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

fn size_of(note: &str) -> u64 {
    note.lines().nth(1).unwrap().parse().unwrap()
}

/// What the next start says, which must fail.
fn refusal(scene: &mut Served) -> String {
    let refused = scene.daemon.start().expect_err("it must not start");
    format!("{refused:#}")
}

#[test]
fn a_trail_that_was_put_back_with_its_checkpoint_is_refused_and_goes_on_once_an_operator_accepts_the_loss() {
    apart(|| {
        let (mut scene, other) = scene();
        calls(&scene, 2);
        scene.daemon.stop().unwrap();
        let trail = scene.daemon.config.audit_dir();
        let backup = other.path().join("backup");
        copy_dir(&trail, &backup);
        let have = size_of(&fs::read_to_string(trail.join("checkpoint")).unwrap());
        scene.daemon.start().unwrap();
        calls(&scene, 3);
        scene.daemon.stop().unwrap();
        let copy = fs::read_to_string(other.path().join(COPY_FILE)).unwrap();
        let known = size_of(&copy);
        assert_eq!(copy, fs::read_to_string(trail.join("checkpoint")).unwrap(), "the last one arrived");

        // All of the guard's own directories, as whoever restores a backup does it. The copy on the other disk is left.
        copy_dir(&backup, &trail);
        for own in [&scene.daemon.config.state_dir, &scene.daemon.config.runtime_dir] {
            fs::remove_file(own.join(COPY_FILE)).unwrap();
        }
        assert_eq!(scene.daemon.verify().unwrap().code, Some(0), "in itself it is sound");
        let looked = scene.daemon.output("audit checkpoints", &[]).unwrap();
        let text = String::from_utf8_lossy(&looked.stdout).into_owned();
        assert_eq!(looked.status.code(), Some(2), "{text}");
        for part in [&format!("FEWER: it has {have}"), "DENIED", "not there", "agrees", &known.to_string()] {
            assert!(text.contains(part), "no {part:?} in {text}");
        }
        let said = refusal(&mut scene);
        for part in [
            &format!("holds {have} records, but {known} in"),
            other.path().to_str().unwrap(),
            "--accept-loss",
        ] {
            assert!(said.contains(part), "no {part:?} in {said}");
        }
        let again = fs::read_to_string(trail.join("checkpoint")).unwrap();
        assert_eq!(size_of(&again), have, "the refused start wrote nothing");
        let no_reason = scene.daemon.start_by("run --accept-loss=", START_LIMIT).expect_err("a reason");
        assert!(format!("{no_reason:#}").contains("needs a reason"), "{no_reason:#}");

        scene.daemon.start_by("run --accept-loss disk-died", START_LIMIT).unwrap();
        calls(&scene, 1);
        scene.daemon.stop().unwrap();
        let ledger = scene.daemon.ledger().unwrap();
        let gap: &Value = ledger.of_kind("gap").next().unwrap();
        assert_eq!(
            (&gap["reason"], &gap["text"], &gap["uid"]),
            (&json!("loss_accepted"), &json!("disk-died"), &json!(0))
        );
        assert_eq!((&gap["lost_from"], &gap["lost_to"]), (&json!(have), &json!(known - 1)));
        let given_up = other.path().join(format!("audit-checkpoint.given-up-{known}"));
        assert_eq!(size_of(&fs::read_to_string(given_up).unwrap()), known, "it is kept as evidence");
        let verified = scene.daemon.verify().unwrap();
        assert_eq!((verified.code, &verified.report["losses"]), (Some(0), &json!(1)), "{}", verified.report);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/verify_trail.py");
        let said = Command::new("python3").arg(script).arg(&trail).output().unwrap();
        assert!(String::from_utf8_lossy(&said.stdout).contains("1 losses accepted"), "{said:?}");
        let looked = scene.daemon.json("audit checkpoints", &[]).unwrap();
        let copies = looked["copies"].as_array().unwrap();
        let standing = |copy: &Value| (copy["standing"].clone(), copy["size"].clone());
        assert_eq!(copies.len(), 4);
        assert!(
            copies.iter().all(|copy| standing(copy) == (json!("agrees"), looked["records"].clone())),
            "{looked}"
        );
        // From then on nobody needs to say it again, and whoever looks is told.
        scene.daemon.start().unwrap();
        assert_eq!(scene.daemon.status().unwrap()["audit"]["losses_accepted"], 1);
        let text = scene.daemon.output("status", &[]).unwrap();
        assert!(String::from_utf8_lossy(&text.stdout).contains("RECORDS LOST   1 times"), "{text:?}");
        scene.daemon.stop().unwrap();
    });
}

#[test]
fn a_copy_that_cannot_be_written_is_told_once_and_holds_up_no_call() {
    apart(|| {
        let (scene, other) = scene();
        let copy = other.path().join(COPY_FILE);
        let standing = |is_wanted: fn(&Value) -> bool| {
            let found = eventually(START_LIMIT, || {
                let status = scene.daemon.status()?;
                let copies = status["checkpoints"].as_array().cloned().unwrap_or_default();
                let place = copy.display().to_string();
                Ok(copies.into_iter().find(|one| one["place"] == *place && is_wanted(one)))
            });
            found.unwrap().expect("the standing of the copy")
        };
        standing(|one| one["error"].is_null() && one["size"].is_u64());
        fs::rename(other.path(), other.path().with_extension("away")).unwrap();
        let started = Instant::now();
        calls(&scene, 20);
        assert!(started.elapsed() < Duration::from_secs(10));
        let failing = standing(|one| one["failures"].as_u64() > Some(1));
        assert!(failing["error"].as_str().unwrap().contains("No such file"), "{failing}");
        let said = scene.daemon.output("status", &[]).unwrap();
        assert!(String::from_utf8_lossy(&said.stdout).contains("CHECKPOINT NOT COPIED"), "{said:?}");
        let metrics = scene.daemon.output("metrics", &[]).unwrap();
        let metrics = String::from_utf8_lossy(&metrics.stdout).into_owned();
        assert!(metrics.contains("mcp_guard_checkpoint_copy_failures_total{kind=\"file\""), "{metrics}");
        fs::rename(other.path().with_extension("away"), other.path()).unwrap();
        standing(|one| one["error"].is_null() && one["age_seconds"].as_u64() < Some(5));
        let log = scene.daemon.log().unwrap();
        assert_eq!(log.matches("no copy of the audit checkpoint arrives").count(), 1, "{log}");
        assert_eq!(log.matches("arrive again").count(), 1, "{log}");
    });
}

/// `/run` of its own for this thread and what it starts, with a journal that takes messages.
fn journal() -> UnixDatagram {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
    fs::create_dir_all("/run/systemd/journal").unwrap();
    let journal = UnixDatagram::bind("/run/systemd/journal/socket").unwrap();
    journal.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    journal
}

/// The value of a field whose length stands before it.
fn field(message: &[u8], name: &str) -> Option<String> {
    let start = [name.as_bytes(), b"\n"].concat();
    let at = message.windows(start.len()).position(|part| part == start)? + start.len();
    let (length, rest) = message.get(at..)?.split_first_chunk()?;
    let length = usize::try_from(u64::from_le_bytes(*length)).ok()?;
    String::from_utf8(rest.get(..length)?.to_vec()).ok()
}

#[test]
fn where_there_is_a_journal_it_gets_checkpoints_that_show_a_trail_that_was_put_back() {
    apart(|| {
        let journal = journal();
        let mut scene = Served::from(Scene::new(&json!({})).unwrap());
        let trail = scene.daemon.config.audit_dir();
        let next = || {
            let mut message = vec![0; 64 * 1024];
            let length = journal.recv(&mut message).unwrap();
            field(&message[..length], "MCP_GUARD_CHECKPOINT").unwrap()
        };
        let first = next();
        calls(&scene, 2);
        let backup: PathBuf = scene.daemon.dir().join("backup");
        scene.daemon.stop().unwrap();
        let last = next();
        assert!(size_of(&first) < size_of(&last));
        assert_eq!(last, fs::read_to_string(trail.join("checkpoint")).unwrap());
        copy_dir(&trail, &backup);
        let since = |daemon: &Daemon, note: &str, dir: &Path| {
            let file = daemon.dir().join("since");
            fs::write(&file, note).unwrap();
            let output = daemon
                .output("audit verify", &["--since", file.to_str().unwrap(), "--dir", dir.to_str().unwrap()]);
            output.unwrap().status.code()
        };
        assert_eq!(
            (since(&scene.daemon, &first, &trail), since(&scene.daemon, &last, &trail)),
            (Some(0), Some(0))
        );
        scene.daemon.start().unwrap();
        calls(&scene, 1);
        scene.daemon.stop().unwrap();
        let mut newest = next();
        while size_of(&newest) < size_of(&fs::read_to_string(trail.join("checkpoint")).unwrap()) {
            newest = next();
        }
        assert_eq!(
            (since(&scene.daemon, &newest, &trail), since(&scene.daemon, &newest, &backup)),
            (Some(0), Some(2))
        );
    });
}

#[test]
fn a_trail_that_does_not_go_on_leaves_no_port_open_after_a_boot() {
    apart(|| {
        let (mut scene, _other) = scene();
        calls(&scene, 1);
        scene.daemon.stop().unwrap();
        assert!(TcpStream::connect(ADDRESS).is_err(), "a stopped guard's port is closed");
        scene.daemon.unload().unwrap();
        assert!(TcpStream::connect(ADDRESS).is_ok(), "as after a boot");
        fs::write(scene.daemon.config.audit_dir().join("checkpoint"), "no checkpoint").unwrap();
        let said = refusal(&mut scene);
        assert!(said.contains("checkpoint"), "{said}");
        assert!(TcpStream::connect(ADDRESS).is_err(), "the refused start has closed it");
    });
}

#[test]
fn a_copy_that_comes_after_the_start_is_not_replaced_by_a_trail_that_was_put_back_and_has_grown_past_it() {
    apart(|| {
        let (mut scene, other) = scene();
        calls(&scene, 2);
        scene.daemon.stop().unwrap();
        let trail = scene.daemon.config.audit_dir();
        let backup = tempfile::tempdir().unwrap();
        copy_dir(&trail, &backup.path().join("audit"));
        scene.daemon.start().unwrap();
        calls(&scene, 2);
        scene.daemon.stop().unwrap();
        let known = fs::read(other.path().join(COPY_FILE)).unwrap();

        // All that this host has is put back. The other disk is not there yet.
        copy_dir(&backup.path().join("audit"), &trail);
        for own in [&scene.daemon.config.state_dir, &scene.daemon.config.runtime_dir] {
            fs::remove_file(own.join(COPY_FILE)).unwrap();
        }
        let mounted = backup.path().join("mounted");
        fs::rename(other.path(), &mounted).unwrap();
        scene.daemon.start().unwrap();
        calls(&scene, 20);
        let grown = eventually(START_LIMIT, || {
            let own = size_of(&fs::read_to_string(trail.join("checkpoint"))?);
            Ok((own > size_of(&String::from_utf8_lossy(&known))).then_some(()))
        });
        grown.unwrap().expect("the trail has grown past it");
        fs::rename(&mounted, other.path()).unwrap();
        let told = eventually(START_LIMIT, || {
            let status = scene.daemon.status()?;
            let copies = status["checkpoints"].as_array().cloned().unwrap_or_default();
            let place = other.path().to_string_lossy().into_owned();
            let copy = copies
                .into_iter()
                .find(|one| one["place"].as_str().is_some_and(|path| path.starts_with(&place)));
            Ok(copy.filter(|copy| {
                copy["error"].as_str().is_some_and(|why| why.contains("is not of those of this trail"))
            }))
        });
        assert!(told.unwrap().is_some(), "{}", scene.daemon.status().unwrap()["checkpoints"]);
        assert_eq!(fs::read(other.path().join(COPY_FILE)).unwrap(), known, "it is kept");
        scene.daemon.stop().unwrap();
        let said = refusal(&mut scene);
        assert!(said.contains("are not those that the checkpoint in"), "{said}");
    });
}
