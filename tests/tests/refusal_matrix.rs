//! Every kind of refusal before every client library: the library says what happened, and its next call works.

use std::fs::{self, File};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::thread;

use guard_tests::client::Era;
use guard_tests::conformance;
use guard_tests::daemon::{Credential, Daemon};
use guard_tests::https::{Https, Request};
use guard_tests::process::{Fixture, START_LIMIT, eventually};
use guard_tests::relay::Relay;
use guard_tests::scene::{ADDRESS, PORT, apart, call, guard};
use guard_tests::session::{PEERS, Peer, Sdk, Seen, Session, Task, Told};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

#[path = "refusal_matrix/reasons.rs"]
mod reasons;
#[path = "refusal_matrix/rights.rs"]
mod rights;

/// Where the server is. A relay of the test stands at the protected port and can be taken away.
const BEHIND: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 3999);

/// Nobody listens there: a relay to it takes connections and closes them.
const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 3998);

const REASON: &str = "Closed on Sundays";

/// A tool that was pinned as another one than it is.
const CHANGED: &str = "test_multiple_content_types";

/// A tool that has come by and that nobody has approved.
const UNAPPROVED: &str = "json_schema_2020_12_tool";

/// Calls and streams that one agent may have under way: more than a client needs.
const UNDER_WAY_MAX: usize = 6;

/// Too long to be pinned.
fn long_name() -> String {
    "n".repeat(1025)
}

/// One agent for each client, so that each has its own counts.
fn policy() -> String {
    let names: Vec<_> = (0..PEERS.len()).map(agent).collect();
    let agents: serde_json::Map<_, _> =
        names.iter().map(|name| (name.clone(), json!({"client_id": name}))).collect();
    let rule =
        |intent: &str, decision: &str| json!({"intent": intent, "agents": names, "decision": decision});
    let with = |mut rule: Value, key: &str, value: Value| {
        rule[key] = value;
        rule
    };
    let at = |kind: &str, name: &str| json!({"server": "peer", kind: name});
    let policy = json!({
        "agents": agents,
        "intents": {
            "peer.open": [
                at("tool", "test_simple_text"),
                at("tool", "test_custom_header"),
                at("tool", "test_input_required_result_request_state"),
                at("tool", CHANGED),
                at("tool", UNAPPROVED),
                at("tool", &long_name()),
                at("prompt", "test_simple_prompt"),
            ],
            "peer.closed": [
                at("tool", "test_error_handling"),
                at("prompt", "test_prompt_with_image"),
                at("resource", "test://static-binary"),
            ],
            "peer.limited": [at("tool", "test_audio_content")],
            "peer.vetted": [at("tool", "test_embedded_resource")],
        },
        "policies": [
            rule("peer.open", "allow"),
            rule("peer.limited", "allow"),
            with(rule("peer.closed", "deny"), "reason", REASON.into()),
            with(
                rule("peer.vetted", "escalate"),
                "escalation",
                json!({"type": "single", "reviewers": ["role:lead"]}),
            ),
        ],
        "velocity_rules": names.iter().map(|name| json!({
            "agent": name, "intent": "peer.limited", "window": "31d", "max_calls": 1,
            "exceeded_action": "deny", "reason": "Once is enough",
        })).collect::<Vec<_>>(),
    });
    format!("{:#}", rights::also(policy, &names))
}

fn agent(index: usize) -> String {
    format!("agent-{index}")
}

