//! `unload` is the way back to a host without a guard.

use guard_tests::world::{HOST_V4, test};

#[test]
fn unload_after_a_killed_guard_opens_the_port_and_leaves_nothing() {
    test(|world| {
        let _server = world.server(&["0.0.0.0:3001"]);
        let mut guard = world.guard();
        assert_eq!(guard.ask("prove").as_array().map(Vec::is_empty), Some(false));
        guard.kill();
        let here = "127.0.0.1".parse().expect("an address");
        let there = HOST_V4.parse().expect("an address");
        assert_eq!(world.client(&world.host, here)["refused"], true);
        let removed = world.unload();
        let is_removed = |name: &str| {
            removed.iter().any(|pin| {
                let pin = pin.file_name().and_then(|pin| pin.to_str()).unwrap_or_default();
                pin == name || pin.starts_with(&format!("{name}-"))
            })
        };
        for name in ["steer", "who4", "who6", "tie", "mine", "POLICY", "SOCKS", "FLOWS", "META"] {
            assert!(is_removed(name), "{name} was not removed: {removed:?}");
        }
        assert_eq!(world.client(&world.host, here)["server"], true);
        assert_eq!(world.client(&world.remote, there)["server"], true);
        // `test` checks for programs, maps, pins and the cgroup.
    });
}

#[test]
fn unload_where_nothing_is_succeeds_and_says_so() {
    test(|world| {
        assert_eq!(
            mcp_guard::kernel::unload(&world.kernel).expect("unloading"),
            mcp_guard::kernel::Unloaded::default()
        );
        world.guard().kill();
        assert!(!world.unload().is_empty());
        assert_eq!(
            mcp_guard::kernel::unload(&world.kernel).expect("unloading"),
            mcp_guard::kernel::Unloaded::default()
        );
    });
}

#[test]
fn a_start_that_fails_leaves_nothing() {
    test(|world| {
        // Somebody else sits in the guard's cgroup.
        let root = guard_tests::world::cgroup2_root();
        let cgroup = root.join(&world.kernel.cgroup);
        std::fs::create_dir(&cgroup).expect("a cgroup");
        let mut sitter = std::process::Command::new("sleep").arg("60").spawn().expect("sleep runs");
        std::fs::write(cgroup.join("cgroup.procs"), sitter.id().to_string()).expect("moved");
        let words = world.guard_outcome().expect_err("the cgroup is taken");
        assert!(
            words.contains(&format!("pid {}", sitter.id())) && words.contains("kernel.cgroup"),
            "{words}"
        );
        assert!(!world.pins().exists(), "pins are left");
        sitter.kill().expect("killed");
        sitter.wait().expect("waited for");
    });
}
