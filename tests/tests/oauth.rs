//! A server that checks tokens itself: what of OAuth passes beside its MCP endpoint, for whom, and what does not.

use std::thread;

use guard_tests::daemon::Daemon;
use guard_tests::https::{Answer, Https, Request};
use guard_tests::puppet::{Heard, Puppet};
use guard_tests::scene::{ADDRESS, apart, call, guard};
use serde_json::{Value, json};

/// Tests run as this user, who is the agent.
const POLICY: &str = "
agents:
  local: {client_id: local, needs: [process], process: {uid: 0}}
  remote: {client_id: remote}
intents:
  demo.open: [{server: demo, tool: open}]
policies:
  - {intent: demo.open, agents: [local, remote], decision: allow}
";

struct Stage {
    daemon: Daemon,
    puppet: Puppet,
    https: Https,
}

impl Stage {
    fn new(policy: &str) -> Self {
        let puppet = Puppet::at(ADDRESS).unwrap();
        let mut daemon = guard("demo", &[("policy.yaml", policy)]).unwrap();
        daemon.config.servers[0].forward_authorization = true;
        daemon.config.servers[0].oauth_paths = vec!["/token".into()];
        daemon.start().unwrap();
        let https = Https::new(ADDRESS, &daemon.ca()).unwrap();
        Self { daemon, puppet, https }
    }

    /// What comes back when the server does as `serve` does.
    fn ask(&self, request: &Request, serve: impl FnOnce(Heard) + Send) -> Answer {
        thread::scope(|scope| {
            let https = &self.https;
            let answer = scope.spawn(move || https.ask(request).unwrap());
            serve(self.puppet.hear().unwrap());
            answer.join().unwrap()
        })
    }

    fn refused(&self, request: &Request) -> (u16, String) {
        let answer = self.https.ask(request).unwrap();
        assert!(self.puppet.heard().is_none(), "it reached the server: {request:?}");
        (answer.status, self.record()["reason"].as_str().unwrap().to_owned())
    }

    fn record(&self) -> Value {
        self.daemon.ledger().unwrap().of_kind("call").last().expect("a call").clone()
    }
}

fn get(path: &str) -> Request {
    Request { path: path.into(), ..Request::bare("GET") }
}

fn post(path: &str, kind: &str, body: &str) -> Request {
    Request { path: path.into(), ..Request::post(&Value::Null) }.instead("Content-Type", kind).body(body)
}

#[test]
fn beside_the_endpoint_passes_what_oauth_needs_and_no_message() {
    apart(|| {
        let stage = Stage::new(POLICY);
        let document =
            json!({"resource": "https://localhost:3001/mcp", "authorization_servers": ["https://as"]});
        for path in ["/.well-known/oauth-protected-resource/mcp", "/.well-known/openid-configuration"] {
            let request =
                get(path).with("Mcp-Session-Id", "of-somebody").with("Authorization", "Bearer token");
            let answer = stage.ask(&request, |heard| {
                assert!(heard.head.starts_with(&format!("GET {path} ")), "{}", heard.head);
                assert_eq!(
                    (heard.header("authorization"), heard.header("mcp-session-id")),
                    (Some("Bearer token"), None)
                );
                heard.answer_with("Mcp-Session-Id: given\r\n", &document).unwrap();
            });
            assert_eq!((answer.status, answer.json()), (200, document.clone()));
            assert_eq!(answer.header("mcp-session-id"), None, "no session is given here");
            let record = stage.record();
            assert_eq!((&record["agent"], &record["decision"]), (&json!("local"), &json!("allow")));
            assert_eq!(record["target"], json!({"kind": "path", "name": path}));
        }
        let form = "application/x-www-form-urlencoded";
        let answer = stage.ask(&post("/token", form, "grant_type=authorization_code&code=a%2Bb"), |heard| {
            assert_eq!(heard.body, b"grant_type=authorization_code&code=a%2Bb");
            heard.answer(&json!({"access_token": "secret", "token_type": "Bearer"})).unwrap();
        });
        assert_eq!((answer.status, &answer.json()["access_token"]), (200, &json!("secret")));
        // A challenge of the endpoint itself.
        let answer = stage.ask(&Request::post(&call(1, "open")), |mut heard| {
            assert_eq!(heard.header("authorization"), None);
            heard
                .write("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer resource_metadata=\"x\"\r\nContent-Length: 0\r\n\r\n")
                .unwrap();
        });
        assert_eq!(
            (answer.status, answer.header("www-authenticate")),
            (401, Some("Bearer resource_metadata=\"x\""))
        );

        let message = call(1, "open").to_string();
        let json = "application/json";
        for (request, expected) in [
            (post("/token", json, &message), (400, "message_elsewhere")),
            (post("/token", json, &format!("[{message}]")), (400, "message_elsewhere")),
            (post("/token", form, &message), (400, "not_a_form")),
            (post("/token", "text/plain", &message), (415, "content_type")),
            (post("/.well-known/oauth-protected-resource", json, "{}"), (404, "unknown_path")),
            (post("/authorize", form, "a=1"), (404, "unknown_path")),
            (Request { path: "/token".into(), ..Request::bare("DELETE") }, (404, "unknown_path")),
            (get("/.well-known/other"), (404, "unknown_path")),
        ] {
            let (status, reason) = stage.refused(&request);
            assert_eq!((status, reason.as_str()), expected, "{request:?}");
        }
        // Nor does an answer bring any.
        let hides = |answer: Value| stage.ask(&get("/token"), |heard| heard.answer(&answer).unwrap()).status;
        assert_eq!(hides(json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": []}})), 502);
        assert_eq!(hides(json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {}})), 502);
        let answer = stage.ask(&get("/token"), |mut heard| {
            heard.stream().unwrap();
            heard.event(&json!({"jsonrpc": "2.0", "method": "notifications/message"})).unwrap();
        });
        assert_eq!(answer.status, 502);
        assert_eq!(stage.daemon.verify().unwrap().code, Some(0));
    });
}

#[test]
fn nobody_unknown_reads_where_tokens_come_from_and_no_secret_of_the_guards_goes_on() {
    apart(|| {
        let stage = Stage::new(&POLICY.replace("uid: 0", "uid: 65533"));
        let credential = stage.daemon.issue("remote").unwrap();
        stage.daemon.reload().unwrap();
        let metadata = get("/.well-known/oauth-protected-resource");
        assert_eq!(stage.refused(&metadata), (403, "unknown_process".into()));
        assert_eq!(stage.refused(&get("/token")), (403, "unknown_process".into()));
        let answer = stage.ask(&metadata.by(&credential), |heard| {
            assert_eq!(heard.header("authorization"), None, "the guard's own secret");
            heard.answer(&json!({"resource": "x"})).unwrap();
        });
        assert_eq!(answer.status, 200);
        let answer = stage.ask(&Request::post(&call(1, "open")).by(&credential), |heard| {
            assert_eq!(heard.header("authorization"), None, "the guard's own secret");
            heard.answer(&json!({"jsonrpc": "2.0", "id": 1, "result": {"content": []}})).unwrap();
        });
        assert_eq!(answer.status, 200);
    });
}
