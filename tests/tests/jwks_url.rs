//! Issuers that are asked for their keys over HTTPS.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::thread;
use std::time::{Duration, Instant};

use guard_tests::ca::TestCa;
use guard_tests::daemon::Daemon;
use guard_tests::https::{Answer, Https, Request};
use guard_tests::idp::{AUDIENCE, ISSUER, Idp};
use guard_tests::idp_online::{IdpOnline, Manner};
use guard_tests::process::eventually;
use guard_tests::puppet::Puppet;
use guard_tests::scene::{ADDRESS, apart, call, done_for, guard};
use serde_json::{Value, json};

const POLICY: &str = r#"
agents:
  billing: {client_id: billing, needs: [token], token: {issuer: corp, subject: "billing@corp"}}
  desk: {client_id: desk}
intents:
  demo.open: [{server: demo, tool: open}]
policies:
  - {intent: demo.open, agents: [billing, desk], decision: allow}
"#;

const PATIENCE: Duration = Duration::from_secs(30);
const IDP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8443);

struct Stage {
    daemon: Daemon,
    ca: TestCa,
}

impl Stage {
    /// A guard, not yet running, that asks at `url`.
    fn new(url: &str, more: &Value) -> Self {
        let ca = TestCa::new().unwrap();
        let mut daemon = guard("demo", &[("policy.yaml", POLICY)]).unwrap();
        let mut jwks = json!({"url": url, "ca_file": ca.ca()});
        jwks.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let issuer =
            json!({"name": "corp", "issuer": ISSUER, "audience": AUDIENCE, "keys": {"jwks_url": jwks}});
        daemon.config.issuers = serde_json::from_value(json!([issuer])).unwrap();
        Self { daemon, ca }
    }

    fn https(&self) -> Https {
        Https::new(ADDRESS, &self.daemon.ca()).unwrap()
    }

    fn ask(&self, token: &str) -> Answer {
        self.https().ask(&request(token)).unwrap()
    }

    fn issuer(&self) -> Value {
        self.daemon.status().unwrap()["issuers"][0].clone()
    }

    /// Waits until `status` says this of the issuer.
    fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let found = eventually(PATIENCE, || Ok(Some(self.issuer()).filter(|issuer| is(issuer)))).unwrap();
        found.unwrap_or_else(|| panic!("{what}: {}", self.issuer()))
    }

    fn events(&self) -> Vec<Value> {
        self.daemon.ledger().unwrap().of_kind("issuer_keys").cloned().collect()
    }
}

fn url() -> String {
    format!("https://localhost:{}/jwks.json", IDP.port())
}

fn request(token: &str) -> Request {
    Request::post(&call(1, "open")).with("Authorization", &format!("Bearer {token}"))
}

fn served(answer: &Answer) -> bool {
    answer.status == 200 && answer.text().contains("done")
}

#[test]
fn keys_change_without_a_reload_and_one_that_is_withdrawn_ends_what_is_open() {
    apart(|| {
        let puppet = Puppet::at(ADDRESS).unwrap();
        let mut stage = Stage::new(&url(), &json!({"refresh_seconds": 5}));
        let online = IdpOnline::start(IDP, &stage.ca).unwrap();
        let (old, new) = (Idp::new("key-1").unwrap(), Idp::new("key-2").unwrap());
        online.publish(&[&old]);
        stage.daemon.start().unwrap();
        assert!(online.asked() >= 1);
        // A stream of the old key's token, which stays open.
        let old_token = old.token("billing@corp").unwrap();
        let mut line = stage.https().line().unwrap();
        line.send(&request(&old_token).bytes()).unwrap();
        let mut stream = puppet.hear().unwrap();
        stream.stream().unwrap();
        stream.event(&json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "first"}})).unwrap();
        assert_eq!(line.head().unwrap().status, 200);
        line.chunks_until("first").unwrap();
        puppet.answer_all(done_for);

        // The first token of the new key has the issuer asked; nobody reloads.
        online.publish(&[&old, &new]);
        assert!(served(&stage.ask(&new.token("billing@corp").unwrap())));
        assert!(served(&stage.ask(&old_token)), "both are good");
        online.publish(&[&new]);
        stage.until("the old key is gone", |issuer| issuer["keys"] == 1);
        let rest = line.chunks_until("access_withdrawn").unwrap();
        assert!(rest.contains("no longer let in"), "{rest}");
        let refused = stage.ask(&old_token);
        assert!(refused.text().contains("token_unknown_key"), "{refused:?}");
        assert!(served(&stage.ask(&new.token("billing@corp").unwrap())));
        stage.daemon.reload().unwrap();
        assert!(served(&stage.ask(&new.token("billing@corp").unwrap())), "a reload leaves them");
        let states: Vec<_> =
            stage.events().iter().map(|event| (event["state"].clone(), event["keys"].clone())).collect();
        assert_eq!(
            states,
            [(json!("taken"), json!(1)), (json!("taken"), json!(2)), (json!("taken"), json!(1))]
        );
        assert_eq!(stage.daemon.verify().unwrap().code, Some(0));
    });
}

