//! A new listener in a watched cgroup is reached by nobody until somebody approves it, guard or no guard.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use guard_common::PENDING_OF_CGROUP_MAX;
use guard_tests::daemon::Daemon;
use guard_tests::process::{START_LIMIT, eventually, program};
use guard_tests::puppet::Puppet;
use guard_tests::scene::{ADDRESS, POLICY, apart, guard};
use guard_tests::slice::Slice;
use guard_tests::world::Netns;
use mcp_guard::config::WallMode;
use serde_json::{Value, json};

/// How long a connection is tried that nobody answers.
const UNANSWERED: Duration = Duration::from_secs(1);
/// Ports of a process that listens on too many.
const FLOOD: u16 = 20_000;
#[expect(clippy::cast_possible_truncation, reason = "1024 and some")]
const FLOOD_PORTS: u16 = PENDING_OF_CGROUP_MAX as u16 + 100;
/// How long somebody tries to hit a listener that comes and goes.
const TRIED_FOR: Duration = Duration::from_secs(8);

/// A server that greets; killed when dropped.
struct Listener(Child);

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process in that cgroup that listens, when this returns.
fn listen(slice: &Slice, cgroup: &str, address: &str) -> Listener {
    start(slice, cgroup, &["server", address])
}

/// One that listens on more ports than can be told apart, from [`FLOOD`] on.
fn flood(slice: &Slice, cgroup: &str) -> Listener {
    let addresses: Vec<String> =
        (FLOOD..FLOOD + FLOOD_PORTS).map(|port| format!("127.0.0.1:{port}")).collect();
    let words: Vec<&str> = std::iter::once("server").chain(addresses.iter().map(String::as_str)).collect();
    start(slice, cgroup, &words)
}

fn start(slice: &Slice, cgroup: &str, arguments: &[&str]) -> Listener {
    let mut command = Command::new(program("steer-probe").unwrap());
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped());
    slice.put(cgroup, &mut command);
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(line.contains("ready"), "{line:?}");
    Listener(child)
}

/// Whether the server there greets.
fn is_reached(address: &str) -> bool {
    let address: SocketAddr = address.parse().unwrap();
    let Ok(mut stream) = TcpStream::connect_timeout(&address, UNANSWERED) else { return false };
    stream.set_read_timeout(Some(UNANSWERED)).unwrap();
    let mut word = [0; 6];
    stream.read_exact(&mut word).is_ok() && &word == b"server"
}

/// Whether a request gets an answer. A handshake may end in the instant between the system call and the program that closes
/// the port; the wall drops what comes after it.
fn is_answered(address: &str) -> bool {
    let address: SocketAddr = address.parse().unwrap();
    let Ok(mut stream) = TcpStream::connect_timeout(&address, UNANSWERED) else { return false };
    stream.set_read_timeout(Some(UNANSWERED)).unwrap();
    let mut word = [0; 6];
    stream.write_all(b"?").is_ok() && stream.read_exact(&mut word).is_ok() && &word == b"server"
}

/// A guard with a server of its own, which watches `agents.slice` of this slice.
fn watching(slice: &Slice) -> Daemon {
    slice.make("agents.slice");
    let mut daemon = guard("demo", &[("policy.yaml", POLICY)]).unwrap();
    daemon.config.kernel.watch = vec![slice.path_of("agents.slice").trim_start_matches('/').to_owned()];
    daemon
}

/// The closed listener on a port, as `servers list` shows it; none after a while without one.
fn closed(daemon: &Daemon, port: u16) -> Value {
    let found = eventually(START_LIMIT, || {
        let list = daemon.json("servers list", &[])?;
        let all = list["closed"].as_array().cloned().unwrap_or_default();
        Ok(all.into_iter().find(|closed| closed["port"] == port))
    });
    found.unwrap().unwrap_or_else(|| panic!("port {port} is not listed"))
}

fn is_open_soon(address: &str) -> bool {
    eventually(START_LIMIT, || Ok(is_reached(address).then_some(()))).unwrap().is_some()
}

fn records(daemon: &Daemon) -> Vec<(String, u64)> {
    let ledger = daemon.ledger().unwrap();
    let port = |record: &Value| {
        let address: SocketAddr = record["address"].as_str().unwrap().parse().unwrap();
        u64::from(address.port())
    };
    ledger
        .of_kind("listener")
        .map(|record| (record["state"].as_str().unwrap().to_owned(), port(record)))
        .collect()
}

