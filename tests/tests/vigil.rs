//! Damage to what the guard has in the kernel: it is seen within seconds, told, and put back.

use std::fs;
use std::process::Command;

use aya::maps::{Array, HashMap, Map, MapData};
use guard_common::{ANYWHERE, SWITCH_BLOCK_ALL, SWITCH_WALL, WALL_OFF};
use guard_tests::cgroup::Cgroup;
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::scene::{PORT, Scene, apart};
use guard_tests::world::{Process, World, cgroup2_root, test};
use mcp_guard::kernel::{Target, block, unblock};
use mcp_guard::types::ServerName;
use serde_json::{Value, json};

fn drift(status: &Value) -> String {
    status["drift"].to_string()
}

fn damaged(status: &Value) -> bool {
    status["drift"].as_array().is_some_and(|list| !list.is_empty())
}

/// Waits longer than any busy machine needs.
fn wait(guard: &mut Process, fits: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let found = eventually(START_LIMIT, || {
        last = guard.ask("status");
        Ok(fits(&last).then_some(()))
    });
    assert!(found.unwrap().is_some(), "still {last:#}\n{}", guard.log());
    last
}

fn links(world: &World) -> std::path::PathBuf {
    world.pins().join("links/1")
}

#[test]
fn a_link_that_is_gone_is_attached_again() {
    test(|world| {
        let _server = world.server(&["0.0.0.0:3001"]);
        let mut guard = world.guard();
        let names: Vec<_> = fs::read_dir(links(world))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| ["mine", "who4", "tie"].contains(&name.as_str()) || name.starts_with("steer"))
            .collect();
        assert_eq!(names.len(), 4, "{names:?}");
        for (count, name) in (1..).zip(names) {
            fs::remove_file(links(world).join(&name)).unwrap();
            let status = wait(&mut guard, damaged);
            assert!(drift(&status).contains(&name) && drift(&status).contains("pin is gone"), "{status:#}");
            assert_eq!(status["protected"], false);
            let status = wait(&mut guard, |status| !damaged(status));
            assert_eq!(status["counters"]["drifts"], count, "told once: {status:#}");
            assert!(links(world).join(&name).exists());
        }
        let claims = guard.ask("prove");
        assert!(claims.as_array().unwrap().iter().all(|claim| claim["holds"] == true), "{claims:#}");
        assert_eq!(guard.ask("dial 3001"), json!({"answer": "server"}));
    });
}

#[test]
fn a_rule_that_is_gone_is_written_again() {
    test(|world| {
        let mut guard = world.guard();
        let data = MapData::from_pin(world.pins().join("maps/POLICY")).unwrap();
        let mut policy: HashMap<_, [u64; 2], [u64; 3]> = Map::HashMap(data).try_into().unwrap();
        let guarded =
            policy.keys().map(Result::unwrap).find(|key| key[1].to_ne_bytes()[..2] == PORT.to_ne_bytes());
        let key = guarded.unwrap();
        policy.remove(&key).unwrap();
        let status = wait(&mut guard, damaged);
        assert!(drift(&status).contains("rule of port 3001"), "{status:#}");
        wait(&mut guard, |status| !damaged(status));
        assert!(policy.get(&key, 0).is_ok());
    });
}

#[test]
fn a_program_at_a_servers_cgroup_that_is_gone_stands_again() {
    test(|world| {
        let cgroup = Cgroup::new();
        let server = world.probe_in(&cgroup, &["server", "0.0.0.0:3001"]);
        let mut guard = world.guard();
        let name = format!("wall-{}", cgroup.id());
        let pin = links(world).join(&name);
        wait(&mut guard, |_| pin.exists());
        fs::remove_file(&pin).unwrap();
        let status = wait(&mut guard, damaged);
        assert!(drift(&status).contains(&name) && drift(&status).contains("pin is gone"), "{status:#}");
        wait(&mut guard, |status| !damaged(status));
        assert!(pin.exists());
        // A cgroup that goes with its server is no damage.
        server.kill();
        drop(cgroup);
        wait(&mut guard, |status| status["wall"]["cgroups"] == json!([]));
        assert_eq!(guard.ask("status")["counters"]["drifts"], 1);
    });
}

#[test]
fn switches_and_blocks_are_set_again() {
    test(|world| {
        let _server = world.server(&["0.0.0.0:3001"]);
        let mut guard = world.guard();
        let data = MapData::from_pin(world.pins().join("maps/SWITCHES")).unwrap();
        let mut switches: Array<_, u32> = Map::Array(data).try_into().unwrap();
        let enforce = switches.get(&SWITCH_WALL, 0).unwrap();
        switches.set(SWITCH_WALL, WALL_OFF, 0).unwrap();
        let status = wait(&mut guard, damaged);
        assert!(drift(&status).contains("second wall"), "{status:#}");
        wait(&mut guard, |status| !damaged(status));
        assert_eq!(switches.get(&SWITCH_WALL, 0).unwrap(), enforce);

        let met = || world.client(&world.host, [127, 0, 0, 1].into());
        for target in [Target::All, Target::Server(ServerName::parse("demo").unwrap())] {
            block(&world.kernel, &target, "a test").unwrap();
            assert_eq!(met()["refused"], true);
            match target {
                Target::All => switches.set(SWITCH_BLOCK_ALL, 0, 0).unwrap(),
                _ => open_port(world),
            }
            assert_eq!(met()["guard"], true, "the damage is done");
            let status = wait(&mut guard, damaged);
            assert!(drift(&status).contains("block of"), "{status:#}");
            wait(&mut guard, |status| !damaged(status));
            assert_eq!(met()["refused"], true, "{target:?}");
            unblock(&world.kernel, &target).unwrap();
            assert_eq!(met()["guard"], true);
        }
    });
}

