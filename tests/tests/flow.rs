//! What an agent has read decides where it may send: across servers, sessions and restarts, until it is cleared.

use std::thread;

use guard_tests::daemon::{Credential, Daemon};
use guard_tests::https::{Answer, Https, Line, Request};
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::puppet::Puppet;
use guard_tests::scene::{ADDRESS, Scene, apart, call, done, done_for, guard};
use mcp_guard::admin::{self, Ask};
use serde_json::{Value, json};

const POLICY: &str = r"
agents:
  tester: {client_id: tester}
  other: {client_id: other}
intents:
  crm: [{server: demo, tool: read, label: confidential}]
  mail: [{server: demo, tool: send, sink: external}]
  note: [{server: demo, tool: note, label: internal, sink: internal}]
policies:
  - {intent: '*', agents: [tester, other], decision: allow}
default_label: public
flow_rules:
  - {name: stays-here, after: confidential, sink: external, decision: deny, reason: 'It stays in the house'}
";

fn scene() -> (Daemon, Credential, Credential, Https) {
    let puppet = Puppet::at(ADDRESS).unwrap();
    let _count = puppet.answer_all(done_for);
    let mut daemon = guard("demo", &[("policy.yaml", POLICY)]).unwrap();
    let (tester, other) = (daemon.issue("tester").unwrap(), daemon.issue("other").unwrap());
    daemon.start().unwrap();
    let https = Https::new(ADDRESS, &daemon.ca()).unwrap();
    (daemon, tester, other, https)
}

/// Stateless (2026-07-28): no session holds the two calls together.
fn modern(id: u64, tool: &str) -> Value {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {}
    });
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": {}, "_meta": meta}})
}

fn told(https: &Https, credential: &Credential, message: &Value) -> String {
    let mut request = Request::post(message).by(credential);
    if !message["params"]["_meta"].is_null() {
        request = request
            .with("MCP-Protocol-Version", "2026-07-28")
            .with("Mcp-Method", "tools/call")
            .with("Mcp-Name", message["params"]["name"].as_str().unwrap());
    }
    let mut line = https.line().unwrap();
    line.send(&request.bytes()).unwrap();
    line.answer().unwrap().text()
}

#[test]
fn who_has_read_cannot_send_in_either_era_until_an_operator_clears_it() {
    apart(|| {
        let (mut daemon, tester, other, https) = scene();
        let sends = |credential: &Credential, modern_era: bool| {
            let message = if modern_era { modern(2, "send") } else { call(2, "send") };
            let text = told(&https, credential, &message);
            assert!(text.contains("done") != text.contains("It stays in the house"), "{text}");
            text.contains("done")
        };
        assert!(sends(&tester, false) && sends(&tester, true));
        assert!(told(&https, &tester, &call(1, "note")).contains("done"));
        assert!(sends(&tester, false), "internal is below confidential");
        assert!(told(&https, &tester, &modern(1, "read")).contains("done"));
        assert!(
            !sends(&tester, false) && !sends(&tester, true),
            "read without a session, sent with and without one"
        );
        assert!(sends(&other, false), "another agent has not read it");
        assert!(told(&https, &tester, &call(3, "note")).contains("done"), "an internal sink is open");

        // A guard that was killed leaves it to the next one.
        daemon.kill().unwrap();
        daemon.start().unwrap();
        let https = Https::new(ADDRESS, &daemon.ca()).unwrap();
        let text = told(&https, &tester, &call(4, "send"));
        assert!(text.contains("It stays in the house"), "{text}");

        let listed = daemon.json("sessions", &["list"]).unwrap();
        assert_eq!(
            listed["contexts"][1]["labels"],
            json!(["public", "internal", "confidential"]),
            "{listed}"
        );
        let nothing = daemon.output("sessions", &["clear", "--agent", "nobody"]).unwrap();
        assert_eq!(nothing.status.code(), Some(1), "{nothing:?}");
        let cleared = daemon.output("sessions", &["clear", "--agent", "tester"]).unwrap();
        assert_eq!(cleared.status.code(), Some(0), "{cleared:?}");
        assert!(told(&https, &tester, &call(5, "send")).contains("done"));

        let ledger = daemon.ledger().unwrap();
        let denied: Vec<_> = ledger.calls("deny", "send").cloned().collect();
        assert_eq!(denied.len(), 3);
        for record in &denied {
            assert_eq!(record["reason"], "flow");
            assert_eq!(record["rule"], "stays-here");
            assert_eq!(record["mark"], "confidential");
        }
        let read: Vec<_> = ledger.calls("allow", "read").cloned().collect();
        assert_eq!((&read[0]["label"], &read[0]["mark"]), (&json!("confidential"), &json!("internal")));
        let cleared: Vec<_> = ledger.of_kind("contexts_cleared").collect();
        assert_eq!((cleared.len(), &cleared[0]["cause"]), (1, &json!("operator")));
        assert_eq!(daemon.verify().unwrap().code, Some(0));
    });
}

