//! Hosts that lack something, or on which somebody else is at work: the guard refuses, or goes on and says with what less. Its
//! words name the cause and what to do, and a refusal leaves the host as it was.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use guard_tests::daemon::{Daemon, Programs};
use guard_tests::foreign::Exclusive;
use guard_tests::probe::connect;
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::scene::{ADDRESS, POLICY, PORT, apart, guard};
use guard_tests::world::cgroup2_root;
use mcp_guard::config::Server;
use mcp_guard::privilege::NEEDED;
use serde_json::{Value, json};

/// Longer than a start that should have been refused takes.
const LIMIT: &str = "60";

/// A guard that does not run, before a server that answers `server`.
struct Host {
    daemon: Daemon,
}

impl Host {
    fn new() -> Self {
        let listener = TcpListener::bind(ADDRESS).unwrap();
        std::thread::spawn(move || guard_tests::probe::serve(&listener, "server"));
        let daemon = guard("demo", &[("policy.yaml", POLICY)]).unwrap();
        daemon.write_config().unwrap();
        Self { daemon }
    }

    fn pins(&self) -> PathBuf {
        self.daemon.config.kernel.bpffs.join(&self.daemon.config.kernel.pins)
    }

    fn cgroup(&self) -> PathBuf {
        cgroup2_root().join(&self.daemon.config.kernel.cgroup)
    }

    /// What `mcp-guard run` says where `prepare`, a line for the shell, was done in namespaces of its own. It must refuse, leave
    /// no pins, and leave the server reached as before.
    fn refusal(&self, namespaces: &[&str], prepare: &str) -> String {
        let program = Programs::built().unwrap().guard;
        let output = Command::new("timeout")
            .args(["-k", "2", LIMIT, "unshare", "--mount"])
            .args(namespaces)
            .args(["sh", "-c", &format!("{prepare} && exec \"$@\""), "sh"])
            .arg(program)
            .args(["run", "--config"])
            .arg(self.daemon.config_file())
            .output()
            .unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{words}{}", String::from_utf8_lossy(&output.stdout));
        assert_eq!(connect(ADDRESS)["server"], true, "the server is reached as before");
        assert!(!self.pins().join("maps").exists(), "{} is left", self.pins().display());
        words
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(fs::remove_dir(self.pins()));
        drop(fs::remove_dir(self.cgroup()));
    }
}

fn has(words: &str, parts: &[&str]) {
    for part in parts {
        assert!(words.contains(part), "no {part:?} in: {words}");
    }
}

#[test]
fn a_bpffs_that_would_end_with_the_guard_is_none() {
    apart(|| {
        let host = Host::new();
        let words = host.refusal(&[], "umount -l /sys/fs/bpf");
        has(
            &words,
            &["no bpffs is mounted at /sys/fs/bpf", "mount namespace of its own", "mount -t bpf bpf"],
        );
    });
}

#[test]
fn without_cgroup2_the_guard_says_how_to_mount_it() {
    apart(|| {
        let host = Host::new();
        let root = cgroup2_root();
        let words = host.refusal(&[], &format!("umount -l {}", root.display()));
        has(&words, &["no cgroup2 is mounted", "mount -t cgroup2 none"]);
    });
}

#[test]
fn a_part_of_the_cgroup_tree_is_not_its_root() {
    apart(|| {
        let host = Host::new();
        let root = cgroup2_root();
        let inside = root.join(format!("{}-inside", host.daemon.config.kernel.cgroup));
        fs::create_dir(&inside).unwrap();
        let prepare = format!(
            "echo $$ > {0}/cgroup.procs && exec unshare --cgroup sh -c 'umount -l {1} && mount -t cgroup2 none {1} && exec \"$@\"' sh \"$@\" && true",
            inside.display(),
            root.display()
        );
        let words = host.refusal(&[], &prepare);
        fs::remove_dir(&inside).unwrap();
        has(&words, &["only a part of the host's tree", "nsenter --cgroup"]);
    });
}

#[test]
fn a_hook_that_somebody_holds_for_himself_is_named() {
    apart(|| {
        let host = Host::new();
        fs::create_dir(host.cgroup()).unwrap();
        let other = Exclusive::at(&host.cgroup()).unwrap();
        let words = host.refusal(&[], "true");
        drop(other);
        has(&words, &["cannot attach program mine", "without sharing it", "bpftool cgroup tree"]);
    });
}

