//! Agents known by client certificates.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, SystemTime};

use guard_tests::daemon::{Credential, Daemon};
use guard_tests::https::{Answer, Https, Line, Request};
use guard_tests::idp::{AUDIENCE, ISSUER, Idp, publish};
use guard_tests::mtls::{ClientCa, Identity, params, subject};
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::puppet::{Heard, Puppet};
use guard_tests::scene::{ADDRESS, apart, call, done_for, guard};
use rcgen::{ExtendedKeyUsagePurpose, SanType, SerialNumber};
use rustix::process::Signal;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const BILLING: &str = "spiffe://corp.example/agent/billing";
const BACKUP: &str = "spiffe://corp.example/agent/backup";

/// Tests run as root, who is the process of `bound`, and not of `nobody`.
const POLICY: &str = r#"
agents:
  billing: {client_id: billing, profiles: [default, night], needs: [certificate], certificate: {spiffe: "spiffe://corp.example/agent/billing"}}
  backup: {client_id: backup, needs: [certificate], certificate: {spiffe: "spiffe://corp.example/agent/backup"}}
  clerk: {client_id: clerk, needs: [certificate], certificate: {subject: "CN=clerk,O=Corp"}}
  mailer: {client_id: mailer, needs: [certificate], certificate: {dns: mailer.corp.example}}
  bound: {client_id: bound, needs: [certificate, process], certificate: {subject: "CN=bound,O=Corp"}, process: {uid: 0}}
  nobody: {client_id: nobody, needs: [certificate, process], certificate: {subject: "CN=nobody,O=Corp"}, process: {uid: 65534}}
  both: {client_id: both, needs: [secret, certificate], certificate: {subject: "CN=both,O=Corp"}}
  signed: {client_id: signed, needs: [token, certificate, process], token: {issuer: corp, subject: "signed@corp"}, certificate: {subject: "CN=signed,O=Corp"}, process: {uid: 0}}
  plain: {client_id: plain}
intents:
  demo.open: [{server: demo, tool: open}]
policies:
  - {intent: demo.open, agents: [billing, backup, clerk, mailer, bound, nobody, both, signed, plain], decision: allow}
"#;

struct Stage {
    daemon: Daemon,
    puppet: Puppet,
    https: Https,
    ca: ClientCa,
    idp: Idp,
    /// `client_ca` and `client_crl` of the guard.
    authorities: PathBuf,
    revoked: PathBuf,
}

impl Stage {
    fn new() -> Self {
        let puppet = Puppet::at(ADDRESS).unwrap();
        let (ca, idp) = (ClientCa::new().unwrap(), Idp::new("key-1").unwrap());
        let mut daemon = guard("demo", &[("policy.yaml", POLICY)]).unwrap();
        let file = |name: &str| daemon.config_file().with_file_name(name);
        let (authorities, revoked) = (file("clients.pem"), file("revoked.pem"));
        fs::write(&authorities, ca.pem()).unwrap();
        ca.revoke(&revoked, &[]).unwrap();
        publish(&file("jwks.json"), &[&idp]).unwrap();
        // Paths count from the directory of guard.yaml.
        daemon.config.tls.client_ca = vec!["clients.pem".into()];
        daemon.config.tls.client_crl = vec!["revoked.pem".into()];
        let issuer = json!({"name": "corp", "issuer": ISSUER, "audience": AUDIENCE, "keys": {"jwks_file": "jwks.json"}});
        daemon.config.issuers = serde_json::from_value(json!([issuer])).unwrap();
        daemon.start().unwrap();
        let https = Https::new(ADDRESS, &daemon.ca()).unwrap();
        Self { daemon, puppet, https, ca, idp, authorities, revoked }
    }

    fn secret(&self, agent: &str) -> Credential {
        let issued = self.daemon.issue(agent).unwrap();
        self.daemon.reload().unwrap();
        issued
    }

