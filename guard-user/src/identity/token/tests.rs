//! What a forger, a thief and a careless issuer might send. Every token here that is signed is signed with a real key.

mod asked;
mod audience;
mod keys;
mod profile;
mod user;

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::*;
use crate::config::{self, Algorithm};

const ISSUER: &str = "https://idp.example";
const AUDIENCE: &str = "mcp-guard";
/// What the clock of the tests shows.
const NOW: i64 = 1_800_000_000;
const LEEWAY: i64 = 30;

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn pem(name: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {name}-----\n{}\n-----END {name}-----\n", lines.join("\n"))
}

/// An issuer with a key of each kind, and the guard that knows it.
struct World {
    ed: Ed25519KeyPair,
    ec: EcdsaKeyPair,
    rsa: RsaKeyPair,
    dir: tempfile::TempDir,
}

fn world() -> World {
    World {
        ed: Ed25519KeyPair::generate().unwrap(),
        ec: EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(),
        rsa: RsaKeyPair::generate(KeySize::Rsa2048).unwrap(),
        dir: tempfile::tempdir().unwrap(),
    }
}

fn jwk_ed(kid: &str, key: &Ed25519KeyPair) -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "kid": kid, "use": "sig", "alg": "EdDSA", "x": b64(key.public_key())})
}

fn jwk_ec(kid: &str, key: &EcdsaKeyPair) -> Value {
    let point = key.public_key().as_ref();
    json!({"kty": "EC", "crv": "P-256", "kid": kid, "x": b64(&point[1..33]), "y": b64(&point[33..])})
}

fn jwk_rsa(kid: &str, key: &RsaKeyPair) -> Value {
    let (n, e) = rsa_numbers(key);
    json!({"kty": "RSA", "kid": kid, "alg": "RS256", "n": b64(n), "e": b64(e)})
}

/// Of a key's PKCS#1 form: SEQUENCE { INTEGER n, INTEGER e }.
fn rsa_numbers(key: &RsaKeyPair) -> (Vec<u8>, Vec<u8>) {
    fn value<'d>(der: &mut &'d [u8]) -> &'d [u8] {
        let (length, start) = match der[1] {
            short @ 0..0x80 => (usize::from(short), 2),
            long => {
                let digits = usize::from(long & 0x7f);
                (der[2..2 + digits].iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte)), 2 + digits)
            }
        };
        let (found, rest) = der[start..].split_at(length);
        *der = rest;
        found
    }
    let mut sequence = value(&mut key.public_key().as_ref());
    let mut number = || {
        let bytes = value(&mut sequence);
        bytes[usize::from(bytes[0] == 0)..].to_vec()
    };
    (number(), number())
}

impl World {
    fn set(&self) -> Value {
        json!({"keys": [jwk_ed("ed", &self.ed), jwk_ec("ec", &self.ec), jwk_rsa("rsa", &self.rsa)]})
    }

    fn load_text(&self, set: &str) -> Result<Issuers, String> {
        self.load_with(set, &json!({}))
    }

    fn load_with(&self, set: &str, more: &Value) -> Result<Issuers, String> {
        let file = self.dir.path().join("jwks.json");
        std::fs::write(&file, set).unwrap();
        let mut issuer = json!({
            "name": "corp", "issuer": ISSUER, "audience": AUDIENCE, "keys": {"jwks_file": file},
        });
        issuer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let issuer: config::Issuer = serde_json::from_value(issuer).unwrap();
        Issuers::load(&[issuer]).map_err(|problems| problems.to_string())
    }

    fn load(&self, set: &Value) -> Result<Issuers, String> {
        self.load_text(&set.to_string())
    }

    fn issuers(&self) -> Issuers {
        self.load(&self.set()).unwrap()
    }

