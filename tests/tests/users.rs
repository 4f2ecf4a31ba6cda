//! Agents that work for users, as their tokens name them.

use std::thread;

use guard_tests::daemon::Daemon;
use guard_tests::https::{Answer, Https, Request};
use guard_tests::idp::{AUDIENCE, ISSUER, Idp, claims, publish};
use guard_tests::puppet::Puppet;
use guard_tests::scene::{ADDRESS, apart, call, done_for, guard};
use serde_json::{Value, json};

const POLICY: &str = r#"
agents:
  desk: {client_id: desk, needs: [token], token: {issuer: corp, subject: "desk@corp"}}
intents:
  demo.open: [{server: demo, tool: open}]
  demo.refund: [{server: demo, tool: refund}]
policies:
  - {intent: demo.open, agents: [desk], decision: allow}
  - {intent: demo.refund, agents: [desk], decision: allow, conditions: {source: {user_in: [alice@corp.example]}}}
velocity_rules:
  - {name: two-a-user, tool: open, per: [agent, user], window: 1h, max_calls: 2, exceeded_action: deny}
"#;

struct Stage {
    daemon: Daemon,
    puppet: Puppet,
    https: Https,
    idp: Idp,
}

impl Stage {
    fn new(demand: &str) -> Self {
        Self::with(POLICY, &json!({"user_claim": "email", "user": demand}))
    }

    /// With more in the issuer's entry.
    fn with(policy: &str, more: &Value) -> Self {
        let puppet = Puppet::at(ADDRESS).unwrap();
        let idp = Idp::new("key-1").unwrap();
        let mut daemon = guard("demo", &[("policy.yaml", policy)]).unwrap();
        publish(&daemon.config_file().with_file_name("jwks.json"), &[&idp]).unwrap();
        let mut issuer = json!({"name": "corp", "issuer": ISSUER, "audience": AUDIENCE, "keys": {"jwks_file": "jwks.json"}});
        issuer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        daemon.config.issuers = serde_json::from_value(json!([issuer])).unwrap();
        daemon.start().unwrap();
        let https = Https::new(ADDRESS, &daemon.ca()).unwrap();
        Self { daemon, puppet, https, idp }
    }

    /// The agent's, for this user; null: for nobody.
    fn by(&self, message: &Value, user: &Value) -> Request {
        let mut claims = claims("desk@corp", 600);
        if !user.is_null() {
            claims["email"] = user.clone();
        }
        let token = self.idp.sign(&claims).unwrap();
        Request::post(message).with("Authorization", &format!("Bearer {token}"))
    }

    fn served(&self, request: &Request, headers: &str) -> Value {
        self.heard(request, headers).0
    }

    /// The record, and the head that reached the server.
    fn heard(&self, request: &Request, headers: &str) -> (Value, String) {
        let (answer, head) = thread::scope(|scope| {
            let https = &self.https;
            let answer = scope.spawn(move || https.ask(request).unwrap());
            let heard = self.puppet.hear().unwrap();
            let seen = heard.head.to_lowercase();
            let message = serde_json::from_slice(&heard.body).unwrap();
            heard.answer_with(headers, &done_for(&message)).unwrap();
            (answer.join().unwrap(), seen)
        });
        assert_eq!(answer.status, 200, "{answer:?}");
        (self.record(), head)
    }

    fn refused(&self, request: &Request) -> Value {
        let answer: Answer = self.https.ask(request).unwrap();
        assert!(self.puppet.heard().is_none(), "it reached the server: {answer:?}");
        let record = self.record();
        assert_eq!(record["decision"], "deny", "{record}");
        record
    }

    fn record(&self) -> Value {
        self.daemon.ledger().unwrap().of_kind("call").last().expect("a call").clone()
    }
}

fn hello() -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}})
}

#[test]
fn a_token_says_which_profile_its_caller_has_and_no_header_says_otherwise() {
    apart(|| {
        let profiles = "profiles: {narrow: {intents: [demo.open]}, wide: {intents: [\"*\"]}}\n";
        let policy = POLICY
            .replace("{client_id: desk,", "{client_id: desk, profiles: [wide, narrow],")
            .replace(", conditions: {source: {user_in: [alice@corp.example]}}", "");
        let stage = Stage::with(&(policy + profiles), &json!({"profile_claim": "guard_profile"}));
        let by = |profile: Value, tool: &str| {
            let mut claims = claims("desk@corp", 600);
            if !profile.is_null() {
                claims["guard_profile"] = profile;
            }
            let token = stage.idp.sign(&claims).unwrap();
            Request::post(&call(1, tool)).with("Authorization", &format!("Bearer {token}"))
        };
        assert_eq!(stage.served(&by(json!("wide"), "refund"), "")["profile"], "wide");
        assert_eq!(stage.served(&by(json!("narrow"), "open"), "")["profile"], "narrow");
        assert_eq!(
            stage.served(&by(json!("narrow"), "open").with("X-Profile-ID", "narrow"), "")["profile"],
            "narrow"
        );
        let reason = |request: &Request| stage.refused(request)["reason"].clone();
        assert_eq!(reason(&by(json!("narrow"), "refund")), "profile_denies");
        // Neither a header nor another word makes more of it.
        assert_eq!(
            reason(&by(json!("narrow"), "refund").with("X-Profile-ID", "wide")),
            "wrong_client_or_profile"
        );
        assert_eq!(reason(&by(json!("other"), "open")), "wrong_client_or_profile");
        for none in [Value::Null, json!(["wide"]), json!("")] {
            assert_eq!(reason(&by(none, "open").with("X-Profile-ID", "wide")), "token_no_profile");
        }
    });
}