    fn named(&self, common_name: &str) -> Identity {
        let mut params = params(&[]).unwrap();
        params.distinguished_name = subject(&[("O", "Corp"), ("CN", common_name)]);
        self.ca.sign(&params).unwrap()
    }

    fn showing(&self, identity: &Identity) -> Https {
        self.https.clone().showing(identity).unwrap()
    }

    /// The head that reached the server.
    fn served(&self, https: &Https, request: &Request) -> String {
        thread::scope(|scope| {
            let answer = scope.spawn(move || https.ask(request).unwrap());
            let heard = self.puppet.hear().unwrap();
            let seen = heard.head.clone();
            let message = serde_json::from_slice(&heard.body).unwrap();
            heard.answer_with("", &done_for(&message)).unwrap();
            let answer = answer.join().unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            seen
        })
    }

    fn refused(&self, https: &Https, request: &Request) -> Value {
        let answer = https.ask(request).unwrap();
        self.is_refused(&answer)
    }

    fn is_refused(&self, answer: &Answer) -> Value {
        assert!(self.puppet.heard().is_none(), "it reached the server: {answer:?}");
        let record = self.record();
        assert_eq!(record["decision"], "deny", "{record}");
        assert!(answer.text().contains(record["reason"].as_str().unwrap()), "{answer:?}: {record}");
        record
    }

    /// That the handshake fails, and nothing is served, recorded or heard: the guard counts it.
    #[track_caller]
    fn shut_out(&self, identity: &Identity) {
        let before = self.shut_outs();
        let records = self.daemon.ledger().unwrap().of_kind("call").count();
        let asked = self.showing(identity).ask(&open());
        assert!(asked.is_err(), "{asked:?}");
        assert!(self.puppet.heard().is_none());
        assert_eq!(self.shut_outs(), before + 1, "{}", self.daemon.log().unwrap());
        assert_eq!(self.daemon.ledger().unwrap().of_kind("call").count(), records);
    }

    fn shut_outs(&self) -> u64 {
        self.daemon.json("status", &[]).unwrap()["client_certificates_refused"].as_u64().unwrap()
    }

    fn record(&self) -> Value {
        self.daemon.ledger().unwrap().of_kind("call").last().expect("a call").clone()
    }

    /// A call whose answer is a stream that goes on.
    fn streaming(&self, https: &Https, request: &Request) -> (Line, Heard) {
        let mut line = https.line().unwrap();
        line.send(&request.bytes()).unwrap();
        let mut server = self.puppet.hear().unwrap();
        server.stream().unwrap();
        server
            .event(&json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "a"}}))
            .unwrap();
        (line, server)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn open() -> Request {
    Request::post(&call(1, "open"))
}

#[track_caller]
fn is_by(record: &Value, agent: &str, evidence: &str) {
    let found = (&record["decision"], &record["agent"], &record["evidence"]);
    assert_eq!(found, (&json!("allow"), &json!(agent), &json!(evidence)), "{record}");
    let certificate = record["certificate"].as_str().unwrap();
    assert!(certificate.len() == 64 && certificate.bytes().all(|b| b.is_ascii_hexdigit()), "{record}");
    if !evidence.contains("secret") && !evidence.contains("token") {
        assert_eq!(record["credential"], format!("x-{}", &certificate[..12]));
    }
}

