use std::os::unix::fs::PermissionsExt;

use http::{HeaderMap, HeaderValue};
use jiff::{SignedDuration, Timestamp};

use super::shown::FORM;
use super::*;
use crate::types::{AgentName, ClientId, ProfileName};

struct World {
    dir: tempfile::TempDir,
    secret: String,
    id: String,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let issued = issue_in(dir.path(), "support-agent", "support-assistant", "default");
    World { secret: issued.secret.reveal().to_owned(), id: issued.credential.id().to_string(), dir }
}

fn issue_in(dir: &std::path::Path, agent: &str, client: &str, profile: &str) -> Issued {
    let agent = AgentName::parse(agent).unwrap();
    let (client, profile) = (ClientId::parse(client).unwrap(), ProfileName::parse(profile).unwrap());
    issue(dir, Recipient { agent, client, profile }, at("03:31"), None).unwrap()
}

fn at(time: &str) -> Timestamp {
    format!("2026-11-21T{time}:00Z").parse().unwrap()
}

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in fields {
        headers.append(*name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
    }
    headers
}

/// Headers as sent, and what comes of them.
type Case<'c> = (Vec<(&'static str, &'c str)>, Result<(), Unidentified>);

fn identify(
    headers: &HeaderMap,
    credentials: &Credentials,
    is_entered: impl FnOnce(&AgentName, &ClientId, &ProfileName) -> bool,
) -> Result<Caller, Unidentified> {
    Shown::read(headers)?.by_secret(credentials, at("04:00"), is_entered)
}

#[test]
fn the_three_headers_make_a_caller_or_a_told_reason() {
    use Unidentified::{Malformed, MissingHeader, NoCredential, UnknownCredential, WrongClientOrProfile};
    let world = world();
    let other = issue_in(world.dir.path(), "lookup-agent", "lookup-assistant", "default");
    let credentials = Credentials::load(world.dir.path()).unwrap();
    assert_eq!(credentials.len(), 2);
    let bearer = format!("Bearer {}", world.secret);
    let others = format!("Bearer {}", other.secret.reveal());
    let stranger = format!("Bearer {}", Secret::random().unwrap().reveal());
    let (client, profile) = (("x-client-id", "support-assistant"), ("x-profile-id", "default"));
    let auth = |value: &'static str| ("authorization", value);
    let form = Malformed(FORM);
    let lower = format!("bearer {}", world.secret);
    let short = &bearer[..bearer.len() - 1];
    let spaced = format!("Bearer  {}", world.secret);
    let table: Vec<Case<'_>> = vec![
        (vec![("authorization", &bearer), client, profile], Ok(())),
        (vec![("authorization", &lower), client, profile], Ok(())),
        (vec![client, profile], Err(NoCredential)),
        (vec![], Err(NoCredential)),
        (vec![auth(""), client, profile], Err(form)),
        (vec![auth("Bearer"), client, profile], Err(form)),
        (vec![auth("Bearer x"), client, profile], Err(form)),
        (vec![auth("Basic dXNlcjpwYXNz"), client, profile], Err(form)),
        (vec![("authorization", &world.secret), client, profile], Err(form)),
        (vec![("authorization", short), client, profile], Err(form)),
        (vec![("authorization", &spaced), client, profile], Err(form)),
        (
            vec![("authorization", &bearer), ("authorization", &bearer), client, profile],
            Err(Malformed("Authorization is there more than once")),
        ),
        (vec![("authorization", &bearer), profile], Err(MissingHeader("X-Client-ID"))),
        (vec![("authorization", &bearer), client], Err(MissingHeader("X-Profile-ID"))),
        (
            vec![("authorization", &bearer), client, client, profile],
            Err(Malformed("X-Client-ID is there more than once")),
        ),
        (
            vec![("authorization", &bearer), client, profile, ("x-profile-id", "other")],
            Err(Malformed("X-Profile-ID is there more than once")),
        ),
        (vec![("authorization", &stranger), client, profile], Err(UnknownCredential)),
        // Another agent's credential with this agent's client, and the other way round.
        (vec![("authorization", &others), client, profile], Err(WrongClientOrProfile)),
        (
            vec![("authorization", &bearer), ("x-client-id", "lookup-assistant"), profile],
            Err(WrongClientOrProfile),
        ),
        (vec![("authorization", &bearer), client, ("x-profile-id", "admin")], Err(WrongClientOrProfile)),
        (
            vec![("authorization", &bearer), ("x-client-id", "Support-Assistant"), profile],
            Err(WrongClientOrProfile),
        ),
        (vec![("authorization", &bearer), client, ("x-profile-id", "")], Err(WrongClientOrProfile)),
    ];
    for (fields, expected) in table {
        let found = identify(&headers(&fields), &credentials, |_, _, _| true);
        assert_eq!(found.as_ref().map(|_| ()).map_err(|error| *error), expected, "{fields:?}");
        if let Ok(caller) = found {
            assert_eq!(caller.agent().as_str(), "support-agent");
            assert_eq!(caller.credential().unwrap().as_str(), world.id);
            assert_eq!(caller.evidence(), "client_secret");
        }
    }
}