#[test]
fn a_session_of_one_user_is_no_other_users_and_not_the_agents_own() {
    apart(|| {
        let stage = Stage::new("optional");
        let (alice, bob) = (json!("alice@corp.example"), json!("bob@corp.example"));
        let record = stage.served(&stage.by(&hello(), &alice), "Mcp-Session-Id: s-1\r\n");
        assert_eq!((&record["agent"], &record["user"]), (&json!("desk"), &alice));
        let on = |user: &Value| stage.by(&call(2, "open"), user).with("Mcp-Session-Id", "s-1");
        for other in [bob, Value::Null, json!("Alice@corp.example")] {
            let record = stage.refused(&on(&other));
            let found = (&record["reason"], &record["cause"], &record["user"]);
            assert_eq!(found, (&json!("unknown_session"), &json!("another_agents"), &other));
        }
        assert_eq!(stage.served(&on(&alice), "")["user"], alice, "another token of the same user");
        let listed = stage.daemon.json("sessions", &["list"]).unwrap();
        assert_eq!(listed["sessions"][0]["user"], alice, "{listed}");
        let output = stage.daemon.output("audit list", &["--user", "alice@corp.example"]).unwrap();
        let table = String::from_utf8(output.stdout).unwrap();
        assert!(table.contains("desk for") && !table.contains("bob"), "{table}");
    });
}

#[test]
fn a_user_is_the_tokens_word_and_no_headers() {
    apart(|| {
        let stage = Stage::new("required");
        // What servers believe of a proxy that signs users in.
        let believed = [
            "X-Forwarded-User",
            "X-Forwarded-Email",
            "Remote-User",
            "X-Remote-User",
            "X-Auth-Request-Email",
            "X-Authenticated-User",
            "X-WebAuth-User",
            "X-MS-Client-Principal-Name",
            "X-Goog-Authenticated-User-Email",
            "X-Amzn-Oidc-Identity",
            "Cf-Access-Authenticated-User-Email",
            "Tailscale-User-Login",
        ];
        let spoofed = |request: Request| {
            (["X-User", "X-User-ID", "Email", "On-Behalf-Of"].iter().chain(&believed))
                .fold(request, |request, name| request.with(name, "alice@corp.example"))
        };
        assert_eq!(
            stage.refused(&spoofed(stage.by(&call(1, "open"), &Value::Null)))["reason"],
            "token_no_user"
        );
        for none in
            [json!(""), json!(["alice@corp.example"]), json!({"a": 1}), json!("a b"), json!("a\u{202e}b")]
        {
            assert_eq!(
                stage.refused(&stage.by(&call(1, "open"), &none))["reason"],
                "token_no_user",
                "{none}"
            );
        }
        let bob = json!("bob@corp.example");
        let (record, head) = stage.heard(&spoofed(stage.by(&call(1, "open"), &bob)), "");
        assert_eq!(record["user"], bob);
        for name in believed {
            assert!(!head.contains(&name.to_lowercase()), "{name}: {head}");
        }
        assert_eq!(stage.refused(&spoofed(stage.by(&call(1, "refund"), &bob)))["reason"], "condition_failed");
        stage.served(&stage.by(&call(1, "refund"), &json!("alice@corp.example")), "");
    });
}

#[test]
fn each_user_of_an_agent_is_counted_apart_and_nobody_is_one_of_them() {
    apart(|| {
        let stage = Stage::new("optional");
        for user in [json!("alice@corp.example"), json!("bob@corp.example"), Value::Null] {
            for _ in 0..2 {
                stage.served(&stage.by(&call(1, "open"), &user), "");
            }
            assert_eq!(
                stage.refused(&stage.by(&call(1, "open"), &user))["reason"],
                "velocity_exceeded",
                "{user}"
            );
        }
    });
}
