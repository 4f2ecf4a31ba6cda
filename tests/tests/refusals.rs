//! What a refused request gets back, to the byte.

use std::fs;

use guard_tests::https::{Answer, Request, plain};
use guard_tests::scene::{ADDRESS, Scene, apart, call, done};
use guard_tests::world::{HOST_V4, PORT, World};
use mcp_guard::config::Plaintext;
use serde_json::{Value, json};

/// The decision's id in an answer, after checking that its record is in the trail.
fn decision(scene: &Scene, answer: &Answer) -> String {
    let message = answer.json();
    let found = ["/result/_meta", "/error/data"]
        .iter()
        .find_map(|place| message.pointer(&format!("{place}/mcp-guard~1decision/id"))?.as_str());
    let id = found.unwrap_or_else(|| panic!("no decision in {message}")).to_owned();
    let ledger = scene.daemon.ledger().unwrap();
    assert!(ledger.of_kind("call").any(|record| record["id"] == id), "{id} is not in the trail");
    id
}

/// A tool result that refuses.
fn refused(id: u64, text: &str, meta: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": {
        "content": [{"type": "text", "text": text}], "isError": true, "_meta": {"mcp-guard/decision": meta}}})
}

/// A JSON-RPC error that refuses.
fn failed(id: &Value, code: i64, text: &str, data: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": text, "data": {"mcp-guard/decision": data}}})
}

/// The same answer, and no more than the headers that a JSON answer has.
fn assert_json(answer: &Answer, status: u16, expected: &Value) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.text(), expected.to_string());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

/// One allowed call goes through: it is the first that reached the server.
fn assert_nothing_reached_the_server_yet(scene: &Scene) {
    let mut line = scene.https.line().unwrap();
    line.send(&scene.post(&call(4711, "open")).bytes()).unwrap();
    let heard = scene.puppet.hear().unwrap();
    assert_eq!(heard.message(), call(4711, "open"));
    heard.answer(&done(4711)).unwrap();
    assert_eq!(line.answer().unwrap().json(), done(4711));
}

#[test]
fn a_refused_call_is_a_tool_result_that_says_why() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let answer = scene.https.ask(&scene.post(&call(1, "closed"))).unwrap();
        let id = decision(&scene, &answer);
        let text = format!(
            "mcp-guard refused the call of closed: Closed on Sundays. Trying again will not help. (decision {id})"
        );
        let meta = json!({"id": id, "reason": "denied_by_rule", "rule": "keep-closed"});
        assert_json(&answer, 200, &refused(1, &text, &meta));

        // Stateless clients want to know that this is the whole result.
        let mut modern = call(2, "closed");
        modern["params"]["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
        let request = scene.post(&modern).with("MCP-Protocol-Version", "2026-07-28");
        let request = request.with("Mcp-Method", "tools/call").with("Mcp-Name", "closed");
        let answer = scene.https.ask(&request).unwrap();
        let message = answer.json();
        assert_eq!(message["result"]["resultType"], "complete");
        assert_eq!(message["result"]["isError"], true);

        let answer = scene.https.ask(&scene.post(&call(3, "vetted"))).unwrap();
        let message = answer.json();
        let text = message["result"]["content"][0]["text"].as_str().unwrap();
        assert_eq!(text.matches("needs the approval of role:lead.").count(), 1, "{text}");
        let id = decision(&scene, &answer);
        let meta = json!({"id": id, "reason": "needs_approval", "rule": "four-eyes"});
        assert_json(&answer, 200, &refused(3, text, &meta));

        assert_nothing_reached_the_server_yet(&scene);
    });
}

#[test]
fn a_hidden_tool_cannot_be_told_from_none() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        for tool in ["secret", "no-such-tool"] {
            let answer = scene.https.ask(&scene.post(&call(1, tool))).unwrap();
            let expected = json!({"jsonrpc": "2.0", "id": 1,
                "error": {"code": -32602, "message": format!("Unknown tool: {tool}")}});
            assert_json(&answer, 200, &expected);
        }
        let ledger = scene.daemon.ledger().unwrap();
        assert_eq!(ledger.calls("deny", "secret").count(), 1);
        assert_nothing_reached_the_server_yet(&scene);
    });
}