#[test]
fn the_mark_stands_before_the_answer_is_there_and_a_session_that_ends_takes_none_of_it_away() {
    apart(|| {
        let scene = Scene::with(&json!({}), |daemon| daemon.write_policy("policy.yaml", POLICY)).unwrap();
        let open = |message: &Value| {
            let mut line = scene.https.line().unwrap();
            line.send(&scene.post(message).with("Mcp-Session-Id", "s-1").bytes()).unwrap();
            line
        };
        let mut line = scene.https.line().unwrap();
        let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}});
        line.send(&scene.post(&initialize).bytes()).unwrap();
        scene.puppet.hear().unwrap().answer_with("Mcp-Session-Id: s-1\r\n", &done(1)).unwrap();
        line.answer().unwrap();
        // The server has the first call, and has not answered.
        let mut reading = open(&call(2, "read"));
        let mut heard = scene.puppet.hear().unwrap();
        let text = open(&call(3, "send")).answer().unwrap().text();
        assert!(text.contains("It stays in the house"), "{text}");
        heard.stream().unwrap();
        reading.head().unwrap();
        heard.event(&done(2)).unwrap();
        reading.chunks_until("done").unwrap();
        drop(heard);
        // The session ends, and the agent goes on in another one.
        let mut line = scene.https.line().unwrap();
        line.send(&Request::bare("DELETE").by(&scene.credential).with("Mcp-Session-Id", "s-1").bytes())
            .unwrap();
        scene.puppet.hear().unwrap().answer(&json!({})).unwrap();
        line.answer().unwrap();
        let mut line = scene.https.line().unwrap();
        line.send(&scene.post(&call(4, "send")).bytes()).unwrap();
        let text = line.answer().unwrap().text();
        assert!(text.contains("It stays in the house"), "{text}");
    });
}

#[test]
fn what_was_read_is_forgotten_when_its_agent_was_idle_for_long_enough() {
    apart(|| {
        let puppet = Puppet::at(ADDRESS).unwrap();
        let _count = puppet.answer_all(done_for);
        let mut daemon = guard("demo", &[("policy.yaml", POLICY)]).unwrap();
        daemon.config.limits = serde_json::from_value(json!({"context_idle_seconds": 2})).unwrap();
        let tester = daemon.issue("tester").unwrap();
        daemon.start().unwrap();
        let https = Https::new(ADDRESS, &daemon.ca()).unwrap();
        assert!(told(&https, &tester, &call(1, "read")).contains("done"));
        assert!(!told(&https, &tester, &call(2, "send")).contains("done"));
        let contexts = || -> Value { daemon.json("sessions", &["list"]).unwrap()["contexts"].clone() };
        while contexts() != json!([]) {
            thread::sleep(std::time::Duration::from_millis(100));
        }
        assert!(told(&https, &tester, &call(3, "send")).contains("done"));
        let cleared = eventually(START_LIMIT, || {
            let ledger = daemon.ledger()?;
            Ok(ledger.of_kind("contexts_cleared").next().cloned())
        });
        let cleared = cleared.unwrap().expect("a record");
        assert_eq!(
            (&cleared["cause"], &cleared["agent"], &cleared["count"], &cleared["uid"]),
            (&json!("idle"), &json!("tester"), &json!(1), &Value::Null),
            "{cleared}"
        );
    });
}

/// An agent with a session, before a server that may send anything.
struct Talk {
    scene: Scene,
}