    fn sign(&self, algorithm: Algorithm, signed: &str) -> Vec<u8> {
        let random = SystemRandom::new();
        match algorithm {
            Algorithm::EdDsa => self.ed.sign(signed.as_bytes()).as_ref().to_vec(),
            Algorithm::Es256 => self.ec.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
            Algorithm::Rs256 => {
                let mut signature = vec![0; self.rsa.public_modulus_len()];
                self.rsa.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).unwrap();
                signature
            }
        }
    }

    /// The text of a token with whatever header and claims, signed with that key.
    fn text(&self, by: Algorithm, header: &str, claims: &str) -> String {
        let signed = format!("{}.{}", b64(header), b64(claims));
        let signature = self.sign(by, &signed);
        format!("{signed}.{}", b64(signature))
    }

    fn token(&self, by: Algorithm, header: &Value, claims: &Value) -> String {
        self.text(by, &header.to_string(), &claims.to_string())
    }
}

fn header(algorithm: Algorithm) -> Value {
    let kid = match algorithm {
        Algorithm::EdDsa => "ed",
        Algorithm::Es256 => "ec",
        Algorithm::Rs256 => "rsa",
    };
    json!({"alg": algorithm.as_str(), "kid": kid, "typ": "JWT"})
}

fn claims() -> Value {
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "billing@corp", "exp": NOW + 600, "nbf": NOW - 10, "iat": NOW - 10,
    })
}

/// `value` with this member set, or, with null, without it.
fn with(mut value: Value, name: &str, member: Value) -> Value {
    let object = value.as_object_mut().unwrap();
    if member.is_null() {
        object.remove(name);
    } else {
        object.insert(name.to_owned(), member);
    }
    value
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(seconds).unwrap()
}

fn check(issuers: &Issuers, token: &str) -> Result<Voucher, TokenFault> {
    issuers.addressed(token)?.verify(at(NOW), Uptime::ZERO)
}

#[track_caller]
fn malformed(found: &Result<Voucher, TokenFault>) {
    assert!(matches!(found, Err(TokenFault::Malformed(_))), "{found:?}");
}

#[test]
fn a_token_of_each_kind_proves_its_subject() {
    let world = world();
    let issuers = world.issuers();
    let mut ids = std::collections::HashSet::new();
    for algorithm in Algorithm::ALL {
        let token = world.token(algorithm, &header(algorithm), &claims());
        let voucher = check(&issuers, &token).unwrap();
        assert_eq!((voucher.issuer.as_str(), &*voucher.subject), ("corp", "billing@corp"));
        assert_eq!(voucher.expires, at(NOW + 600 + LEEWAY));
        assert!(issuers.trust(&voucher, Uptime::ZERO));
        let id = voucher.id.as_str();
        assert!(id.starts_with("t-") && id.len() == 14 && !token.contains(&id[2..]), "{id}");
        ids.insert(id.to_owned());
        for typ in [json!("at+jwt"), json!("application/AT+JWT"), Value::Null] {
            let header = with(header(algorithm), "typ", typ);
            check(&issuers, &world.token(algorithm, &header, &claims())).unwrap();
        }
        let several = with(claims(), "aud", json!(["other", AUDIENCE]));
        check(&issuers, &world.token(algorithm, &header(algorithm), &several)).unwrap();
    }
    assert_eq!(ids.len(), 3);
}