/// Whoever uses the number for something else than TCP has nothing to do with it.
#[test]
fn a_new_listener_closes_no_udp_port_of_others() {
    apart(|| {
        let slice = Slice::new();
        let _server = Puppet::at(ADDRESS).unwrap();
        let mut daemon = watching(&slice);
        daemon.start().unwrap();
        let _listener = listen(&slice, "agents.slice/a.service", "127.0.0.1:4001");
        assert!(!is_reached("127.0.0.1:4001"));
        let there = UdpSocket::bind("127.0.0.1:4001").unwrap();
        there.set_read_timeout(Some(START_LIMIT)).unwrap();
        let here = UdpSocket::bind("127.0.0.1:0").unwrap();
        here.send_to(b"x", "127.0.0.1:4001").unwrap();
        assert_eq!(there.recv(&mut [0; 8]).unwrap(), 1);
        daemon.stop().unwrap();
        daemon.unload().unwrap();
    });
}

#[test]
fn a_new_listener_is_closed_until_it_is_approved_and_then_stays_open() {
    apart(|| {
        let slice = Slice::new();
        let _server = Puppet::at(ADDRESS).unwrap();
        {
            let _listener = listen(&slice, "agents.slice/a.service", "127.0.0.1:4001");
            assert!(is_reached("127.0.0.1:4001"), "without a guard everybody reaches it");
        }
        let mut daemon = watching(&slice);
        daemon.start().unwrap();
        let first = listen(&slice, "agents.slice/a.service", "127.0.0.1:4001");
        assert!(!is_reached("127.0.0.1:4001"));
        let _outside = listen(&slice, "other.service", "127.0.0.1:4002");
        assert!(is_reached("127.0.0.1:4002"), "only watched cgroups are closed");
        let seen = closed(&daemon, 4001);
        assert_eq!((&seen["state"], &seen["pid"]), (&json!("pending"), &json!(first.0.id())));
        assert_eq!(seen["unit"], "a.service");
        assert!(!is_reached("127.0.0.1:4001"), "to look at it does not open it");

        daemon.json("servers approve", &["host/4001"]).unwrap();
        assert!(is_reached("127.0.0.1:4001"));
        drop(first);
        let _second = listen(&slice, "agents.slice/a.service", "127.0.0.1:4001");
        assert!(is_open_soon("127.0.0.1:4001"), "a restart of what was approved needs no new approval");
        // Another service of the same slice is another one.
        let _other = listen(&slice, "agents.slice/b.service", "127.0.0.9:4003");
        assert!(!is_reached("127.0.0.9:4003"));
        closed(&daemon, 4003);
        assert_eq!(
            records(&daemon),
            [("pending".to_owned(), 4001), ("approved".to_owned(), 4001), ("pending".to_owned(), 4003)]
        );
        let by: Vec<_> =
            daemon.ledger().unwrap().of_kind("listener").map(|record| record["by_uid"].clone()).collect();
        assert_eq!(by, [json!(null), json!(0), json!(null)], "who approved it, and nobody for the others");
        daemon.stop().unwrap();
        assert_eq!(daemon.verify().unwrap().code, Some(0));
    });
}

#[test]
fn what_is_pending_or_refused_stays_closed_without_a_guard_and_after_its_start() {
    apart(|| {
        let slice = Slice::new();
        let _server = Puppet::at(ADDRESS).unwrap();
        let before = listen(&slice, "agents.slice/old.service", "127.0.0.1:4010");
        let mut early = TcpStream::connect("127.0.0.1:4010").unwrap();
        let mut daemon = watching(&slice);
        daemon.start().unwrap();
        assert!(!is_reached("127.0.0.1:4010"), "it was there before the guard, and nobody has approved it");
        let mut rest = Vec::new();
        early.set_read_timeout(Some(UNANSWERED)).unwrap();
        let ended = early.read_to_end(&mut rest);
        assert!(!matches!(&ended, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock), "{ended:?}");
        closed(&daemon, 4010);
        daemon.json("servers refuse", &["host/4010"]).unwrap();
        assert_eq!(closed(&daemon, 4010)["state"], "refused");

        let open = listen(&slice, "agents.slice/open.service", "127.0.0.1:4011");
        closed(&daemon, 4011);
        daemon.json("servers approve", &["--all-of", &slice.path_of("agents.slice/open.service")]).unwrap();
        assert!(is_reached("127.0.0.1:4011"));
        daemon.kill().unwrap();
        assert!(is_reached("127.0.0.1:4011"), "what was approved is nobody's to close");
        assert!(!is_reached("127.0.0.1:4010"));
        let late = listen(&slice, "agents.slice/late.service", "127.0.0.1:4012");
        assert!(!is_reached("127.0.0.1:4012"), "the kernel closes it without a guard");

        daemon.start().unwrap();
        assert_eq!(closed(&daemon, 4012)["state"], "pending");
        assert_eq!(closed(&daemon, 4010)["state"], "refused");
        assert!(
            is_reached("127.0.0.1:4011") && !is_reached("127.0.0.1:4012") && !is_reached("127.0.0.1:4010")
        );
        drop((before, open, late));
        let gone = eventually(START_LIMIT, || {
            let list = daemon.json("servers list", &[])?;
            Ok(list["closed"].as_array().is_some_and(Vec::is_empty).then_some(()))
        });
        assert!(gone.unwrap().is_some(), "what listens no more is not listed");
    });
}

