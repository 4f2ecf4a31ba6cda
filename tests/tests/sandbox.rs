//! The guard inside the sandbox of its systemd unit does everything that it does outside.

use std::fs;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use guard_tests::https::Request;
use guard_tests::process::{copy_program, program};
use guard_tests::puppet::Puppet;
use guard_tests::scene::{ADDRESS, apart, call, done_for, guard};
use guard_tests::slice::Slice;
use guard_tests::unit::Unit;
use guard_tests::world::NOBODY;

/// A client must be a process of a unit: its cgroup is found by a handle, which the filter must let pass.
const POLICY: &str = "
agents:
  bound: {client_id: bound-client, process: {unit: agent.service}}
intents:
  demo.open: [{server: demo, tool: open}]
policies:
  - {intent: demo.open, agents: [bound], decision: allow}
";

#[test]
fn in_the_sandbox_of_its_unit_the_guard_protects_and_knows_its_clients() {
    apart(|| {
        let slice = Slice::new();
        let _reached = Puppet::at(ADDRESS).unwrap().answer_all(done_for);
        let mut daemon = guard("demo", &[("policy.yaml", POLICY)]).unwrap();
        // As in the unit, the guard's cgroup is made inside the one of the unit.
        daemon.config.kernel.cgroup =
            format!("{}/guard", slice.make("mcp-guard.service").trim_start_matches('/'));
        let credential = daemon.issue("bound").unwrap();
        let confined = Unit::read().unwrap();
        let dir = daemon.dir().to_owned();
        daemon.start_through(|command| confined.confine(&command, &dir).unwrap()).unwrap();

        let pid = daemon.pid().unwrap();
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        assert!(status.contains("\nSeccomp:\t2\n") && status.contains("\nNoNewPrivs:\t1\n"), "{status}");
        let mounts = fs::read_to_string(format!("/proc/{pid}/mounts")).unwrap();
        let root = mounts.lines().rfind(|line| line.split(' ').nth(1) == Some("/")).unwrap();
        assert!(root.split(' ').nth(3).unwrap().starts_with("ro"), "{root}");

        let asker = tempfile::tempdir().unwrap();
        let (program, ca) = (copied(asker.path(), "https-ask"), asker.path().join("ca.pem"));
        fs::copy(daemon.ca(), &ca).unwrap();
        let ask = |cgroup: &str, flags: &[&str]| {
            let mut command = Command::new(&program);
            command.args(flags).arg(ADDRESS.to_string()).arg(&ca).uid(NOBODY).gid(NOBODY);
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
            slice.put(cgroup, &mut command);
            let mut child = command.spawn().unwrap();
            let request = Request::post(&call(1, "open")).by(&credential).bytes();
            let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
            if !flags.is_empty() {
                // Not even a zombie is left of who connected.
                child.wait().unwrap();
            }
            input.write_all(&request).unwrap();
            drop(input);
            let mut answer = String::new();
            output.read_to_string(&mut answer).unwrap();
            child.wait().unwrap();
            answer
        };
        let served = ask("agent.service", &[]);
        assert!(served.contains("done"), "{served}\n{}", daemon.log().unwrap());
        let refused = ask("other.service", &[]);
        assert!(!refused.contains("done"), "{refused}");
        // Of a process that has ended, the kernel's handle alone tells the cgroup.
        ask("agent.service", &["--hand-on"]);
        let ledger = daemon.ledger().unwrap();
        let record = ledger.of_kind("call").last().unwrap().clone();
        let local = &record["local"];
        assert_eq!(local["state"], "exited", "{record}");
        assert!(local.to_string().contains("agent.service"), "{record}");
        assert_eq!(daemon.status().unwrap()["privileges"]["missing"].as_array().map(Vec::len), Some(0));

        // What systemd does next: a kill, and a start in the same place.
        daemon.kill().unwrap();
        daemon.start_through(|command| confined.confine(&command, &dir).unwrap()).unwrap();
        daemon.stop().unwrap();
        daemon.unload().unwrap();
        assert!(!daemon.log().unwrap().contains("Operation not permitted"), "{}", daemon.log().unwrap());
    });
}

fn copied(dir: &std::path::Path, name: &str) -> std::path::PathBuf {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    let copy = dir.join(name);
    copy_program(&program(name).unwrap(), &copy).unwrap();
    copy
}