/// Of a stateless client, which names in its headers what it asks for.
fn modern(scene: &Scene, method: &str, name: &str, mut params: Value) -> Request {
    params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
    let request = scene.post(&json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}));
    let request = request.with("MCP-Protocol-Version", "2026-07-28").with("Mcp-Method", method);
    if name.is_empty() { request } else { request.with("Mcp-Name", name) }
}

#[test]
fn a_hidden_prompt_or_resource_is_answered_like_one_that_is_not_there() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let prompt = json!({"name": "nightly"});
        let resource = json!({"uri": "file:///etc/shadow"});
        let unknown_prompt = json!({"code": -32602, "message": "Unknown prompt: nightly"});
        let not_found = |code: i32| json!({"code": code, "message": "Resource not found", "data": resource});
        let session = |method: &str, params: &Value| {
            scene.post(&json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params}))
        };
        let uri = "file:///etc/shadow";
        for (request, error) in [
            (session("prompts/get", &prompt), unknown_prompt.clone()),
            (session("resources/read", &resource), not_found(-32002)),
            (session("resources/subscribe", &resource), not_found(-32002)),
            (modern(&scene, "prompts/get", "nightly", prompt), unknown_prompt),
            (modern(&scene, "resources/read", uri, resource.clone()), not_found(-32602)),
        ] {
            let answer = scene.https.ask(&request).unwrap();
            assert_json(&answer, 200, &json!({"jsonrpc": "2.0", "id": 1, "error": error}));
        }
        let ledger = scene.daemon.ledger().unwrap();
        assert_eq!(ledger.of_kind("call").filter(|record| record["target"]["name"] == uri).count(), 3);
        assert_nothing_reached_the_server_yet(&scene);
    });
}

#[test]
fn a_stateless_client_is_told_of_a_hidden_method_by_the_code_that_it_knows() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        for (method, params) in [
            ("skills/list", json!({})),
            // Of older revisions, whatever they name.
            ("resources/subscribe", json!({})),
            ("resources/unsubscribe", json!({"uri": "file:///etc/shadow"})),
        ] {
            let answer = scene.https.ask(&modern(&scene, method, "", params)).unwrap();
            let id = decision(&scene, &answer);
            let text = answer.json()["error"]["message"].as_str().unwrap().to_owned();
            assert!(text.starts_with("mcp-guard refused this request: "), "{text}");
            let data = json!({"id": id, "reason": "no_intent"});
            assert_json(&answer, 404, &failed(&json!(1), -32601, &text, &data));
        }
        // What every server has is never "not found": a client would take the server for an older one.
        let stranger = scene.daemon.issue("stranger").unwrap();
        scene.daemon.reload().unwrap();
        let mut request = modern(&scene, "server/discover", "", json!({}));
        request
            .headers
            .retain(|(name, _)| !["X-Client-ID", "X-Profile-ID", "Authorization"].contains(&name.as_str()));
        let answer = scene.https.ask(&request.by(&stranger)).unwrap();
        assert_eq!((answer.status, answer.json()["error"]["code"].as_i64()), (200, Some(40300)));
        // Resources to listen to that are hidden do not make listening a method that is not there.
        let listened = json!({"notifications": {"resourceSubscriptions": ["file:///etc/shadow"]}});
        let answer = scene.https.ask(&modern(&scene, "subscriptions/listen", "", listened)).unwrap();
        assert_eq!((answer.status, answer.json()["error"]["code"].as_i64()), (200, Some(40300)));
        assert_nothing_reached_the_server_yet(&scene);
    });
}