#[test]
fn a_start_without_the_issuer_serves_others_and_its_tokens_as_soon_as_it_answers() {
    apart(|| {
        let puppet = Puppet::at(ADDRESS).unwrap();
        puppet.answer_all(done_for);
        let mut stage = Stage::new(&url(), &json!({}));
        let idp = Idp::new("key-1").unwrap();
        let credential = stage.daemon.issue("desk").unwrap();
        stage.daemon.start().unwrap();
        let token = idp.token("billing@corp").unwrap();
        let refused = stage.ask(&token);
        assert!(refused.text().contains("token_keys_unavailable"), "{refused:?}");
        assert!(served(&stage.https().ask(&Request::post(&call(1, "open")).by(&credential)).unwrap()));
        assert!(
            stage.issuer()["error"].as_str().unwrap().contains("cannot be reached"),
            "{}",
            stage.issuer()
        );
        let shown = stage.daemon.output("status", &[]).unwrap();
        assert!(String::from_utf8_lossy(&shown.stdout).contains("NO KEYS   corp"));
        let online = IdpOnline::start(IDP, &stage.ca).unwrap();
        online.publish(&[&idp]);
        stage.until("it has answered", |issuer| issuer["keys"] == 1);
        assert!(served(&stage.ask(&token)));
        let states: Vec<_> = stage.events().iter().map(|event| event["state"].clone()).collect();
        assert_eq!(states, ["unavailable", "taken"]);
    });
}

#[test]
fn while_it_answers_badly_the_last_keys_stay_and_end_when_they_are_stale() {
    apart(|| {
        Puppet::at(ADDRESS).unwrap().answer_all(done_for);
        let mut stage = Stage::new(&url(), &json!({"refresh_seconds": 5, "stale_seconds": 25}));
        let online = IdpOnline::start(IDP, &stage.ca).unwrap();
        let idp = Idp::new("key-1").unwrap();
        online.publish(&[&idp]);
        stage.daemon.start().unwrap();
        let token = idp.token("billing@corp").unwrap();
        // Where a redirect leads: whoever follows it finds nothing wrong.
        let elsewhere = IdpOnline::start(SocketAddr::new(IDP.ip(), 8444), &stage.ca).unwrap();
        elsewhere.publish(&[&idp]);
        let begun = Instant::now();
        for (manner, words) in [
            (Manner::Document("garbage".into()), "JSON"),
            (Manner::Oversized, "more than 262144 bytes"),
            (Manner::Redirect(elsewhere.url()), "redirect"),
            (Manner::Status(503), "it answered 503"),
            (Manner::Closed, "no answer"),
        ] {
            online.behave(manner.clone());
            stage.until(&format!("{manner:?}"), |issuer| {
                issuer["error"].as_str().is_some_and(|error| error.contains(words))
            });
            assert!(served(&stage.ask(&token)), "{manner:?} after {:?}", begun.elapsed());
            online.publish(&[&idp]);
            stage.until("it is well again", |issuer| issuer["error"].is_null());
        }
        assert_eq!(elsewhere.asked(), 0, "a redirect was followed");
        // One byte a second, and then nothing of use for too long.
        online.behave(Manner::Slow);
        stage.until("it is slow", |issuer| {
            issuer["error"].as_str().is_some_and(|error| error.contains("within 10 s"))
        });
        assert!(served(&stage.ask(&token)));
        online.behave(Manner::Status(500));
        stage.until("its keys are stale", |issuer| issuer["keys"] == 0);
        let refused = stage.ask(&token);
        assert!(refused.text().contains("token_keys_unavailable"), "{refused:?}");
        assert_eq!(stage.events().last().unwrap()["state"], "ended");
        online.publish(&[&idp]);
        stage.until("it is well again", |issuer| issuer["keys"] == 1);
        assert!(served(&stage.ask(&token)));
    });
}

#[test]
fn a_key_that_is_withdrawn_ends_though_the_rest_of_the_set_displeases() {
    apart(|| {
        Puppet::at(ADDRESS).unwrap().answer_all(done_for);
        let mut stage = Stage::new(&url(), &json!({"refresh_seconds": 5}));
        let online = IdpOnline::start(IDP, &stage.ca).unwrap();
        let (stolen, good) = (Idp::new("key-1").unwrap(), Idp::new("key-2").unwrap());
        online.publish(&[&stolen, &good]);
        stage.daemon.start().unwrap();
        let (theirs, ours) = (stolen.token("billing@corp").unwrap(), good.token("billing@corp").unwrap());
        assert!(served(&stage.ask(&theirs)) && served(&stage.ask(&ours)));
        let mut set = json!({"keys": [good.jwk()]});
        set["keys"].as_array_mut().unwrap().push(json!({"kty": "oct", "k": "c2VjcmV0"}));
        online.behave(Manner::Document(set.to_string()));
        stage.until("one is withdrawn", |issuer| issuer["keys"] == 1);
        assert!(stage.ask(&theirs).text().contains("token_unknown_key"));
        assert!(served(&stage.ask(&ours)), "what it still names is as good as before");
        online.behave(Manner::Document(json!({"keys": []}).to_string()));
        stage.until("all are withdrawn", |issuer| issuer["keys"] == 0);
        assert!(stage.ask(&ours).text().contains("token_keys_unavailable"));
        online.publish(&[&good]);
        stage.until("it is well again", |issuer| issuer["keys"] == 1);
        assert!(served(&stage.ask(&ours)));
    });
}