#[test]
fn a_credential_outlives_its_agent_in_the_policy_but_is_refused() {
    let world = world();
    let credentials = Credentials::load(world.dir.path()).unwrap();
    let bearer = format!("Bearer {}", world.secret);
    let sent = headers(&[
        ("authorization", &bearer),
        ("x-client-id", "support-assistant"),
        ("x-profile-id", "default"),
    ]);
    let refused = identify(&sent, &credentials, |agent, client, profile| {
        assert_eq!(
            (agent.as_str(), client.as_str(), profile.as_str()),
            ("support-agent", "support-assistant", "default")
        );
        false
    });
    assert_eq!(refused, Err(Unidentified::UnknownAgent));
}

#[test]
fn the_file_has_no_secret_and_only_its_owner_reads_it() {
    let world = world();
    let path = world.dir.path().join(CREDENTIALS_FILE);
    let text = std::fs::read_to_string(&path).unwrap();
    assert!(!text.contains("mcpg_"), "{text}");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let left: Vec<_> = std::fs::read_dir(world.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(left.len(), 2, "the file and its lock, no temporary file: {left:?}");
}

#[test]
fn a_file_that_others_may_write_is_refused() {
    let world = world();
    let path = world.dir.path().join(CREDENTIALS_FILE);
    for mode in [0o620, 0o602, 0o666] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        assert!(
            Credentials::load(world.dir.path()).unwrap_err().to_string().contains("chmod 600"),
            "{mode:o}"
        );
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert_eq!(Credentials::load(world.dir.path()).unwrap().len(), 1);
}

#[test]
fn a_revoked_credential_is_unknown_and_the_others_stay() {
    let world = world();
    let other = issue_in(world.dir.path(), "lookup-agent", "lookup-assistant", "default");
    assert_eq!(revoke(world.dir.path(), &world.id).unwrap().id().as_str(), world.id);
    let credentials = Credentials::load(world.dir.path()).unwrap();
    assert!(credentials.find(&Secret::parse(&world.secret).unwrap()).is_none());
    assert!(credentials.find(&other.secret).is_some());
    assert!(matches!(revoke(world.dir.path(), &world.id), Err(StoreError::UnknownId(_))));
}

#[test]
fn commands_at_the_same_time_lose_no_credential() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for n in 0..8 {
            let dir = dir.path();
            scope.spawn(move || issue_in(dir, &format!("a{n}"), "c", "p"));
        }
    });
    assert_eq!(Credentials::load(dir.path()).unwrap().len(), 8);
}

#[test]
fn a_tampered_file_is_refused() {
    let world = world();
    let path = world.dir.path().join(CREDENTIALS_FILE);
    let text = std::fs::read_to_string(&path).unwrap();
    let entry = text.lines().skip_while(|line| !line.contains("- ")).collect::<Vec<_>>().join("\n");
    for (bad, said) in [
        (format!("{text}\n{entry}\n"), "twice"),
        (text.replace("sha256", "sha255"), "unknown key"),
        (text.replace("sha256: ", "sha256: zz"), "64 hex digits"),
        (text.replace("c-", "d-"), "credential's id"),
    ] {
        let error = Credentials::from_text(&path, &bad).unwrap_err().to_string();
        assert!(error.contains(said), "{said}: {error}");
    }
}