/// What a client must be told.
#[derive(Debug)]
enum Expected {
    /// A tool's result with `isError` and these words
    Result(&'static str),
    /// A JSON-RPC error with this code and these words
    Error(i64, &'static str),
    /// Nothing is refused
    Works,
    /// An error of the transport: this library reads no JSON-RPC out of an HTTP error
    Broken(&'static str),
}

impl Expected {
    fn is(&self, told: &Told) -> bool {
        match (self, told) {
            (Self::Result(words), Told::Result { ok: Seen { error: true, text } }) => text.contains(words),
            (Self::Error(code, words), Told::Error { code: told, text }) => {
                code == told && text.contains(words)
            }
            (Self::Works, told) => works(told),
            (Self::Broken(words), Told::Broken { broken }) => broken.contains(words),
            _ => false,
        }
    }
}

/// A client in its session.
struct Column {
    peer: Peer,
    credential: Credential,
    session: Session,
}

struct Matrix {
    columns: Vec<Column>,
    daemon: Daemon,
    https: Https,
    wrong: Vec<String>,
}

impl Matrix {
    /// All clients with a guard before the server, and a last look at the guard before it starts.
    fn with(prepare: impl FnOnce(&mut Daemon)) -> Self {
        let mut daemon = guard("peer", &[("policy.yaml", &policy())]).unwrap();
        daemon.config.limits.calls_in_flight_per_agent_max = UNDER_WAY_MAX;
        daemon.config.servers[0].tools = serde_json::from_value(json!({"first_sight": "hold"})).unwrap();
        prepare(&mut daemon);
        let credentials: Vec<_> =
            (0..PEERS.len()).map(|index| daemon.issue(&agent(index)).unwrap()).collect();
        daemon.start().unwrap();
        let https = Https::new(ADDRESS, &daemon.ca()).unwrap();
        let columns = PEERS.into_iter().zip(credentials).map(|(peer, credential)| {
            let session = Session::open(peer, &daemon.endpoint(PORT, &credential)).unwrap();
            let version = if peer.era == Era::Legacy { "2025-11-25" } else { "2026-07-28" };
            assert_eq!(session.version, version, "{peer}");
            Column { peer, credential, session }
        });
        let columns: Vec<_> = columns.collect();
        approve(&daemon, &https, &columns[0].credential);
        println!("\n{:<20}{}", "", PEERS.map(|peer| format!("  {peer:<11}")).concat());
        Self { columns, daemon, https, wrong: Vec::new() }
    }

    /// Asks every client for the same, and then for something that it may do.
    fn row(&mut self, what: &str, task: Task<'_>, expected: impl Fn(Peer) -> Expected) {
        self.refused(what, task, expected);
        self.go_on(what);
    }

    /// Asks every client for the same, which is refused. Prints what each one was told.
    fn refused(&mut self, what: &str, task: Task<'_>, expected: impl Fn(Peer) -> Expected) {
        print!("{what:<20}");
        for Column { peer, session, .. } in &mut self.columns {
            let (told, expected) = (session.ask(task).unwrap(), expected(*peer));
            let short = match &told {
                Told::Result { .. } => "result".to_owned(),
                Told::Error { code, .. } => code.to_string(),
                Told::Broken { .. } => "http".to_owned(),
            };
            print!("  {short:<11}");
            if !expected.is(&told) {
                self.wrong.push(format!("{what}: {peer} was told {told:?}, not {expected:?}"));
            }
        }
        println!();
    }

    /// The next call of every client works.
    fn go_on(&mut self, after: &str) {
        for Column { peer, session, .. } in &mut self.columns {
            let told = session.ask(Task::Tool("test_simple_text")).unwrap();
            if !works(&told) {
                self.wrong.push(format!("after {after}: the next call of {peer} was answered with {told:?}"));
            }
        }
    }

    /// Asks every client for what its server does not answer before `end` was done, but afterwards; then for something that it
    /// may do, in a new session where the old one is `over`.
    fn cut(
        &mut self,
        what: &str,
        server: &Fixture,
        end: impl FnOnce(&Daemon),
        expected: impl Fn(Peer) -> Expected,
        over: impl Fn(Peer) -> bool,
    ) {
        server.process.signal(Signal::STOP).unwrap();
        let Self { columns, daemon, wrong, .. } = self;
        let let_in = || {
            let ledger = daemon.ledger()?;
            let of = |index: usize| {
                let calls = ledger.calls("allow", "test_simple_text");
                calls.filter(|call| call["agent"] == json!(agent(index))).count()
            };
            anyhow::Ok((0..PEERS.len()).map(of).collect::<Vec<_>>())
        };
        let before = let_in().unwrap();
        let told: Vec<(Peer, Told)> = thread::scope(|scope| {
            let asked: Vec<_> = columns
                .iter_mut()
                .map(|Column { peer, session, .. }| {
                    (*peer, scope.spawn(|| session.ask(Task::Tool("test_simple_text")).unwrap()))
                })
                .collect();
            let all = eventually(START_LIMIT, || {
                Ok(let_in()?.iter().zip(&before).all(|(now, before)| now > before).then_some(()))
            });
            all.unwrap().expect("every call is under way");
            end(daemon);
            // Who is refused is told while the server is silent.
            let is_refused = |peer: &Peer| !matches!(expected(*peer), Expected::Works);
            let (refused, others): (Vec<_>, Vec<_>) =
                asked.into_iter().partition(|(peer, _)| is_refused(peer));
            let hear =
                |(peer, told): (Peer, thread::ScopedJoinHandle<'_, Told>)| (peer, told.join().unwrap());
            let refused: Vec<_> = refused.into_iter().map(hear).collect();
            server.process.signal(Signal::CONT).unwrap();
            refused.into_iter().chain(others.into_iter().map(hear)).collect()
        });
        for (peer, told) in told {
            let expected = expected(peer);
            if !expected.is(&told) {
                wrong.push(format!("{what}: {peer} was told {told:?}, not {expected:?}"));
            }
        }
        for column in columns.iter_mut().filter(|column| over(column.peer)) {
            column.session = Session::open(column.peer, &daemon.endpoint(PORT, &column.credential)).unwrap();
        }
    }

    /// Calls beside the sessions until the answer is like that.
    fn until_beside(&self, like: impl Fn(&str) -> bool) {
        let request = Request::post(&call(1, "test_simple_text")).by(&self.columns[0].credential);
        let seen = eventually(START_LIMIT, || Ok(like(&self.https.ask(&request)?.text()).then_some(())));
        seen.unwrap().expect("the guard sees what is behind it");
    }

    /// Sends a request beside each session, as its agent.
    fn beside(&mut self, what: &str, request: &Request, status: u16, words: &str) {
        for Column { peer, credential, .. } in &self.columns {
            let answer = self.https.ask(&request.clone().by(credential)).unwrap();
            if answer.status != status || !answer.text().contains(words) {
                self.wrong.push(format!("{what}: {} {} beside {peer}", answer.status, answer.text()));
            }
        }
        self.go_on(what);
    }
}

fn works(told: &Told) -> bool {
    matches!(told, Told::Result { ok: Seen { error: false, text } } if text.contains("simple text response"))
}

/// The relay at the protected port; all of it is gone when this is dropped.
struct Door {
    relay: Relay,
    runtime: Runtime,
}

impl Door {
    fn to(server: SocketAddr) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let relay = runtime.block_on(Relay::at(ADDRESS, server)).unwrap();
        Self { relay, runtime }
    }

    fn close(self) {
        drop(self.relay);
        drop(self.runtime);
    }
}

#[test]
fn every_client_reports_each_refusal_and_its_next_call_works() {
    apart(|| {
        let server = Fixture::start("conformance-server", None, BEHIND, &["--journal", "/dev/null"]).unwrap();
        let door = Door::to(BEHIND);
        let mut matrix = Matrix::with(pin_another);
        matrix.go_on("connecting");
        of_tools(&mut matrix);
        of_pins(&mut matrix);
        of_things_given_to_others(&mut matrix);
        of_the_kill_switch(&mut matrix);
        of_other_targets(&mut matrix);
        rights::rows(&mut matrix);
        of_frames(&mut matrix);
        of_want_of_room(&mut matrix, &server);
        of_calls_under_way(&mut matrix, &server);
        of_credentials(&mut matrix);
        of_the_server(&mut matrix, door);
        reasons::all_recorded(&matrix, reasons::TRIED);
        assert!(matrix.wrong.is_empty(), "\n{}", matrix.wrong.join("\n"));
    });
}

/// A file system of its own in this thread's own mount namespace: nothing is left behind, whatever happens.
fn small_disk(dir: &Path) {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some("size=512k,mode=700")).unwrap();
}

/// Takes all room there is.
fn fill(file: &Path) {
    let mut ballast = File::create(file).unwrap();
    while ballast.write(&[0; 4096]).is_ok() {}
}

#[test]
fn every_client_reports_that_no_record_can_be_written_and_its_next_call_works() {
    apart(|| {
        let dir = tempfile::tempdir().unwrap();
        small_disk(dir.path());
        let _server =
            Fixture::start("conformance-server", None, BEHIND, &["--journal", "/dev/null"]).unwrap();
        let _door = Door::to(BEHIND);
        let mut matrix = Matrix::with(|daemon| {
            daemon.config.audit.dir = Some(dir.path().join("audit"));
            daemon.config.audit.reserve_bytes = 0;
        });
        matrix.go_on("connecting");
        let ballast = dir.path().join("ballast");
        fill(&ballast);
        // What the disk still holds in its last block may take some records.
        let mut left = 0;
        while works(&matrix.columns[0].session.ask(Task::Tool("test_simple_text")).unwrap()) {
            left += 1;
            assert!(left < 1000, "the disk is not full");
        }
        let task = Task::Tool("test_simple_text");
        matrix.refused("no audit record", task, |_| Expected::Result("audit record could not be written"));
        let task = Task::Prompt("test_simple_prompt");
        matrix.refused("no audit record", task, |_| {
            Expected::Error(50300, "audit record could not be written")
        });
        fs::remove_file(&ballast).unwrap();
        let back = eventually(START_LIMIT, || {
            Ok(works(&matrix.columns[0].session.ask(Task::Tool("test_simple_text"))?).then_some(()))
        });
        back.unwrap().expect("records are written again");
        matrix.go_on("no audit record");
        assert!(matrix.wrong.is_empty(), "\n{}", matrix.wrong.join("\n"));
    });
}

fn of_tools(matrix: &mut Matrix) {
    matrix.row("denied by rule", Task::Tool("test_error_handling"), |_| Expected::Result(REASON));
    for tool in ["test_image_content", "no_such_tool"] {
        matrix.row("hidden tool", Task::Tool(tool), |_| Expected::Error(-32602, "Unknown tool: "));
    }
    for Column { peer, session, .. } in &mut matrix.columns {
        let told = session.ask(Task::Tool("test_audio_content")).unwrap();
        assert!(matches!(told, Told::Result { ok: Seen { error: false, .. } }), "{peer}: {told:?}");
    }
    matrix
        .row("too often", Task::Tool("test_audio_content"), |_| Expected::Result("It may be tried again in"));
    matrix.row("needs approval", Task::Tool("test_embedded_resource"), |_| {
        Expected::Result("needs the approval of role:lead")
    });
}

/// What a guard before this one has written of a tool that was another one.
fn pin_another(daemon: &mut Daemon) {
    let dir = daemon.config.state_dir.join("tools");
    fs::create_dir_all(&dir).unwrap();
    let definition = json!({"digest": "0".repeat(64), "text": null, "findings": []});
    let pin = json!({"definition": definition, "since": "2026-01-01T00:00:00Z", "by": "first_sight"});
    let first_seen = "2026-01-01T00:00:00Z";
    let tool = json!({"pinned": pin, "offered": null, "first_seen": first_seen});
    let pins = json!({"format": 1, "server": "peer", "pins": {"tools": {CHANGED: tool}}});
    fs::write(dir.join("peer.json"), pins.to_string()).unwrap();
}

/// An operator has seen all tools but one, and one that is another than it was.
fn approve(daemon: &Daemon, https: &Https, credential: &Credential) {
    let lists = stateless("tools/list", json!({})).by(credential);
    assert_eq!(https.ask(&lists).unwrap().status, 200);
    let names = conformance::tools().iter().map(|tool| tool.name.as_ref());
    let seen = names.filter(|name| ![CHANGED, UNAPPROVED].contains(name));
    let arguments: Vec<&str> = std::iter::once("peer").chain(seen).collect();
    daemon.json("tools approve", &arguments).unwrap();
}

/// Of a stateless client, which names in its headers what it asks for.
fn stateless(method: &str, mut params: Value) -> Request {
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {"elicitation": {"form": {}}},
    });
    let name = params["name"].as_str().map(str::to_owned);
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params});
    let request =
        Request::post(&message).with("MCP-Protocol-Version", "2026-07-28").with("Mcp-Method", method);
    name.iter().fold(request, |request, name| request.with("Mcp-Name", name))
}