#[test]
fn a_listener_in_a_namespace_without_servers_is_closed_too() {
    let (slice, there) = (Slice::new(), Netns::new());
    apart(|| {
        let _server = Puppet::at(ADDRESS).unwrap();
        let mut daemon = watching(&slice);
        daemon.start().unwrap();
        let scope = format!("agents.slice/docker-{}.scope", "1f2e3d4c".repeat(8));
        let _listener = there.run(|| listen(&slice, &scope, "0.0.0.0:4020"));
        let seen = closed(&daemon, 4020);
        assert_eq!((&seen["is_own"], &seen["container"]), (&json!(false), &json!("1f2e3d4c".repeat(8))));
        assert!(!there.run(|| is_reached("127.0.0.1:4020")), "the second wall stands at the watched cgroup");
        let name = format!("{}/4020", seen["netns"]);
        daemon.json("servers approve", &[&name]).unwrap();
        assert!(there.run(|| is_reached("127.0.0.1:4020")));
    });
}

#[test]
fn what_is_approved_as_a_server_is_protected_from_the_next_start_on() {
    apart(|| {
        let slice = Slice::new();
        let _server = Puppet::at(ADDRESS).unwrap();
        let mut daemon = watching(&slice);
        daemon.start().unwrap();
        let _listener = listen(&slice, "agents.slice/new.service", "127.0.0.1:4030");
        closed(&daemon, 4030);
        let taken = daemon.output("servers approve", &["host/4030", "--as", "demo"]).unwrap();
        assert!(
            String::from_utf8_lossy(&taken.stderr).contains("another server is called demo"),
            "{taken:?}"
        );
        daemon.json("servers approve", &["host/4030", "--as", "newcomer"]).unwrap();
        assert!(!is_reached("127.0.0.1:4030"));
        assert_eq!(closed(&daemon, 4030)["state"], "approved");
        daemon.stop().unwrap();
        daemon.start().unwrap();
        let list = daemon.json("servers list", &[]).unwrap();
        let row = list["servers"].as_array().unwrap().iter().find(|row| row["name"] == "newcomer").unwrap();
        assert_eq!((&row["port"], &row["state"]), (&json!(4030), &json!("protected")), "{list:#}");
        assert!(!is_reached("127.0.0.1:4030"), "the guard answers there now");
        assert!(TcpStream::connect("127.0.0.1:4030").is_ok());
        assert_eq!(records(&daemon), [("pending".to_owned(), 4030), ("guarded".to_owned(), 4030)]);
    });
}

/// The first port of the flood, one in it, and the last, for which there is no room.
fn is_flood_closed() -> bool {
    [FLOOD, FLOOD + 500, FLOOD + FLOOD_PORTS - 1].iter().all(|port| !is_reached(&format!("127.0.0.1:{port}")))
}

#[test]
fn who_listens_on_everything_closes_himself_and_hides_nobody() {
    apart(|| {
        let slice = Slice::new();
        let _server = Puppet::at(ADDRESS).unwrap();
        let mut daemon = watching(&slice);
        daemon.start().unwrap();
        let _early = listen(&slice, "agents.slice/early.service", "127.0.0.1:4050");
        closed(&daemon, 4050);
        daemon.json("servers approve", &["host/4050"]).unwrap();
        let flood = flood(&slice, "agents.slice/flood.service");
        assert!(is_flood_closed(), "each is closed when its `listen` returns");
        assert!(is_reached("127.0.0.1:4050"), "what was approved stays open");
        let _outside = listen(&slice, "other.service", "127.0.0.1:4051");
        assert!(is_reached("127.0.0.1:4051"), "who is not watched is nobody's business");
        let _late = listen(&slice, "agents.slice/late.service", "127.0.0.1:4052");
        assert!(!is_reached("127.0.0.1:4052"));
        closed(&daemon, 4052);
        assert!(is_flood_closed());
        daemon.json("servers approve", &["host/4052"]).unwrap();
        assert!(is_reached("127.0.0.1:4052"), "a neighbour of the flood is approved as ever");
        assert!(is_flood_closed());
        let status = daemon.status().unwrap();
        assert!(status["kernel"]["counters"]["pending_full"].as_u64() > Some(0), "{status:#}");
        let told = |words: &str| daemon.log().unwrap().matches(words).count();
        // The log is told at the guard's next look.
        let once = |words: &str| {
            let is_told = eventually(START_LIMIT, || Ok((told(words) == 1).then_some(())));
            assert!(is_told.unwrap().is_some(), "{} times: {words}\n{}", told(words), daemon.log().unwrap());
        };
        once("listens on more ports than can be told apart");

        drop(flood);
        once("can be told apart again");
        assert_eq!(told("listens on more ports than can be told apart"), 1);
        let _last = listen(&slice, "agents.slice/last.service", "127.0.0.1:4053");
        assert!(!is_reached("127.0.0.1:4053") && is_reached("127.0.0.1:4052"));
        closed(&daemon, 4053);
    });
}