/// The examples of RFC 7515 (A.2, A.3) and RFC 8037 (A.4): signed by others than us.
#[test]
fn published_signatures_are_good_and_changed_ones_are_not() {
    let claims =
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
    let examples = [
        (
            json!({"kty": "RSA", "e": "AQAB", "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}),
            format!("eyJhbGciOiJSUzI1NiJ9.{claims}"),
            "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
        ),
        (
            json!({"kty": "EC", "crv": "P-256", "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU", "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}),
            format!("eyJhbGciOiJFUzI1NiJ9.{claims}"),
            "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q",
        ),
        (
            json!({"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}),
            "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc".to_owned(),
            "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
        ),
    ];
    for (jwk, signed, signature) in examples {
        let (keys, notes) =
            jwks::read(json!({"keys": [jwk]}).to_string().as_bytes(), &Algorithm::ALL).unwrap();
        let signature = URL_SAFE_NO_PAD.decode(signature).unwrap();
        assert_eq!((keys[0].verify(signed.as_bytes(), &signature), notes.len()), (Ok(()), 0), "{signed}");
        let changed = signed.replace('.', ",");
        assert_eq!(keys[0].verify(changed.as_bytes(), &signature), Err(TokenFault::Signature));
        let mut bad = signature.clone();
        bad[10] ^= 1;
        assert_eq!(keys[0].verify(signed.as_bytes(), &bad), Err(TokenFault::Signature));
        let mut long = signature;
        long.push(0);
        assert_eq!(keys[0].verify(signed.as_bytes(), &long), Err(TokenFault::Signature));
    }
}

#[test]
fn alg_none_is_refused_however_it_is_spelt() {
    let world = world();
    let issuers = world.issuers();
    for none in ["none", "None", "NONE", "nOnE", ""] {
        let header = with(header(Algorithm::EdDsa), "alg", json!(none));
        let signed = world.token(Algorithm::EdDsa, &header, &claims());
        assert_eq!(check(&issuers, &signed), Err(TokenFault::Algorithm), "{none}");
        let (body, _) = signed.rsplit_once('.').unwrap();
        assert_eq!(check(&issuers, &format!("{body}.")), Err(TokenFault::Algorithm), "{none}");
    }
    for odd in
        [json!(null), json!(1), json!(["EdDSA"]), json!({"alg": "EdDSA"}), json!("eddsa"), json!("EdDSA ")]
    {
        let mut header = header(Algorithm::EdDsa);
        header["alg"] = odd;
        assert_eq!(
            check(&issuers, &world.token(Algorithm::EdDsa, &header, &claims())),
            Err(TokenFault::Algorithm)
        );
    }
}

#[test]
fn a_public_key_is_no_shared_secret() {
    let world = world();
    let issuers = world.issuers();
    let (n, _) = rsa_numbers(&world.rsa);
    let keys: [(&str, Vec<u8>); 6] = [
        ("rsa", world.rsa.public_key().as_ref().to_vec()),
        ("rsa", pem("PUBLIC KEY", world.rsa.public_key().as_ref()).into_bytes()),
        ("rsa", n),
        ("ec", world.ec.public_key().as_ref().to_vec()),
        ("ed", world.ed.public_key().as_ref().to_vec()),
        ("ed", b64(world.ed.public_key()).into_bytes()),
    ];
    for (kid, key) in keys {
        for (alg, how) in
            [("HS256", hmac::HMAC_SHA256), ("HS384", hmac::HMAC_SHA384), ("HS512", hmac::HMAC_SHA512)]
        {
            let signed =
                format!("{}.{}", b64(json!({"alg": alg, "kid": kid}).to_string()), b64(claims().to_string()));
            let tag = hmac::sign(&hmac::Key::new(how, &key), signed.as_bytes());
            assert_eq!(
                check(&issuers, &format!("{signed}.{}", b64(tag))),
                Err(TokenFault::Algorithm),
                "{alg} {kid}"
            );
        }
        // The same by a header that names what the key is for.
        let alg = match kid {
            "rsa" => "RS256",
            "ec" => "ES256",
            _ => "EdDSA",
        };
        let signed =
            format!("{}.{}", b64(json!({"alg": alg, "kid": kid}).to_string()), b64(claims().to_string()));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), signed.as_bytes());
        assert_eq!(
            check(&issuers, &format!("{signed}.{}", b64(tag))),
            Err(TokenFault::Signature),
            "{alg} {kid}"
        );
    }
}

#[test]
fn a_key_is_for_its_own_algorithm_whatever_the_header_says() {
    let world = world();
    let issuers = world.issuers();
    for by in Algorithm::ALL {
        for named in Algorithm::ALL {
            for key in Algorithm::ALL {
                let header = json!({"alg": named.as_str(), "kid": header(key)["kid"]});
                let found = check(&issuers, &world.token(by, &header, &claims())).map(|_| ());
                let expected = match (named == key, by == key) {
                    (true, true) => Ok(()),
                    (true, false) => Err(TokenFault::Signature),
                    (false, _) => Err(TokenFault::Algorithm),
                };
                assert_eq!(found, expected, "signed by {by:?}, alg {named:?}, kid of {key:?}");
            }
        }
        for other in
            ["ES384", "ES512", "ES256K", "RS384", "RS512", "PS256", "Ed25519", "Ed448", "dir", "RSA-OAEP"]
        {
            let header = with(header(by), "alg", json!(other));
            assert_eq!(
                check(&issuers, &world.token(by, &header, &claims())),
                Err(TokenFault::Algorithm),
                "{other}"
            );
        }
    }
}

#[test]
fn every_claim_that_counts_must_be_there() {
    let world = world();
    let issuers = world.issuers();
    let by = Algorithm::Es256;
    for (claim, expected) in [
        ("iss", Some(TokenFault::Issuer)),
        ("aud", Some(TokenFault::Audience)),
        ("exp", None),
        ("nbf", None),
        ("sub", None),
    ] {
        let found = check(&issuers, &world.token(by, &header(by), &with(claims(), claim, Value::Null)));
        match expected {
            Some(fault) => assert_eq!(found, Err(fault)),
            None => malformed(&found),
        }
    }
    check(&issuers, &world.token(by, &header(by), &with(claims(), "iat", Value::Null))).unwrap();
    for subject in [json!(""), json!(1), json!(["billing@corp"]), json!({})] {
        malformed(&check(&issuers, &world.token(by, &header(by), &with(claims(), "sub", subject))));
    }
    for time in [
        json!("1900000000"),
        json!(-1),
        json!(1.9e9),
        json!(1e300),
        json!(u64::MAX),
        json!(i64::MAX),
        json!([NOW]),
        json!(true),
    ] {
        for claim in ["exp", "nbf", "iat"] {
            malformed(&check(&issuers, &world.token(by, &header(by), &with(claims(), claim, time.clone()))));
        }
    }
}

#[test]
fn a_token_is_good_in_its_time_only() {
    let world = world();
    let issuers = world.issuers();
    let by = Algorithm::EdDsa;
    for (claim, time, expected) in [
        ("exp", NOW - LEEWAY + 1, Ok(())),
        ("exp", NOW - LEEWAY, Err(TokenFault::Expired)),
        ("exp", NOW - 86400, Err(TokenFault::Expired)),
        ("exp", 0, Err(TokenFault::Expired)),
        ("nbf", NOW + LEEWAY, Ok(())),
        ("nbf", NOW + LEEWAY + 1, Err(TokenFault::NotYet)),
        ("nbf", NOW + 86400, Err(TokenFault::NotYet)),
        ("iat", NOW + LEEWAY, Ok(())),
        ("iat", NOW + LEEWAY + 1, Err(TokenFault::NotYet)),
        // The last second that a time can name.
        ("exp", 253_402_207_200, Ok(())),
    ] {
        let token = world.token(by, &header(by), &with(claims(), claim, json!(time)));
        assert_eq!(check(&issuers, &token).map(|_| ()), expected, "{claim} {time}");
    }
}

#[test]
fn a_kid_is_a_name_and_nothing_else() {
    let world = world();
    let issuers = world.issuers();
    let by = Algorithm::EdDsa;
    for kid in [
        "../../dev/null",
        "/dev/null",
        "jwks.json",
        "file:///etc/passwd",
        "https://evil.example/jwks",
        "' OR '1'='1",
        "ed'; --",
        "ed\u{0}",
        "ED",
        "ed ",
        " ed",
        "",
        "0",
        "rsa",
        "|id",
    ] {
        let header = with(header(by), "kid", json!(kid));
        let expected = if kid == "rsa" { TokenFault::Algorithm } else { TokenFault::UnknownKey };
        assert_eq!(check(&issuers, &world.token(by, &header, &claims())), Err(expected), "{kid:?}");
    }
    for odd in [json!(0), json!(1), json!(true), json!(["ed"]), json!({"kid": "ed"})] {
        malformed(&check(&issuers, &world.token(by, &with(header(by), "kid", odd), &claims())));
    }
    let mut null = header(by);
    null["kid"] = Value::Null;
    malformed(&check(&issuers, &world.token(by, &null, &claims())));
    let unnamed = world.token(by, &with(header(by), "kid", Value::Null), &claims());
    assert_eq!(check(&issuers, &unnamed), Err(TokenFault::UnknownKey), "one of three keys");
    let only = world.load(&json!({"keys": [jwk_ed("ed", &world.ed)]})).unwrap();
    check(&only, &unnamed).unwrap();
    let wrong = world.token(by, &with(header(by), "kid", json!("other")), &claims());
    assert_eq!(check(&only, &wrong), Err(TokenFault::UnknownKey));
}

#[test]
fn a_token_brings_no_key_along_and_changes_no_rule() {
    let world = world();
    let issuers = world.issuers();
    let by = Algorithm::EdDsa;
    let own = Ed25519KeyPair::generate().unwrap();
    for (name, member) in [
        ("jwk", jwk_ed("ed", &own)),
        ("jku", json!("https://evil.example/jwks.json")),
        ("x5u", json!("https://evil.example/cert.pem")),
        ("x5c", json!(["MIIB"])),
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("b64", json!(false)),
        ("zip", json!("DEF")),
        ("enc", json!("A256GCM")),
        ("cty", json!("JWT")),
    ] {
        let header = with(header(by), name, member);
        // Signed with the issuer's key, and with the one that came along.
        malformed(&check(&issuers, &world.token(by, &header, &claims())));
        let signed = format!("{}.{}", b64(header.to_string()), b64(claims().to_string()));
        malformed(&check(&issuers, &format!("{signed}.{}", b64(own.sign(signed.as_bytes())))));
    }
    for typ in
        [json!("JOSE"), json!("secevent+jwt"), json!("logout+jwt"), json!("dpop+jwt"), json!(""), json!(1)]
    {
        malformed(&check(&issuers, &world.token(by, &with(header(by), "typ", typ), &claims())));
    }
}

#[test]
fn a_signature_that_is_missing_or_anothers_is_refused() {
    let world = world();
    let issuers = world.issuers();
    let other = World { ed: Ed25519KeyPair::generate().unwrap(), ..self::world() };
    for by in Algorithm::ALL {
        let good = world.token(by, &header(by), &claims());
        let (body, signature) = good.rsplit_once('.').unwrap();
        let (head, _) = body.split_once('.').unwrap();
        for forged in [
            format!("{body}."),
            format!("{body}.AA"),
            format!("{body}.{}", b64([0; 64])),
            format!("{body}.{}", b64([0; 256])),
            other.token(by, &header(by), &claims()),
            // Another payload under the same signature.
            format!("{head}.{}.{signature}", b64(with(claims(), "sub", json!("admin@corp")).to_string())),
            format!(
                "{}.{}.{signature}",
                b64(with(header(by), "x", json!(1)).to_string()),
                b64(claims().to_string())
            ),
        ] {
            assert_eq!(check(&issuers, &forged), Err(TokenFault::Signature), "{by:?} {forged}");
        }
    }
    // r and s of 0 passed for a signature of anything, once (CVE-2022-21449); and one in DER is another form.
    let by = Algorithm::Es256;
    let good = world.token(by, &header(by), &claims());
    let (body, _) = good.rsplit_once('.').unwrap();
    let der =
        EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, world.ec.to_pkcs8v1().unwrap().as_ref())
            .unwrap();
    let der = der.sign(&SystemRandom::new(), body.as_bytes()).unwrap();
    assert_eq!(check(&issuers, &format!("{body}.{}", b64(der))), Err(TokenFault::Signature));
}

#[test]
fn a_member_that_is_there_twice_is_refused() {
    let world = world();
    let issuers = world.issuers();
    let by = Algorithm::EdDsa;
    let plain = claims().to_string();
    for (head, claims) in [
        (r#"{"alg":"none","alg":"EdDSA","kid":"ed"}"#.to_owned(), plain.clone()),
        (r#"{"alg":"EdDSA","kid":"other","kid":"ed"}"#.to_owned(), plain.clone()),
        (header(by).to_string(), plain.replacen('{', r#"{"sub":"admin@corp","#, 1)),
        (header(by).to_string(), plain.replacen('{', r#"{"exp":9999999999,"#, 1)),
        (header(by).to_string(), plain.replacen('{', r#"{"a":{"b":1,"b":2},"#, 1)),
    ] {
        malformed(&check(&issuers, &world.text(by, &head, &claims)));
    }
}

#[test]
fn a_token_has_three_parts_in_one_spelling_and_a_bounded_length() {
    let world = world();
    let issuers = world.issuers();
    let by = Algorithm::EdDsa;
    let good = world.token(by, &header(by), &claims());
    let parts: Vec<_> = good.split('.').collect();
    let [head, claim, signature] = parts.as_slice() else { unreachable!() };
    for bad in [
        format!("{head}.{claim}"),
        head.to_string(),
        String::new(),
        "..".to_owned(),
        ".".repeat(4),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.{signature}"),
        format!("{head}.{head}.{claim}.{claim}.{signature}"),
        format!("{good}="),
        format!("{good}=="),
        format!("{good} "),
        format!(" {good}"),
        format!("{good}\n"),
        format!("{head}.{claim}= .{signature}"),
        format!("{head}. {claim}.{signature}"),
        format!("{head}.{}.{signature}", URL_SAFE.encode(claims().to_string() + "  ")),
        format!("{head}.{}.{signature}", STANDARD.encode("{\"iss\":\"???>>>\"}")),
        format!("{}.{claim}.{signature}", b64("[]")),
        format!("{}.{claim}.{signature}", b64("\u{feff}{}")),
        format!("{}.{claim}.{signature}", b64(b"{\"alg\":\"\xff\"}")),
        format!("{}.{claim}.{signature}", b64(format!("{}{}", header(by), header(by)))),
        format!("{head}.{}.{signature}", b64("\"text\"")),
        format!("{head}.{}.{signature}", b64("[".repeat(1000))),
    ] {
        malformed(&check(&issuers, &bad));
    }
    // The last character of a part has bits that mean nothing; only 0 is their spelling.
    let (start, last) = signature.split_at(signature.len() - 1);
    let next = char::from(last.as_bytes()[0] + 1);
    malformed(&check(&issuers, &format!("{head}.{claim}.{start}{next}")));
    let long = |bytes: usize| {
        let padded =
            |count: usize| world.token(by, &header(by), &with(claims(), "pad", json!("x".repeat(count))));
        let mut count = bytes / 4 * 3 - 400;
        while padded(count).len() < bytes {
            count += 1;
        }
        padded(count)
    };
    let longest = long(TOKEN_BYTES_MAX - 1);
    assert!(longest.len() <= TOKEN_BYTES_MAX, "{}", longest.len());
    check(&issuers, &longest).unwrap();
    malformed(&check(&issuers, &long(TOKEN_BYTES_MAX + 1)));
}

#[test]
fn what_looks_like_a_token_is_told_from_other_credentials() {
    for (value, token) in [
        ("Bearer eyJhbGciOiJub25lIn0.e30.", Some("eyJhbGciOiJub25lIn0.e30.")),
        ("bearer eyA.e30.x", Some("eyA.e30.x")),
        ("Bearer  eyA.e30.x", Some(" eyA.e30.x")),
        ("Bearer eyJhbGciOiJub25lIn0", None),
        ("Bearer ya29.a0AfH6", None),
        ("Bearer mcpg_eyA.b.c", None),
        ("Basic eyA.e30.x", None),
        ("eyA.e30.x", None),
        ("", None),
    ] {
        assert_eq!(bearer(value.as_bytes()), token, "{value}");
    }
}