#[test]
fn another_refused_method_is_an_error_with_a_code_of_the_guards_own() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let message = json!({"jsonrpc": "2.0", "id": "a", "method": "skills/list"});
        let answer = scene.https.ask(&scene.post(&message)).unwrap();
        let id = decision(&scene, &answer);
        let text = answer.json()["error"]["message"].as_str().unwrap().to_owned();
        assert!(text.starts_with("mcp-guard refused this request: "), "{text}");
        assert!(text.ends_with(&format!("Trying again will not help. (decision {id})")), "{text}");
        let data = json!({"id": id, "reason": "no_intent"});
        assert_json(&answer, 200, &failed(&json!("a"), 40300, &text, &data));
        assert_nothing_reached_the_server_yet(&scene);
    });
}

#[test]
fn a_method_of_the_protocol_is_open_until_an_intent_names_it() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let message = |method: &str, params: &Value| {
            scene.post(&json!({"jsonrpc": "2.0", "id": 4711, "method": method, "params": params}))
        };
        let methods = [
            ("logging/setLevel", json!({"level": "debug"})),
            ("subscriptions/listen", json!({"notifications": {"toolsListChanged": true}})),
            ("tasks/list", json!({})),
        ];
        for (method, params) in &methods {
            let mut line = scene.https.line().unwrap();
            line.send(&message(method, params).bytes()).unwrap();
            let heard = scene.puppet.hear().unwrap();
            assert_eq!(heard.message()["method"], *method);
            heard.answer(&done(4711)).unwrap();
            assert_eq!(line.answer().unwrap().json(), done(4711));
        }
        let closed = "
intents:
  session.log: [{server: demo, method: logging/setLevel}]
  session.listen: [{server: demo, method: subscriptions/listen}]
  session.tasks: [{server: demo, method: tasks/list}]
policies:
  - {intent: 'session.*', agents: [tester], decision: deny, reason: Not here}
";
        fs::write(scene.daemon.config.policy_dir.join("closed.yaml"), closed).unwrap();
        scene.daemon.reload().unwrap();
        for (method, params) in &methods {
            for request in [message(method, params), modern(&scene, method, "", params.clone())] {
                let answer = scene.https.ask(&request).unwrap();
                let error = answer.json()["error"].clone();
                let data = &error["data"]["mcp-guard/decision"];
                assert_eq!((answer.status, &error["code"]), (200, &json!(40300)), "{method}: {error}");
                assert_eq!(data["reason"], "denied_by_rule", "{method}");
                assert!(error["message"].as_str().unwrap().contains("Not here"), "{error}");
            }
        }
        assert_nothing_reached_the_server_yet(&scene);
    });
}

#[test]
fn a_cancellation_that_names_a_request_of_whoever_goes_nowhere() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let message =
            json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}});
        let stateless = scene
            .post(&message)
            .with("MCP-Protocol-Version", "2026-07-28")
            .with("Mcp-Method", "notifications/cancelled");
        for request in [stateless, scene.post(&message)] {
            let answer = scene.https.ask(&request).unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (202, ""));
        }
        let ledger = scene.daemon.ledger().unwrap();
        let reasons: Vec<_> = ledger.of_kind("call").map(|record| record["reason"].clone()).collect();
        assert_eq!(reasons, ["cancelled_without_session", "cancelled_without_session"]);
        assert_nothing_reached_the_server_yet(&scene);
    });
}

#[test]
fn an_answer_to_a_request_of_whoever_goes_nowhere() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let result = json!({"jsonrpc": "2.0", "id": 7, "result": {"action": "accept", "content": {}}});
        let error = json!({"jsonrpc": "2.0", "id": "7", "error": {"code": -1, "message": "no"}});
        let stateless = scene.post(&result).with("MCP-Protocol-Version", "2026-07-28");
        for request in [scene.post(&result), scene.post(&error), stateless] {
            let answer = scene.https.ask(&request).unwrap();
            assert_eq!((answer.status, answer.text().as_str()), (202, ""), "{request:?}");
        }
        let ledger = scene.daemon.ledger().unwrap();
        let reasons: Vec<_> = ledger.of_kind("call").map(|record| record["reason"].clone()).collect();
        assert_eq!(reasons, ["response_without_session"; 3]);
        assert_nothing_reached_the_server_yet(&scene);
    });
}

