//! The files with an issuer's keys: what is passed over, what is refused, and what a change of keys does.

use std::os::unix::fs::PermissionsExt;

use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};

use super::*;

#[test]
fn keys_of_other_kinds_are_passed_over_with_a_note() {
    let world = world();
    let good = jwk_ed("ed", &world.ed);
    for (other, said) in [
        (with(jwk_rsa("rsa", &world.rsa), "use", json!("enc")), "key \"rsa\" is not used: it is for \"enc\""),
        (with(jwk_rsa("rsa", &world.rsa), "alg", json!("PS256")), "it is for \"PS256\""),
        (with(jwk_rsa("rsa", &world.rsa), "key_ops", json!(["encrypt"])), "key_ops"),
        (json!({"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}), "key 2 is not used: \"EC\" \"P-384\""),
        (json!({"kty": "OKP", "crv": "X25519", "x": "AA"}), "\"OKP\" \"X25519\""),
        (json!({"kty": "AKP", "alg": "ML-DSA-65", "pub": "AA"}), "AKP"),
    ] {
        let issuers = world.load(&json!({"keys": [good, other]})).unwrap();
        assert!(issuers.notes()[0].contains(said), "{said}: {:?}", issuers.notes());
        let by = Algorithm::Rs256;
        let token = world.token(by, &header(by), &claims());
        assert_eq!(check(&issuers, &token), Err(TokenFault::UnknownKey), "{said}");
        check(&issuers, &world.token(Algorithm::EdDsa, &header(Algorithm::EdDsa), &claims())).unwrap();
    }
}

#[test]
fn of_a_set_that_displeases_only_what_it_withdraws_is_believed() {
    let world = world();
    let (ed, ec) = (jwk_ed("ed", &world.ed), jwk_ec("ec", &world.ec));
    let (known, _) = KeySet::parse(world.set().to_string().as_bytes(), &Algorithm::ALL).unwrap();
    let left = |text: &str| {
        Published::read(text.as_bytes(), &Algorithm::ALL).map(|set| known.left(&set).map(|left| left.count()))
    };
    assert_eq!(left("garbage"), None, "it says nothing");
    assert_eq!(left("{}"), None);
    assert_eq!(left(&json!({"keys": []}).to_string()), Some(None), "all are withdrawn");
    let symmetric = json!({"kty": "oct", "k": "c2VjcmV0"});
    assert_eq!(left(&json!({"keys": [symmetric]}).to_string()), Some(None));
    assert_eq!(left(&json!({"keys": [ed, symmetric, ec]}).to_string()), Some(Some(2)));
    let others = json!({"keys": [with(ed.clone(), "kid", json!("x")), with(ed, "kid", json!("x"))]});
    assert_eq!(left(&others.to_string()), Some(Some(1)), "under whatever name");
}

#[test]
fn a_set_of_keys_that_is_not_sound_is_not_loaded() {
    let world = world();
    let (ed, ec) = (jwk_ed("ed", &world.ed), jwk_ec("ec", &world.ec));
    let of = |keys: Value| world.load(&json!({"keys": keys})).unwrap_err();
    for (set, said) in [
        (of(json!([])), "there is no key in it"),
        (of(json!([{"kty": "EC", "crv": "P-384"}])), "there is no key in it"),
        (of(json!([ed, with(ec.clone(), "kid", json!("ed"))])), "two keys have the kid \"ed\""),
        (of(json!([ed, with(ec.clone(), "kid", Value::Null)])), "one has no `kid`"),
        (of(json!([with(ed.clone(), "kid", json!(""))])), "its `kid` is empty"),
        (of(json!([with(ed.clone(), "kid", json!(1))])), "`kid` is no text"),
        (of(json!([with(ed.clone(), "d", json!("AA"))])), "private key material (`d`)"),
        (of(json!([ed, {"kty": "oct", "kid": "hs", "k": "AA"}])), "private key material (`k`)"),
        (of(json!([with(ed.clone(), "x", json!("AA"))])), "it is no public key for EdDSA"),
        (of(json!([with(ed.clone(), "x", json!("A A"))])), "`x` is not base64url"),
        (of(json!([with(ed.clone(), "x", Value::Null)])), "it has no `x`"),
        // Not on the curve.
        (of(json!([with(ec.clone(), "y", json!(b64([7; 32])))])), "it is no public key for ES256"),
        (of(json!([{"kty": "RSA", "e": "AQAB", "n": b64([0xff; 128])}])), "2048 to 8192 bits"),
        (of(json!([{"kty": "RSA", "e": "AQ", "n": jwk_rsa("", &world.rsa)["n"]}])), "must be sound"),
        (of(json!(["text"])), "key 1: it is no object"),
        (of(json!(vec![ed.clone(); JWKS_KEYS_MAX + 1])), "more than 64 keys"),
        (world.load_text("{}").unwrap_err(), "it has no list `keys`"),
        (world.load_text("").unwrap_err(), "not valid JSON"),
        (world.load_text(r#"{"keys": [], "keys": []}"#).unwrap_err(), "same key twice"),
        (world.load_text(&" ".repeat(JWKS_BYTES_MAX + 1)).unwrap_err(), "more than 262144 bytes"),
    ] {
        assert!(set.contains(said) && set.contains("jwks.json"), "{said}: {set}");
    }
    std::fs::set_permissions(world.dir.path().join("jwks.json"), std::fs::Permissions::from_mode(0o666))
        .unwrap();
    assert!(world.load(&world.set()).unwrap_err().contains("others than its owner may write this file"));
    std::fs::remove_file(world.dir.path().join("jwks.json")).unwrap();
}

#[test]
fn a_key_that_is_gone_is_trusted_no_more() {
    let world = world();
    let by = Algorithm::EdDsa;
    let token = world.token(by, &header(by), &claims());
    let voucher = check(&world.issuers(), &token).unwrap();
    let rotated = World { ed: Ed25519KeyPair::generate().unwrap(), ..self::world() };
    let next = jwk_ed("ed-2", &rotated.ed);
    let both = world.load(&json!({"keys": [jwk_ed("ed", &world.ed), next]})).unwrap();
    assert!(both.trust(&voucher, Uptime::ZERO));
    check(&both, &token).unwrap();
    let after = world.load(&json!({"keys": [next]})).unwrap();
    assert!(!after.trust(&voucher, Uptime::ZERO));
    assert_eq!(check(&after, &token), Err(TokenFault::UnknownKey));
    // Another key under the old name.
    let renamed = world.load(&json!({"keys": [jwk_ed("ed", &rotated.ed)]})).unwrap();
    assert!(!renamed.trust(&voucher, Uptime::ZERO));
    assert_eq!(check(&renamed, &token), Err(TokenFault::Signature));
}

#[test]
fn a_key_in_a_file_of_its_own_is_public_and_alone() {
    let world = world();
    let der = |algorithm: Algorithm| -> Vec<u8> {
        let der: PublicKeyX509Der<'_> = match algorithm {
            Algorithm::EdDsa => world.ed.public_key().as_der().unwrap(),
            Algorithm::Es256 => world.ec.public_key().as_der().unwrap(),
            Algorithm::Rs256 => world.rsa.public_key().as_der().unwrap(),
        };
        der.as_ref().to_vec()
    };
    let load = |algorithm: Algorithm, text: &str| {
        let file = world.dir.path().join("key.pem");
        std::fs::write(&file, text).unwrap();
        let kid = header(algorithm)["kid"].clone();
        let keys = json!({"pem_files": [{"kid": kid, "algorithm": algorithm, "file": file}]});
        let issuer = json!({"name": "corp", "issuer": ISSUER, "audience": AUDIENCE, "keys": keys});
        let issuer: config::Issuer = serde_json::from_value(issuer).unwrap();
        Issuers::load(&[issuer]).map_err(|problems| problems.to_string())
    };
    for algorithm in Algorithm::ALL {
        let good = pem("PUBLIC KEY", &der(algorithm));
        let issuers = load(algorithm, &good).unwrap();
        check(&issuers, &world.token(algorithm, &header(algorithm), &claims())).unwrap();
        let other = if algorithm == Algorithm::EdDsa { Algorithm::Es256 } else { Algorithm::EdDsa };
        for (text, said) in [
            (pem("PUBLIC KEY", &der(other)), "it is no public key for"),
            (pem("PUBLIC KEY", b"no key"), "it is no public key for"),
            (pem("PRIVATE KEY", world.ec.to_pkcs8v1().unwrap().as_ref()), "it has a private key"),
            (good.clone() + &pem("PRIVATE KEY", b"x"), "it has a private key"),
            (good.clone() + &good, "one public key"),
            (pem("CERTIFICATE", &der(algorithm)), "one public key"),
            (String::new(), "one public key"),
            ("x".repeat(load::PEM_BYTES_MAX + 1), "more than 65536 bytes"),
        ] {
            let told = load(algorithm, &text).unwrap_err();
            assert!(told.contains(said) && told.contains("key.pem"), "{said}: {told}");
        }
    }
}