#[test]
fn without_a_capability_the_guard_says_which_and_what_for_and_doctor_too() {
    apart(|| {
        let host = Host::new();
        for needed in NEEDED {
            let name = needed.name.trim_start_matches("CAP_").to_lowercase();
            let words = host.refusal(&[], &format!("set -- setpriv --bounding-set=-{name} \"$@\""));
            has(&words, &[needed.name, needed.purpose, "docs/privileges.md"]);
            let doctor = Command::new("setpriv")
                .arg(format!("--bounding-set=-{name}"))
                .arg(Programs::built().unwrap().guard)
                .args(["doctor", "--json"])
                .output()
                .unwrap();
            assert!(!doctor.status.success());
            let report: Value = serde_json::from_slice(&doctor.stdout).unwrap();
            let row =
                report["rows"].as_array().unwrap().iter().find(|row| row["what"] == "capabilities").unwrap();
            assert_eq!(
                (&row["found"], &row["detail"]),
                (&json!("no"), &json!(format!("missing {}", needed.name)))
            );
        }
    });
}

#[test]
fn pins_that_are_not_roots_alone_are_refused() {
    apart(|| {
        let host = Host::new();
        let pins = host.pins();
        fs::create_dir(&pins).unwrap();
        for (uid, mode) in [(0, 0o755), (0, 0o770), (65_534, 0o700)] {
            fs::set_permissions(&pins, fs::Permissions::from_mode(mode)).unwrap();
            std::os::unix::fs::chown(&pins, Some(uid), None).unwrap();
            let words = host.refusal(&[], "true");
            let told = format!("belongs to uid {uid} with mode {mode:04o}");
            has(&words, &["must belong to root with mode 0700", &told, "chown root:root"]);
        }
    });
}

/// A guard for another port stands for any other `sk_lookup` program.
fn foreign() -> Daemon {
    let server: Server = serde_json::from_value(json!({"name": "other", "port": PORT + 8})).unwrap();
    Daemon::new(Programs::built().unwrap(), None, &[server], &[("policy.yaml", "agents: {}\n")]).unwrap()
}

#[test]
fn a_foreign_program_that_was_there_before_runs_before_ours() {
    apart(|| {
        let mut other = foreign();
        other.start().unwrap();
        let mut host = Host::new();
        host.daemon.start().unwrap();
        let status = host.daemon.status().unwrap();
        let claims = status["kernel"]["claims"].as_array().unwrap();
        let order = claims.iter().find(|claim| claim["name"] == "our program has the last word").unwrap();
        assert_eq!(order["holds"], true, "{order}");
        assert!(order["detail"].as_str().unwrap().starts_with("2 sk_lookup program(s)"), "{order}");
        assert_eq!(connect(ADDRESS)["server"], Value::Null, "steered");
        host.daemon.unload_after_kill();
    });
}

/// The status of a guard that may not be proven.
fn status(daemon: &Daemon) -> Value {
    serde_json::from_slice(&daemon.output("status", &["--json"]).unwrap().stdout).unwrap()
}

#[test]
fn a_foreign_program_that_comes_later_is_told_and_takes_protected_back() {
    apart(|| {
        let mut host = Host::new();
        host.daemon.start().unwrap();
        let mut other = foreign();
        other.start().unwrap();
        let told = eventually(START_LIMIT, || {
            let status = status(&host.daemon);
            let drift = status["kernel"]["drift"].to_string();
            Ok((status["kernel"]["protected"] == false && drift.contains("is not the last")).then_some(()))
        });
        assert!(told.unwrap().is_some(), "{:#}", status(&host.daemon));
        let shown = host.daemon.output("status", &[]).unwrap();
        has(&String::from_utf8_lossy(&shown.stdout), &["NOT PROVEN", "CHANGED", "is not the last"]);
        assert_eq!(connect(ADDRESS)["server"], Value::Null, "that one does not want this port");
        other.unload_after_kill();
        let well = eventually(START_LIMIT, || {
            Ok((status(&host.daemon)["kernel"]["protected"] == true).then_some(()))
        });
        assert!(well.unwrap().is_some(), "{:#}", status(&host.daemon));
        host.daemon.unload_after_kill();
    });
}

/// As under `ip netns exec`, which mounts another /sys.
#[test]
fn who_sees_no_bpffs_is_not_told_that_closed_ports_are_open() {
    apart(|| {
        let mut host = Host::new();
        host.daemon.start().unwrap();
        host.daemon.kill().unwrap();
        assert_eq!(connect(ADDRESS)["refused"], true, "a dead guard's ports are closed");
        let bpffs = host.daemon.config.kernel.bpffs.display().to_string();
        let say = |verb: &str| {
            let output = Command::new("unshare")
                .args(["--mount", "sh", "-c", &format!("mount -t tmpfs none {bpffs} && exec \"$@\""), "sh"])
                .arg(Programs::built().unwrap().guard)
                .args(verb.split(' '))
                .arg("--config")
                .arg(host.daemon.config_file())
                .output()
                .unwrap();
            String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
        };
        for verb in ["status", "block --all"] {
            let words = say(verb);
            assert!(words.contains("sees no bpffs") && words.contains("nsenter --net="), "{verb}: {words}");
            assert!(!words.contains("OPEN") && !words.contains("ports are open"), "{verb}: {words}");
        }
        assert!(say("status --json").contains("\"closed\":null"));
        host.daemon.unload().unwrap();
    });
}
