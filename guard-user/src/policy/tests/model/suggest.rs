//! What is suggested from a made-up past: never wider than the present policy, and wide enough for the past.

use super::explained::asked;
use super::*;
use crate::policy::{Became, Present, Use, Uses};

const TIME: &str = "2026-11-20T10:00:00.000000Z";

/// The past as a trail tells it, decided by `policy`.
fn past(policy: &Policy, calls: &[Call]) -> Uses {
    let mut uses = Uses::default();
    for call in calls {
        let Asked { agent, profile, server, what, .. } = asked(call);
        let became = match put(policy, call, Policy::decide) {
            Decision::Allow(_) => Became::Allowed,
            Decision::Hold(_) => Became::Held,
            Decision::Deny(_) => Became::Refused,
        };
        uses.add(Use { agent, profile, server, what }, became, None, TIME);
    }
    uses
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn a_suggestion_allows_the_past_and_nothing_that_the_present_denies(
        model in model(),
        (before, others) in (proptest::collection::vec(call(), 0..12), proptest::collection::vec(call(), 200)),
        only in proptest::option::weighted(0.2, 0..3_usize),
    ) {
        let files: Vec<_> = model.files(false).into_iter().map(|(name, text)| (name.into(), text)).collect();
        let servers = SERVERS.map(server);
        let present = Present::from_texts(files, &servers).unwrap();
        let uses = past(present.policy(), &before);
        let only = only.map(|agent| AgentName::parse(AGENT_NAMES[agent]).unwrap());
        let suggestion = present.suggest(&uses, only.as_ref(), &[]).unwrap();
        let proposal = Policy::from_texts(&[("suggested.yaml".into(), suggestion.yaml.clone())], &servers);
        let proposal = proposal.unwrap_or_else(|problems| panic!("{problems}\n{}", suggestion.yaml));
        let effect = |policy: &Policy, call: &Call| put(policy, call, Policy::decide).effect();
        for call in &before {
            let now = effect(present.policy(), call);
            if now != Effect::Deny {
                prop_assert_eq!(effect(&proposal, call), now, "{:?}\n{}", call, &suggestion.yaml);
            }
        }
        for call in before.iter().chain(&others) {
            let (now, then) = (effect(present.policy(), call), effect(&proposal, call));
            // Allowed, held, denied: each only goes down.
            let is_narrower = then == Effect::Deny || then == now;
            prop_assert!(is_narrower, "{:?} was {:?}, would be {:?}\n{}", call, now, then, &suggestion.yaml);
            // Shown only if it was shown.
            if !matches!(call.target, Called::Method(_)) {
                let sees = |policy: &Policy| put(policy, call, |policy, q| policy.may_see(q.agent, q.profile, q.server, q.target));
                prop_assert!(!sees(&proposal) || sees(present.policy()), "{:?}\n{}", call, &suggestion.yaml);
            }
        }
    }
}
