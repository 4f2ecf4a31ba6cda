use clap::{Args as _, FromArgMatches as _};

use super::*;
use crate::config::golden;

const FILE: &str = "/etc/mcp-guard/guard.yaml";
const SMALLEST: &str = "servers: [{name: a, port: 3001}]";

fn load(text: &str) -> Result<Config, Problems> {
    Overrides::default().load_text(Path::new(FILE), text)
}

#[test]
fn mistakes_in_guard_yaml_are_told_as_in_the_golden_file() {
    let said = |text: &str| load(text).expect_err(text).to_string().replace("/etc/mcp-guard/", "");
    assert!(golden::compare("src/config/testdata/mistakes.txt", said) >= 25);
}

#[test]
fn the_smallest_file_gets_every_default() {
    let config = load(SMALLEST).unwrap();
    assert_eq!(config.servers[0].path, "/mcp");
    assert_eq!(config.policy_dir, Path::new("/etc/mcp-guard/policies"));
    assert_eq!(config.audit_dir(), Path::new("/var/lib/mcp-guard/audit"));
    assert_eq!(config.limits, crate::config::Limits::default());
}

#[test]
fn a_path_in_the_file_counts_from_the_file() {
    let config = load(&format!(
        "{SMALLEST}\npolicy_dir: rules\nstate_dir: /srv/guard\ntls: {{certificate: c.pem, key: k.pem}}"
    ));
    let config = config.unwrap();
    assert_eq!(config.policy_dir, Path::new("/etc/mcp-guard/rules"));
    assert_eq!(config.state_dir, Path::new("/srv/guard"));
    assert_eq!(config.tls.key.as_deref(), Some(Path::new("/etc/mcp-guard/k.pem")));
}

#[test]
fn a_flag_wins_over_the_file_and_is_checked_like_it() {
    let parse = |args: &[&str]| {
        let command = Overrides::augment_args(clap::Command::new("x").no_binary_name(true));
        Overrides::from_arg_matches(&command.try_get_matches_from(args).unwrap()).unwrap()
    };
    let text = format!("{SMALLEST}\nstate_dir: /srv/guard\nkernel: {{pins: from-file}}");
    let flags = parse(&[
        "--state-dir",
        "/tmp/state",
        "--policy-dir=rules",
        "--pins",
        "from-flag",
        "--guard-cgroup",
        "a/b",
    ]);
    let config = flags.load_text(Path::new(FILE), &text).unwrap();
    assert_eq!(config.state_dir, Path::new("/tmp/state"));
    assert_eq!(config.policy_dir, std::env::current_dir().unwrap().join("rules"));
    assert_eq!((config.kernel.pins.as_str(), config.kernel.cgroup.as_str()), ("from-flag", "a/b"));
    assert_eq!(config.runtime_dir, Path::new("/run/mcp-guard"));
    let bad = parse(&["--pins", "../x"]).load_text(Path::new(FILE), &text).unwrap_err();
    assert!(bad.to_string().contains("pins \"../x\" is not a directory's name"), "{bad}");
    assert_eq!(parse(&[]).config, Path::new(FILE));
}

#[test]
fn every_override_has_its_environment_variable() {
    let command = Overrides::augment_args(clap::Command::new("x"));
    let names: Vec<_> = command.get_arguments().filter_map(|arg| arg.get_env()?.to_str()).collect();
    let expected = ["CONFIG", "STATE_DIR", "RUNTIME_DIR", "POLICY_DIR", "PINS", "CGROUP"];
    assert_eq!(names, expected.map(|name| format!("MCP_GUARD_{name}")));
}

#[test]
fn a_missing_file_says_what_to_do() {
    let error = Config::load(Path::new("/nonexistent/guard.yaml")).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/guard.yaml: the file cannot be read"), "{error}");
    assert!(error.contains("--config"), "{error}");
}

#[test]
fn the_shipped_examples_load() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let config = Config::load(&root.join("examples/customer-ops/guard.yaml")).unwrap();
    let policy = crate::policy::Policy::load(&config.policy_dir, &config.servers).unwrap();
    assert_eq!(policy.agents().count(), 3);
    let files =
        [(PathBuf::from("default.yaml"), std::fs::read_to_string(root.join("default.yaml")).unwrap())];
    assert_eq!(crate::policy::Policy::from_texts(&files, &config.servers).unwrap().rule_count(), 0);
    // What its comments show must load as well.
    let shown: String = files[0].1.replace(": {}", ":").replace(": []", ":").replace("\n#  ", "\n  ");
    let policy = crate::policy::Policy::from_texts(&[("shown.yaml".into(), shown)], &config.servers).unwrap();
    assert_eq!(policy.rule_count(), 3);
}

#[test]
fn a_file_is_read_up_to_its_limit_and_only_if_it_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("f");
    std::fs::write(&path, [b'x'; 100]).unwrap();
    assert_eq!(read_bounded(&path, 100).unwrap().len(), 100);
    assert_eq!(read_bounded(&path, 99).unwrap_err().to_string(), "it has more than 99 bytes");
    assert_eq!(read_bounded(dir.path(), 99).unwrap_err().to_string(), "it is not a regular file");
    let large = "#".repeat(FILE_BYTES_MAX + 1);
    assert!(load(&large).unwrap_err().to_string().contains("more than the 16777216 that are read"));
}
