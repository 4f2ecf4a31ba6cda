//! A credential that is bound to a process works in that process only, and the record says who presented it.

use std::fs;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use aya::maps::{HashMap, Map, MapData};
use guard_common::{Flow, Who};
use guard_tests::daemon::{Credential, Daemon};
use guard_tests::https::{Https, Request};
use guard_tests::process::{START_LIMIT, copy_program, eventually, program};
use guard_tests::puppet::Puppet;
use guard_tests::scene::{ADDRESS, Scene, apart, call, done_for, guard};
use guard_tests::slice::Slice;
use guard_tests::world::{HOST_V4, NOBODY, Netns, PORT, World};
use mcp_guard::config::Place;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;

const AGENT: u32 = 65_533;
const ID: &str = "1f2e3d4c5b6a79880123456789abcdef0123456789abcdef0123456789abcdef";
/// Where the clients run when a test does not say otherwise.
const ELSEWHERE: &str = "other.service";

/// A guard before a server that answers everything, and one agent whose entry asks for a process.
struct Bound {
    daemon: Daemon,
    credential: Credential,
    slice: Slice,
    /// Holds a copy of https-ask that an ordinary user can start.
    dir: TempDir,
    reached: std::sync::Arc<std::sync::atomic::AtomicUsize>,
}

impl Bound {
    /// `process` is YAML; `PATH` and `SHA256` in it are those of the copy.
    fn new(process: &str) -> Self {
        Self::before(Puppet::at(ADDRESS).unwrap(), process, |_daemon| {})
    }

    fn before(puppet: Puppet, process: &str, change: impl FnOnce(&mut Daemon)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let asker = dir.path().join("https-ask");
        copy_program(&program("https-ask").unwrap(), &asker).unwrap();
        let sum = Command::new("sha256sum").arg(&asker).output().unwrap();
        let sum = String::from_utf8(sum.stdout).unwrap();
        let process = process
            .replace("PATH", asker.to_str().unwrap())
            .replace("SHA256", sum.split(' ').next().unwrap());
        let policy = format!(
            "agents:\n  bound: {{client_id: bound-client, process: {process}}}\n\
             intents:\n  demo.open: [{{server: demo, tool: open}}]\n\
             policies:\n  - {{intent: demo.open, agents: [bound], decision: allow}}\n"
        );
        let reached = puppet.answer_all(done_for);
        let mut daemon = guard("demo", &[("policy.yaml", &policy)]).unwrap();
        change(&mut daemon);
        let credential = if process.contains("needs:") {
            Credential { client: String::new(), profile: String::new(), secret: String::new() }
        } else {
            daemon.issue("bound").unwrap()
        };
        daemon.start().unwrap();
        // The client must be able to read it, whoever it runs as.
        fs::copy(daemon.ca(), dir.path().join("ca.pem")).unwrap();
        Self { daemon, credential, slice: Slice::new(), dir, reached }
    }

    fn asker(&self) -> PathBuf {
        self.dir.path().join("https-ask")
    }

    /// What the agent `bound` sends.
    fn request(&self) -> Vec<u8> {
        Request::post(&call(1, "open")).by(&self.credential).bytes()
    }

    /// A process in that cgroup, which connects and waits for the request on its input.
    fn command(&self, cgroup: &str, uid: u32, program: &Path, arguments: &[&str]) -> Command {
        self.command_to(ADDRESS, cgroup, uid, program, arguments)
    }

    fn command_to(
        &self,
        to: SocketAddr,
        cgroup: &str,
        uid: u32,
        program: &Path,
        arguments: &[&str],
    ) -> Command {
        let ca = self.dir.path().join("ca.pem");
        let mut command = Command::new(program);
        command.args(arguments).arg(to.to_string()).arg(ca).uid(uid).gid(uid);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.slice.put(cgroup, &mut command);
        command
    }

    fn client(&self, cgroup: &str, uid: u32, program: &Path, arguments: &[&str]) -> Value {
        answer_of(&run(self.command(cgroup, uid, program, arguments), &self.request()))
    }

