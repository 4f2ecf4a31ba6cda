//! The benchmark itself: a short run measures something and sees no wrong answer. No figure is judged.

use std::process::Command;

use guard_tests::process::program;
use serde_json::Value;

#[test]
fn a_short_run_measures_calls_and_connections_without_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("figures.json");
    let plan = "--seconds 1.2 --runs 2 --concurrency 2 --rate 50 --streams 20 --cells connect,streams,direct,guard-os";
    let mut bench = Command::new(program("bench-cells").unwrap());
    let output = bench.args(plan.split(' ')).arg("--json").arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("\ndirect ") && text.contains("\nguard-os "), "{text}");
    let figures: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(figures["errors"], 0);
    for (cell, figure) in [
        ("direct", "calls_per_s"),
        ("direct", "open_p99_us"),
        ("guard-os", "calls_per_s"),
        ("guard-os", "open_p50_us"),
        ("guard-os", "rss_peak_mib"),
    ] {
        let measured = &figures["cells"][cell][figure];
        assert!(
            measured["median"].as_f64().is_some_and(|median| median > 0.0),
            "{cell} {figure}: {figures:#}"
        );
        assert_eq!(measured["runs"].as_array().unwrap().len(), 2);
    }
    let streams = figures["streams"].as_array().unwrap();
    assert_eq!(streams.iter().map(|cell| &cell["cell"]).collect::<Vec<_>>(), ["direct", "guard-os"]);
    for cell in streams {
        assert!(cell["events"].as_u64().is_some_and(|events| events > 0), "{figures:#}");
        assert!(cell["p99_us"].as_f64().is_some_and(|p99| p99 > 0.0), "{figures:#}");
    }
    assert!(streams[1]["rss_kib"].is_number() && streams[0]["rss_kib"].is_null(), "{figures:#}");
    for cell in ["none", "passing", "steered", "identity"] {
        for figure in ["p50_us", "per_s"] {
            let measured = &figures["connections"][cell][figure];
            for value in [&measured["median"], &measured["to_none"]["median"]] {
                assert!(value.as_f64().is_some_and(|value| value > 0.0), "{cell} {figure}: {figures:#}");
            }
            assert_eq!(measured["runs"].as_array().unwrap().len(), 2);
        }
    }
    assert!(
        figures["cells"]["direct"].get("cpu_s_per_100k").is_none(),
        "without a proxy there is none to measure"
    );
}