#[test]
fn a_certificate_is_its_agent_by_spiffe_id_subject_and_dns_name() {
    apart(|| {
        let stage = Stage::new();
        let billing = stage.showing(&stage.ca.workload(BILLING).unwrap());
        stage.served(&billing, &open());
        is_by(&stage.record(), "billing", "certificate");
        let night = open().with("X-Client-ID", "billing").with("X-Profile-ID", "night");
        stage.served(&billing, &night);
        assert_eq!(stage.record()["profile"], "night");
        for header in [("X-Client-ID", "backup"), ("X-Profile-ID", "other")] {
            let record = stage.refused(&billing, &open().with(header.0, header.1));
            assert_eq!(record["reason"], "wrong_client_or_profile");
        }
        stage.served(&stage.showing(&stage.named("clerk")), &open());
        is_by(&stage.record(), "clerk", "certificate");
        let mut by_dns = params(&[]).unwrap();
        by_dns.subject_alt_names = vec![SanType::DnsName("Mailer.corp.example".try_into().unwrap())];
        stage.served(&stage.showing(&stage.ca.sign(&by_dns).unwrap()), &open());
        is_by(&stage.record(), "mailer", "certificate");
        stage.served(&stage.showing(&stage.named("bound")), &open());
        is_by(&stage.record(), "bound", "certificate+process");
        let known = stage.daemon.json("check", &[]).unwrap()["agents"].clone();
        assert_eq!(known["signed"], "token+certificate+process", "{known}");
        assert_eq!(stage.daemon.verify().unwrap().code, Some(0));
    });
}

#[test]
fn without_a_certificate_its_agent_is_nobody_and_others_go_on() {
    apart(|| {
        let stage = Stage::new();
        assert_eq!(stage.refused(&stage.https, &open())["reason"], "no_credential");
        let by_name = open().with("X-Client-ID", "billing");
        assert_eq!(stage.refused(&stage.https, &by_name)["reason"], "no_credential");
        let plain = stage.secret("plain");
        stage.served(&stage.https, &open().by(&plain));
        assert_eq!(stage.record()["evidence"], "client_secret");
        // One that names nobody takes nothing from a secret that needs none.
        stage.served(&stage.showing(&stage.named("stranger")), &open().by(&plain));
        let record = stage.refused(&stage.showing(&stage.named("stranger")), &open());
        assert_eq!((&record["reason"], &record["agent"]), (&json!("unknown_certificate"), &Value::Null));
        assert!(record["certificate"].is_string(), "{record}");
    });
}

#[test]
fn a_certificate_that_does_not_verify_ends_the_handshake() {
    apart(|| {
        let stage = Stage::new();
        let of = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
            let mut params = params(&[BILLING]).unwrap();
            change(&mut params);
            stage.ca.sign(&params).unwrap()
        };
        let hours = |hours: i64| {
            let span = Duration::from_secs(3600 * hours.unsigned_abs());
            let now = SystemTime::now();
            if hours < 0 { (now - span).into() } else { (now + span).into() }
        };
        stage.shut_out(&ClientCa::new().unwrap().workload(BILLING).unwrap());
        stage.shut_out(&of(&|params| (params.not_before, params.not_after) = (hours(-2), hours(-1))));
        stage.shut_out(&of(&|params| (params.not_before, params.not_after) = (hours(1), hours(2))));
        stage.shut_out(&of(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]));
        stage.shut_out(&of(&|params| params.extended_key_usages = Vec::new()));
        let good = of(&|_| {});
        stage.shut_out(&Identity { certificate: good.certificate.clone(), ..stage.named("clerk") });
        stage.served(&stage.showing(&good), &open());
    });
}

#[test]
fn a_name_that_only_looks_like_the_agents_is_not_the_agent() {
    apart(|| {
        let stage = Stage::new();
        let other = |uris: &[&str]| stage.showing(&stage.ca.sign(&params(uris).unwrap()).unwrap());
        for uri in [
            "spiffe://corp.example.evil/agent/billing",
            "spiffe://evil.example/agent/billing",
            "spiffe://corp.example/agent/billing/x",
            "spiffe://corp.example/agent",
        ] {
            assert_eq!(stage.refused(&other(&[uri]), &open())["reason"], "unknown_certificate", "{uri}");
        }
        for uris in [[BILLING, BACKUP], [BACKUP, BILLING], [BILLING, "https://corp.example/"]] {
            let record = stage.refused(&other(&uris), &open());
            assert_eq!(record["reason"], "certificate_malformed", "{uris:?}");
        }
        for attributes in [
            &[("O", "Corp"), ("CN", "clerk2")][..],
            &[("O", "Corp"), ("CN", "xclerk")],
            &[("O", "Corp"), ("OU", "x"), ("CN", "clerk")],
            &[("CN", "clerk"), ("O", "Corp")],
            &[("CN", "clerk,O=Corp")],
            &[("O", "Corp,CN=clerk"), ("CN", "x")],
        ] {
            let mut params = params(&[]).unwrap();
            params.distinguished_name = subject(attributes);
            let https = stage.showing(&stage.ca.sign(&params).unwrap());
            assert_eq!(stage.refused(&https, &open())["reason"], "unknown_certificate", "{attributes:?}");
        }
    });
}