    /// The copy of https-ask asks a server at another address.
    fn at(&self, to: SocketAddr, cgroup: &str, uid: u32) -> Value {
        answer_of(&run(self.command_to(to, cgroup, uid, &self.asker(), &[]), &self.request()))
    }

    /// The same with the copy of https-ask.
    fn ask(&self, cgroup: &str, uid: u32) -> Value {
        self.client(cgroup, uid, &self.asker(), &[])
    }

    /// The latest call record.
    fn record(&self) -> Value {
        self.daemon.ledger().unwrap().of_kind("call").last().expect("a call").clone()
    }

    fn assert_served(&self, answer: &Value) -> Value {
        assert_eq!(answer["result"]["content"][0]["text"], "done", "{answer}");
        let record = self.record();
        assert_eq!(
            (&record["decision"], &record["evidence"]),
            (&json!("allow"), &json!("client_secret+process"))
        );
        record
    }

    /// The answer refuses for this reason, and the record names the credential, the agent and who sent it.
    fn assert_refused(&self, answer: &Value, words: &str) -> Value {
        assert_eq!(answer["result"]["isError"], true, "{answer}");
        assert_eq!(answer["result"]["_meta"]["mcp-guard/decision"]["reason"], "wrong_process");
        let text = answer["result"]["content"][0]["text"].as_str().unwrap();
        assert!(text.contains(words), "{text}");
        let record = self.record();
        assert_eq!((&record["decision"], &record["reason"]), (&json!("deny"), &json!("wrong_process")));
        assert_eq!((&record["agent"], &record["evidence"]), (&json!("bound"), &json!("client_secret")));
        assert!(record["credential"].as_str().unwrap().starts_with("c-"), "{record}");
        record
    }

    /// So many calls reached the server, and the trail is sound.
    fn finish(self, reached: usize) {
        assert_eq!(self.reached.load(std::sync::atomic::Ordering::SeqCst), reached);
        let verified = self.daemon.verify().unwrap();
        assert_eq!(verified.code, Some(0), "{verified:?}");
        assert_eq!(self.daemon.json("audit verify", &[]).unwrap()["verdict"], "sound");
    }
}

fn run(mut command: Command, input: &[u8]) -> Output {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn answer_of(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("no answer: {}", String::from_utf8_lossy(&output.stderr)))
}

#[test]
fn a_credential_is_worthless_in_another_users_process() {
    apart(|| {
        let bound = Bound::new("{uid: 65533}");
        let local = bound.assert_served(&bound.ask(ELSEWHERE, AGENT))["local"].clone();
        assert_eq!(
            (&local["uid"], &local["gid"], &local["state"]),
            (&json!(AGENT), &json!(AGENT), &json!("running"))
        );
        assert_eq!(local["executable"], bound.asker().to_str().unwrap());
        assert!(local["started_milliseconds"].as_u64().is_some_and(|started| started > 0), "{local}");
        let record = bound
            .assert_refused(&bound.ask(ELSEWHERE, NOBODY), "it works for another process: the uid differs");
        assert_eq!(record["local"]["uid"], NOBODY);
        bound.assert_refused(&bound.ask(ELSEWHERE, 0), "the uid differs");
        let list = String::from_utf8(bound.daemon.output("audit list", &[]).unwrap().stdout).unwrap();
        assert!(list.contains("other.service"), "calls are shown with who sent them: {list}");
        bound.finish(1);
    });
}

#[test]
fn a_credential_is_worthless_in_another_unit() {
    apart(|| {
        let bound = Bound::new("{unit: agent.service}");
        let record = bound.assert_served(&bound.ask("agent.service", AGENT));
        assert_eq!(record["local"]["unit"], "agent.service");
        assert_eq!(record["local"]["cgroup_path"], bound.slice.path_of("agent.service"));
        // What the unit itself makes below its cgroup is still that unit.
        bound.assert_served(&bound.ask("agent.service/worker", AGENT));
        for (cgroup, unit) in [
            ("other.service", "other.service"),
            ("other.service/agent.service", "other.service"),
            ("user@65533.service/agent.service", "user@65533.service/agent.service"),
            (&format!("docker-{ID}.scope/system.slice/agent.service"), ""),
        ] {
            let record = bound.assert_refused(&bound.ask(cgroup, AGENT), "the unit differs");
            assert_eq!(record["local"]["unit"].as_str().unwrap_or_default(), unit, "{cgroup}");
        }
        bound.finish(2);
    });
}

