//! The systemd units that are shipped: their capabilities are those of the program and of the documentation, and they have
//! none of the mistakes that would open a port or hide a failure.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use clap::Parser;
use mcp_guard::privilege::NEEDED;

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

type Settings = BTreeMap<(String, String), Vec<String>>;

/// Values by section and key. Keys stand once, but for those that systemd adds up.
fn unit() -> Settings {
    settings("packaging/mcp-guard.service")
}

fn settings(file: &str) -> Settings {
    let mut section = String::new();
    let mut values: BTreeMap<_, Vec<String>> = BTreeMap::new();
    for line in read(file).lines() {
        match line.trim() {
            "" => {}
            comment if comment.starts_with('#') => {}
            head if head.starts_with('[') => head.trim_matches(['[', ']']).clone_into(&mut section),
            entry => {
                let (key, value) = entry.split_once('=').unwrap_or_else(|| panic!("no entry: {entry}"));
                values.entry((section.clone(), key.to_owned())).or_default().push(value.to_owned());
            }
        }
    }
    values
}

fn one(key: &str) -> String {
    one_of(&unit(), key)
}

fn one_of(values: &Settings, key: &str) -> String {
    let found: Vec<_> =
        values.iter().filter(|((_, known), _)| known == key).map(|(_, values)| values).collect();
    assert_eq!(found.len(), 1, "{key} stands in one section");
    assert_eq!(found[0].len(), 1, "{key} stands once");
    found[0][0].clone()
}

#[test]
fn the_unit_the_program_and_the_documentation_have_the_same_capabilities() {
    let program: Vec<_> = NEEDED.iter().map(|needed| needed.name.to_owned()).collect();
    let unit: Vec<_> = one("CapabilityBoundingSet").split(' ').map(str::to_owned).collect();
    assert_eq!(unit, program);
    let documented: Vec<_> = read("docs/privileges.md")
        .lines()
        .filter_map(|line| Some(line.strip_prefix("| `CAP_")?.split_once('`')?.0.to_owned()))
        .map(|name| format!("CAP_{name}"))
        .collect();
    assert_eq!(documented, program);
    assert_eq!(one("AmbientCapabilities"), "");
}

#[test]
fn the_unit_never_opens_the_ports_and_waits_for_the_proof() {
    let values = unit();
    for ((section, key), commands) in &values {
        assert!(["Unit", "Service", "Install"].contains(&section.as_str()), "[{section}]");
        if key.starts_with("Exec") {
            assert!(commands.iter().all(|command| !command.contains("unload")), "{key} opens the ports");
            assert!(commands.iter().all(|command| command.starts_with("/usr/local/bin/mcp-guard ")), "{key}");
        }
    }
    assert_eq!((one("Type").as_str(), one("NotifyAccess").as_str()), ("notify", "main"));
    assert_eq!(one("Restart"), "always");
    assert_eq!(
        one("AssertPathIsMountPoint"),
        "/sys/fs/bpf",
        "pins on a private mount would end with the unit"
    );
    assert_eq!(one("NoNewPrivileges"), "yes");
    let drain = mcp_guard::config::Limits::default().drain_seconds;
    let seconds = |key: &str| one(key).trim_end_matches('s').parse::<u64>().unwrap();
    assert!(seconds("TimeoutStopSec") >= 2 * drain, "calls under way may end");
    assert!(seconds("WatchdogSec") >= 10, "a busy disk is no dead guard");
    let files: usize = one("LimitNOFILE").parse().unwrap();
    assert!(files > 2 * mcp_guard::config::Limits::default().connections_max);
    assert!(one("Environment").contains("MCP_GUARD_CGROUP=system.slice/mcp-guard.service/"));
    assert_eq!(one("Delegate"), "yes", "the guard makes a cgroup inside the unit's");
}

#[test]
fn the_unit_of_an_export_has_no_power_and_stays_down_where_a_person_must_look() {
    let values = settings("packaging/mcp-guard-export@.service");
    let one = |key: &str| one_of(&values, key);
    let commands = values.keys().filter(|(_, key)| key.starts_with("Exec"));
    assert_eq!(commands.count(), 1, "it runs nothing else");
    let words = one("ExecStart");
    let cursor = "/var/lib/mcp-guard-export/%i.cursor";
    assert_eq!(
        words,
        format!("/usr/local/bin/mcp-guard audit export --follow --cursor {cursor} $MCP_GUARD_EXPORT")
    );
    assert_eq!((one("User").as_str(), one("StateDirectory").as_str()), ("root", "mcp-guard-export"));
    for key in ["CapabilityBoundingSet", "AmbientCapabilities"] {
        assert_eq!(one(key), "", "{key}");
    }
    for (key, wanted) in [
        ("NoNewPrivileges", "yes"),
        ("ProtectSystem", "strict"),
        ("MemoryDenyWriteExecute", "yes"),
        ("RestrictNamespaces", "yes"),
        ("RestrictAddressFamilies", "AF_UNIX AF_INET AF_INET6"),
        ("SystemCallFilter", "@system-service"),
        ("Restart", "always"),
    ] {
        assert_eq!(one(key), wanted, "{key}");
    }
    assert!(!values.keys().any(|(_, key)| key == "ReadWritePaths"), "only its state can be written");
    assert!(one("InaccessiblePaths").split(' ').any(|path| path == "-/run/mcp-guard"));
    // The codes of docs/commands.md that another attempt does not change.
    assert_eq!(one("RestartPreventExitStatus"), "2 3");
    assert_eq!(one("StartLimitIntervalSec"), "0", "a receiver may be away for days");
    let seconds = |key: &str| one(key).trim_end_matches('s').parse::<u64>().unwrap();
    assert!(seconds("TimeoutStopSec") > 30 + 10, "a request under way, and a receiver that reads the rest");
    assert!(seconds("RestartSec") >= 5, "no storm of attempts");
    let parsed = mcp_guard::cli::Cli::try_parse_from(
        words.replace("/usr/local/bin/", "").replace("$MCP_GUARD_EXPORT", EXPORT).split(' '),
    );
    assert!(parsed.is_ok(), "{parsed:?}");
    assert!(read("docs/exports.md").contains(&format!("\nMCP_GUARD_EXPORT={EXPORT}\n")));
}

/// What the documentation has in the file of the environment.
const EXPORT: &str =
    "--format otlp --to https://collector.example/v1/logs --header-file /etc/mcp-guard/export/otlp.headers";