fn of_pins(matrix: &mut Matrix) {
    let words = "the server has changed the definition of this tool";
    matrix.row("changed tool", Task::Tool(CHANGED), |_| Expected::Result(words));
    matrix.row("tool not approved", Task::Tool(UNAPPROVED), |_| {
        Expected::Result("nobody has approved this tool yet")
    });
    matrix.row("tool too long", Task::Tool(&long_name()), |_| Expected::Result("at most 1024 bytes"));
    let call = stateless("tools/call", json!({"name": "test_custom_header", "arguments": {"region": "eu"}}));
    matrix.beside("header missing", &call, 400, "header_mismatch");
    matrix.beside("header differs", &call.with("Mcp-Param-Region", "us"), 400, "header_mismatch");
}

fn of_things_given_to_others(matrix: &mut Matrix) {
    let on_session = Request::post(&call(1, "test_simple_text")).with("Mcp-Session-Id", "nobodys");
    matrix.beside("unknown session", &on_session, 404, "unknown_session");
    matrix.beside("bad session id", &on_session.instead("Mcp-Session-Id", "no body"), 400, "bad_session_id");
    let resumed = Request::bare("GET").with("Last-Event-ID", "nobodys");
    matrix.beside("unknown event", &resumed, 400, "unknown_event");
    let task = json!({"jsonrpc": "2.0", "id": 1, "method": "tasks/get", "params": {"taskId": "nobodys"}});
    matrix.beside("unknown task", &Request::post(&task), 200, "unknown_task");
    let cancelled =
        json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
    matrix.beside("cancellation", &Request::post(&cancelled), 202, "");
    let elsewhere = Request { path: "/other".into(), ..Request::post(&call(1, "test_simple_text")) };
    matrix.beside("unknown path", &elsewhere, 404, "unknown_path");
    let verb = Request { method: "PUT", ..Request::post(&call(1, "test_simple_text")) };
    matrix.beside("http method", &verb, 405, "http_method");

    // A state that waits for the first agent alone.
    let tool = "test_input_required_result_request_state";
    let first =
        stateless("tools/call", json!({"name": tool, "arguments": {}})).by(&matrix.columns[0].credential);
    let asked = matrix.https.ask(&first).unwrap().text();
    let event = asked.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or(&asked);
    let asked: Value = serde_json::from_str(event).unwrap();
    let state = asked["result"]["requestState"].as_str().unwrap_or_else(|| panic!("{asked}")).to_owned();
    let again = json!({"name": tool, "arguments": {}, "requestState": state, "inputResponses": {}});
    for Column { peer, credential, .. } in &matrix.columns[1..] {
        let answer = matrix.https.ask(&stateless("tools/call", again.clone()).by(credential)).unwrap();
        if answer.status != 200 || !answer.text().contains("unknown_state") {
            matrix.wrong.push(format!("unknown state: {} {} beside {peer}", answer.status, answer.text()));
        }
    }
    matrix.go_on("unknown state");
}

