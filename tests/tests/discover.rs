//! `mcp-guard servers list` and `discover`: what is found without asking, what by asking, and how politely.

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use guard_tests::daemon::Daemon;
use guard_tests::process::{Fixture, Process, copy_program, program};
use guard_tests::scene::{ADDRESS, POLICY, PORT, Scene, apart, guard};
use guard_tests::slice::Slice;
use guard_tests::world::Netns;
use mcp_guard::config::Config;
use serde_json::{Value, json};

const ID: &str = "1f2e3d4c5b6a79880123456789abcdef0123456789abcdef0123456789abcdef";

/// A guard that never runs: its commands look at the host without one.
fn idle() -> Daemon {
    let daemon = guard("demo", &[("policy.yaml", POLICY)]).unwrap();
    daemon.write_config().unwrap();
    daemon
}

/// A listener whose program has this name, in the network namespace of the calling thread.
fn named(dir: &Path, name: &str, address: &str, cgroup: Option<(&Slice, &str)>) -> Process {
    let path = dir.join(name);
    copy_program(&program("steer-probe").unwrap(), &path).unwrap();
    let mut command = Command::new(path);
    command.args(["server", address]).stdin(Stdio::null()).stdout(Stdio::null());
    if let Some((slice, name)) = cgroup {
        slice.put(name, &mut command);
    }
    let process = Process::spawn(None, command).unwrap();
    let address: SocketAddr = address.parse().unwrap();
    while std::net::TcpStream::connect(address).is_err() {
        thread::sleep(std::time::Duration::from_millis(10));
    }
    process
}

/// What is found of these processes; the host has others.
fn found(daemon: &Daemon, arguments: &[&str], pids: &[u32]) -> Vec<Value> {
    let all = daemon.json("servers discover", arguments).unwrap();
    let all = all["found"].as_array().unwrap().iter();
    all.filter(|found| pids.iter().any(|pid| found["holder"]["pid"] == *pid)).cloned().collect()
}

#[test]
fn a_server_is_found_by_its_name_in_any_namespace_and_its_entry_can_be_pasted() {
    let dir = tempfile::tempdir().unwrap();
    let (slice, here, there) = (Slice::new(), Netns::new(), Netns::new());
    let daemon = idle();
    let scope = format!("docker-{ID}.scope");
    let own = here.run(|| named(dir.path(), "mcp-server-own", "127.0.0.1:8101", None));
    let contained = there.run(|| named(dir.path(), "mcp-server-box", "0.0.0.0:8102", Some((&slice, &scope))));
    let in_unit = there.run(|| named(dir.path(), "my-mcp", "[::1]:8103", Some((&slice, "crm.service"))));
    let other = here.run(|| named(dir.path(), "something", "127.0.0.1:8104", None));
    let pids = [own.pid(), contained.pid(), in_unit.pid(), other.pid()];
    let found = here.run(|| found(&daemon, &[], &pids));
    let entries: Vec<&Value> = found.iter().map(|found| &found["entry"]).collect();
    assert_eq!(
        entries,
        [
            &json!({"name": "mcp-server-own", "port": 8101}),
            &json!({"name": "mcp-server-box", "port": 8102, "in": {"container": &ID[..12]}}),
            &json!({"name": "my-mcp", "port": 8103, "in": {"unit": "crm.service"}}),
        ],
        "{found:#?}"
    );
    assert!(found.iter().all(|found| found["hint"] == "name"));

    // As it is printed for people, it is an entry that the guard takes.
    let text = here.run(|| daemon.output("servers discover", &[]).unwrap());
    let text = String::from_utf8(text.stdout).unwrap();
    let pasted: Vec<&str> = text.lines().filter(|line| line.contains("port: 810")).collect();
    let file = dir.path().join("guard.yaml");
    fs::write(&file, format!("servers:\n{}\n", pasted.join("\n"))).unwrap();
    assert_eq!(Config::load(&file).unwrap().servers.len(), 3, "{text}");
}

#[test]
fn only_with_probe_is_a_listener_asked_and_then_once() {
    apart(|| {
        let daemon = idle();
        let server =
            Fixture::start("conformance-server", None, "127.0.0.1:8111".parse().unwrap(), &[]).unwrap();
        // It answers nothing that it is asked.
        let listener = TcpListener::bind("127.0.0.1:8112").unwrap();
        let counter = thread::spawn(move || {
            let mut asked = Vec::new();
            for mut stream in listener.incoming().map_while(Result::ok) {
                let mut bytes = [0; 2048];
                let read = std::io::Read::read(&mut stream, &mut bytes).unwrap_or_default();
                asked.push(String::from_utf8_lossy(&bytes[..read]).into_owned());
                stream.write_all(b"HTTP/1.1 404 Not Found\r\n\r\n").unwrap();
                if asked.last().is_some_and(|last| last == "enough") {
                    break;
                }
            }
            asked
        });
        let pids = [server.process.pid(), std::process::id()];
        assert_eq!(found(&daemon, &[], &pids), Vec::<Value>::new(), "nothing says that it is one");
        let found = found(&daemon, &["--probe"], &pids);
        assert_eq!(found.len(), 1, "{found:#?}");
        assert_eq!((&found[0]["hint"], &found[0]["address"]), (&json!("answered"), &json!("127.0.0.1:8111")));
        std::net::TcpStream::connect("127.0.0.1:8112").unwrap().write_all(b"enough").unwrap();
        let asked = counter.join().unwrap();
        assert_eq!(asked.len(), 2, "asked once: {asked:?}");
        assert!(asked[0].starts_with("POST /mcp HTTP/1.1") && asked[0].contains("mcp-guard"), "{asked:?}");
    });
}

#[test]
fn a_configured_server_is_listed_and_not_discovered() {
    apart(|| {
        let Scene { mut daemon, .. } = Scene::new(&json!({})).unwrap();
        let list = daemon.json("servers list", &[]).unwrap();
        assert_eq!(list["running"], true);
        let row = &list["servers"][0];
        assert_eq!(
            (&row["name"], &row["port"], &row["state"]),
            (&json!("demo"), &json!(PORT), &json!("protected"))
        );
        assert_eq!(row["listeners"][0]["pid"], std::process::id());
        let text = String::from_utf8(daemon.output("servers list", &[]).unwrap().stdout).unwrap();
        assert!(text.contains("protected") && text.contains(&ADDRESS.to_string()), "{text}");
        let pids = [std::process::id()];
        assert_eq!(found(&daemon, &["--probe"], &pids), Vec::<Value>::new());

        daemon.stop().unwrap();
        let list = daemon.json("servers list", &[]).unwrap();
        assert_eq!((&list["running"], &list["servers"][0]["state"]), (&json!(false), &json!("closed")));
        daemon.unload().unwrap();
        let list = daemon.json("servers list", &[]).unwrap();
        assert_eq!(list["servers"][0]["state"], "unprotected");
        assert_eq!(list["servers"][0]["listeners"][0]["pid"], std::process::id());
    });
}
