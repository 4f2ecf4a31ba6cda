//! Row 16: how long a new container stays open until the guard has seen it.

use std::fs;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, TcpStream};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use guard_tests::bypass::Jail;
use guard_tests::probe::{assert_ended, connect};
use guard_tests::world::{Netns, PORT, Process, cgroup2_root, test};
use serde_json::json;

/// How many containers come, one after the other.
const COUNT: usize = 6;
/// The guard looks twice a second; the rest is for a busy machine.
const OPEN_MAX: Duration = Duration::from_secs(5);
/// What a dead process's cgroup takes to be idle.
const CGROUP_LIMIT: Duration = Duration::from_secs(10);

/// Removed with the value.
struct Cgroup(PathBuf);

impl Drop for Cgroup {
    fn drop(&mut self) {
        let end = Instant::now() + CGROUP_LIMIT;
        while fs::remove_dir(&self.0).is_err() && Instant::now() < end {
            sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn row_16_a_new_container_is_open_for_a_moment_and_what_came_in_is_ended() {
    test(|world| {
        let ids: Vec<String> = (0..COUNT)
            .map(|n| format!("{:064x}", u128::from(std::process::id()) << 64 | n as u128))
            .collect();
        let servers: Vec<_> = ids
            .iter()
            .enumerate()
            .map(|(n, id)| json!({"name": format!("boxed-{n}"), "port": PORT, "in": {"container": id}}))
            .collect();
        let mut guard = world.guard_for(&json!(servers));
        let mut open = Vec::new();
        for (n, id) in ids.iter().enumerate() {
            let cgroup = Cgroup(cgroup2_root().join(format!("docker-{id}.scope")));
            fs::create_dir(&cgroup.0).expect("a cgroup");
            let jail = Jail::new();
            // Not in step with the guard's looks.
            sleep(Duration::from_millis(83 * n as u64));
            let server = world.server_in(&jail.netns, &["0.0.0.0:3001"]);
            let start = Instant::now();
            let address = (IpAddr::V4(Ipv4Addr::LOCALHOST), PORT).into();
            let mut early = jail.netns.run(|| TcpStream::connect(address).expect("it is open"));
            early.read_exact(&mut [0; 7]).expect("the server's greeting");
            // From here on the guard can know that the namespace is the container's.
            fs::write(cgroup.0.join("cgroup.procs"), server.pid().to_string()).expect("moved");
            let mut closed = Duration::ZERO;
            let taken_over = loop {
                let met = jail.netns.run(|| connect(address));
                let now = start.elapsed();
                if met["guard"] == true {
                    break now;
                }
                if met["server"] == true {
                    closed = now;
                }
                assert!(now < OPEN_MAX, "a new container stays open: {met}");
                sleep(Duration::from_millis(1));
            };
            println!(
                "16 new container: open for {} ms, served after {}",
                closed.as_millis(),
                taken_over.as_millis()
            );
            open.push(closed);
            assert_ended(&mut early);
            world.note(&guard.ask("status"));
            drop((server, jail));
        }
        open.sort();
        println!(
            "16 new container: median {} ms, longest {} ms",
            open[COUNT / 2].as_millis(),
            open[COUNT - 1].as_millis()
        );
    });
}

/// As engines do it: the server is in its cgroup before it listens, so the kernel's word of the new listener is enough.
#[test]
fn row_16_a_new_container_is_found_by_its_listener() {
    test(|world| {
        let id = |n: usize| format!("{:064x}", u128::from(std::process::id()) << 64 | 0x100 | n as u128);
        let servers: Vec<_> = (0..COUNT)
            .map(|n| json!({"name": format!("boxed-{n}"), "port": PORT, "in": {"container": id(n)}}))
            .collect();
        let mut guard = world.guard_for(&json!(servers));
        let mut open = Vec::new();
        for n in 0..COUNT {
            let cgroup = guard_tests::cgroup::Cgroup::named(&format!("docker-{}.scope", id(n)));
            let jail = Jail::new();
            sleep(Duration::from_millis(83 * n as u64));
            let server = world.probe_inside(&jail.netns, &cgroup, &["server", "0.0.0.0:3001"]);
            let start = Instant::now();
            let mut closed = Duration::ZERO;
            loop {
                let met = jail.netns.run(|| connect((IpAddr::V4(Ipv4Addr::LOCALHOST), PORT).into()));
                if met["guard"] == true {
                    break;
                }
                if met["server"] == true {
                    closed = start.elapsed();
                }
                assert!(start.elapsed() < OPEN_MAX, "a new container stays open: {met}");
            }
            open.push(closed);
            world.note(&guard.ask("status"));
            drop((server, jail));
        }
        open.sort();
        let (median, longest) = (open[COUNT / 2].as_millis(), open[COUNT - 1].as_millis());
        println!("16 new container, in its cgroup from the start: median {median} ms, longest {longest} ms");
    });
}

#[test]
fn row_16_a_thread_with_a_network_of_its_own_is_found() {
    test(|world| {
        let id = format!("{:064x}", u128::from(std::process::id()) << 64 | 0x200);
        let cgroup = guard_tests::cgroup::Cgroup::named(&format!("docker-{id}.scope"));
        let mut guard = world.guard_for(&json!([{"name": "boxed", "port": PORT, "in": {"container": id}}]));
        let jail = Jail::new();
        let program = world.public_program("steer-probe");
        let mut command = cgroup.command(0, &program);
        command.args(["aside", "0.0.0.0:3001"]);
        let mut server = jail.netns.run(|| Process::start(&mut command)).expect("the server starts");
        let tid = server.ask("tid")["tid"].as_i64().expect("a thread");
        let path = format!("/proc/{}/task/{tid}/ns/net", server.pid());
        let aside = Netns::of(fs::File::open(path).expect("the thread's namespace"));
        let address = (IpAddr::V4(Ipv4Addr::LOCALHOST), PORT).into();
        let end = Instant::now() + OPEN_MAX;
        while aside.run(|| connect(address))["guard"] != true {
            assert!(Instant::now() < end, "{:#}", guard.ask("status"));
            sleep(Duration::from_millis(10));
        }
        let status = guard.ask_until("status", |status| {
            let spaces = status["namespaces"].as_array().expect("a list");
            spaces.iter().any(|space| space["ports"]["3001"]["pinned"] != json!([]))
        });
        world.note(&status);
    });
}

#[test]
fn row_16_a_listener_in_a_namespace_that_nobody_protects_is_told() {
    test(|world| {
        let id = format!("{:064x}", u128::from(std::process::id()) << 64 | 0x300);
        let guard = world.guard_for(&json!([{"name": "boxed", "port": PORT, "in": {"container": id}}]));
        let _elsewhere = world.server_in(&world.remote, &["0.0.0.0:3001"]);
        let end = Instant::now() + OPEN_MAX;
        while !guard.log().contains("somebody listens on the port of a server") {
            assert!(Instant::now() < end, "{}", guard.log());
            sleep(Duration::from_millis(20));
        }
    });
}