/// Every agent is blocked for a while.
fn of_the_kill_switch(matrix: &mut Matrix) {
    let switch = |matrix: &Matrix, verb: &str| {
        for index in 0..matrix.columns.len() {
            let output = matrix.daemon.output(verb, &["--agent", &agent(index)]).unwrap();
            assert!(output.status.success(), "{output:?}");
        }
    };
    switch(matrix, "block");
    matrix.refused("blocked", Task::Tool("test_simple_text"), |_| Expected::Result("has blocked this agent"));
    let task = Task::Prompt("test_simple_prompt");
    matrix.refused("blocked", task, |_| Expected::Error(40302, "has blocked this agent"));
    switch(matrix, "unblock");
    matrix.go_on("blocked");
}

fn of_other_targets(matrix: &mut Matrix) {
    let denied = |_| Expected::Error(40300, REASON);
    matrix.row("denied prompt", Task::Prompt("test_prompt_with_image"), denied);
    matrix.row("denied completion", Task::Complete("test_prompt_with_image"), denied);
    matrix.row("denied resource", Task::Resource("test://static-binary"), denied);
    matrix.row("hidden prompt", Task::Prompt("test_prompt_with_arguments"), |_| {
        Expected::Error(-32602, "Unknown prompt: test_prompt_with_arguments")
    });
    matrix.row("hidden resource", Task::Resource("test://static-text"), |peer| {
        // The TypeScript SDK 2.x has only the newer of the two codes.
        let is_new = peer.era == Era::Auto || peer.sdk == Sdk::TypeScript2;
        Expected::Error(if is_new { -32602 } else { -32002 }, "Resource not found")
    });
    matrix.row("hidden method", Task::Method("acme/secret"), |peer| match (peer.era, peer.sdk) {
        (Era::Legacy, _) => Expected::Error(40300, "mcp-guard refused this request"),
        // As without a guard.
        (_, Sdk::TypeScript2) => Expected::Broken("mcp-guard refused this request"),
        _ => Expected::Error(-32601, "mcp-guard refused this request"),
    });
}

