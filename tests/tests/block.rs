//! The kill switch: for new and for open connections, with a guard that lives, sleeps or is dead.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use guard_tests::cgroup::Cgroup;
use guard_tests::daemon::Daemon;
use guard_tests::probe::connect;
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::scene::{ADDRESS, PORT, Scene, apart, call, done};
use guard_tests::world::{HOST_V4, HOST_V6, NOBODY, Process, World, test};
use mcp_guard::kernel::{Target, block, unblock};
use mcp_guard::types::ServerName;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

/// What the promise says. It is printed; only a machine that does nothing else would always keep to it.
const PROMISED: Duration = Duration::from_millis(10);

fn demo() -> Target {
    Target::Server(ServerName::parse("demo").expect("a name"))
}

fn address(ip: &str) -> SocketAddr {
    SocketAddr::new(ip.parse().expect("an address"), PORT)
}

/// Connects from everywhere.
fn met(world: &World) -> Vec<Value> {
    [
        (&world.host, "127.0.0.1"),
        (&world.host, "::1"),
        (&world.host, "::ffff:127.0.0.1"),
        (&world.remote, HOST_V4),
        (&world.remote, HOST_V6),
    ]
    .map(|(netns, ip)| netns.run(|| connect(address(ip))))
    .into()
}

fn all(met: &[Value], what: &str) -> bool {
    met.iter().all(|met| met[what] == true)
}

fn pinned(guard: &mut Process, server: &Process) {
    guard.ask_until("status", |status| {
        status["namespaces"][0]["ports"]["3001"]["pinned"][0]["pid"].as_u64() == Some(server.pid().into())
    });
}