#[test]
fn a_credential_is_worthless_in_another_container() {
    apart(|| {
        let bound = Bound::new("{container: 1f2e3d4c5b6a}");
        let scope = format!("docker-{ID}.scope");
        let record = bound.assert_served(&bound.ask(&scope, AGENT));
        assert_eq!(record["local"]["container"], ID);
        bound.assert_served(&bound.ask(&format!("kubepods/pod7/{ID}"), 0));
        let other = "a".repeat(64);
        bound.assert_refused(&bound.ask(&format!("docker-{other}.scope"), AGENT), "the container differs");
        bound.assert_refused(
            &bound.ask(&format!("docker-{other}.scope/docker-{ID}.scope"), AGENT),
            "the container",
        );
        bound.assert_refused(
            &bound.ask(&format!("user@7.service/docker-{ID}.scope"), AGENT),
            "the container differs",
        );
        bound.assert_refused(&bound.ask(&format!("agent.service/{ID}"), AGENT), "the container differs");
        bound.finish(2);
    });
}

#[test]
fn another_program_of_the_same_user_and_unit_is_refused() {
    apart(|| {
        let bound = Bound::new("{uid: 65533, unit: agent.service, executable: PATH, sha256: SHA256}");
        let record = bound.assert_served(&bound.ask("agent.service", AGENT));
        assert_eq!(record["local"]["sha256"].as_str().map(str::len), Some(64), "{record}");
        let other = bound.dir.path().join("other");
        copy_program(&bound.asker(), &other).unwrap();
        bound.assert_refused(&bound.client("agent.service", AGENT, &other, &[]), "the executable differs");
        bound.finish(1);
    });
}

#[test]
fn an_executable_that_is_longer_than_it_may_be_is_no_evidence() {
    apart(|| {
        let puppet = Puppet::at(ADDRESS).unwrap();
        let bound = Bound::before(puppet, "{sha256: SHA256}", |daemon| {
            daemon.config.limits = serde_json::from_value(json!({"executable_bytes_max": 1000})).unwrap();
        });
        bound.assert_refused(&bound.ask(ELSEWHERE, AGENT), "the sha256 differs");
        bound.finish(0);
    });
}

#[test]
fn what_counts_is_the_file_that_runs_and_not_the_one_that_took_its_place() {
    for (process, before, after) in [
        ("{executable: PATH}", "the executable differs", None),
        ("{sha256: SHA256}", "", Some("the sha256 differs")),
    ] {
        apart(|| {
            let bound = Bound::new(process);
            let mut running = bound.command(ELSEWHERE, AGENT, &bound.asker(), &[]).spawn().unwrap();
            // Another program takes the place of the one that runs.
            let next = bound.dir.path().join("next");
            copy_program(&bound.asker(), &next).unwrap();
            fs::File::options().append(true).open(&next).unwrap().write_all(b"changed").unwrap();
            fs::rename(&next, bound.asker()).unwrap();
            running.stdin.take().unwrap().write_all(&bound.request()).unwrap();
            let old = answer_of(&running.wait_with_output().unwrap());
            let record = if before.is_empty() {
                bound.assert_served(&old)
            } else {
                bound.assert_refused(&old, before)
            };
            assert_eq!(record["local"]["executable"], format!("{} (deleted)", bound.asker().display()));
            let new = bound.ask(ELSEWHERE, AGENT);
            match after {
                Some(words) => bound.assert_refused(&new, words),
                None => bound.assert_served(&new),
            };
            bound.finish(1);
        });
    }
}