impl Talk {
    fn new(prepare: impl FnOnce(&mut Daemon)) -> Self {
        let scene = Scene::with(&json!({}), |daemon| {
            prepare(daemon);
            daemon.write_policy("policy.yaml", POLICY)
        });
        let talk = Self { scene: scene.unwrap() };
        let answer = talk.passes(&initialize(), "Mcp-Session-Id: s-1\r\n");
        assert_eq!(answer.header("mcp-session-id"), Some("s-1"));
        talk
    }

    fn post(&self, message: &Value) -> Request {
        let request = self.scene.post(message);
        if message["method"] == "initialize" { request } else { request.with("Mcp-Session-Id", "s-1") }
    }

    fn send(&self, request: &Request) -> Line {
        let mut line = self.scene.https.line().unwrap();
        line.send(&request.bytes()).unwrap();
        line
    }

    /// It reaches the server, which answers.
    fn passes(&self, message: &Value, fields: &str) -> Answer {
        let mut line = self.send(&self.post(message));
        let heard = self.scene.puppet.hear().unwrap();
        assert_eq!(heard.message(), *message);
        heard.answer_with(fields, &done_for(message)).unwrap();
        line.answer().unwrap()
    }

    /// The flow rule refuses it, and nothing of it reaches the server.
    fn stays(&self, request: &Request) {
        let answer = self.send(request).answer().unwrap();
        // Nobody waits for an answer to a notification or an answer: the record tells of it.
        let message: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let is_one_way =
            !message["jsonrpc"].is_null() && (message["method"].is_null() || message["id"].is_null());
        assert!(
            if is_one_way { answer.status == 202 } else { answer.text().contains("It stays in the house") },
            "{request:?}: {answer:?}"
        );
        assert!(self.scene.puppet.heard().is_none(), "it reached the server: {request:?}");
        let record = self.scene.daemon.ledger().unwrap().of_kind("call").last().cloned().unwrap();
        assert_eq!(
            (&record["decision"], &record["reason"], &record["rule"], &record["mark"]),
            (&json!("deny"), &json!("flow"), &json!("stays-here"), &json!("confidential")),
            "{record}"
        );
    }

    fn read(&self) {
        let text = self.passes(&call(9, "read"), "").text();
        assert!(text.contains("done"), "{text}");
    }
}

fn initialize() -> Value {
    let client = json!({"name": "t", "version": "1"});
    let params = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": client});
    json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
}

