//! What the daemon may still do once it runs, and what a guard cannot do without each of it.

use std::fs;

use guard_tests::scene::{Scene, apart, guard};
use guard_tests::world::{NOBODY, Process, test};
use mcp_guard::privilege::NEEDED;
use serde_json::{Value, json};

/// The names as `setpriv` writes them, without one.
fn all_but(left_out: &str) -> Vec<String> {
    let names = NEEDED.iter().map(|needed| needed.name).filter(|name| *name != left_out);
    names.map(|name| name.trim_start_matches("CAP_").to_lowercase()).collect()
}

fn field(status: &str, name: &str) -> String {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {name}")).trim().to_owned()
}

/// The names of the bits of a capability set, as far as they are needed ones; the others as "?".
fn names(hex: &str) -> Vec<&'static str> {
    // Numbers of `include/uapi/linux/capability.h`.
    let known = [
        (2, "CAP_DAC_READ_SEARCH"),
        (6, "CAP_SETGID"),
        (7, "CAP_SETUID"),
        (12, "CAP_NET_ADMIN"),
        (19, "CAP_SYS_PTRACE"),
        (21, "CAP_SYS_ADMIN"),
    ];
    let bits = u64::from_str_radix(hex, 16).expect("a set in hex");
    let mut names: Vec<_> = (0..64)
        .filter(|bit| bits & (1 << bit) != 0)
        .map(|bit| known.iter().find(|(known, _)| *known == bit).map_or("?", |(_, name)| name))
        .collect();
    names.sort_unstable();
    names
}

#[test]
fn the_daemon_keeps_what_is_listed_and_nothing_else_in_every_thread() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let pid = scene.daemon.pid().unwrap();
        let listed = NEEDED.map(|needed| needed.name);
        let mut threads = 0;
        for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            for set in ["CapEff", "CapPrm", "CapBnd"] {
                assert_eq!(names(&field(&status, set)), listed, "{set} of {}", field(&status, "Name"));
            }
            assert_eq!(names(&field(&status, "CapAmb")), [""; 0]);
            assert_eq!(field(&status, "NoNewPrivs"), "1");
            threads += 1;
        }
        assert!(threads > 3, "{threads} threads");
        let core = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let core = core.lines().find(|line| line.starts_with("Max core file size")).unwrap();
        assert!(core.split_whitespace().skip(4).take(2).all(|limit| limit == "0"), "{core}");
        let shown = scene.daemon.status().unwrap()["privileges"].clone();
        let right = json!({
            "capabilities": listed, "missing": [], "others": 0, "no_new_privs": true, "dumpable": false,
            "core_bytes_max": 0,
        });
        assert_eq!(shown, right);
    });
}

#[test]
fn a_root_without_ptrace_cannot_look_into_the_guard() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let pid = scene.daemon.pid().unwrap();
        let powerless = || {
            let mut setpriv = std::process::Command::new("setpriv");
            setpriv.arg("--bounding-set=-all");
            setpriv
        };
        let mut ordinary = powerless().args(["sleep", "60"]).spawn().unwrap();
        let look = |pid: u32| {
            powerless().args(["readlink", &format!("/proc/{pid}/exe")]).output().unwrap().status.success()
        };
        let (ordinary_seen, guard_seen) = (look(ordinary.id()), look(pid));
        ordinary.kill().unwrap();
        ordinary.wait().unwrap();
        assert!(ordinary_seen, "root may look into a process that can do no more than it");
        assert!(!guard_seen, "the guard may not");
    });
}

#[test]
fn a_daemon_that_lacks_a_capability_says_which_and_what_for() {
    apart(|| {
        let daemon = guard("demo", &[]).unwrap();
        daemon.write_config().unwrap();
        let mut command = std::process::Command::new("setpriv");
        let program = guard_tests::process::program("mcp-guard").unwrap();
        command
            .arg("--bounding-set=-sys_ptrace")
            .arg(program)
            .args(["run", "--config"])
            .arg(daemon.config_file());
        let output = command.output().unwrap();
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        drop(daemon.output("unload", &[]).unwrap());
        assert!(!output.status.success());
        assert!(
            words.contains("CAP_SYS_PTRACE (to take a handle of the server's listening socket"),
            "{words}"
        );
    });
}

fn claims(guard: &mut Process) -> Vec<Value> {
    guard.ask("prove").as_array().cloned().expect("a list")
}

#[test]
fn with_all_listed_capabilities_everything_is_proven() {
    test(|world| {
        let _server = world.server_as(NOBODY, &["0.0.0.0:3001"]);
        let names = all_but("");
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let mut guard = world.guard_with_capabilities(&names).expect("the guard starts");
        let claims = claims(&mut guard);
        assert!(claims.iter().all(|claim| claim["holds"] == true), "{claims:#?}");
        assert!(claims.iter().any(|claim| claim["name"].to_string().contains("reaches the server")));
    });
}

#[test]
fn without_any_one_of_them_something_does_not_work() {
    for needed in NEEDED {
        test(|world| {
            let _server = world.server_as(NOBODY, &["0.0.0.0:3001"]);
            let before =
                world.host.run(|| std::net::TcpStream::connect(("127.0.0.1", 3001)).expect("no guard yet"));
            let names = all_but(needed.name);
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            let mut guard = match world.guard_with_capabilities(&names) {
                Err(words) => {
                    eprintln!("without {}: no start: {words}", needed.name);
                    return;
                }
                Ok(guard) => guard,
            };
            drop(before);
            let claims = claims(&mut guard);
            let pinned = guard.ask("status")["ports"]["3001"].clone();
            let broken: Vec<_> = claims.iter().filter(|claim| claim["holds"] == false).collect();
            eprintln!("without {}: pinned {pinned}, broken {broken:#?}", needed.name);
            let is_pinned = pinned["pinned"].as_array().is_some_and(|list| !list.is_empty());
            assert!(!broken.is_empty() || !is_pinned, "{} is not needed", needed.name);
        });
    }
}
