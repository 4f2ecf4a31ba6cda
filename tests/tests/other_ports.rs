//! A server that opens a port beside its own is in the trail.

use std::process::Command;

use guard_tests::probe::connect;
use guard_tests::process::{START_LIMIT, eventually, program};
use guard_tests::scene::{ADDRESS, apart, guard};
use guard_tests::slice::Slice;
use guard_tests::world::Process;
use serde_json::{Value, json};

#[test]
fn another_port_of_a_server_is_recorded_once_with_what_became_of_it() {
    for done in ["report", "protect", "deny"] {
        apart(|| {
            let slice = Slice::new();
            let mut command = Command::new(program("steer-probe").unwrap());
            command.args(["worker", &ADDRESS.to_string()]);
            slice.put("crm.service", &mut command);
            let mut server = Process::start(&mut command).unwrap();
            let mut daemon = guard("crm", &[("agents.yaml", "agents: {}\n")]).unwrap();
            daemon.config.servers[0].other_ports = serde_json::from_value(json!(done)).unwrap();
            daemon.start().unwrap();
            assert_eq!(server.ask("listen 127.0.0.1:3009"), json!({"done": true}));
            let recorded =
                || -> Vec<Value> { daemon.ledger().unwrap().of_kind("other_port").cloned().collect() };
            let found = eventually(START_LIMIT, || Ok(recorded().pop())).unwrap().expect("a record");
            assert_eq!(
                (&found["server"], &found["port"], &found["uid"], &found["done"]),
                (&json!("crm"), &json!(3009), &json!(0), &json!(done)),
                "{found}"
            );
            // The next looks find it again and have nothing to add.
            std::thread::sleep(std::time::Duration::from_secs(2));
            assert_eq!(recorded().len(), 1);
            daemon.stop().unwrap();
            daemon.unload().unwrap();
        });
    }
}

/// The nearest watched cgroup has the word in the kernel, so a server's own must not stand before one that lets nothing
/// through.
#[test]
fn below_a_watched_cgroup_a_servers_other_port_is_closed_until_it_is_approved() {
    apart(|| {
        let slice = Slice::new();
        slice.make("agents.slice");
        let mut command = Command::new(program("steer-probe").unwrap());
        command.args(["worker", &ADDRESS.to_string()]);
        slice.put("agents.slice/crm.service", &mut command);
        let mut server = Process::start(&mut command).unwrap();
        let mut daemon = guard("crm", &[("agents.yaml", "agents: {}\n")]).unwrap();
        daemon.config.kernel.watch = vec![slice.path_of("agents.slice").trim_start_matches('/').to_owned()];
        daemon.start().unwrap();
        assert_eq!(server.ask("listen 127.0.0.1:3009"), json!({"done": true}));
        let other = "127.0.0.1:3009".parse().unwrap();
        assert_eq!(connect(other)["refused"], true, "at once, whatever the guard does");
        let listed = eventually(START_LIMIT, || {
            let listed = daemon.json("servers list", &[])?["closed"].clone();
            Ok((listed != json!([])).then_some(listed))
        });
        let listed = listed.unwrap().expect("a closed listener");
        assert_eq!((&listed[0]["port"], &listed[0]["state"]), (&json!(3009), &json!("pending")), "{listed}");
        assert_eq!(connect(other)["refused"], true);
        daemon.stop().unwrap();
        daemon.unload().unwrap();
    });
}