fn of_frames(matrix: &mut Matrix) {
    let notification =
        json!({"jsonrpc": "2.0", "method": "tools/call", "params": {"name": "test_error_handling"}});
    matrix.beside("denied notification", &Request::post(&notification), 202, "");
    let twice =
        r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","name":"test_simple_text"}}"#;
    let request = Request::post(&json!({})).body(twice);
    matrix.beside("malformed frame", &request, 400, "json_duplicate_key");
}

/// Each agent has all the calls under way that it may have.
fn of_want_of_room(matrix: &mut Matrix, server: &Fixture) {
    server.process.signal(Signal::STOP).unwrap();
    let lines: Vec<_> = matrix
        .columns
        .iter()
        .flat_map(|Column { credential, .. }| {
            let request = Request::post(&call(1, "test_simple_text")).by(credential);
            (0..UNDER_WAY_MAX).map(move |_| request.bytes())
        })
        .map(|bytes| {
            let mut line = matrix.https.line().unwrap();
            line.send(&bytes).unwrap();
            line
        })
        .collect();
    let full = |calls: usize| calls == UNDER_WAY_MAX;
    until_under_way(&matrix.daemon, full);
    let busy = "too many calls";
    let task = Task::Tool("test_simple_text");
    matrix.refused(busy, task, |_| Expected::Result("It may be tried again in 1 s"));
    let task = Task::Prompt("test_simple_prompt");
    matrix.refused(busy, task, |_| Expected::Error(42900, "It may be tried again in 1 s"));
    drop(lines);
    server.process.signal(Signal::CONT).unwrap();
    until_under_way(&matrix.daemon, |calls| calls <= UNDER_WAY_MAX / 2);
    matrix.go_on(busy);
}