#[test]
fn made_up_names_of_keys_have_the_issuer_asked_less_and_less_often_and_keep_nobody_waiting() {
    apart(|| {
        Puppet::at(ADDRESS).unwrap().answer_all(done_for);
        let mut stage = Stage::new(&url(), &json!({}));
        let online = IdpOnline::start(IDP, &stage.ca).unwrap();
        let idp = Idp::new("key-1").unwrap();
        online.publish(&[&idp]);
        stage.daemon.start().unwrap();
        let forged = Idp::new("made-up").unwrap().token("billing@corp").unwrap();
        let begun = Instant::now();
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..25 {
                        let refused = stage.ask(&forged);
                        assert!(refused.text().contains("token_unknown_key"), "{refused:?}");
                    }
                });
            }
        });
        let elapsed = begun.elapsed();
        println!("200 forged tokens in {elapsed:?}: asked {} times", online.asked());
        // At the start; for the first of them, 10 s later, and 20 s after that.
        let fourth = eventually(Duration::from_secs(60), || {
            assert!(stage.ask(&forged).text().contains("token_unknown_key"));
            Ok((online.asked() == 4).then(|| begun.elapsed()))
        });
        let fourth = fourth.unwrap().expect("it is asked again");
        // What it waits for, less what a token may have been under way when the first question was noted.
        assert!(fourth > Duration::from_secs(28), "asked four times within {fourth:?}");
        let after = Instant::now();
        while after.elapsed() < Duration::from_secs(3) {
            assert!(stage.ask(&forged).text().contains("token_unknown_key"));
            thread::sleep(Duration::from_millis(200));
        }
        assert_eq!(online.asked(), 4);
        assert!(served(&stage.ask(&idp.token("billing@corp").unwrap())));
    });
}

#[test]
fn another_ca_speaks_for_the_issuer_as_soon_as_its_file_says_so() {
    apart(|| {
        Puppet::at(ADDRESS).unwrap().answer_all(done_for);
        let mut stage = Stage::new(&url(), &json!({"refresh_seconds": 5}));
        let next = TestCa::new().unwrap();
        let online = IdpOnline::start(IDP, &next).unwrap();
        let idp = Idp::new("key-1").unwrap();
        online.publish(&[&idp]);
        stage.daemon.start().unwrap();
        let token = idp.token("billing@corp").unwrap();
        assert!(stage.ask(&token).text().contains("token_keys_unavailable"));
        // Nobody reloads.
        let file = stage.ca.ca();
        fs::copy(next.ca(), &file).unwrap();
        stage.until("its CA is known", |issuer| issuer["keys"] == 1);
        assert!(served(&stage.ask(&token)));
        let told = |words: &str| {
            stage.until(words, |issuer| issuer["error"].as_str().is_some_and(|error| error.contains(words)));
        };
        fs::set_permissions(&file, fs::Permissions::from_mode(0o666)).unwrap();
        told("others than its owner may write this file");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
        fs::write(&file, "garbage").unwrap();
        told("there is no certificate in it");
        assert!(served(&stage.ask(&token)), "the last keys stay");
        let refused = stage.daemon.reload().unwrap_err().to_string();
        assert!(refused.contains("there is no certificate in it"), "{refused}");
    });
}

#[test]
fn nobody_else_speaks_for_the_issuer() {
    apart(|| {
        Puppet::at(ADDRESS).unwrap().answer_all(done_for);
        let idp = Idp::new("key-1").unwrap();
        let token = idp.token("billing@corp").unwrap();
        // A certificate of another CA.
        let mut stage = Stage::new(&url(), &json!({}));
        let stranger = TestCa::new().unwrap();
        let online = IdpOnline::start(IDP, &stranger).unwrap();
        online.publish(&[&idp]);
        stage.daemon.start().unwrap();
        let issuer = stage.until("another CA", |issuer| !issuer["error"].is_null());
        assert!(issuer["error"].as_str().unwrap().contains("certificate"), "{issuer}");
        assert!(stage.ask(&token).text().contains("token_keys_unavailable"));
        assert_eq!(online.asked(), 0, "it was asked nothing");
        stage.daemon.stop().unwrap();
        drop(stage);
        // A protected server, by the guard's own connection.
        let mut stage = Stage::new(&format!("https://localhost:{}/jwks.json", ADDRESS.port()), &json!({}));
        stage.daemon.start().unwrap();
        let issuer = stage.until("a protected server", |issuer| !issuer["error"].is_null());
        assert!(issuer["error"].as_str().unwrap().contains("port of a protected server"), "{issuer}");
    });
}