#[test]
fn who_listened_on_everything_before_the_guard_is_closed_with_or_without_a_second_wall() {
    for wall in [WallMode::Enforce, WallMode::Off] {
        apart(|| {
            let slice = Slice::new();
            let _server = Puppet::at(ADDRESS).unwrap();
            let mut daemon = watching(&slice);
            daemon.config.kernel.wall = wall;
            let _flood = flood(&slice, "agents.slice/flood.service");
            assert!(!is_flood_closed(), "without a guard");
            let mut early = TcpStream::connect(("127.0.0.1", FLOOD + FLOOD_PORTS - 1)).unwrap();
            daemon.start().unwrap();
            let is_closed = eventually(START_LIMIT, || Ok(is_flood_closed().then_some(()))).unwrap();
            assert!(is_closed.is_some(), "{wall:?}");
            guard_tests::probe::assert_ended(&mut early);
            assert!(TcpStream::connect(ADDRESS).is_ok(), "the guard serves its own servers");
        });
    }
}

#[test]
fn a_listener_that_comes_and_goes_is_never_asked_anything() {
    apart(|| {
        let slice = Slice::new();
        let _server = Puppet::at(ADDRESS).unwrap();
        let mut daemon = watching(&slice);
        daemon.start().unwrap();
        let addresses: Vec<String> = (4060..4068).map(|port| format!("127.0.0.1:{port}")).collect();
        let mut words = vec!["flicker"];
        words.extend(addresses.iter().map(String::as_str));
        let _flicker = start(&slice, "agents.slice/flicker.service", &words);
        let (end, mut tries) = (Instant::now() + TRIED_FOR, 0_u32);
        while Instant::now() < end {
            for address in &addresses {
                assert!(!is_answered(address), "{address} after {tries} tries");
                tries += 1;
            }
        }
        assert!(tries > 100, "{tries} tries");
    });
}

#[test]
fn a_port_with_two_listeners_is_open_only_if_both_are_approved() {
    apart(|| {
        let slice = Slice::new();
        let _server = Puppet::at(ADDRESS).unwrap();
        let mut daemon = watching(&slice);
        daemon.start().unwrap();
        let _one = listen(&slice, "agents.slice/one.service", "127.0.0.1:4070");
        closed(&daemon, 4070);
        daemon.json("servers approve", &["host/4070"]).unwrap();
        assert!(is_reached("127.0.0.1:4070"));
        let _two = listen(&slice, "agents.slice/two.service", "127.0.0.2:4070");
        for _look in 0..20 {
            assert!(!is_reached("127.0.0.2:4070") && !is_reached("127.0.0.1:4070"));
            std::thread::sleep(Duration::from_millis(50));
        }
        assert_eq!(closed(&daemon, 4070)["unit"], "two.service");
        daemon.json("servers approve", &["host/4070"]).unwrap();
        assert!(is_reached("127.0.0.2:4070") && is_reached("127.0.0.1:4070"));
    });
}

#[test]
fn a_choice_that_fits_nothing_is_told() {
    apart(|| {
        let slice = Slice::new();
        let _server = Puppet::at(ADDRESS).unwrap();
        let mut daemon = watching(&slice);
        daemon.start().unwrap();
        for (verb, arguments, words) in [
            ("servers approve", &["host/4099"][..], "no closed listener fits"),
            ("servers refuse", &["--all-of", "nobody.slice"], "no closed listener fits"),
            ("servers approve", &["4099"], "write NAMESPACE/PORT"),
        ] {
            let output = daemon.output(verb, arguments).unwrap();
            assert_eq!(output.status.code(), Some(1));
            assert!(String::from_utf8_lossy(&output.stderr).contains(words), "{output:?}");
        }
    });
}
