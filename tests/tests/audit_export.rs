//! What reaches a SIEM, a collector and a spreadsheet from the trail of a guard that runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use guard_tests::ca::TestCa;
use guard_tests::https::Request;
use guard_tests::receivers::{Collector, syslog};
use guard_tests::scene::{Scene, apart, call, done_for};
use guard_tests::tenants::{Tenants, on};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(180);

fn export(tenants: &Tenants, words: &[&str]) -> Output {
    tenants.daemon.output("audit export", words).unwrap()
}

fn lines(tenants: &Tenants, words: &[&str]) -> Vec<String> {
    let output = export(tenants, words);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// A call that is answered, and signed: a checkpoint follows a record within a second.
fn served(tenants: &Tenants, tool: &str) {
    tenants.served(&on("one", &call(2, tool), &tenants.alice), &json!({"content": []})).unwrap();
    let started = Instant::now();
    let is_signed =
        || lines(tenants, &["--format", "csv"]).iter().any(|line| line.contains(&format!(",{tool},")));
    while !is_signed() {
        assert!(started.elapsed() < PATIENCE, "the call of {tool} is not exported");
        thread::sleep(Duration::from_millis(100));
    }
}

fn traffic() -> Tenants {
    let tenants = Tenants::new(&json!({})).unwrap();
    tenants.open(&tenants.alice, "one").unwrap();
    served(&tenants, "open");
    tenants
}

/// The record in a syslog message.
fn record(message: &str) -> Value {
    let (_, record) = message.split_once("] ").unwrap();
    serde_json::from_str(record).unwrap_or_else(|error| panic!("{error}: {message}"))
}

fn numbers(records: &[Value]) -> Vec<u64> {
    records.iter().map(|record| record["seq"].as_u64().unwrap()).collect()
}

#[test]
fn a_siem_gets_every_record_over_tls_also_after_an_interruption() {
    apart(|| {
        let (tenants, ca) = (traffic(), TestCa::new().unwrap());
        let (address, messages) = syslog(&ca, None);
        let cursor = tenants.daemon.dir().join("cursor");
        let (to, ca_file, cursor) =
            (format!("tls://{address}"), ca.ca().display().to_string(), cursor.display().to_string());
        let words = ["--format", "json", "--to", &to, "--ca-file", &ca_file, "--cursor", &cursor];
        assert!(export(&tenants, &words).status.success());
        let mut got: Vec<Value> = std::iter::from_fn(|| messages.recv_timeout(Duration::from_secs(2)).ok())
            .map(|message| {
                assert!(message.starts_with("<1") && message.contains(" mcp-guard - "), "{message}");
                record(&message)
            })
            .collect();
        assert!(got.iter().any(|record| record["target"]["name"] == "open"), "{got:?}");

        served(&tenants, "report");
        assert!(export(&tenants, &words).status.success());
        got.extend(
            std::iter::from_fn(|| messages.recv_timeout(Duration::from_secs(2)).ok()).map(|it| record(&it)),
        );
        let numbers = numbers(&got);
        assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
        assert!(got.iter().any(|record| record["target"]["name"] == "report"));
        let lag = lines(&tenants, &["--format", "json", "--cursor", &cursor, "--lag", "--json"]);
        let lag: Value = serde_json::from_str(&lag[0]).unwrap();
        assert!(lag["lag"].as_u64().unwrap() < 10, "{lag}");

        // Whom no CA vouches for gets nothing.
        let stranger = TestCa::new().unwrap();
        let (address, messages) = syslog(&stranger, None);
        let to = format!("tls://{address}");
        let output = export(&tenants, &["--format", "cef", "--to", &to, "--ca-file", &ca_file]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(messages.recv_timeout(Duration::from_secs(1)).is_err());
    });
}

#[test]
fn nothing_is_exported_to_whom_a_file_vouches_for_that_others_may_write() {
    apart(|| {
        let (tenants, ca) = (traffic(), TestCa::new().unwrap());
        let (address, messages) = syslog(&ca, None);
        let to = format!("tls://{address}");
        let file = tenants.daemon.dir().join("siem-ca.pem");
        fs::copy(ca.ca(), &file).unwrap();
        let ca_file = file.display().to_string();
        let words = ["--format", "json", "--to", &to, "--ca-file", &ca_file];
        let mode = |mode| fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        for (exposed, content, said) in [
            (0o666, None, "others than its owner may write this file, and so say who is the receiver"),
            (0o644, Some("nothing"), "there is no certificate in it; --ca-file needs"),
        ] {
            mode(exposed);
            if let Some(content) = content {
                fs::write(&file, content).unwrap();
            }
            let output = export(&tenants, &words);
            let told = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(1), "{told}");
            assert!(told.contains(said) && told.contains(&ca_file), "{told}");
        }
        assert!(messages.recv_timeout(Duration::from_secs(1)).is_err());
        fs::copy(ca.ca(), &file).unwrap();
        mode(0o644);
        assert!(export(&tenants, &words).status.success());
        messages.recv_timeout(PATIENCE).unwrap();
    });
}

#[test]
fn an_export_that_follows_goes_on_when_its_receiver_comes_back() {
    apart(|| {
        let (tenants, ca) = (traffic(), TestCa::new().unwrap());
        let (address, messages) = syslog(&ca, Some(3));
        let cursor = tenants.daemon.dir().join("cursor").display().to_string();
        let (to, ca_file) = (format!("tls://{address}"), ca.ca().display().to_string());
        let mut command = tenants.daemon.command("audit export");
        let mut follower = command
            .args(["--format", "json", "--to", &to, "--ca-file", &ca_file, "--cursor", &cursor, "--follow"])
            .spawn()
            .unwrap();
        for _ in 0..3 {
            messages.recv_timeout(PATIENCE).unwrap();
        }
        // Another one with this cursor would give records twice.
        let output = export(&tenants, &["--format", "json", "--cursor", &cursor]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        // What comes after the receiver has hung up arrives on another connection.
        let mut last = Value::Null;
        for _ in 0..50 {
            served(&tenants, "report");
            match messages.recv_timeout(Duration::from_secs(2)) {
                Ok(message) => last = record(&message),
                Err(_) => continue,
            }
            if last["target"]["name"] == "report" {
                break;
            }
        }
        assert_eq!(last["target"]["name"], "report");
        follower.kill().unwrap();
        follower.wait().unwrap();
    });
}

#[test]
fn a_collector_gets_every_record_and_an_error_loses_none() {
    apart(|| {
        let tenants = traffic();
        let status = Arc::new(AtomicU16::new(400));
        let answer = Arc::clone(&status);
        let collector = Collector::new(None, move |_posted| (answer.load(Ordering::Relaxed), ""));
        let cursor = tenants.daemon.dir().join("cursor").display().to_string();
        let to = format!("http://{}/v1/logs", collector.address);
        let words = ["--format", "otlp", "--to", &to, "--cursor", &cursor];
        for wrong in [400, 503] {
            status.store(wrong, Ordering::Relaxed);
            let output = export(&tenants, &words);
            assert_eq!(output.status.code(), Some(1), "{output:?}");
            assert!(String::from_utf8_lossy(&output.stderr).contains(&wrong.to_string()), "{output:?}");
        }
        status.store(200, Ordering::Relaxed);
        assert!(export(&tenants, &words).status.success());
        let records = collector.taken();
        let numbers = numbers(&records);
        assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
        assert!(records.iter().any(|record| record["target"]["name"] == "open"));
    });
}

#[test]
fn a_trail_that_was_put_back_is_not_exported_on() {
    apart(|| {
        let tenants = traffic();
        let trail = tenants.daemon.config.audit_dir();
        let older = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(&trail).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::copy(&path, older.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        served(&tenants, "report");
        let cursor = older.path().join("cursor").display().to_string();
        let csv = lines(&tenants, &["--format", "csv", "--cursor", &cursor]);
        assert!(csv[0].starts_with("seq,time,kind,"), "{}", csv[0]);
        assert!(csv.iter().any(|line| line.contains(",report,")), "{csv:?}");
        let text = String::from_utf8(export(&tenants, &["--format", "csv"]).stdout).unwrap();
        assert!(text.split_inclusive('\n').all(|line| line.ends_with("\r\n")), "{text:?}");
        let older = older.path().display().to_string();
        let output = export(&tenants, &["--format", "csv", "--cursor", &cursor, "--dir", &older]);
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("put back"), "{output:?}");

        for wrong in [
            &["--format", "otlp", "--syslog"][..],
            &["--format", "json", "--to", "http://127.0.0.1:1/"],
            &["--format", "json", "--to", "udp://127.0.0.1:1"],
            &["--format", "json", "--to", "tls://127.0.0.1"],
            &["--format", "csv", "--syslog"],
            &["--format", "json", "--lag"],
        ] {
            let output = export(&tenants, wrong);
            assert!(output.status.code() == Some(2) && !output.stderr.is_empty(), "{wrong:?}: {output:?}");
        }
    });
}

#[test]
fn a_guard_tells_how_far_an_export_is_behind() {
    apart(|| {
        let mut tenants = traffic();
        let cursor = tenants.daemon.dir().join("state/cursor");
        let path = cursor.to_str().unwrap().to_owned();
        let output = export(&tenants, &["--format", "json", "--cursor", &path]);
        let exported = String::from_utf8(output.stdout).unwrap().lines().count();
        assert!(output.status.success() && exported > 2);
        served(&tenants, "open");
        tenants.daemon.stop().unwrap();
        let records = tenants.daemon.ledger().unwrap().records.len();
        let missing = tenants.daemon.dir().join("state/none");
        tenants.daemon.config.audit.export_cursors = vec![cursor, missing];
        tenants.daemon.write_config().unwrap();
        tenants.daemon.start().unwrap();

        let started = Instant::now();
        // It looks when it starts, and then once a minute.
        let exports = loop {
            let told = tenants.daemon.status().unwrap()["audit"]["exports"].clone();
            if told[0]["records"].is_u64() {
                break told;
            }
            assert!(started.elapsed() < PATIENCE, "{told}");
            thread::sleep(Duration::from_millis(100));
        };
        assert!(exports[0]["records"].as_u64().unwrap() >= (records - exported) as u64, "{exports}");
        assert!(exports[0]["oldest_seconds"].is_u64() && exports[0]["problem"].is_null(), "{exports}");
        assert!(exports[1]["records"].is_null(), "{exports}");
        let shown = String::from_utf8(tenants.daemon.output("status", &[]).unwrap().stdout).unwrap();
        assert!(shown.contains("EXPORT   ") && shown.contains("NOT EXPORTED   "), "{shown}");
        let metrics = String::from_utf8(tenants.daemon.output("metrics", &[]).unwrap().stdout).unwrap();
        let line =
            format!("mcp_guard_audit_export_lag_records{{cursor=\"{path}\"}} {}", exports[0]["records"]);
        assert!(metrics.contains(&line), "{metrics}");
    });
}

#[test]
fn a_checkpoint_that_a_siem_or_a_collector_got_shows_a_trail_that_was_put_back() {
    apart(|| {
        let (Scene { daemon, puppet, credential, https }, ca) =
            (Scene::new(&json!({})).unwrap(), TestCa::new().unwrap());
        puppet.answer_all(done_for);
        let trail = daemon.config.audit_dir();
        let older = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(&trail).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::copy(&path, older.path().join(path.file_name().unwrap())).unwrap();
            }
        }
        // A checkpoint is recorded at least every 1,000 records.
        let started = Instant::now();
        while daemon.ledger().unwrap().of_kind("checkpoint").next().is_none() {
            assert!(started.elapsed() < PATIENCE, "no checkpoint is recorded");
            let mut line = https.line().unwrap();
            for _ in 0..100 {
                line.send(&Request::post(&call(1, "open")).by(&credential).bytes()).unwrap();
                line.answer().unwrap();
            }
        }
        let (siem, messages) = syslog(&ca, None);
        let collector = Collector::new(None, |_posted| (200, ""));
        let (siem, otlp) = (format!("tls://{siem}"), format!("http://{}/v1/logs", collector.address));
        let ca_file = ca.ca().display().to_string();
        let syslog = ["--format", "json", "--to", siem.as_str(), "--ca-file", &ca_file];
        let otlp = ["--format", "otlp", "--to", otlp.as_str()];
        for (name, words) in [("syslog", &syslog[..]), ("otlp", &otlp)] {
            let cursor = daemon.dir().join(name).display().to_string();
            let output = daemon.output("audit export", &[words, &["--cursor", &cursor]].concat()).unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        let sent = std::iter::from_fn(|| messages.recv_timeout(Duration::from_secs(2)).ok());
        let to_siem: Vec<Value> = sent.map(|message| record(&message)).collect();
        for got in [to_siem, collector.taken()] {
            let last = got.iter().rfind(|record| record["kind"] == "checkpoint").expect("a checkpoint");
            let note = daemon.dir().join("note");
            fs::write(&note, last["note"].as_str().unwrap()).unwrap();
            let verdict = |dir: &std::path::Path| {
                let words = ["--since", note.to_str().unwrap(), "--dir", dir.to_str().unwrap()];
                daemon.output("audit verify", &words).unwrap().status.code()
            };
            assert_eq!((verdict(&trail), verdict(older.path())), (Some(0), Some(2)));
        }
    });
}
