//! The second wall: what gets round the steering does not reach the server either.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant};

use aya::maps::{Array, HashMap, Map, MapData};
use guard_common::{MODE_GUARDED, Port, Rule, SWITCH_WALL, WALL_ENFORCE};
use guard_tests::cgroup::Cgroup;
use guard_tests::world::{PORT, Process, World, cgroup2_root, test};
use serde_json::{Value, json};

/// How long a client waits for an echo before it counts as cut. A loopback echo takes microseconds.
const CUT: Duration = Duration::from_secs(2);

fn pinned(guard: &mut Process, server: &Process) -> Value {
    guard.ask_until("status", |status| {
        status["namespaces"][0]["ports"]["3001"]["pinned"][0]["pid"].as_u64() == Some(server.pid().into())
    })
}

/// Takes the port's rule away for as long as `body` runs: what it connects gets past the steering.
fn past_the_steering<T>(world: &World, status: &Value, body: impl FnOnce() -> T) -> T {
    let data = MapData::from_pin(world.pins().join("maps/POLICY")).expect("the pinned map");
    let mut policy: HashMap<_, Port, Rule> = Map::HashMap(data).try_into().expect("the layout of this ABI");
    let port = Port::new(status["netns"].as_u64().expect("a cookie"), PORT);
    let rule = policy.get(&port, 0).expect("the rule");
    assert_eq!(rule.mode, MODE_GUARDED);
    policy.remove(&port).expect("removed");
    let made = body();
    policy.insert(port, rule, 0).expect("written");
    made
}

/// A connection to the server that has been greeted by it.
fn greeted(ip: &str) -> TcpStream {
    let stream = TcpStream::connect((ip, PORT)).expect("the server itself");
    stream.set_read_timeout(Some(CUT)).expect("a time-out");
    let mut line = String::new();
    BufReader::new(&stream).read_line(&mut line).expect("a greeting");
    assert_eq!(line, "server\n");
    stream
}

fn echoes(stream: &mut TcpStream) -> bool {
    stream.write_all(b"ping").expect("the kernel takes it");
    let mut answer = [0; 4];
    stream.read_exact(&mut answer).is_ok() && answer == *b"ping"
}

fn counter(guard: &mut Process, name: &str) -> u64 {
    guard.ask("status")["counters"][name].as_u64().expect("a count")
}

fn set_wall(world: &World, mode: u32) {
    let data = MapData::from_pin(world.pins().join("maps/SWITCHES")).expect("the pinned map");
    let mut switches: Array<_, u32> = Map::Array(data).try_into().expect("the layout of this ABI");
    switches.set(SWITCH_WALL, mode, 0).expect("written");
}

#[test]
fn a_connection_that_the_sweep_missed_is_cut() {
    test(|world| {
        for (bind, ip) in [("127.0.0.1:3001", "127.0.0.1"), ("[::1]:3001", "::1"), ("[::]:3001", "127.0.0.1")]
        {
            let cgroup = Cgroup::new();
            let server = world.probe_in(&cgroup, &["server", bind]);
            // The self-watch would put the switch back.
            let counting = |config: &mut Value| {
                config["kernel"]["wall"] = json!("count");
                config["kernel"]["reattach"] = json!(false);
            };
            let mut guard = world.guard_where(counting).expect("a guard");
            let status = pinned(&mut guard, &server);
            let mut stream = past_the_steering(world, &status, || world.host.run(|| greeted(ip)));
            assert!(echoes(&mut stream), "{bind}: a wall that counts lets pass");
            let counted = counter(&mut guard, "wall_counted");
            assert!(counted > 0, "{bind}");
            assert_eq!(counter(&mut guard, "wall_dropped"), 0, "{bind}");
            set_wall(world, WALL_ENFORCE);
            assert!(!echoes(&mut stream), "{bind}: cut");
            assert!(counter(&mut guard, "wall_dropped") > 0, "{bind}");
            let status = guard.ask("status");
            assert!(status["namespaces"][0]["tallies"]["3001"]["dropped"].as_u64() > Some(0), "{status:#}");
            assert_eq!(guard.ask("dial 3001"), json!({"answer": "server"}), "{bind}: the guard itself");
            guard.kill();
            world.unload();
        }
    });
}

#[test]
fn without_a_wall_it_goes_on() {
    test(|world| {
        let cgroup = Cgroup::new();
        let server = world.probe_in(&cgroup, &["server", "0.0.0.0:3001"]);
        let mut guard = world.guard_where(|config| config["kernel"]["wall"] = json!("off")).expect("a guard");
        let status = pinned(&mut guard, &server);
        assert_eq!(status["wall"]["mode"], "off", "{status:#}");
        let mut stream = past_the_steering(world, &status, || world.host.run(|| greeted("127.0.0.1")));
        assert!(echoes(&mut stream));
        assert_eq!(counter(&mut guard, "wall_counted"), 0);
    });
}

