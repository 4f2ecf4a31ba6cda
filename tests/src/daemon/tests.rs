//! The harness against a stand-in for the guard: a script that answers as the guard's commands do.

use super::*;
use std::os::unix::fs::PermissionsExt;

/// `run` writes where `unload` and the audit trail's reader look; `status` protects once `run` is up.
const STAND_IN: &str = r#"#!/bin/sh
verb=$1
dir=$(dirname "$0")
case "$verb" in
run)
    mkdir -p "$dir/audit"
    echo '{"seq":1,"prev":"0000000000000000000000000000000000000000000000000000000000000000","time":"2026-01-01T00:00:00.000000Z","kind":"stop","open_count":0}' >"$dir/audit/1.jsonl"
    trap 'rm -f "$dir/up"; exit 0' TERM
    touch "$dir/up" "$dir/loaded"
    while :; do sleep 0.02; done
    ;;
status) if [ -e "$dir/up" ]; then echo '{"kernel":{"protected":true}}'; else exit 1; fi ;;
tokens) echo '{"client_id":"c","profile":"p","secret":"'"for-$6"'"}' ;;
unload) rm -f "$dir/loaded"; echo '{"pins":[],"cgroup":null,"left":[]}' ;;
*) echo "no verb $verb" >&2; exit 64 ;;
esac
"#;

struct StandIn {
    dir: TempDir,
}

impl StandIn {
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("mcp-guard");
        // Written by a process of its own: a fork of another test must not hold it open for writing.
        let copy = Command::new("cp").arg("/dev/stdin").arg(&file).stdin(Stdio::piped()).spawn();
        let mut copy = copy.unwrap();
        std::io::Write::write_all(&mut copy.stdin.take().unwrap(), script.as_bytes()).unwrap();
        assert!(copy.wait().unwrap().success());
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
        Self { dir }
    }

    fn daemon(&self) -> Daemon {
        let at = |name: &str| self.dir.path().join(name);
        let programs = Programs { guard: at("mcp-guard"), verifier: "/bin/false".into() };
        let server = serde_json::from_value(json!({"name": "customer-ops", "port": 3001})).unwrap();
        let mut daemon = Daemon::new(programs, None, &[server], &[("a.yaml", "policies: []\n")]).unwrap();
        daemon.config.audit.dir = Some(at("audit"));
        daemon
    }

    fn has(&self, name: &str) -> bool {
        self.dir.path().join(name).exists()
    }
}

#[test]
fn a_guard_is_started_asked_stopped_and_unloaded() {
    let stand_in = StandIn::new(STAND_IN);
    let mut daemon = stand_in.daemon();
    daemon.start().unwrap();
    assert!(daemon.start().is_err(), "one guard at a time");
    assert_eq!(daemon.ledger().unwrap().of_kind("stop").count(), 1);
    daemon.stop().unwrap();
    assert!(!stand_in.has("up") && stand_in.has("loaded"));
    drop(daemon);
    assert!(!stand_in.has("loaded"), "dropping the harness unloads");
}

#[test]
fn a_killed_guard_has_no_time_to_clean_up() {
    let stand_in = StandIn::new(STAND_IN);
    let mut daemon = stand_in.daemon();
    daemon.start().unwrap();
    let pid = daemon.pid().unwrap();
    daemon.kill().unwrap();
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
    assert!(stand_in.has("up"));
    assert!(daemon.stop().is_err());
}

#[test]
fn a_guard_that_does_not_start_is_an_error_with_its_log() {
    let stand_in = StandIn::new("#!/bin/sh\n[ $1 = run ] && echo the port is taken >&2\nexit 3\n");
    let mut daemon = stand_in.daemon();
    let error = daemon.start().unwrap_err().to_string();
    assert!(error.contains("exit status: 3") && error.contains("the port is taken"), "{error}");
}

#[test]
fn a_credential_becomes_an_endpoint() {
    let stand_in = StandIn::new(STAND_IN);
    let daemon = stand_in.daemon();
    let credential = daemon.issue("support-agent").unwrap();
    let endpoint = daemon.endpoint(3001, &credential);
    assert_eq!(endpoint.url, "https://localhost:3001/mcp");
    assert_eq!(endpoint.ca, Some(daemon.ca()));
    let headers = ["X-Client-ID: c", "X-Profile-ID: p", "Authorization: Bearer for-support-agent"];
    assert!(endpoint.headers.iter().map(|(name, value)| format!("{name}: {value}")).eq(headers));
}

#[test]
fn the_written_file_is_the_configuration_and_no_two_guards_share_names() {
    let stand_in = StandIn::new(STAND_IN);
    let (one, two) = (stand_in.daemon(), stand_in.daemon());
    one.write_config().unwrap();
    let read: Config = serde_json::from_slice(&fs::read(one.config_file()).unwrap()).unwrap();
    assert_eq!(read, one.config);
    assert_ne!(one.config.kernel.pins, two.config.kernel.pins);
    assert_ne!(one.config.kernel.cgroup, two.config.kernel.cgroup);
    assert_ne!(one.config.state_dir, two.config.state_dir);
}
