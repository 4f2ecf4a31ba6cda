//! The user for whom an agent works.

use super::*;

fn user(world: &World, more: &Value, claims: &Value) -> Result<Option<String>, TokenFault> {
    let issuers = world.load_with(&world.set().to_string(), more).unwrap();
    let token = world.token(Algorithm::EdDsa, &header(Algorithm::EdDsa), claims);
    check(&issuers, &token).map(|voucher| voucher.user.map(|user| user.as_str().to_owned()))
}

#[test]
fn the_user_is_what_the_named_claim_says_and_no_other() {
    let world = world();
    let named = with(claims(), "email", json!("alice@corp.example"));
    let by_email = json!({"user_claim": "email"});
    assert_eq!(user(&world, &by_email, &named), Ok(Some("alice@corp.example".into())));
    assert_eq!(user(&world, &json!({}), &named), Ok(None), "nobody asked for it");
    assert_eq!(user(&world, &json!({"user_claim": "upn"}), &named), Ok(None));
    let nested = with(claims(), "act", json!({"email": "alice@corp.example"}));
    assert_eq!(user(&world, &by_email, &nested), Ok(None));
}

#[test]
fn a_user_who_must_be_named_and_is_not_is_refused() {
    let world = world();
    let required = json!({"user_claim": "email", "user": "required"});
    assert_eq!(user(&world, &required, &claims()), Err(TokenFault::NoUser));
    let named = with(claims(), "email", json!("alice@corp.example"));
    assert_eq!(user(&world, &required, &named), Ok(Some("alice@corp.example".into())));
}

#[test]
fn a_claim_that_names_nobody_is_never_taken_for_none() {
    let world = world();
    let long = "u".repeat(256);
    for demand in ["optional", "required"] {
        let more = json!({"user_claim": "email", "user": demand});
        for claim in [
            json!(""),
            json!(7),
            json!(true),
            json!([]),
            json!(["alice"]),
            json!({}),
            json!("a b"),
            json!("a\u{202e}b"),
            json!(long),
        ] {
            let mut claims = claims();
            claims["email"] = claim.clone();
            assert_eq!(user(&world, &more, &claims), Err(TokenFault::NoUser), "{demand} {claim}");
        }
        let mut null = claims();
        null["email"] = Value::Null;
        assert_eq!(user(&world, &more, &null), Err(TokenFault::NoUser), "{demand} null");
    }
}
