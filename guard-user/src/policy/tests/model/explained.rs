//! What is explained of random calls accounts for the decision.

use proptest::prelude::*;

use super::*;

/// The call as an author would write it.
pub(super) fn asked(call: &Call) -> Asked {
    let what = match call.target {
        Called::Tool(tool) => What::Tool(TOOLS[tool].into()),
        Called::Uri(uri) => What::Resource(URIS[uri].into()),
        Called::Method(method) => What::Method(METHODS[method].into()),
    };
    Asked {
        agent: AgentName::parse(AGENT_NAMES[call.agent]).unwrap(),
        profile: profile::of(call),
        server: ServerName::parse(SERVERS[call.server]).unwrap(),
        arguments: call.arguments.json().filter(|_| what.has_arguments()),
        what,
        moment: condition::timestamp(call.moment),
        user: None,
        known: None,
        risk: call.risk,
        read: flow::read(call),
        session: Within::Unknown,
    }
}

/// The decision that follows from what is told of each rule, by the words of docs/policy.md alone.
fn accounted_for(explained: &Explanation, call: &Call) -> Answer {
    let of = |intent: &IntentName| -> Vec<&JudgedRule> {
        let own =
            |rule: &&JudgedRule| rule.intent.as_ref() == Some(intent) && !rule.is_shadow && !rule.is_flow;
        explained.rules.iter().filter(own).collect()
    };
    let flows = explained.rules.iter().filter(|rule| rule.is_flow && !rule.is_shadow);
    let flows: Vec<_> = flows.filter(|rule| rule.applies == Applies::Yes).collect();
    let answers = explained.intents.iter().map(|intent| {
        let rules = of(intent);
        let is_unclear =
            |one: &MeantIntent| one.intent == *intent && matches!(one.applies, Applies::Unknown(_));
        if explained.meant.iter().any(is_unclear) {
            return Answer::Deny(DenyCode::ConditionFailed, false);
        }
        let says = |effect| rules.iter().any(|rule| rule.effect == effect && rule.applies == Applies::Yes);
        if says(Effect::Deny) {
            Answer::Deny(DenyCode::DeniedByRule, false)
        } else if rules.is_empty() {
            Answer::Deny(DenyCode::DefaultDeny, explained.rules.is_empty())
        } else if rules.iter().any(|rule| matches!(rule.applies, Applies::Unknown(_))) {
            Answer::Deny(DenyCode::ConditionFailed, false)
        } else if says(Effect::Escalate) {
            Answer::Hold(0)
        } else if says(Effect::Allow) {
            Answer::Allow(0)
        } else if rules.iter().all(|rule| rule.effect != Effect::Allow) {
            Answer::Deny(DenyCode::DefaultDeny, false)
        } else {
            Answer::Deny(DenyCode::ConditionFailed, false)
        }
    });
    let none = Answer::Deny(DenyCode::NoIntent, explained.rules.is_empty());
    let answer = answers.min().unwrap_or(none);
    if flow::is_of_protocol(call) && !flows.iter().any(|rule| rule.intent.is_none()) {
        // Nobody can approve it.
        return match answer {
            Answer::Hold(_) => Answer::Deny(DenyCode::DeniedByRule, false),
            answer if !flows.is_empty() => answer.min(Answer::Deny(DenyCode::Flow, false)),
            answer => answer,
        };
    }
    match answer {
        // A message of the protocol, which nobody can approve.
        _ if flows.iter().any(|rule| rule.intent.is_none()) => Answer::Deny(DenyCode::Flow, false),
        answer if flows.iter().any(|rule| rule.effect == Effect::Deny) => {
            answer.min(Answer::Deny(DenyCode::Flow, false))
        }
        Answer::Allow(_) if !flows.is_empty() => Answer::Hold(0),
        answer => answer,
    }
}

/// Without what velocity counts.
fn uncounted(answer: Answer) -> Answer {
    match answer {
        Answer::Allow(_) => Answer::Allow(0),
        Answer::Hold(_) => Answer::Hold(0),
        deny @ Answer::Deny(..) => deny,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_is_explained_is_the_decision_and_the_rules_that_are_told_account_for_it(
        model in model(),
        calls in proptest::collection::vec(call(), 100),
    ) {
        let (policy, files) = (model.load(false), model.files(false));
        let files: Vec<_> = files.into_iter().map(|(name, text)| (PathBuf::from(name), text)).collect();
        let written = Written::from_texts(&files, &[server(SERVERS[0]), server(SERVERS[1])]).unwrap();
        for call in &calls {
            // What is asked of files has a score.
            let call = &Call { risk: call.risk.or(Some(50)), ..call.clone() };
            let decision = put(&policy, call, Policy::decide);
            let explained = written.explain(&asked(call));
            prop_assert_eq!(&explained.decision, &decision, "{:?}", call);
            let rule = match &decision {
                Decision::Allow(allow) => Some(allow.rule()),
                Decision::Hold(hold) => Some(hold.rule()),
                Decision::Deny(deny) => deny.rule(),
            };
            let deciding: Vec<_> = explained.rules.iter().filter(|rule| rule.decides).map(|rule| &rule.rule).collect();
            let named: Vec<_> = rule.into_iter().filter(|rule| rule.as_str() != "protocol").collect();
            prop_assert_eq!(deciding, named, "{:?}", call);
            // What the profile takes away is no rule's doing.
            let decision = put(&policy, &Call { profile: 0, ..call.clone() }, Policy::decide);
            let answer = uncounted(answer(&decision));
            let is_open = matches!(&decision, Decision::Allow(allow) if allow.rule().as_str() == "protocol");
            let is_closed = matches!(&decision, Decision::Deny(deny) if deny.code() == DenyCode::ServerNotGranted);
            // Of what a call means or may mean no rule need be there to be told.
            let is_told = explained.meant.is_empty() || !explained.rules.is_empty();
            if !is_open && !is_closed && is_told {
                prop_assert_eq!(accounted_for(&explained, call), answer, "{:?} {:?}", call, explained);
            }
            // Each rule is told as judged or as near, and never as both.
            let told = explained.rules.iter().map(|rule| &rule.rule);
            let near: Vec<_> = explained.near.iter().map(|near| &near.rule).collect();
            for rule in told {
                prop_assert!(!near.contains(&rule), "{:?}", explained);
            }
        }
    }
}