#[test]
fn a_stolen_secret_or_token_is_worthless_without_the_certificate() {
    apart(|| {
        let stage = Stage::new();
        let (both, signed) = (stage.showing(&stage.named("both")), stage.showing(&stage.named("signed")));
        let secret = stage.secret("both");
        stage.served(&both, &open().by(&secret));
        is_by(&stage.record(), "both", "client_secret+certificate");
        let token = stage.idp.token("signed@corp").unwrap();
        let by_token = open().with("Authorization", &format!("Bearer {token}"));
        stage.served(&signed, &by_token);
        is_by(&stage.record(), "signed", "token+certificate+process");
        let billing = stage.showing(&stage.ca.workload(BILLING).unwrap());
        for (https, request, agent, reason) in [
            (&billing, open().by(&secret), json!("both"), "wrong_certificate"),
            (&stage.https, open().by(&secret), json!("both"), "no_certificate"),
            (&both, by_token.clone(), json!("signed"), "wrong_certificate"),
            (&stage.https, by_token, json!("signed"), "no_certificate"),
            // And the other way round.
            (&both, open(), Value::Null, "no_credential"),
            (&signed, open(), Value::Null, "no_credential"),
        ] {
            let record = stage.refused(https, &request);
            assert_eq!((&record["reason"], &record["agent"]), (&json!(reason), &agent), "{record}");
        }
    });
}

#[test]
fn a_stolen_certificate_is_worthless_in_another_process() {
    apart(|| {
        let stage = Stage::new();
        let record = stage.refused(&stage.showing(&stage.named("nobody")), &open());
        let found = (&record["reason"], &record["agent"], &record["evidence"]);
        assert_eq!(found, (&json!("wrong_process"), &json!("nobody"), &json!("certificate")));
        assert_eq!(record["local"]["uid"], 0, "and who sent it: {record}");
    });
}

#[test]
fn a_revoked_certificate_ends_what_is_open_and_comes_in_no_more() {
    apart(|| {
        let stage = Stage::new();
        let mut serial = params(&[BILLING]).unwrap();
        serial.serial_number = Some(SerialNumber::from(4711));
        let identity = stage.ca.sign(&serial).unwrap();
        let other = stage.showing(&stage.ca.workload(BACKUP).unwrap());
        let (mut revoked, mut server) = stage.streaming(&stage.showing(&identity), &open());
        let (_kept, mut kept_server) = stage.streaming(&other, &open());
        stage.ca.revoke(&stage.revoked, &[4711]).unwrap();
        stage.daemon.reload().unwrap();
        let answer = revoked.answer().unwrap().text();
        assert!(answer.contains("notifications/message") && answer.contains("access_withdrawn"), "{answer}");
        server.other_side_leaves().unwrap();
        stage.shut_out(&identity);
        // Nobody else is harmed.
        kept_server
            .event(&json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "b"}}))
            .unwrap();
        stage.served(&other, &open());
    });
}

