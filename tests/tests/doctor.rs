//! `mcp-guard doctor` on the kernel that runs the tests.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use guard_tests::process::copy_program;
use serde_json::Value;

/// The daemon, built next to this test.
fn guard() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let built = test.parent().and_then(|deps| deps.parent()).expect("a test stands in target/<profile>/deps");
    let guard = built.join("mcp-guard");
    assert!(guard.exists(), "{} is missing: run `cargo xtask test`, which builds it", guard.display());
    guard
}

/// Each row's `found`, by its name.
fn found(output: &Output) -> BTreeMap<String, String> {
    let report: Value = serde_json::from_slice(&output.stdout).expect("doctor --json prints one JSON value");
    assert_eq!(
        report["ready"].as_bool(),
        Some(output.status.success()),
        "the exit code says what `ready` says"
    );
    let text = |row: &Value, key: &str| row[key].as_str().expect("a row has texts").to_owned();
    report["rows"]
        .as_array()
        .expect("rows")
        .iter()
        .map(|row| (text(row, "what"), text(row, "found")))
        .collect()
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// What the kernel and host must offer for the other privileged tests to mean anything.
#[test]
fn doctor_finds_everything_that_the_guard_loads() {
    if !is_root() {
        assert!(std::env::var_os("GUARD_REQUIRE_PRIVILEGED").is_none(), "this test needs root");
        println!("skipped: needs root");
        return;
    }
    let output = Command::new(guard()).args(["doctor", "--json"]).output().expect("doctor runs");
    let found = found(&output);
    for needed in [
        "program: sk_lookup",
        "program: sock_ops",
        "program: connect4",
        "program: connect6",
        "attaching sk_lookup to a network namespace",
        "attaching to the guard's own cgroup",
        "attaching to the root cgroup",
        "ending a connection (SOCK_DESTROY)",
        "bpffs",
    ] {
        assert_eq!(found.get(needed).map(String::as_str), Some("yes"), "{needed} in {found:#?}");
    }
}

#[test]
fn doctor_tells_an_unprivileged_user_that_root_is_needed() {
    if !is_root() {
        assert!(
            std::env::var_os("GUARD_REQUIRE_PRIVILEGED").is_none(),
            "this test needs root to become nobody"
        );
        println!("skipped: needs root to become nobody");
        return;
    }
    // The checkout may be closed to other users.
    let dir = tempfile::Builder::new()
        .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .tempdir()
        .expect("a directory");
    let copy = dir.path().join("mcp-guard");
    copy_program(&guard(), &copy).expect("copying the daemon");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(copy)
        .args(["doctor", "--json"])
        .output()
        .expect("setpriv runs");
    let found = found(&output);
    assert!(!output.status.success(), "{found:#?}");
    for row in ["capabilities", "program: sk_lookup", "attaching to the root cgroup"] {
        assert_eq!(found.get(row).map(String::as_str), Some("needs_root"), "{row} in {found:#?}");
    }
}

#[test]
fn doctor_leaves_no_cgroup_behind() {
    if !is_root() {
        assert!(std::env::var_os("GUARD_REQUIRE_PRIVILEGED").is_none(), "this test needs root");
        println!("skipped: needs root");
        return;
    }
    let mut doctor =
        Command::new(guard()).args(["doctor", "--json"]).stdout(Stdio::null()).spawn().expect("doctor runs");
    let pid = doctor.id();
    doctor.wait().expect("doctor ends");
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("mounts");
    for mount in mounts.lines().filter(|line| line.split(' ').nth(2) == Some("cgroup2")) {
        let root = mount.split(' ').nth(1).expect("a mount has a place");
        let probe = PathBuf::from(root).join(format!("mcp-guard-probe-{pid}"));
        assert!(!probe.exists(), "{} is left", probe.display());
    }
}