#[test]
fn what_answers_a_server_and_what_the_protocol_says_are_ways_out_like_any_other() {
    apart(|| {
        let talk = Talk::new(|_daemon| ());
        let accept = json!({"action": "accept", "content": {"x": "what was read"}});
        let answer = |id: u64| json!({"jsonrpc": "2.0", "id": id, "result": accept});
        let request = |method: &str, params: Value| json!({"jsonrpc": "2.0", "id": 5, "method": method, "params": params});
        // What opens a session and asks what there is may be said again in the same words.
        let mut named = initialize();
        named["params"]["clientInfo"]["name"] = json!("what was read");
        let asked = request("ping", json!({"_meta": {"x": "before"}}));
        let again = [initialize(), asked];
        let told = [
            request("logging/setLevel", json!({"level": "info"})),
            request("tools/list", json!({"cursor": "what was read"})),
            json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1, "message": "what was read"}}),
            json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1, "reason": "what was read"}}),
            json!({"jsonrpc": "2.0", "id": 41, "error": {"code": -1, "message": "what was read"}}),
            answer(42),
        ];
        for message in told.iter().chain(&again) {
            talk.passes(message, "");
        }
        // The server asks in the course of a call, and the client has the question when its agent reads.
        let mut asking = talk.send(&talk.post(&call(2, "note")));
        let mut heard = talk.scene.puppet.hear().unwrap();
        heard.stream().unwrap();
        asking.head().unwrap();
        let ask = |id: u64| json!({"jsonrpc": "2.0", "id": id, "method": "elicitation/create", "params": {"message": "Which?"}});
        heard.event(&ask(7)).unwrap();
        asking.chunks_until("Which?").unwrap();
        talk.read();
        talk.stays(&talk.post(&answer(7)));
        for message in &told {
            talk.stays(&talk.post(message));
        }
        talk.stays(&talk.post(&named));
        talk.stays(&talk.post(&request("ping", json!({"_meta": {"x": "what was read"}}))));
        for message in &again {
            talk.passes(message, "");
        }
        // What could not be answered is not asked any more: the server is told so in the client's place.
        heard.event(&ask(8)).unwrap();
        let refusal = talk.scene.puppet.hear().unwrap();
        assert_eq!(
            (&refusal.message()["id"], &refusal.message()["error"]["code"]),
            (&json!(8), &json!(40_300))
        );
        refusal.answer(&json!({})).unwrap();
        // What says nothing of the agent's passes, so that it can go on with what stays in the house.
        for message in [
            request("ping", json!({})),
            json!({"jsonrpc": "2.0", "id": 6, "method": "tools/list"}),
            json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 2}}),
            json!({"jsonrpc": "2.0", "id": 43, "result": {}}),
            call(10, "note"),
        ] {
            talk.passes(&message, "");
        }
        // A further round brings what the server asked for, and goes where its call goes.
        let mut round = modern(11, "send");
        round["params"]["inputResponses"] = json!({"q": accept});
        round["params"]["requestState"] = json!("s");
        let named = talk.scene.post(&round).with("MCP-Protocol-Version", "2026-07-28");
        talk.stays(&named.with("Mcp-Method", "tools/call").with("Mcp-Name", "send"));
        let bare = |method| Request::bare(method).by(&talk.scene.credential).with("Mcp-Session-Id", "s-1");
        let query = bare("DELETE");
        talk.stays(&Request { path: format!("{}?x=what", query.path), ..query });
        let mut line = talk.send(&bare("DELETE"));
        talk.scene.puppet.hear().unwrap().answer(&json!({})).unwrap();
        line.answer().unwrap();
        assert_eq!(talk.scene.daemon.verify().unwrap().code, Some(0));
    });
}

#[test]
fn who_has_read_opens_a_new_session_in_the_same_words_and_in_no_others() {
    apart(|| {
        let (mut daemon, tester, other, _https) = scene();
        let answers = |daemon: &Daemon, credential: &Credential, message: &Value| {
            let https = Https::new(ADDRESS, &daemon.ca()).unwrap();
            let modern = !message["params"]["_meta"].is_null();
            let mut request = Request::post(message).by(credential);
            if modern {
                let method = message["method"].as_str().unwrap();
                request = request.with("MCP-Protocol-Version", "2026-07-28").with("Mcp-Method", method);
            }
            let mut line = https.line().unwrap();
            line.send(&request.bytes()).unwrap();
            let text = line.answer().unwrap().text();
            assert!(text.contains("done") != text.contains("It stays in the house"), "{text}");
            text.contains("done")
        };
        let list = |method: &str, client: &str| {
            let mut message = modern(3, "");
            message["method"] = json!(method);
            message["params"]["_meta"]["io.modelcontextprotocol/clientInfo"]["name"] = json!(client);
            let params = message["params"].as_object_mut().unwrap();
            params.retain(|key, _| key == "_meta");
            message
        };
        let open = |id: u64, client: &str| {
            let mut message = initialize();
            (message["id"], message["params"]["clientInfo"]["name"]) = (json!(id), json!(client));
            message
        };
        assert!(answers(&daemon, &tester, &open(1, "t")));
        assert!(answers(&daemon, &tester, &list("tools/list", "t")));
        assert!(answers(&daemon, &tester, &call(2, "read")));
        let holds = |daemon: &Daemon| {
            assert!(answers(daemon, &tester, &open(71, "t")), "it has said this before");
            assert!(answers(daemon, &tester, &list("tools/list", "t")));
            assert!(answers(daemon, &tester, &call(72, "note")), "it goes on with what stays in the house");
            assert!(!answers(daemon, &tester, &call(73, "send")));
            assert!(!answers(daemon, &tester, &open(74, "what was read")));
            assert!(!answers(daemon, &tester, &list("tools/list", "what was read")));
            assert!(!answers(daemon, &tester, &list("prompts/list", "t")), "another method");
        };
        holds(&daemon);
        // Refused words do not become known ones.
        holds(&daemon);
        // What another agent has said is new when this one says it.
        assert!(answers(&daemon, &other, &open(1, "o")));
        assert!(!answers(&daemon, &tester, &open(75, "o")));
        daemon.kill().unwrap();
        daemon.start().unwrap();
        holds(&daemon);
        // An operator has it all forgotten, so that sixteen other messages may become known.
        let cleared = daemon.output("sessions", &["clear", "--agent", "tester"]).unwrap();
        assert_eq!(cleared.status.code(), Some(0), "{cleared:?}");
        for client in 1..=17 {
            assert!(answers(&daemon, &tester, &open(1, &client.to_string())));
        }
        assert!(answers(&daemon, &tester, &call(2, "read")));
        for (client, is_known) in
            [("1", true), ("2", true), ("15", true), ("16", true), ("17", false), ("t", false)]
        {
            assert_eq!(answers(&daemon, &tester, &open(3, client)), is_known, "{client}");
        }
        let ledger = daemon.ledger().unwrap();
        let denied: Vec<_> = ledger.calls("deny", "initialize").collect();
        assert!(denied.iter().all(|record| record["reason"] == "flow" && record["rule"] == "stays-here"));
        assert_eq!(daemon.verify().unwrap().code, Some(0));
    });
}