#[test]
fn the_trail_says_that_a_reload_changed_whose_word_is_taken() {
    apart(|| {
        let stage = Stage::new();
        let last = || stage.daemon.ledger().unwrap().of_kind("policy").last().unwrap().clone();
        let changed = |before: &Value, after: &Value| -> Vec<String> {
            assert_eq!(before["digest"], after["digest"], "no policy was changed");
            let names = ["credentials", "client_ca", "client_crl", "issuer_keys"];
            let differs = |name: &&str| before["digests"][*name] != after["digests"][*name];
            names.into_iter().filter(differs).map(str::to_owned).collect()
        };
        let mut before = last();
        assert_eq!((&before["cause"], &before["digests"]["credentials"]), (&json!("start"), &json!(null)));
        let mut step = |expected: &[&str]| {
            stage.daemon.reload().unwrap();
            let after = last();
            assert_ne!(after["seq"], before["seq"], "each reload has a record");
            assert_eq!((&after["cause"], &after["uid"]), (&json!("operator"), &json!(0)));
            assert_eq!(changed(&before, &after), expected, "{before} {after}");
            // That of the local CA is made anew.
            assert_ne!(before["digests"]["certificate"], after["digests"]["certificate"]);
            let shown = stage.https.line().unwrap().certificate.unwrap();
            assert_eq!(after["digests"]["certificate"], hex(&Sha256::digest(shown)));
            before = after;
        };
        step(&[]);
        let issued = stage.daemon.json("tokens issue", &["--agent", "plain"]).unwrap();
        step(&["credentials"]);
        stage.daemon.json("tokens rotate", &["--agent", "plain"]).unwrap();
        step(&["credentials"]);
        stage.daemon.json("tokens revoke", &[issued["id"].as_str().unwrap()]).unwrap();
        step(&["credentials"]);
        stage.ca.revoke(&stage.revoked, &[4711]).unwrap();
        step(&["client_crl"]);
        let next = ClientCa::new().unwrap();
        fs::write(&stage.authorities, [stage.ca.pem(), next.pem()].concat()).unwrap();
        step(&["client_ca"]);
        publish(&stage.authorities.with_file_name("jwks.json"), &[&Idp::new("key-2").unwrap()]).unwrap();
        step(&["issuer_keys"]);
        stage.daemon.signal(Signal::HUP).unwrap();
        let told = eventually(START_LIMIT, || Ok((last()["cause"] == "signal").then(&last)));
        assert_eq!(changed(&before, &told.unwrap().expect("a record of the reload")), [""; 0]);
        assert_eq!(stage.daemon.verify().unwrap().code, Some(0));
    });
}

#[test]
fn an_authority_that_a_reload_takes_away_ends_what_is_open_and_no_session_is_resumed() {
    apart(|| {
        let stage = Stage::new();
        let https = stage.showing(&stage.ca.workload(BILLING).unwrap());
        // Whatever tickets it gets, each connection begins anew: this client would resume if it could.
        let mut idle = https.line().unwrap();
        idle.send(&open().bytes()).unwrap();
        stage.puppet.hear().unwrap().answer_with("", &done_for(&call(1, "open"))).unwrap();
        assert_eq!(idle.answer().unwrap().status, 200);
        let second = https.line().unwrap();
        assert!(!second.is_resumed && second.certificate.is_some());
        let (mut line, mut server) = stage.streaming(&https, &open());
        // A file that is not sound changes nothing.
        fs::write(&stage.authorities, "").unwrap();
        let told = stage.daemon.reload().unwrap_err().to_string();
        assert!(told.contains("clients.pem") && told.contains("it holds no certificate"), "{told}");
        stage.served(&https, &open());
        let next = ClientCa::new().unwrap();
        fs::write(&stage.authorities, next.pem()).unwrap();
        next.revoke(&stage.revoked, &[]).unwrap();
        stage.daemon.reload().unwrap();
        assert!(line.answer().unwrap().text().contains("access_withdrawn"));
        server.other_side_leaves().unwrap();
        // On a connection from before, and with a session from before.
        idle.send(&open().bytes()).unwrap();
        assert_eq!(stage.is_refused(&idle.answer().unwrap())["reason"], "certificate_untrusted");
        assert!(https.ask(&open()).is_err());
        stage.served(&stage.showing(&next.workload(BILLING).unwrap()), &open());
    });
}