#[test]
fn a_path_in_a_file_system_of_its_own_is_no_evidence() {
    apart(|| {
        let bound = Bound::new("{executable: PATH}");
        // Whoever may make a mount namespace can show any file at any path.
        let dir = bound.dir.path().display().to_string();
        let script = format!(
            "ca=$(cat {dir}/ca.pem) && mount -t tmpfs none {dir} && cp \"$0\" {dir}/https-ask && \
             echo \"$ca\" > {dir}/ca.pem && exec {dir}/https-ask {ADDRESS} {dir}/ca.pem"
        );
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script]).arg(program("https-ask").unwrap());
        let answer = answer_of(&run(command, &bound.request()));
        let record = bound.assert_refused(&answer, "the executable differs");
        assert_eq!(record["local"]["executable"], bound.asker().to_str().unwrap(), "it has the very path");
        bound.assert_served(&bound.ask(ELSEWHERE, AGENT));
        bound.finish(1);
    });
}

#[test]
fn of_a_process_that_has_ended_only_the_kernels_record_counts() {
    for (process, served) in [("{uid: 65533, unit: agent.service}", true), ("{executable: PATH}", false)] {
        apart(|| {
            let bound = Bound::new(process);
            let answer = bound.client("agent.service", AGENT, &bound.asker(), &["--hand-on"]);
            let record = if served {
                bound.assert_served(&answer)
            } else {
                bound.assert_refused(&answer, "the executable differs")
            };
            let local = &record["local"];
            assert_eq!((&local["state"], &local["uid"]), (&json!("exited"), &json!(AGENT)), "{local}");
            assert_eq!(
                (&local["unit"], &local["executable"]),
                (&json!("agent.service"), &Value::Null),
                "{local}"
            );
            bound.finish(usize::from(served));
        });
    }
}

#[test]
fn a_relay_is_named_and_is_nobodys_evidence() {
    apart(|| {
        let bound = Bound::new("{uid: 0}");
        let ca = bound.dir.path().join("ca.pem").display().to_string();
        let script = format!(
            "mount -t tmpfs none /opt && cp \"$0\" /opt/docker-proxy && exec /opt/docker-proxy {ADDRESS} {ca}"
        );
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &script]).arg(bound.asker());
        let answer = answer_of(&run(command, &bound.request()));
        let record = bound.assert_refused(&answer, "docker-proxy hands on connections of others");
        assert_eq!((&record["local"]["relay"], &record["local"]["uid"]), (&json!("docker-proxy"), &json!(0)));
        bound.assert_served(&bound.ask(ELSEWHERE, 0));
        bound.finish(1);
    });
}

/// Between two namespaces there is a link, and others may be on it.
#[test]
fn a_client_in_another_namespace_than_the_server_is_named_and_is_nobodys_evidence() {
    apart(|| {
        const THERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 99, 0, 2)), PORT);
        let (host, container) =
            (Netns::of(fs::File::open("/proc/thread-self/ns/net").unwrap()), Netns::new());
        host.ip(&format!("link add ve0 type veth peer name eth0 netns {}", container.path().display()));
        host.ip("addr add 10.99.0.1/24 dev ve0");
        host.ip("link set ve0 up");
        container.ip("addr add 10.99.0.2/24 dev eth0");
        container.ip("link set eth0 up");
        let change = |daemon: &mut Daemon| {
            daemon.config.servers[0].place = Place::Netns(container.path());
            daemon.config.tls.names = vec!["10.99.0.2".into()];
        };
        let puppet = container.run(|| Puppet::at(ADDRESS)).unwrap();
        let bound = Bound::before(puppet, "{uid: 65533}", change);
        let there = bound.at(THERE, ELSEWHERE, AGENT);
        let record = bound.assert_refused(&there, "one in another network namespace cannot be told for sure");
        let local = &record["local"];
        assert_eq!((&local["uid"], &local["across_namespaces"]), (&json!(AGENT), &json!(true)), "{local}");
        assert_eq!((&local["unit"], &local["comm"]), (&json!(ELSEWHERE), &json!("https-ask")), "{local}");
        // The kill switch knows it all the same.
        bound.daemon.json("block", &["--cgroup", &bound.slice.path_of(ELSEWHERE)]).unwrap();
        let is_blocked = || {
            let answer = bound.at(THERE, ELSEWHERE, AGENT);
            Ok((answer["result"]["_meta"]["mcp-guard/decision"]["reason"] == "blocked").then_some(()))
        };
        eventually(START_LIMIT, is_blocked).unwrap().expect("blocked");
        // Inside it is evidence.
        let served = container.run(|| bound.ask("inside.service", AGENT));
        assert_eq!(bound.assert_served(&served)["local"]["across_namespaces"], Value::Null);
        bound.finish(1);
    });
}