#[test]
fn forms_and_queries_of_oauth_are_ways_out_too() {
    apart(|| {
        let talk = Talk::new(|daemon| {
            daemon.config.servers[0].forward_authorization = true;
            daemon.config.servers[0].oauth_paths = vec!["/token".into()];
        });
        let form = |body: &str| {
            let post = Request { path: "/token".into(), ..talk.scene.post(&Value::Null) };
            post.instead("Content-Type", "application/x-www-form-urlencoded").body(body)
        };
        let get =
            |path: &str| Request { path: path.into(), ..Request::bare("GET").by(&talk.scene.credential) };
        let (plain, asking) =
            (get("/.well-known/openid-configuration"), get("/.well-known/openid-configuration?x=what"));
        let serves = |request: &Request| {
            let mut line = talk.send(request);
            talk.scene.puppet.hear().unwrap().answer(&json!({"token_type": "Bearer"})).unwrap();
            assert_eq!(line.answer().unwrap().status, 200);
        };
        let token = form("grant_type=refresh_token&refresh_token=what");
        for request in [&token, &plain, &asking] {
            serves(request);
        }
        talk.read();
        talk.stays(&token);
        talk.stays(&asking);
        serves(&plain);
    });
}

#[test]
fn a_label_that_a_reload_raises_ends_what_is_under_way_before_it_tells_more() {
    apart(|| {
        let scene = Scene::with(&json!({}), |daemon| daemon.write_policy("policy.yaml", POLICY)).unwrap();
        let mut waiting = scene.https.line().unwrap();
        waiting.send(&scene.post(&call(1, "note")).bytes()).unwrap();
        let mut heard = scene.puppet.hear().unwrap();
        heard.stream().unwrap();
        waiting.head().unwrap();
        let progress = |message: &str| json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1, "message": message}});
        heard.event(&progress("before")).unwrap();
        waiting.chunks_until("before").unwrap();
        let reload = |policy: &str| {
            scene.daemon.write_policy("policy.yaml", policy).unwrap();
            admin::ask(&scene.daemon.config.admin_socket(), &Ask::Reload).unwrap();
        };
        // One that says as much as before ends nothing.
        reload(&POLICY.replace("It stays", "It all stays"));
        heard.event(&progress("the same")).unwrap();
        waiting.chunks_until("the same").unwrap();
        reload(&POLICY.replace("label: internal", "label: confidential"));
        let _ended =
            heard.event(&progress("what is confidential by now")).and_then(|()| heard.event(&done(1)));
        let rest = waiting.chunks_until("access_withdrawn").unwrap();
        assert!(!rest.contains("by now") && !rest.contains("done"), "{rest}");
        // It has not gone on, so nothing was read.
        let listed = scene.daemon.json("sessions", &["list"]).unwrap();
        assert_eq!(listed["contexts"][0]["labels"], json!(["internal"]), "{listed}");
    });
}
