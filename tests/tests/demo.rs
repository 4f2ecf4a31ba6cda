//! `cargo xtask demo`: the whole story passes, and a Ctrl-C in its middle leaves nothing.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use guard_tests::process::program;
use guard_tests::world::cgroup2_root;
use rustix::process::{Pid, Signal, kill_process_group};

/// What a demo's names begin with.
const PREFIX: &str = "mcp-guard-";

/// Each test looks at what the host has, so there may be one at a time.
static HOST: Mutex<()> = Mutex::new(());

/// Pins, cgroups and files of demos and of other guards.
fn present() -> BTreeSet<PathBuf> {
    let places = [PathBuf::from("/sys/fs/bpf"), cgroup2_root(), std::env::temp_dir()];
    let entries =
        places.iter().flat_map(|place| fs::read_dir(place).expect("the folder can be read").flatten());
    entries.map(|entry| entry.path()).filter(|path| path.file_name().is_some_and(is_ours)).collect()
}

fn is_ours(name: &OsStr) -> bool {
    name.to_string_lossy().starts_with(PREFIX)
}

#[test]
fn the_story_passes_from_the_build_to_the_clean_up() {
    let _alone = HOST.lock().unwrap_or_else(PoisonError::into_inner);
    let before = present();
    let xtask = program("xtask").expect("xtask is built");
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a folder above");
    let output = Command::new(xtask)
        .args(["demo", "--no-install"])
        .current_dir(repository)
        .stdin(Stdio::null())
        .output()
        .expect("xtask runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{complaint}");
    for line in [
        "11 of 11 claims proven",
        "Only support agents can process refunds",
        "Unknown tool: update_account",
        "Rate limit exceeded -- possible data enumeration",
        "426 Upgrade Required",
        "ECONNREFUSED within",
        "all of them signed",
        "is not the hash of the line",
        "this host is as it was",
    ] {
        // Long texts are broken into lines.
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(line), "{line:?} is missing in:\n{said}");
    }
    assert!(said.lines().all(|line| line.chars().count() <= 100), "a line is too long:\n{said}");
    assert!(!said.contains('\x1b'), "colours are for terminals:\n{said}");
    assert_eq!(present(), before);
}

#[test]
fn ctrl_c_in_the_middle_leaves_nothing() {
    let _alone = HOST.lock().unwrap_or_else(PoisonError::into_inner);
    let before = present();
    let mut demo = Command::new(program("demo").expect("the demo is built"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .expect("the demo runs");
    let mut said = BufReader::new(demo.stdout.take().expect("piped"));
    let mut line = String::new();
    while !line.contains("claims proven") {
        line.clear();
        assert_ne!(said.read_line(&mut line).expect("text"), 0, "the demo ended early");
    }
    assert_ne!(present(), before, "a guard is loaded now");
    // As a terminal does it: the demo, the guard, the server and the agents all get it.
    kill_process_group(Pid::from_child(&demo), Signal::INT).expect("the group is there");
    let mut rest = String::new();
    // Ends when the last process that holds the pipe does.
    said.read_to_string(&mut rest).expect("text");
    assert_eq!(demo.wait().expect("waited for").code(), Some(130), "{rest}");
    assert!(rest.contains("Interrupted"), "{rest}");
    assert_eq!(present(), before);
}