#[test]
fn who_cannot_be_told_for_sure_is_not_the_agent() {
    type Change = fn(&mut HashMap<MapData, Flow, Who>, Flow);
    let lost: Change = |map, flow| map.remove(&flow).expect("removed");
    // A record of another socket that had the same four numbers.
    let stale: Change = |map, flow| {
        let mut who = map.get(&flow, 0).expect("the record");
        who.cookie += 1;
        map.insert(flow, who, 0).expect("written");
    };
    apart(|| {
        let bound = Bound::new("{uid: 0}");
        let pid = Pid::from_raw(i32::try_from(bound.daemon.pid().unwrap()).unwrap());
        let pins = bound.daemon.config.kernel.bpffs.join(&bound.daemon.config.kernel.pins);
        for change in [lost, stale] {
            // The kernel completes the handshake; the guard has not looked yet.
            kill(pid, Signal::SIGSTOP).unwrap();
            wait_until_stopped(pid);
            let stream = TcpStream::connect(ADDRESS).unwrap();
            let data = MapData::from_pin(pins.join("maps/WHO")).unwrap();
            let mut who: HashMap<_, Flow, Who> = Map::LruHashMap(data).try_into().unwrap();
            let own = stream.local_addr().unwrap().port();
            let flow = who.keys().flatten().find(|flow| flow.src_port == own).expect("a record");
            change(&mut who, flow);
            kill(pid, Signal::SIGCONT).unwrap();
            let mut line = Https::new(ADDRESS, &bound.daemon.ca()).unwrap().line_over(stream).unwrap();
            line.send(&bound.request()).unwrap();
            let record =
                bound.assert_refused(&line.answer().unwrap().json(), "which process this is cannot be told");
            assert_eq!(record["local"], "unknown");
        }
        bound.assert_served(&bound.ask(ELSEWHERE, 0));
        bound.finish(1);
    });
}

/// A signal is only on its way when `kill` returns, to each thread.
fn wait_until_stopped(pid: Pid) {
    let is_stopped = || {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the guard lives");
        threads.flatten().all(|thread| {
            let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            stat.rsplit(") ").next().is_some_and(|fields| fields.starts_with('T'))
        })
    };
    while !is_stopped() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

#[test]
fn a_credential_of_a_process_is_worthless_on_another_host() {
    let world = World::new();
    let bound = world.host.run(|| Bound::new("{uid: 0}"));
    let from = |netns: &Netns, address: SocketAddr| {
        let https = Https::new(address, &bound.daemon.ca()).unwrap();
        let request = Request::post(&call(1, "open")).by(&bound.credential);
        netns.run(|| https.ask(&request)).unwrap().json()
    };
    let there = SocketAddr::new(HOST_V4.parse().unwrap(), PORT);
    bound.assert_served(&from(&world.host, there));
    let record = bound.assert_refused(&from(&world.remote, there), "a process of this host only");
    assert_eq!(record["local"], "remote");
    world.host.run(|| bound.finish(1));
}

#[test]
fn an_agent_without_a_secret_is_its_process() {
    apart(|| {
        let bound = Bound::new("{unit: agent.service, uid: 65533}, needs: [process]");
        let ask = |cgroup: &str, uid: u32, fields: &[(&str, &str)]| {
            let request = Request::post(&call(1, "open"));
            let request = fields.iter().fold(request, |request, (name, value)| request.with(name, value));
            answer_of(&run(bound.command(cgroup, uid, &bound.asker(), &[]), &request.bytes()))
        };
        let reason = |answer: &Value| answer["result"]["_meta"]["mcp-guard/decision"]["reason"].clone();
        let token = ("Authorization", "Bearer not-the-guards");
        for fields in
            [vec![], vec![("X-Client-ID", "bound-client")], vec![("X-Profile-ID", "default"), token]]
        {
            let answer = ask("agent.service", AGENT, &fields);
            assert_eq!(answer["result"]["content"][0]["text"], "done", "{answer}");
            let record = bound.record();
            assert_eq!(
                (&record["decision"], &record["agent"], &record["evidence"], &record["credential"]),
                (&json!("allow"), &json!("bound"), &json!("process"), &Value::Null)
            );
        }
        for (cgroup, uid, fields, expected) in [
            ("other.service", AGENT, vec![], "unknown_process"),
            ("agent.service", NOBODY, vec![], "unknown_process"),
            ("agent.service", 0, vec![], "unknown_process"),
            ("other.service", AGENT, vec![("X-Client-ID", "bound-client")], "unknown_process"),
            ("other.service", AGENT, vec![token], "unknown_process"),
            ("agent.service", AGENT, vec![("X-Client-ID", "other")], "unknown_process"),
            ("agent.service", AGENT, vec![("Origin", "http://localhost")], "web_page"),
            ("agent.service", AGENT, vec![("Sec-Fetch-Site", "none")], "web_page"),
            ("agent.service", AGENT, vec![("Authorization", "Bearer mcpg_made-up")], "malformed_credential"),
        ] {
            let answer = ask(cgroup, uid, &fields);
            assert_eq!(reason(&answer), expected, "{cgroup} {uid} {fields:?}: {answer}");
            assert_eq!(bound.record()["agent"], Value::Null);
        }
        let refused = bound.daemon.output("tokens issue", &["--agent", "bound"]).unwrap();
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && told.contains("needs no secret"), "{told}");
        bound.finish(3);
    });
}