/// Waits until every agent has that many.
fn until_under_way(daemon: &Daemon, like: impl Fn(usize) -> bool) {
    let seen = eventually(START_LIMIT, || {
        let status = daemon.status()?;
        let holders = status["holders"].as_array().cloned().unwrap_or_default();
        let calls = |index: usize| {
            let holder = holders.iter().find(|holder| holder["agent"] == json!(agent(index)));
            holder.and_then(|holder| holder["calls"].as_u64()).unwrap_or_default()
        };
        let all = (0..PEERS.len()).all(|index| usize::try_from(calls(index)).is_ok_and(&like));
        Ok(all.then_some(()))
    });
    seen.unwrap().expect("every agent has as many calls under way");
}

/// Sessions and credentials that are gone while a call is under way.
fn of_calls_under_way(matrix: &mut Matrix, server: &Fixture) {
    let is_in_session = |peer: Peer| peer.era == Era::Legacy;
    matrix.cut(
        "session over",
        server,
        |daemon| {
            let ended = daemon.output("sessions end", &["--all"]).unwrap();
            assert!(ended.status.success(), "{ended:?}");
        },
        |peer| if is_in_session(peer) { Expected::Result("its session has ended") } else { Expected::Works },
        is_in_session,
    );
    matrix.go_on("session over");
    let file = matrix.daemon.config.policy_dir.join("credentials.yaml");
    let known = fs::read(&file).unwrap();
    matrix.cut(
        "access withdrawn",
        server,
        revoke_all,
        |_| Expected::Result("this agent is no longer let in"),
        |_| false,
    );
    fs::write(&file, known).unwrap();
    matrix.daemon.reload().unwrap();
    matrix.go_on("access withdrawn");
}

fn revoke_all(daemon: &Daemon) {
    let listed = daemon.json("tokens list", &[]).unwrap();
    for credential in listed.as_array().unwrap() {
        let output = daemon.output("tokens revoke", &[credential["id"].as_str().unwrap()]).unwrap();
        assert!(output.status.success(), "{output:?}");
    }
    daemon.reload().unwrap();
}

/// The credentials are gone for a while.
fn of_credentials(matrix: &mut Matrix) {
    let file = matrix.daemon.config.policy_dir.join("credentials.yaml");
    let known = fs::read(&file).unwrap();
    revoke_all(&matrix.daemon);
    let unknown = "unknown credential";
    matrix.refused(unknown, Task::Tool("test_simple_text"), |_| Expected::Result("is not known"));
    matrix.refused(unknown, Task::Prompt("test_simple_prompt"), |_| Expected::Error(40100, "is not known"));
    fs::write(&file, known).unwrap();
    matrix.daemon.reload().unwrap();
    matrix.go_on(unknown);
}

/// The server is gone for a while.
fn of_the_server(matrix: &mut Matrix, door: Door) {
    door.close();
    let task = Task::Tool("test_simple_text");
    matrix
        .refused("no server", task, |_| Expected::Result("mcp-guard refused the call of test_simple_text: "));

    let door = Door::to(NOWHERE);
    matrix.until_beside(|answer| answer.contains("broke off"));
    matrix
        .refused("server breaks off", task, |_| Expected::Result("the server broke off before it answered"));
    door.close();

    let _door = Door::to(BEHIND);
    // Without a session the server answers with an error of its own.
    matrix.until_beside(|answer| !answer.contains("mcp-guard refused"));
    matrix.go_on("no server");
}