#[test]
fn a_process_is_one_agent_or_nobody() {
    use crate::kernel::{Client, Unit};
    let name = |name: &str| (AgentName::parse(name).unwrap(), ClientId::parse(name).unwrap());
    let profiles = ["default", "admin"].map(|profile| ProfileName::parse(profile).unwrap());
    let rule = |uid: u32, unit: Option<&str>| ProcessRule {
        uid: Some(uid),
        unit: unit.map(|unit| Unit::parse(unit).unwrap()),
        ..ProcessRule::default()
    };
    let agents = [
        (name("billing"), rule(990, Some("billing.service"))),
        (name("backup"), rule(991, None)),
        (name("restore"), rule(991, Some("restore.service"))),
    ];
    let candidates = || {
        agents.iter().map(|((agent, client), process)| Candidate {
            entry: Entry { agent, client, profiles: &profiles },
            process,
        })
    };
    let ask = |fields: &[(&'static str, &str)], uid: u32, unit: &str| {
        let client = Client::Process(process::tests::evidence(uid, &format!("/system.slice/{unit}"), None));
        let is_tls = !fields.iter().any(|(name, _)| *name == "host");
        let found = Shown::read(&headers(fields))?.by_process(candidates(), (&client, None), is_tls)?;
        assert_eq!((found.evidence(), found.credential()), ("process", None));
        Ok(format!("{}/{}", found.agent(), found.profile()))
    };
    let is = |who: &str| Ok(who.to_owned());
    let other = ("authorization", "Bearer other");
    assert_eq!(ask(&[], 990, "billing.service"), is("billing/default"));
    assert_eq!(ask(&[other], 990, "billing.service"), is("billing/default"));
    assert_eq!(ask(&[("x-profile-id", "admin")], 990, "billing.service"), is("billing/admin"));
    assert_eq!(ask(&[], 991, "any.service"), is("backup/default"));
    assert_eq!(ask(&[], 991, "restore.service"), Err(Unidentified::SeveralAgents));
    assert_eq!(ask(&[("x-client-id", "restore")], 991, "restore.service"), is("restore/default"));
    assert_eq!(ask(&[("x-client-id", "backup")], 991, "restore.service"), is("backup/default"));
    for page in [("origin", "http://localhost"), ("sec-fetch-site", "same-origin")] {
        assert_eq!(ask(&[page], 990, "billing.service"), Err(Unidentified::WebPage));
    }
    for (host, expected) in [
        ("localhost:3001", is("billing/default")),
        ("127.0.0.1", is("billing/default")),
        ("[::1]:3001", is("billing/default")),
        ("evil.example:3001", Err(Unidentified::WebPage)),
        ("localhost.evil.example", Err(Unidentified::WebPage)),
        ("user@localhost", Err(Unidentified::WebPage)),
        ("", Err(Unidentified::WebPage)),
    ] {
        assert_eq!(ask(&[("host", host)], 990, "billing.service"), expected, "{host} without TLS");
    }
    let nobody = Err(Unidentified::UnknownProcess);
    assert_eq!(ask(&[], 990, "other.service"), nobody);
    assert_eq!(ask(&[], 0, "billing.service"), nobody);
    assert_eq!(ask(&[("x-client-id", "backup")], 990, "billing.service"), nobody);
    assert_eq!(ask(&[("x-profile-id", "root")], 990, "billing.service"), nobody);
    let form = Err(Unidentified::Malformed(FORM));
    assert_eq!(ask(&[other], 992, "any.service"), nobody);
    let container = format!("docker-{}.scope", "1f2e3d4c5b6a7988".repeat(4));
    assert_eq!(ask(&[], 991, &container), nobody, "that number's user in a container");
    assert_eq!(ask(&[("authorization", "Bearer mcpg_x")], 990, "billing.service"), form);
    for client in [Client::Remote, Client::UnknownLocal] {
        let empty = HeaderMap::new();
        let shown = Shown::read(&empty).unwrap();
        assert_eq!(shown.by_process(candidates(), (&client, None), true), Err(Unidentified::UnknownProcess));
        let none = std::iter::empty();
        assert_eq!(shown.by_process(none, (&client, None), true), Err(Unidentified::NoCredential));
    }
}

#[test]
fn a_credential_is_good_until_it_expires_and_a_rotated_one_for_a_while() {
    let dir = tempfile::tempdir().unwrap();
    let whom = || Recipient {
        agent: AgentName::parse("a").unwrap(),
        client: ClientId::parse("a").unwrap(),
        profile: ProfileName::parse("default").unwrap(),
    };
    let first = issue(dir.path(), whom(), at("01:00"), None).unwrap();
    let short = issue(dir.path(), whom(), at("01:00"), Some(at("02:15"))).unwrap();
    let other = Recipient { profile: ProfileName::parse("other").unwrap(), ..whom() };
    let other = issue(dir.path(), other, at("01:00"), None).unwrap();
    let rotated = rotate(dir.path(), whom(), at("02:00"), Some(at("09:00")), at("02:30")).unwrap();
    let until: Vec<_> = rotated.before.iter().map(|old| old.expires().unwrap()).collect();
    assert!(until.len() == 2 && until.contains(&at("02:15")) && until.contains(&at("02:30")), "{until:?}");
    let second = rotated.next;
    let is_good = |issued: &Issued, time: &str| {
        let credentials = Credentials::load(dir.path()).unwrap();
        let bearer = format!("Bearer {}", issued.secret.reveal());
        let profile = issued.credential.profile().as_str();
        let sent = headers(&[("authorization", &bearer), ("x-client-id", "a"), ("x-profile-id", profile)]);
        let found = Shown::read(&sent).unwrap().by_secret(&credentials, at(time), |_, _, _| true);
        match found {
            Ok(caller) => {
                assert_eq!(caller.check_expiry(at(time)), Ok(()));
                true
            }
            Err(error) => {
                assert_eq!(error, Unidentified::Expired);
                false
            }
        }
    };
    for (issued, last, expired) in [
        (&short, "02:14", Some("02:15")),
        (&first, "02:29", Some("02:30")),
        (&second, "08:59", Some("09:00")),
        (&other, "23:59", None),
    ] {
        assert!(is_good(issued, last), "{:?}", issued.credential);
        assert!(expired.is_none_or(|time| !is_good(issued, time)), "{:?}", issued.credential);
    }
    // What is long over goes when the next one comes.
    issue(dir.path(), whom(), at("03:00") + SignedDuration::from_hours(24), None).unwrap();
    let kept = Credentials::load(dir.path()).unwrap();
    let kept: Vec<_> = kept.list().into_iter().map(Credential::id).cloned().collect();
    assert!(
        kept.len() == 3 && !kept.contains(first.credential.id()) && !kept.contains(short.credential.id())
    );
}

#[test]
fn the_next_of_a_credential_that_expires_does_so_too() {
    let dir = tempfile::tempdir().unwrap();
    let whom = || Recipient {
        agent: AgentName::parse("a").unwrap(),
        client: ClientId::parse("a").unwrap(),
        profile: ProfileName::parse("default").unwrap(),
    };
    issue(dir.path(), whom(), at("01:00"), Some(at("05:00"))).unwrap();
    let next = rotate(dir.path(), whom(), at("02:00"), None, at("03:00")).unwrap().next;
    assert_eq!(next.credential.expires(), Some(at("06:00")));
    let after_all = rotate(dir.path(), whom(), at("02:30"), Some(at("02:45")), at("03:00")).unwrap();
    assert_eq!((after_all.before.len(), after_all.next.credential.expires()), (2, Some(at("02:45"))));
}