#[test]
fn a_credential_that_expires_ends_what_is_open() {
    apart(|| {
        let Scene { daemon, puppet, https, .. } = Scene::new(&json!({})).unwrap();
        let issued = daemon.json("tokens issue", &["--agent", "tester", "--ttl", "15s"]).unwrap();
        let text = |name: &str| issued[name].as_str().unwrap().to_owned();
        let short =
            Credential { client: text("client_id"), profile: text("profile"), secret: text("secret") };
        daemon.reload().unwrap();
        let mut line = https.line().unwrap();
        line.send(&Request::post(&call(1, "open")).by(&short).bytes()).unwrap();
        let mut server = puppet.hear().unwrap();
        server.stream().unwrap();
        server
            .event(&json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "a"}}))
            .unwrap();
        let answer = line.answer().unwrap();
        let body = String::from_utf8_lossy(&answer.body).into_owned();
        assert!(answer.status == 200 && body.contains("notifications/message"), "{answer:?}");
        assert!(body.contains("access_withdrawn"), "{body}");
        server.other_side_leaves().unwrap();
        let refused = https.ask(&Request::post(&call(2, "open")).by(&short)).unwrap();
        assert_eq!(refused.json()["result"]["_meta"]["mcp-guard/decision"]["reason"], "expired_credential");
        assert!(puppet.heard().is_none());
        // The next one, of which the agent has heard in time.
        let next = daemon.json("tokens rotate", &["--agent", "tester"]).unwrap();
        let before = next["before"].as_array().unwrap();
        assert!(next["id"] != issued["id"] && before.len() == 1, "the scene's own is left: {next}");
        let listed = daemon.json("tokens list", &[]).unwrap();
        let expired = listed.as_array().unwrap().iter().filter(|listed| listed["expired"] == true).count();
        assert_eq!(expired, 1, "{listed}");
        // Also what was open before anybody thought of an end.
        let by = |next: &Value| Credential {
            client: text("client_id"),
            profile: text("profile"),
            secret: next["secret"].as_str().unwrap().to_owned(),
        };
        daemon.reload().unwrap();
        let mut line = https.line().unwrap();
        line.send(&Request::post(&call(3, "open")).by(&by(&next)).bytes()).unwrap();
        let mut server = puppet.hear().unwrap();
        server.stream().unwrap();
        daemon.json("tokens rotate", &["--agent", "tester", "--overlap", "1s"]).unwrap();
        daemon.reload().unwrap();
        let answer = line.answer().unwrap();
        assert!(String::from_utf8_lossy(&answer.body).contains("access_withdrawn"), "{answer:?}");
        server.other_side_leaves().unwrap();
    });
}
