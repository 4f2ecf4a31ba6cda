//! The trail of a guard that runs: full files are packed, old ones go, and all that reads a trail goes on.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::thread;
use std::time::{Duration, Instant};

use guard_tests::scene::{apart, call};
use guard_tests::tenants::{Tenants, on};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(300);

fn ran(tenants: &Tenants, verb: &str, words: &[&str]) -> Output {
    tenants.daemon.output(&format!("audit {verb}"), words).unwrap()
}

fn told(tenants: &Tenants, verb: &str, words: &[&str]) -> Value {
    let output = ran(tenants, verb, &[words, &["--json"]].concat());
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn packed(tenants: &Tenants) -> Vec<PathBuf> {
    let all =
        std::fs::read_dir(tenants.daemon.config.audit_dir()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> =
        all.filter(|path| path.extension().is_some_and(|ending| ending == "gz")).collect();
    files.sort();
    files
}

/// Refused calls until so many files are packed.
fn fill(tenants: &Tenants, files: usize) {
    let started = Instant::now();
    while packed(tenants).len() < files {
        assert!(started.elapsed() < PATIENCE, "{:?}", packed(tenants));
        for number in 0..50 {
            tenants.refused(&on("one", &call(number, "erase_everything"), &tenants.alice)).unwrap();
        }
    }
}

#[test]
fn a_running_guard_rotates_packs_and_prunes_its_trail_and_all_that_reads_it_goes_on() {
    apart(|| {
        let mut tenants = Tenants::new(&json!({})).unwrap();
        tenants.daemon.stop().unwrap();
        let cursor = tenants.daemon.config.state_dir.join("cursor");
        tenants.daemon.config.audit.segment_bytes = 1024 * 1024;
        tenants.daemon.config.audit.export_cursors = vec![cursor.clone()];
        tenants.daemon.start().unwrap();
        tenants.open(&tenants.alice, "one").unwrap();
        fill(&tenants, 2);

        assert_eq!(tenants.daemon.verify().unwrap().code, Some(0));
        let calls = told(&tenants, "stats", &[])["total"]["calls"].as_u64().unwrap();
        assert!(calls > 1_000, "{calls}");
        let proof = ran(&tenants, "prove", &["7"]);
        assert!(proof.status.success(), "{proof:?}");

        // What an export has not reached stays.
        let cursor = cursor.to_str().unwrap();
        let refused = ran(&tenants, "prune", &["--before", "0s"]);
        assert!(!refused.status.success(), "{refused:?}");
        assert!(String::from_utf8_lossy(&refused.stderr).contains("there is no such cursor"), "{refused:?}");
        assert_eq!(packed(&tenants).len(), 2, "nothing was exported");
        let exported = ran(&tenants, "export", &["--format", "json", "--cursor", cursor]);
        assert!(exported.status.success());
        let plan = told(&tenants, "prune", &["--before", "0s", "--dry-run"]);
        let to = plan["pruned"]["to"].as_u64().unwrap();
        assert!(to > 1_000 && plan["pruned"]["files"] == 2, "{plan}");
        assert_eq!(packed(&tenants).len(), 2, "nothing was removed");

        let done = told(&tenants, "prune", &["--before", "0s"]);
        assert_eq!(
            (done["pruned"]["to"].as_u64(), &done["pruned"]["unexported"]),
            (Some(to), &json!(0)),
            "{done}"
        );
        assert_eq!(packed(&tenants).len(), 0);
        let words = ran(&tenants, "prune", &["--before", "0s"]);
        assert!(String::from_utf8_lossy(&words.stdout).contains("nothing is removed"), "{words:?}");

        // Calls, signatures, proofs, exports and comparisons go on.
        fill(&tenants, 1);
        let held = ran(&tenants, "prune", &["--before", "0s"]);
        assert!(held.status.success() && packed(&tenants).len() == 1, "it is not exported: {held:?}");
        let sound = tenants.daemon.verify().unwrap();
        assert_eq!((sound.code, sound.report["first"].as_u64()), (Some(0), Some(to)), "{}", sound.report);
        let key = tenants.daemon.config.audit_dir().join("verifier-key");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/verify_trail.py");
        let said = Command::new("python3")
            .arg(script)
            .arg(tenants.daemon.config.audit_dir())
            .arg(key)
            .output()
            .unwrap();
        assert!(
            String::from_utf8_lossy(&said.stdout).contains(&format!("SOUND: records {to} to ")),
            "{said:?}"
        );
        assert_eq!(told(&tenants, "verify", &[])["pruned"]["cause"], "operator");
        let gone = ran(&tenants, "prove", &["7"]);
        assert!(String::from_utf8_lossy(&gone.stderr).contains("was pruned"), "{gone:?}");
        assert!(ran(&tenants, "prove", &[&(to + 7).to_string()]).status.success());
        let further = ran(&tenants, "export", &["--format", "json", "--cursor", cursor]);
        assert!(further.status.success() && !further.stdout.is_empty(), "{further:?}");

        // By rule, after a restart; without a guard, too.
        tenants.daemon.stop().unwrap();
        let alone = told(&tenants, "prune", &["--before", "0s", "--force", "a test"]);
        assert_eq!(alone["pruned"]["files"], 1, "{alone}");
        assert_eq!(tenants.daemon.verify().unwrap().code, Some(0));
        tenants.daemon.start().unwrap();
        tenants.open(&tenants.alice, "one").unwrap();
        fill(&tenants, 1);
        let before = tenants.daemon.verify().unwrap().report["first"].as_u64();
        tenants.daemon.stop().unwrap();
        tenants.daemon.config.audit.export_cursors.clear();
        tenants.daemon.config.audit.keep_bytes = Some(1);
        tenants.daemon.start().unwrap();
        let started = Instant::now();
        while tenants.daemon.verify().unwrap().report["first"].as_u64() == before {
            assert!(started.elapsed() < 2 * PATIENCE, "nothing goes by rule");
            thread::sleep(Duration::from_millis(500));
        }
        let verified = told(&tenants, "verify", &[]);
        assert_eq!((&verified["verdict"], &verified["pruned"]["cause"]), (&json!("sound"), &json!("policy")));
        tenants.daemon.stop().unwrap();

        // A file that somebody removes is missed.
        let first =
            std::fs::read_dir(tenants.daemon.config.audit_dir()).unwrap().map(|entry| entry.unwrap().path());
        let mut first: Vec<_> = first.filter(|path| path.to_string_lossy().contains(".jsonl")).collect();
        first.sort();
        std::fs::remove_file(&first[0]).unwrap();
        assert_ne!(tenants.daemon.verify().unwrap().code, Some(0));
    });
}