/// Whether the other side is gone, within a generous time.
fn is_cut(stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a time-out");
    loop {
        match stream.read(&mut [0; 512]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn a_blocked_server_is_refused_at_once_to_new_and_open_connections() {
    for target in [demo(), Target::All] {
        test(|world| {
            let server = world.server(&["0.0.0.0:3001", "[::]:3002"]);
            let mut guard = world.guard();
            pinned(&mut guard, &server);
            assert!(all(&met(world), "guard"), "not blocked yet");
            let mut open: Vec<TcpStream> =
                [(&world.host, "127.0.0.1"), (&world.host, "::1"), (&world.remote, HOST_V4)]
                    .map(|(netns, ip)| netns.run(|| TcpStream::connect(address(ip)).expect("steered")))
                    .into();
            assert_eq!(guard.ask("hold 3001"), json!({"held": 1}));
            // A guard that sleeps can do nothing about it.
            let pid = Pid::from_raw(i32::try_from(guard.pid()).expect("a pid"));
            kill(pid, Signal::SIGSTOP).expect("stopping the guard");
            let begun = Instant::now();
            let told = block(&world.kernel, &target, "a test").expect("blocked");
            let took = begun.elapsed();
            let first = world.host.run(|| connect(address("127.0.0.1")));
            let written = Duration::from_micros(told.written_microseconds);
            println!(
                "{target:?}: written in {written:?} (promised {PROMISED:?}), {} connections ended in {took:?}",
                told.ended
            );
            assert_eq!(first["refused"], true, "{first}");
            assert!(told.ended >= 4, "{told:?}");
            assert_eq!(told.problems, Vec::<String>::new());
            assert!(!told.unchanged);
            for stream in &mut open {
                assert!(is_cut(stream), "{:?}", stream.peer_addr());
            }
            assert!(all(&met(world), "refused"));
            kill(pid, Signal::SIGCONT).expect("waking the guard");
            let status = guard.ask_until("status", |status| status["blocks"] != json!([]));
            assert_eq!(status["blocks"][0]["reason"], "a test", "{status:#}");
            assert!(status["namespaces"][0]["tallies"]["3001"]["blocked"].as_u64() >= Some(6), "{status:#}");
            // Neither the guard itself, nor after its death, nor with the next one.
            assert_eq!(guard.ask("dial 3001")["kind"], "ConnectionRefused");
            guard.kill();
            assert!(all(&met(world), "refused"));
            let mut guard = world.guard();
            assert!(all(&met(world), "refused"));
            let claims = guard.ask("prove");
            let claims = claims.as_array().expect("a list");
            assert!(claims.iter().all(|claim| claim["holds"] == true), "{claims:#?}");
            assert!(claims.iter().any(|claim| claim["name"].to_string().contains("is blocked and refused")));
            assert!(block(&world.kernel, &target, "again").expect("blocked").unchanged);
            unblock(&world.kernel, &target).expect("unblocked");
            assert!(all(&met(world), "guard"));
            pinned(&mut guard, &server);
            assert_eq!(guard.ask("dial 3001"), json!({"answer": "server"}));
            assert!(unblock(&world.kernel, &target).expect("unblocked").unchanged);
        });
    }
}

#[test]
fn another_servers_block_refuses_nobody_here() {
    test(|world| {
        let _guard = world.guard();
        let other = Target::Server(ServerName::parse("other").expect("a name"));
        block(&world.kernel, &other, "").expect("blocked");
        assert!(all(&met(world), "guard"));
    });
}

#[test]
fn a_blocked_cgroup_can_connect_to_no_protected_port() {
    test(|world| {
        let here: IpAddr = "127.0.0.1".parse().expect("an address");
        let _guard = world.guard();
        let (bad, good) = (Cgroup::new(), Cgroup::new());
        let below = bad.child("below");
        let mut theirs = world.probe_in(&below, &["stay", "127.0.0.1:3001"]);
        let mut others = world.probe_in(&good, &["stay", "127.0.0.1:3001"]);
        for cgroup in [&bad, &below, &good] {
            assert_eq!(world.client_in(cgroup, here)["guard"], true);
        }
        let target = Target::Cgroup(bad.path().to_owned());
        let told = world.host.run(|| block(&world.kernel, &target, "a test")).expect("blocked");
        assert_eq!((told.ended, told.problems), (1, Vec::new()));
        assert_eq!(theirs.next_word(), json!({"ended": true}));
        for ip in ["127.0.0.1", "::1", HOST_V4] {
            for cgroup in [&bad, &below] {
                let met = world.client_in(cgroup, ip.parse().expect("an address"));
                assert!(met["error"].to_string().contains("Operation not permitted"), "{ip}: {met}");
            }
            assert_eq!(world.client_in(&good, ip.parse().expect("an address"))["guard"], true, "{ip}");
        }
        // Made anew at the same path, as a service manager does; the running guard sees to it.
        theirs.kill();
        drop(below);
        bad.renew();
        let end = Instant::now() + Duration::from_secs(10);
        while world.client_in(&bad, here)["guard"] == true {
            assert!(Instant::now() < end, "the new cgroup is not blocked");
        }
        unblock(&world.kernel, &target).expect("unblocked");
        assert_eq!(world.client_in(&bad, here)["guard"], true);
        // A name that was cut would mean another cgroup.
        let upper = bad.path().join("a".repeat(200));
        let deep = upper.join("b".repeat(200));
        std::fs::create_dir_all(&deep).expect("cgroups");
        let words =
            block(&world.kernel, &Target::Cgroup(deep.clone()), "").expect_err("too long").to_string();
        for dir in [deep, upper] {
            std::fs::remove_dir(dir).expect("removed");
        }
        assert!(words.contains("block a cgroup above it"), "{words}");
        let everything = Target::Cgroup("/".into());
        let words = block(&world.kernel, &everything, "").expect_err("it would hold the guard").to_string();
        assert!(words.contains("does not hold the guard"), "{words}");
        assert_eq!(others.ended(), None, "a connection of another cgroup goes on");
    });
}

/// Records of one kind, when there are `count`.
fn records(daemon: &Daemon, kind: &str, count: usize) -> Vec<Value> {
    let found = eventually(START_LIMIT, || {
        let ledger = daemon.ledger()?;
        let found: Vec<_> = ledger.of_kind(kind).cloned().collect();
        Ok((found.len() >= count).then_some(found))
    });
    found.unwrap().unwrap_or_else(|| panic!("{count} records of {kind}"))
}

#[test]
fn blocks_are_shown_and_recorded_also_those_that_were_set_while_no_guard_ran() {
    apart(|| {
        let mut scene = Scene::new(&json!({})).unwrap();
        let told = scene.daemon.json("block", &["--server", "demo", "--reason", "It sells cars"]).unwrap();
        assert_eq!((&told["done"], &told["guard"]), (&json!("blocked"), &json!("told")), "{told}");
        let recorded = records(&scene.daemon, "blocked", 1);
        assert_eq!((&recorded[0]["what"], &recorded[0]["name"]), (&json!("server"), &json!("demo")));
        assert_eq!((&recorded[0]["reason"], &recorded[0]["uid"]), (&json!("It sells cars"), &json!(0)));
        let shown = String::from_utf8(scene.daemon.output("status", &[]).unwrap().stdout).unwrap();
        assert!(
            shown.contains("BLOCKED   server demo since ") && shown.contains(": It sells cars"),
            "{shown}"
        );
        assert_eq!(connect(ADDRESS)["refused"], true);

        scene.daemon.kill().unwrap();
        let told = scene.daemon.json("unblock", &["--server", "demo"]).unwrap();
        assert_eq!((&told["done"], &told["guard"]), (&json!("unblocked"), &json!("not running")), "{told}");
        let told = scene.daemon.json("block", &["--all"]).unwrap();
        assert_eq!(told["guard"], "not running", "{told}");
        let list = scene.daemon.json("block", &["--list"]).unwrap();
        assert_eq!(list["blocks"].as_array().map(Vec::len), Some(1), "{list}");
        scene.daemon.start().unwrap();
        assert_eq!(connect(ADDRESS)["refused"], true);
        let recorded = records(&scene.daemon, "blocked", 2);
        assert_eq!(recorded[1]["what"], "all");
        let recorded = records(&scene.daemon, "unblocked", 1);
        assert_eq!((&recorded[0]["what"], &recorded[0]["name"]), (&json!("server"), &json!("demo")));
        scene.daemon.json("unblock", &["--all"]).unwrap();
        assert_eq!(records(&scene.daemon, "unblocked", 2)[1]["what"], "all");
        let mut line = scene.https.line().unwrap();
        line.send(&scene.post(&call(1, "open")).bytes()).unwrap();
        scene.puppet.hear().unwrap().answer(&done(1)).unwrap();
        assert_eq!(line.answer().unwrap().json(), done(1));

        // A call that the kernel refused is recorded with the process that made it.
        let cgroup = Cgroup::new();
        let path = cgroup.path().to_str().unwrap();
        scene.daemon.json("block", &["--cgroup", path]).unwrap();
        let mut client = cgroup.command(NOBODY, "/bin/bash".as_ref());
        client.args(["-c", &format!("exec 3<>/dev/tcp/127.0.0.1/{PORT}")]);
        assert!(!client.output().unwrap().status.success());
        let denied = &records(&scene.daemon, "denied", 1)[0];
        assert_eq!((&denied["reason"], &denied["uid"]), (&json!("blocked"), &json!(NOBODY)), "{denied}");
        assert_eq!((&denied["comm"], &denied["server"]), (&json!("bash"), &json!("demo")), "{denied}");
        assert_eq!(denied["cgroup_id"], cgroup.id(), "{denied}");

        for wrong in [&["--server", "demmo"][..], &["--agent", "nobody"], &[]] {
            let output = scene.daemon.output("block", wrong).unwrap();
            assert_eq!(output.status.code(), Some(1), "{wrong:?}");
        }
        scene.daemon.stop().unwrap();
        scene.daemon.unload().unwrap();
        let output = scene.daemon.output("block", &["--all"]).unwrap();
        let words = String::from_utf8_lossy(&output.stderr);
        assert!(words.contains("nothing of the guard is in the kernel"), "{words}");
        assert_eq!(scene.daemon.verify().unwrap().code, Some(0));
    });
}

#[test]
fn a_blocked_agent_is_refused_and_what_it_has_under_way_ends() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let other = scene.daemon.issue("stranger").unwrap();
        scene.daemon.reload().unwrap();
        let start = |id| {
            let mut line = scene.https.line().unwrap();
            line.send(&scene.post(&call(id, "open")).bytes()).unwrap();
            (line, scene.puppet.hear().unwrap())
        };
        let (mut streaming, mut heard) = start(1);
        heard.stream().unwrap();
        assert_eq!(streaming.head().unwrap().status, 200);
        let (mut waiting, silent) = start(2);
        scene.daemon.json("block", &["--agent", "tester", "--reason", "odd"]).unwrap();
        let event = streaming.chunks_until("\n\n").unwrap();
        assert!(event.contains("\"blocked\"") && event.contains("\"id\":1"), "who waits is told: {event}");
        assert_eq!(streaming.chunk().unwrap(), None, "the stream ends");
        let answer = waiting.answer().unwrap().json();
        let decision = "/result/_meta/mcp-guard~1decision/reason";
        assert_eq!(answer.pointer(decision), Some(&json!("blocked")), "{answer}");
        drop((heard, silent));
        let answer = scene.https.ask(&scene.post(&call(3, "open"))).unwrap();
        assert_eq!(answer.status, 200);
        let answer = answer.json();
        assert_eq!(answer.pointer(decision), Some(&json!("blocked")), "{answer}");
        assert_eq!(answer["result"]["isError"], true);
        let ledger = scene.daemon.ledger().unwrap();
        assert!(ledger.of_kind("call").any(|record| record["reason"] == "blocked"), "recorded");
        let results: Vec<Value> =
            records(&scene.daemon, "outcome", 2).iter().map(|outcome| outcome["result"].clone()).collect();
        assert!(results.contains(&json!("cut_off")) && results.contains(&json!("abandoned")), "{results:?}");
        // Another agent meets its own rules.
        let request = guard_tests::https::Request::post(&call(4, "open")).by(&other);
        let answer = scene.https.ask(&request).unwrap().json();
        assert_ne!(answer.pointer(decision), Some(&json!("blocked")), "{answer}");
        scene.daemon.json("unblock", &["--agent", "tester"]).unwrap();
        let (mut line, heard) = start(5);
        heard.answer(&done(5)).unwrap();
        assert_eq!(line.answer().unwrap().json(), done(5));
    });
}