#[test]
fn a_foreign_program_that_gives_away_the_servers_socket_meets_the_wall() {
    for (mode, reached) in [("off", true), ("enforce", false)] {
        test(|world| {
            let cgroup = Cgroup::new();
            let server = world.probe_in(&cgroup, &["server", "0.0.0.0:3001"]);
            let mut guard =
                world.guard_where(|config| config["kernel"]["wall"] = json!(mode)).expect("a guard");
            pinned(&mut guard, &server);
            // Another privileged program with the last word: it assigns the server's socket to connections that our
            // steering would have given to us.
            let foreign = World::new();
            let mut thief = foreign
                .guard_where_in(&world.host, |config| config["kernel"]["wall"] = json!("off"))
                .expect("the other program");
            pinned(&mut thief, &server);
            let met = thief.ask("dial 3001");
            assert_eq!(met["answer"] == "server", reached, "wall {mode}: {met}");
            let dropped = counter(&mut guard, "wall_dropped");
            assert_eq!(dropped > 0, !reached, "wall {mode}: {dropped} packets");
            thief.kill();
            foreign.unload();
        });
    }
}

#[test]
fn the_guards_own_connections_pass_and_end_in_order() {
    test(|world| {
        let cgroup = Cgroup::new();
        let server = world.probe_in(&cgroup, &["server", "[::]:3001"]);
        let mut guard = world.guard();
        let status = pinned(&mut guard, &server);
        assert_eq!(status["wall"]["mode"], "enforce", "{status:#}");
        assert_eq!(status["wall"]["cgroups"], json!([cgroup.path()]), "{status:#}");
        assert_eq!(status["wall"]["problems"], json!([]), "{status:#}");
        for _ in 0..20 {
            assert_eq!(guard.ask("dial 3001"), json!({"answer": "server"}));
        }
        for held in 1..=5 {
            assert_eq!(guard.ask("hold 3001"), json!({"held": held}));
        }
        // The guard's sockets end while the server's ends are open: their last packets must get through.
        guard.kill();
        let end = Instant::now() + Duration::from_secs(5);
        while let Some(left) = world.host.run(|| servers_ends(PORT)) {
            assert!(Instant::now() < end, "the server waits for an end of {left}");
            std::thread::sleep(Duration::from_millis(20));
        }
        let mut guard = world.guard();
        assert_eq!(counter(&mut guard, "wall_dropped"), 0);
    });
}

/// A connection of the server that has not ended, as `ss` shows it.
fn servers_ends(port: u16) -> Option<String> {
    let filter = format!("( sport = :{port} )");
    let output = Command::new("ss").args(["-Htna", &filter]).output().expect("`ss` runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .find(|line| !line.starts_with("LISTEN") && !line.starts_with("TIME-WAIT"))
        .map(str::to_owned)
}

#[test]
fn the_wall_follows_the_server_and_leaves_nothing() {
    test(|world| {
        let cgroup = Cgroup::new();
        let server = world.probe_in(&cgroup, &["server", "127.0.0.1:3001"]);
        let mut guard = world.guard();
        pinned(&mut guard, &server);
        let pin = world.pins().join(format!("links/1/wall-{}", cgroup.id()));
        assert!(pin.exists());
        server.kill();
        guard.ask_until("status", |status| status["wall"]["cgroups"] == json!([]));
        assert!(!pin.exists());
        // As a service manager does: the same path, a new cgroup.
        cgroup.renew();
        let server = world.probe_in(&cgroup, &["server", "127.0.0.1:3001"]);
        pinned(&mut guard, &server);
        guard.ask_until("status", |status| status["wall"]["cgroups"] == json!([cgroup.path()]));
        assert!(world.pins().join(format!("links/1/wall-{}", cgroup.id())).exists());
    });
}

#[test]
fn a_server_in_the_root_cgroup_is_walled_and_the_guards_own_sockets_are_not() {
    test(|world| {
        let server = world.server(&["0.0.0.0:3001"]);
        let mut guard = world.guard();
        let status = pinned(&mut guard, &server);
        assert_eq!(status["wall"]["cgroups"], json!([cgroup2_root()]), "{status:#}");
        let met = world.client(&world.host, "127.0.0.1".parse().expect("an address"));
        assert_eq!(met["guard"], true, "{met}");
        assert_eq!(guard.ask("dial 3001"), json!({"answer": "server"}));
        assert_eq!(counter(&mut guard, "wall_dropped"), 0);
    });
}
