//! Issuers that are asked for their keys: how long these are good, and who may speak for them.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use super::*;
use crate::tls::{Peer, authorities};

fn asked(ca_file: Option<&std::path::Path>) -> Result<Issuers, String> {
    let mut jwks = json!({"url": "https://idp.example/jwks"});
    if let Some(file) = ca_file {
        jwks["ca_file"] = json!(file);
    }
    let issuer = json!({"name": "corp", "issuer": ISSUER, "audience": AUDIENCE, "keys": {"jwks_url": jwks}});
    let issuer: config::Issuer = serde_json::from_value(issuer).unwrap();
    Issuers::load(&[issuer]).map_err(|problems| problems.to_string())
}

#[test]
fn keys_that_were_not_heard_of_for_too_long_prove_nothing_though_nobody_ended_them() {
    let world = world();
    let by = Algorithm::EdDsa;
    let token = world.token(by, &header(by), &claims());
    let (keys, _) = KeySet::parse(world.set().to_string().as_bytes(), &Algorithm::ALL).unwrap();
    let corp = IssuerName::parse("corp").unwrap();
    let issuers = asked(None).unwrap().with_keys(&corp, Some(&keys));
    let at_uptime = |issuers: &Issuers, up: Uptime| issuers.addressed(&token).unwrap().verify(at(NOW), up);
    let begun = Uptime::from_millis(5_000);
    assert_eq!(at_uptime(&issuers, begun).unwrap_err(), TokenFault::KeysUnavailable, "never heard of");
    let end = begun + Duration::from_secs(3600);
    issuers.fresh(&corp).unwrap().until(end);
    let voucher = at_uptime(&issuers, begun).unwrap();
    let before = Uptime::from_millis(end.as_millis() - 1);
    assert!(at_uptime(&issuers, before).is_ok() && issuers.trust(&voucher, before));
    for later in [end, end + Duration::from_secs(86_400)] {
        assert_eq!(at_uptime(&issuers, later).unwrap_err(), TokenFault::KeysUnavailable);
        assert!(!issuers.trust(&voucher, later), "and what is open ends");
    }
    // Heard of again, in every version of the rules, over a reload, too.
    let mut reloaded = asked(None).unwrap();
    reloaded.keep_asked(&issuers);
    issuers.fresh(&corp).unwrap().until(end + Duration::from_secs(60));
    for version in [&issuers, &reloaded] {
        assert!(at_uptime(version, end).is_ok() && version.trust(&voucher, end));
    }
    issuers.fresh(&corp).unwrap().end();
    assert!(at_uptime(&reloaded, begun).is_err() && !reloaded.trust(&voucher, begun));
}

#[test]
fn who_may_speak_for_an_issuer_is_read_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("ca.pem");
    let ca = || {
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        ca.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem()
    };
    let good = ca();
    std::fs::write(&file, good.clone() + &ca()).unwrap();
    assert_eq!(authorities(&file, Peer::ISSUER).unwrap().len(), 2);
    asked(Some(&file)).unwrap();
    for (text, said) in [
        (String::new(), "there is no certificate in it"),
        ("garbage".into(), "there is no certificate in it"),
        (pem("PRIVATE KEY", b"x"), "there is no certificate in it"),
        (good.clone() + &pem("CERTIFICATE", b"x"), "certificate 2: "),
        (good.clone() + "-----BEGIN CERTIFICATE-----\nAA", "certificate 2: "),
        (good.clone() + &" ".repeat(64 * 1024), "more than 65536 bytes"),
    ] {
        std::fs::write(&file, text).unwrap();
        let (told, loaded) =
            (authorities(&file, Peer::ISSUER).unwrap_err().to_string(), asked(Some(&file)).unwrap_err());
        assert!(told.contains(said) && told.contains("ca.pem") && loaded.contains(said), "{said}: {told}");
    }
    std::fs::write(&file, good).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o666)).unwrap();
    assert!(
        authorities(&file, Peer::ISSUER).unwrap_err().to_string().contains("others than its owner may write")
    );
}