#[test]
fn a_certificate_that_expires_ends_what_is_open() {
    apart(|| {
        let stage = Stage::new();
        let mut short = params(&[BILLING]).unwrap();
        short.not_after = (SystemTime::now() + Duration::from_secs(12)).into();
        let https = stage.showing(&stage.ca.sign(&short).unwrap());
        let mut idle = https.line().unwrap();
        idle.send(&open().bytes()).unwrap();
        stage.puppet.hear().unwrap().answer_with("", &done_for(&call(1, "open"))).unwrap();
        assert_eq!(idle.answer().unwrap().status, 200);
        let (mut line, mut server) = stage.streaming(&https, &open());
        let answer = line.answer().unwrap().text();
        assert!(answer.contains("notifications/message") && answer.contains("access_withdrawn"), "{answer}");
        server.other_side_leaves().unwrap();
        idle.send(&open().bytes()).unwrap();
        assert_eq!(stage.is_refused(&idle.answer().unwrap())["reason"], "certificate_expired");
        // Nor on a new connection; for the rest of its last second the handshake may still go well.
        let anew = https.ask(&open());
        assert!(
            anew.as_ref().map_or(true, |answer| answer.text().contains("certificate_expired")),
            "{anew:?}"
        );
        assert!(stage.puppet.heard().is_none());
    });
}

#[test]
fn a_header_that_claims_a_certificate_proves_nothing_and_goes_to_no_server() {
    apart(|| {
        let stage = Stage::new();
        let claims = [
            ("X-Forwarded-Client-Cert", "URI=spiffe://corp.example/agent/billing"),
            ("X-SSL-Client-S-DN", "CN=clerk,O=Corp"),
            ("X-SSL-Client-Verify", "SUCCESS"),
            ("X-SSL-Client-Cert", "a"),
            ("Client-Cert", ":MIIB:"),
            ("X-Client-Cert", "a"),
            ("X-ARR-ClientCert", "a"),
            ("Cf-Client-Cert-Sha256", "a"),
            ("Remote-User", "billing"),
            ("X-Auth-Request-User", "billing"),
            ("X-Authenticated-User", "billing"),
            ("X-MS-Client-Principal-Name", "billing"),
        ];
        let claiming = |request: Request| {
            claims.iter().fold(request, |request, (name, value)| request.with(name, value))
        };
        assert_eq!(stage.refused(&stage.https, &claiming(open()))["reason"], "no_credential");
        let plain = stage.secret("plain");
        let head = stage.served(&stage.https, &claiming(open()).by(&plain)).to_lowercase();
        for (name, _) in claims {
            assert!(!head.contains(&name.to_lowercase()), "{name}: {head}");
        }
        assert_eq!(stage.record()["certificate"], Value::Null);
    });
}

#[test]
fn a_web_page_is_no_agent_though_its_browser_has_the_certificate() {
    apart(|| {
        let stage = Stage::new();
        let (billing, both) =
            (stage.showing(&stage.ca.workload(BILLING).unwrap()), stage.showing(&stage.named("both")));
        for (name, value) in [("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site")] {
            assert_eq!(stage.refused(&billing, &open().with(name, value))["reason"], "web_page", "{name}");
        }
        // No page knows the secret.
        let secret = stage.secret("both");
        stage.served(&both, &open().by(&secret).with("Origin", "https://app.example"));
    });
}

#[test]
fn an_entry_that_needs_a_certificate_wants_a_ca_in_guard_yaml() {
    let daemon = guard("demo", &[("policy.yaml", POLICY)]).unwrap();
    daemon.write_config().unwrap();
    let output = daemon.output("check", &[]).unwrap();
    assert!(!output.status.success());
    let told = String::from_utf8(output.stderr).unwrap();
    assert!(
        told.contains("needs a certificate, and no client is asked for one") && told.contains("client_ca"),
        "{told}"
    );
}