#[test]
fn who_cannot_prove_a_name_is_told_what_is_missing() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
        let known = scene.post(&message);
        let unknown = format!("Bearer mcpg_{}", "A".repeat(43));
        let twice = known.clone().with("X-Client-ID", &scene.credential.client);
        let stranger = scene.daemon.issue("stranger").unwrap();
        for (request, reason, words) in [
            (Request::post(&message), "no_credential", "the request has no Authorization header"),
            (known.clone().instead("Authorization", "Basic YTpi"), "malformed_credential", "must be `Bearer"),
            (known.clone().without("X-Client-ID"), "missing_header", "has no X-Client-ID header; send"),
            (known.clone().without("X-Profile-ID"), "missing_header", "has no X-Profile-ID header; send"),
            (known.clone().instead("Authorization", &unknown), "unknown_credential", "is not known"),
            (Request::post(&message).by(&stranger), "unknown_credential", "not been reloaded since"),
            (known.clone().instead("X-Profile-ID", "other"), "wrong_client_or_profile", "another client"),
            (known.clone().instead("X-Client-ID", "strange-client"), "wrong_client_or_profile", "belongs to"),
        ] {
            let answer = scene.https.ask(&request).unwrap();
            let id = decision(&scene, &answer);
            let text = answer.json()["error"]["message"].as_str().unwrap().to_owned();
            assert!(text.contains(words), "{reason}: {text}");
            assert_json(&answer, 200, &failed(&json!(1), 40100, &text, &json!({"id": id, "reason": reason})));
        }
        let answer = scene.https.ask(&twice).unwrap();
        assert_eq!((answer.status, answer.json()["error"]["code"].as_i64()), (400, Some(-32600)));

        // After a reload the new credential is known; its agent may still do nothing.
        scene.daemon.reload().unwrap();
        let answer = scene.https.ask(&Request::post(&message).by(&stranger)).unwrap();
        assert_eq!(answer.json()["error"]["code"], 40300);
        assert_nothing_reached_the_server_yet(&scene);
    });
}

#[test]
fn a_refused_notification_is_accepted_and_dropped() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let mut notification = call(1, "closed");
        notification.as_object_mut().unwrap().remove("id");
        let answer = scene.https.ask(&scene.post(&notification)).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (202, ""));
        let nobody = Request::post(&json!({"jsonrpc": "2.0", "id": 1, "result": {}}));
        assert_eq!(scene.https.ask(&nobody).unwrap().status, 202);
        assert_eq!(scene.daemon.ledger().unwrap().calls("deny", "closed").count(), 1);
        assert_nothing_reached_the_server_yet(&scene);
    });
}

