//! The profile that the issuer gives.

use super::*;

fn profile(world: &World, claim: Option<Value>) -> Result<Option<String>, TokenFault> {
    let issuers =
        world.load_with(&world.set().to_string(), &json!({"profile_claim": "guard_profile"})).unwrap();
    let claims = claim.map_or_else(claims, |claim| with(claims(), "guard_profile", claim));
    let token = world.token(Algorithm::EdDsa, &header(Algorithm::EdDsa), &claims);
    check(&issuers, &token).map(|voucher| voucher.profile.map(|profile| profile.as_str().to_owned()))
}

#[test]
fn the_profile_is_what_the_named_claim_says_and_it_must_say_one() {
    let world = world();
    assert_eq!(profile(&world, Some(json!("narrow"))), Ok(Some("narrow".into())));
    assert_eq!(profile(&world, None), Err(TokenFault::NoProfile));
    for wrong in [json!(""), json!(7), json!(null), json!(["narrow"]), json!("a b"), json!("n".repeat(300))] {
        assert_eq!(profile(&world, Some(wrong.clone())), Err(TokenFault::NoProfile), "{wrong}");
    }
}
