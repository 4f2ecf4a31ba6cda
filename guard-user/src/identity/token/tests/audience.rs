//! Whose a token is and for whom: the guard, one of its servers, or somebody else.

use super::*;

const CRM: &str = "https://localhost:3001/mcp";
const FILES: &str = "https://localhost:3002/mcp";

/// The entry of a server for which the guard is the resource server.
fn guarded(resource: &str, issuers: &[&str]) -> Authorize {
    serde_json::from_value(json!({"resource": resource, "issuers": issuers})).unwrap()
}

#[test]
fn a_token_for_somebody_else_is_refused() {
    let world = world();
    let issuers = world.issuers();
    let by = Algorithm::EdDsa;
    for aud in [
        json!("other"),
        json!("mcp-guard "),
        json!("MCP-GUARD"),
        json!("mcp-guard/x"),
        json!("mcp"),
        json!(""),
        json!([]),
        json!(["other"]),
        json!([["mcp-guard"]]),
        json!([AUDIENCE, 1]),
        json!({"mcp-guard": true}),
        json!(1),
        json!(true),
        Value::Null,
    ] {
        let token = world.token(by, &header(by), &with(claims(), "aud", aud.clone()));
        assert_eq!(check(&issuers, &token), Err(TokenFault::Audience), "{aud}");
    }
    for iss in [
        json!("https://idp.example/"),
        json!("https://IDP.example"),
        json!("https://idp.example.evil"),
        json!("http://idp.example"),
        json!("corp"),
        json!(""),
        json!([ISSUER]),
        json!(1),
        Value::Null,
    ] {
        let token = world.token(by, &header(by), &with(claims(), "iss", iss.clone()));
        assert_eq!(check(&issuers, &token), Err(TokenFault::Issuer), "{iss}");
    }
}

#[test]
fn a_server_takes_tokens_of_the_issuers_that_its_entry_names_and_for_itself_alone() {
    let world = world();
    let (corp, partner) = (ISSUER, "https://partner.example");
    let file = world.dir.path().join("jwks.json");
    std::fs::write(&file, world.set().to_string()).unwrap();
    let issuer = |name: &str, url: &str| {
        let issuer = json!({"name": name, "issuer": url, "audience": AUDIENCE, "keys": {"jwks_file": file}});
        serde_json::from_value::<config::Issuer>(issuer).unwrap()
    };
    let issuers = Issuers::load(&[issuer("corp", corp), issuer("partner", partner)]).unwrap();
    let by = Algorithm::EdDsa;
    let asked = |iss: &str, aud: &Value, server: Option<&Authorize>| {
        let token =
            world.token(by, &header(by), &with(with(claims(), "iss", json!(iss)), "aud", aud.clone()));
        let found =
            issuers.addressed_at(&token, server).and_then(|token| token.verify(at(NOW), Uptime::ZERO));
        found.map(|voucher| voucher.issuer.as_str().to_owned())
    };
    for (listed, iss, expected) in [
        (&[][..], corp, Ok("corp")),
        (&[], partner, Ok("partner")),
        (&["corp"], corp, Ok("corp")),
        (&["corp"], partner, Err(TokenFault::Issuer)),
        (&["partner"], corp, Err(TokenFault::Issuer)),
        (&["partner"], partner, Ok("partner")),
        (&["corp", "partner"], partner, Ok("partner")),
    ] {
        let server = guarded(CRM, listed);
        let expected = expected.map(str::to_owned);
        assert_eq!(asked(iss, &json!(CRM), Some(&server)), expected, "{iss} where {listed:?} are named");
        assert_eq!(asked(iss, &json!([AUDIENCE, CRM]), Some(&server)), expected, "{iss} for both");
        for other in [AUDIENCE, FILES, "https://localhost:3001/mcp/"] {
            let expected = if expected.is_ok() { TokenFault::Audience } else { TokenFault::Issuer };
            assert_eq!(asked(iss, &json!(other), Some(&server)), Err(expected), "{iss} for {other}");
        }
    }
    for iss in [corp, partner] {
        assert!(asked(iss, &json!(AUDIENCE), None).is_ok(), "the guard itself takes those of all");
        assert_eq!(asked(iss, &json!(CRM), None), Err(TokenFault::Audience));
    }
}

#[test]
fn a_token_for_the_guard_or_for_one_of_its_servers_is_nobody_elses_whoever_made_it() {
    let world = world();
    let issuers = world.issuers();
    let by = Algorithm::EdDsa;
    let both = [CRM.to_owned(), FILES.to_owned()];
    let shown = |iss: &str, aud: &Value| {
        let claims = with(with(claims(), "iss", json!(iss)), "aud", aud.clone());
        format!("Bearer {}", world.token(by, &header(by), &claims)).into_bytes()
    };
    for (aud, of_guard, of_crm, of_files) in [
        (json!(AUDIENCE), true, true, true),
        (json!(CRM), false, true, false),
        (json!(FILES), false, false, true),
        (json!(["demo", FILES]), false, false, true),
        (json!([AUDIENCE, "demo"]), true, true, true),
        (json!("demo"), false, false, false),
        (json!("https://localhost:3002/mcp/x"), false, false, false),
        (json!([]), false, false, false),
        (Value::Null, false, false, false),
    ] {
        for iss in [ISSUER, "https://unknown.example"] {
            let value = shown(iss, &aud);
            assert_eq!(issuers.concerns(&value, &[]), of_guard, "{iss} {aud}");
            assert_eq!(issuers.concerns(&value, &both[..1]), of_crm, "{iss} {aud}");
            assert_eq!(issuers.concerns(&value, &both[1..]), of_files, "{iss} {aud}");
            assert_eq!(issuers.concerns(&value, &both), of_crm || of_files, "{iss} {aud}");
        }
    }
    for foreign in ["", "Bearer opaque", "Basic bWNwLWd1YXJkOng="] {
        assert!(!issuers.concerns(foreign.as_bytes(), &both), "{foreign}");
    }
    assert!(
        !Issuers::default().concerns(&shown(ISSUER, &json!(AUDIENCE)), &[]),
        "without issuers there is no audience"
    );
}