/// Takes the kill switch out of the rule of the protected port.
fn open_port(world: &World) {
    let data = MapData::from_pin(world.pins().join("maps/POLICY")).unwrap();
    let mut policy: HashMap<_, [u64; 2], [u64; 3]> = Map::HashMap(data).try_into().unwrap();
    let (key, [mode_and_flags, rest @ ..]) = policy
        .iter()
        .map(Result::unwrap)
        .find(|(key, _)| key[1].to_ne_bytes()[..2] == PORT.to_ne_bytes())
        .unwrap();
    let mode = mode_and_flags & u64::from(u32::MAX);
    policy.insert(key, [mode, rest[0], rest[1]], 0).unwrap();
}

#[test]
fn who_may_bind_and_where_a_server_may_connect_is_written_again() {
    test(|world| {
        let cgroup = Cgroup::new();
        let _server = world.probe_in(&cgroup, &["server", "0.0.0.0:3001"]);
        let egress = json!({"default": "deny", "except": ["192.0.2.1:443"]});
        let mut guard = world.guard_for(&json!([{"name": "demo", "port": PORT, "egress": egress}]));
        let open = |name: &str| MapData::from_pin(world.pins().join("maps").join(name)).unwrap();
        let mut holders: HashMap<_, [u64; 2], u64> = Map::HashMap(open("HOLDERS")).try_into().unwrap();
        let mut locks: HashMap<_, u64, [u64; 2]> = Map::HashMap(open("LOCKS")).try_into().unwrap();
        wait(&mut guard, |_| holders.keys().count() == 1 && locks.get(&cgroup.id(), 0).is_ok());
        let port = holders.keys().next().unwrap().unwrap();
        holders.remove(&port).unwrap();
        let status = wait(&mut guard, damaged);
        assert!(drift(&status).contains("hold of port 3001"), "{status:#}");
        wait(&mut guard, |status| !damaged(status));
        assert_eq!(holders.get(&port, 0).unwrap(), cgroup.id());
        locks.remove(&cgroup.id()).unwrap();
        let status = wait(&mut guard, damaged);
        assert!(drift(&status).contains("lock of server demo"), "{status:#}");
        wait(&mut guard, |status| !damaged(status));
        assert!(locks.get(&cgroup.id(), 0).is_ok());
    });
}

#[test]
fn what_tells_of_servers_elsewhere_is_written_again() {
    test(|world| {
        let place = json!({"netns": world.remote.path()});
        let mut guard = world.guard_for(&json!([{"name": "demo", "port": PORT, "in": place}]));
        let data = MapData::from_pin(world.pins().join("maps/POLICY")).unwrap();
        let mut policy: HashMap<_, [u64; 2], [u64; 3]> = Map::HashMap(data).try_into().unwrap();
        let awaited = policy.keys().map(Result::unwrap).find(|key| key[0] == ANYWHERE).unwrap();
        policy.remove(&awaited).unwrap();
        let status = wait(&mut guard, damaged);
        assert!(drift(&status).contains("servers elsewhere"), "{status:#}");
        wait(&mut guard, |status| !damaged(status));
        assert!(policy.get(&awaited, 0).is_ok());
    });
}

#[test]
fn a_stranger_in_the_guards_cgroup_is_told_until_he_leaves() {
    test(|world| {
        let mut guard = world.guard();
        let mut stranger = Command::new("sleep").arg("600").spawn().unwrap();
        let procs = cgroup2_root().join(&world.kernel.cgroup).join("cgroup.procs");
        fs::write(procs, stranger.id().to_string()).unwrap();
        let status = wait(&mut guard, damaged);
        let told = drift(&status).contains(&stranger.id().to_string());
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        assert!(told, "{status:#}");
        wait(&mut guard, |status| !damaged(status));
    });
}

#[test]
fn a_program_after_ours_is_told_and_not_fought() {
    test(|world| {
        let mut guard = world.guard();
        let intruder = World::new();
        let other = intruder.guard_in(&world.host);
        let status = wait(&mut guard, damaged);
        assert!(drift(&status).contains("is not the last"), "{status:#}");
        drop(other);
        intruder.unload();
        wait(&mut guard, |status| !damaged(status));
    });
}

#[test]
fn a_difference_is_in_the_trail_and_in_the_exit_code_and_may_be_left_alone() {
    apart(|| {
        let scene = Scene::with(&json!({}), |daemon| {
            daemon.config.kernel.reattach = false;
            Ok(())
        })
        .unwrap();
        let kernel = &scene.daemon.config.kernel;
        fs::remove_file(kernel.bpffs.join(&kernel.pins).join("links/1/who6")).unwrap();
        let red = eventually(START_LIMIT, || {
            let output = scene.daemon.output("status", &[])?;
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            Ok((output.status.code() == Some(1)).then_some(text))
        });
        let text = red.unwrap().unwrap();
        assert!(
            text.contains("NOT PROVEN") && text.contains("CHANGED") && text.contains("link who6"),
            "{text}"
        );
        let recorded = eventually(START_LIMIT, || {
            let ledger = scene.daemon.ledger()?;
            Ok(ledger.of_kind("drift").next().cloned())
        });
        let recorded = recorded.unwrap().unwrap();
        assert_eq!((&recorded["what"], &recorded["change"]), (&json!("link who6"), &json!("found")));
        std::thread::sleep(std::time::Duration::from_secs(3));
        assert_eq!(scene.daemon.ledger().unwrap().of_kind("drift").count(), 1, "told once, and not put back");
    });
}
