//! `mcp-guard metrics`

use std::fmt;
use std::process::ExitCode;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use serde_json::{Map, Value};

use super::output;
use super::status::array;
use crate::admin::{self, Ask, ClientError};
use crate::config::Overrides;

/// No guard runs.
pub(super) const NOT_RUNNING: u8 = 3;

/// Print what the running guard counts, for Prometheus
///
/// For the textfile collector of a node exporter, or whatever else reads its text format: the guard itself opens no port for
/// it. What is counted is as of now; counters begin anew with the guard, those of rules in shadow with each version of the
/// policy. Where no guard runs (exit code 3) or answers (1), `mcp_guard_up 0` is all that is printed.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: Overrides,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let socket = args.config.load()?.admin_socket();
    match admin::ask(&socket, &Ask::Status { prove: false }) {
        Ok(status) => {
            output::print(text(Some(&status))?.trim_end())?;
            Ok(ExitCode::SUCCESS)
        }
        Err(ClientError::NotRunning { .. }) => {
            output::print(text(None)?.trim_end())?;
            Ok(ExitCode::from(NOT_RUNNING))
        }
        Err(error) => {
            // What reads it must not go on with what was true before.
            output::print(text(None)?.trim_end())?;
            Err(error.into())
        }
    }
}

/// A metric's labels.
type Labels = Vec<(&'static str, String)>;
type Gauges = Family<Labels, Gauge>;
type Counters = Family<Labels, Counter>;

/// `status`: what the guard says of itself; `None`: no guard runs.
fn text(status: Option<&Value>) -> Result<String, fmt::Error> {
    let mut registry = Registry::with_prefix("mcp_guard");
    gauge(&mut registry, "up", "A guard runs and answers", i64::from(status.is_some()));
    if let Some(status) = status {
        of_guard(&mut registry, status);
        of_copies(&mut registry, array(status, "/checkpoints"));
        of_kernel(&mut registry, &status["kernel"]);
        of_servers(&mut registry, status);
        of_agents(&mut registry, status);
    }
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

fn of_guard(registry: &mut Registry, status: &Value) {
    let named = |name: &'static str| (name, word(&status[name]));
    let build = gauges(registry, "build_info", "Version and policy");
    // Not of OpenMetrics' type `info`: the collectors of node exporters leave out a whole file that has one.
    put(&build, &vec![named("version"), named("policy")], 1);
    let protected = &status["kernel"]["protected"];
    gauge(registry, "protected", "Every claim was tried and holds", i64::from(*protected == true));
    let claims = gauges(registry, "claim_holds", "Claims of `mcp-guard status`");
    for claim in array(status, "/kernel/claims") {
        put(&claims, &vec![("claim", word(&claim["name"]))], i64::from(claim["holds"] == true));
    }
    let blocks = gauges(registry, "blocked", "The kill switch is set");
    for block in array(status, "/kernel/blocks") {
        put(&blocks, &vec![("kind", word(&block["kind"])), ("name", word(&block["name"]))], 1);
    }
    let audit = &status["audit"];
    gauge(
        registry,
        "audit_writable",
        "0: the trail cannot be written, and every call is refused",
        i64::from(audit["failed"].is_null()),
    );
    gauge(registry, "audit_records", "Records of the trail", number(&audit["records"]));
    gauge(
        registry,
        "audit_free_bytes",
        "Free on the trail's disk, as of the last minute; -1: not known",
        audit["free_bytes"].as_i64().unwrap_or(-1),
    );
    gauge(
        registry,
        "audit_clock_ahead_seconds",
        "By how much the host's clock is ahead of what has passed",
        number(&audit["clock_ahead_seconds"]),
    );
    gauge(
        registry,
        "audit_signed",
        "1: what is written gets signed; 0: it does not, and status says why",
        i64::from(audit["unsigned"].is_null()),
    );
    gauge(
        registry,
        "audit_losses_accepted",
        "Losses of records that an operator accepted, by the records that were there when this guard started",
        number(&audit["losses_accepted"]),
    );
    gauge(registry, "audit_reserve_bytes", "Set aside for a full disk", number(&audit["reserve_bytes"]));
    let behind = gauges(
        registry,
        "audit_export_lag_records",
        "Signed records that an export of audit.export_cursors has not behind it, as of the last minute; -1: not known",
    );
    let late = gauges(registry, "audit_export_lag_seconds", "Age of the first of them; -1: not known");
    for export in array(status, "/audit/exports") {
        let labels = vec![("cursor", word(&export["cursor"]))];
        put(&behind, &labels, export["records"].as_i64().unwrap_or(-1));
        put(&late, &labels, export["oldest_seconds"].as_i64().unwrap_or(-1));
    }
    let drifts = array(status, "/kernel/drift").len();
    gauge(registry, "kernel_drifts", "What is not as the guard left it", whole(drifts));
    gauge(registry, "listeners_waiting", "Listeners that wait for a decision", number(&status["waiting"]));
    gauge(
        registry,
        "tools_held",
        "Definitions of tools that wait for approval",
        number(&status["tools_held"]),
    );
    let refused = Counter::<u64>::default();
    refused.inc_by(count(&status["client_certificates_refused"]));
    registry.register(
        "client_certificates_refused",
        "Handshakes refused for the client's certificate",
        refused,
    );
}

/// Copies of the trail's checkpoint. One that never arrived is as old as the guard.
fn of_copies(registry: &mut Registry, copies: &[Value]) {
    let ages =
        gauges(registry, "checkpoint_copy_age_seconds", "Since a copy of the checkpoint arrived there");
    let sizes = gauges(registry, "checkpoint_copy_records", "Records that this copy covers");
    let failures = counters(registry, "checkpoint_copy_failures", "Copies that did not arrive there");
    for copy in copies {
        let labels = vec![("kind", word(&copy["kind"])), ("place", word(&copy["place"]))];
        let waiting = copy["waiting_seconds"].as_i64();
        put(&ages, &labels, copy["age_seconds"].as_i64().or(waiting).unwrap_or_default());
        if let Some(size) = copy["size"].as_i64() {
            put(&sizes, &labels, size);
        }
        failures.get_or_create(&labels).inc_by(count(&copy["failures"]));
    }
}

fn of_kernel(registry: &mut Registry, kernel: &Value) {
    let events = counters(
        registry,
        "kernel_events",
        "What the kernel programs count (`status --json`, kernel.counters)",
    );
    for (event, counted) in entries(&kernel["counters"]) {
        events.get_or_create(&vec![("event", event.clone())]).inc_by(count(counted));
    }
    let ports = counters(
        registry,
        "port_events",
        "The same of one protected port, also while no guard ran (audit-format.md, heartbeats)",
    );
    for namespace in array(kernel, "/namespaces") {
        for (port, tally) in entries(&namespace["tallies"]) {
            for (event, counted) in entries(tally) {
                let labels = vec![
                    ("server", word(&namespace["servers"][port])),
                    ("netns", namespace["netns"].to_string()),
                    ("port", port.clone()),
                    ("event", event.clone()),
                ];
                ports.get_or_create(&labels).inc_by(count(counted));
            }
        }
    }
}

fn of_servers(registry: &mut Registry, status: &Value) {
    let pinned = gauges(
        registry,
        "server_listeners",
        "Listening sockets that are pinned as the server's; 0: it is down",
    );
    let shadow = gauges(registry, "server_in_shadow", "No rule refuses, holds or masks anything of it");
    for server in array(status, "/servers") {
        let (name, port) = (word(&server["name"]), server["port"].to_string());
        let here = array(status, "/kernel/namespaces").iter();
        let here = here.filter(|namespace| namespace["servers"][&port] == server["name"]);
        let listeners = here.map(|namespace| array(&namespace["ports"][&port], "/pinned").len()).sum();
        let is_shadowed = array(status, "/shadow_servers").contains(&server["name"]);
        put(&pinned, &vec![("server", name.clone())], whole(listeners));
        put(&shadow, &vec![("server", name)], i64::from(is_shadowed));
    }
    let would = counters(registry, "would_deny_calls", "Calls that a rule in shadow would have refused");
    for shadow in array(status, "/shadows") {
        would.get_or_create(&vec![("rule", word(&shadow["rule"]))]).inc_by(count(&shadow["would_deny"]));
    }
}

fn of_agents(registry: &mut Registry, status: &Value) {
    let held = ["calls", "streams", "sessions"];
    let helps = ["Calls under way", "Of these, streams of events", "Sessions"];
    for (what, help) in held.into_iter().zip(helps) {
        let family = gauges(registry, format!("agent_{what}"), help);
        for holder in array(status, "/holders") {
            put(&family, &vec![("agent", word(&holder["agent"]))], number(&holder[what]));
        }
    }
}

fn gauge(registry: &mut Registry, name: &str, help: &str, value: i64) {
    let gauge = Gauge::<i64>::default();
    gauge.set(value);
    registry.register(name, help, gauge);
}

fn gauges(registry: &mut Registry, name: impl Into<String>, help: &str) -> Gauges {
    let family = Gauges::default();
    registry.register(name, help, family.clone());
    family
}

fn counters(registry: &mut Registry, name: &str, help: &str) -> Counters {
    let family = Counters::default();
    registry.register(name, help, family.clone());
    family
}

fn put(family: &Gauges, labels: &Labels, value: i64) {
    family.get_or_create(labels).set(value);
}

fn entries(object: &Value) -> impl Iterator<Item = (&String, &Value)> {
    object.as_object().into_iter().flat_map(Map::iter)
}

/// Without quotes, if it is text.
fn word(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn number(value: &Value) -> i64 {
    value.as_i64().unwrap_or_default()
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_are_quoted_and_every_count_of_the_status_is_there() {
        let status = json!({
            "version": "1", "policy": "ab", "audit": {"records": 12, "failed": "full", "free_bytes": 7000, "losses_accepted": 2, "reserve_bytes": 9, "exports": [{"cursor": "/a", "records": 5, "oldest_seconds": 61}, {"cursor": "/b", "records": null}]}, "waiting": 2, "tools_held": 0, "client_certificates_refused": 4,
            "kernel": {
                "protected": true,
                "claims": [{"name": "a \"b\"\nmcp_guard_up 0", "holds": false}],
                "blocks": [{"kind": "agent", "name": "x"}],
                "counters": {"steered": 11},
                "namespaces": [{
                    "netns": 7, "servers": {"3001": "demo"}, "tallies": {"3001": {"steered": 5}},
                    "ports": {"3001": {"pinned": [{}, {}]}}
                }]
            },
            "servers": [{"name": "demo", "port": 3001}, {"name": "down", "port": 3002}],
            "shadow_servers": ["demo"],
            "shadows": [{"rule": "p.yaml:3", "would_deny": 9}],
            "holders": [{"agent": "a", "calls": 1, "streams": 0, "sessions": 3}],
            "checkpoints": [
                {"kind": "file", "place": "/a", "size": 7, "age_seconds": 3, "failures": 0, "error": null},
                {"kind": "journal", "place": "/b", "size": null, "age_seconds": null, "failures": 2, "error": "x"}
            ]
        });
        let text = text(Some(&status)).unwrap();
        for line in [
            "mcp_guard_up 1",
            "mcp_guard_build_info{version=\"1\",policy=\"ab\"} 1",
            "mcp_guard_protected 1",
            "mcp_guard_claim_holds{claim=\"a \\\"b\\\"\\nmcp_guard_up 0\"} 0",
            "mcp_guard_blocked{kind=\"agent\",name=\"x\"} 1",
            "mcp_guard_listeners_waiting 2",
            "mcp_guard_audit_writable 0",
            "mcp_guard_audit_records 12",
            "mcp_guard_audit_free_bytes 7000",
            "mcp_guard_audit_losses_accepted 2",
            "mcp_guard_audit_export_lag_records{cursor=\"/a\"} 5",
            "mcp_guard_audit_export_lag_seconds{cursor=\"/a\"} 61",
            "mcp_guard_audit_export_lag_records{cursor=\"/b\"} -1",
            "mcp_guard_audit_export_lag_seconds{cursor=\"/b\"} -1",
            "mcp_guard_audit_reserve_bytes 9",
            "mcp_guard_client_certificates_refused_total 4",
            "mcp_guard_kernel_events_total{event=\"steered\"} 11",
            "mcp_guard_port_events_total{server=\"demo\",netns=\"7\",port=\"3001\",event=\"steered\"} 5",
            "mcp_guard_server_listeners{server=\"demo\"} 2",
            "mcp_guard_server_listeners{server=\"down\"} 0",
            "mcp_guard_server_in_shadow{server=\"demo\"} 1",
            "mcp_guard_server_in_shadow{server=\"down\"} 0",
            "mcp_guard_would_deny_calls_total{rule=\"p.yaml:3\"} 9",
            "mcp_guard_agent_sessions{agent=\"a\"} 3",
            "mcp_guard_checkpoint_copy_age_seconds{kind=\"file\",place=\"/a\"} 3",
            "mcp_guard_checkpoint_copy_records{kind=\"file\",place=\"/a\"} 7",
            "mcp_guard_checkpoint_copy_failures_total{kind=\"file\",place=\"/a\"} 0",
            "mcp_guard_checkpoint_copy_failures_total{kind=\"journal\",place=\"/b\"} 2",
        ] {
            assert!(text.lines().any(|told| told == line), "no {line} in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn without_a_guard_one_metric_says_so() {
        let text = text(None).unwrap();
        let values: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(values, ["mcp_guard_up 0"]);
    }
}