#[test]
fn what_is_no_message_gets_an_http_error_with_a_json_rpc_body() {
    apart(|| {
        let scene = Scene::new(&json!({"body_bytes_max": 2000})).unwrap();
        let good = scene.post(&call(1, "open"));
        let body = |body: &str| good.clone().body(body);
        let at = |path: &str| Request { path: path.into(), ..good.clone() };
        let verb = |method| Request { method, ..Request::bare("GET").by(&scene.credential) };
        let long = "x".repeat(2001);
        for (request, status, code, id, reason) in [
            (body("{"), 400, -32700, json!(null), "json_syntax"),
            (body(""), 400, -32700, json!(null), "json_syntax"),
            (body("[]"), 400, -32600, json!(null), "batch"),
            (body("7"), 400, -32600, json!(null), "not_an_object"),
            (body(r#"{"jsonrpc":"1.0","id":5,"method":"ping"}"#), 400, -32600, json!(5), "jsonrpc_version"),
            (
                body(r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#),
                400,
                -32600,
                json!(null),
                "json_duplicate_key",
            ),
            (body(&long), 413, -32600, json!(null), "body_too_large"),
            (good.clone().with("Content-Encoding", "gzip"), 415, -32600, json!(null), "content_encoding"),
            (good.clone().instead("Content-Type", "text/plain"), 415, -32600, json!(null), "content_type"),
            (at("/other"), 404, -32600, json!(null), "unknown_path"),
            (at("/mcp/"), 404, -32600, json!(null), "unknown_path"),
            (verb("PUT"), 405, -32600, json!(null), "http_method"),
            (verb("OPTIONS"), 405, -32600, json!(null), "http_method"),
        ] {
            let answer = scene.https.ask(&request).unwrap();
            let decision = decision(&scene, &answer);
            let text = answer.json()["error"]["message"].as_str().unwrap().to_owned();
            let data = json!({"id": decision, "reason": reason});
            assert_json(&answer, status, &failed(&id, code, &text, &data));
            assert_eq!(answer.header("allow"), (status == 405).then_some("POST, GET, DELETE"));
        }
        assert_nothing_reached_the_server_yet(&scene);
    });
}

#[test]
fn who_takes_events_only_gets_the_refusal_as_an_event() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let request = scene.post(&call(1, "secret")).instead("Accept", "text/event-stream");
        let answer = scene.https.ask(&request).unwrap();
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/event-stream")));
        let expected = json!({"jsonrpc": "2.0", "id": 1,
            "error": {"code": -32602, "message": "Unknown tool: secret"}});
        assert_eq!(answer.text(), format!("event: message\ndata: {expected}\n\n"));
    });
}

/// A refusal that names the https URL and the CA.
fn assert_upgrade(answer: &Answer, host: &str, ca: &str) {
    assert_eq!(answer.status, 426, "{answer:?}");
    assert_eq!(answer.header("upgrade"), Some("TLS/1.3, HTTP/1.1"));
    assert_eq!(answer.header("content-type"), Some("text/plain; charset=utf-8"));
    let expected = format!(
        "mcp-guard protects this port, and it takes HTTPS only.\nUse https://{host}:{PORT}/mcp instead.\n\
         Clients must trust the CA certificate in {ca} on this host\n\
         (NODE_EXTRA_CA_CERTS for Node.js, SSL_CERT_FILE for Python and Rust clients).\n"
    );
    assert_eq!(answer.text(), expected);
}

#[test]
fn plain_http_is_told_where_to_go_and_whom_to_trust() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let mut line = plain(ADDRESS).unwrap();
        line.send(&scene.post(&call(1, "open")).bytes()).unwrap();
        let answer = line.answer().unwrap();
        assert_upgrade(&answer, "localhost", scene.daemon.ca().to_str().unwrap());
        assert!(line.rest().unwrap().is_empty(), "the connection stays open");
        let ledger = scene.daemon.ledger().unwrap();
        assert!(ledger.of_kind("call").any(|record| record["reason"] == "plaintext"));
        assert_nothing_reached_the_server_yet(&scene);
    });
}

#[test]
fn a_server_that_takes_plain_http_takes_it_from_loopback_only() {
    let world = World::new();
    let scene = world.host.run(|| {
        Scene::with(&json!({}), |daemon| {
            daemon.config.servers[0].plaintext = Plaintext::Loopback;
            Ok(())
        })
        .unwrap()
    });
    let request = scene.post(&call(1, "open"));
    let mut local = world.host.run(|| plain(ADDRESS).unwrap());
    local.send(&request.bytes()).unwrap();
    scene.puppet.hear().unwrap().answer(&done(1)).unwrap();
    assert_eq!(local.answer().unwrap().json(), done(1));

    let mut remote = world.remote.run(|| plain(format!("{HOST_V4}:{PORT}").parse().unwrap()).unwrap());
    remote.send(&request.clone().instead("Host", "tools.example:3001").bytes()).unwrap();
    let answer = remote.answer().unwrap();
    assert_upgrade(&answer, "tools.example", scene.daemon.ca().to_str().unwrap());
    assert!(scene.puppet.heard().is_none());
    // Its netns must be there for the unload.
    world.host.run(|| drop(scene));
}
