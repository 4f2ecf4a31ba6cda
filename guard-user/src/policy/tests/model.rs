//! Random policies and calls: the compiled policy against an interpreter that reads the rules one by one.

mod condition;
mod explained;
mod flow;
mod opened;
mod profile;
mod shadow;
mod suggest;

use std::fmt::Write;

use proptest::prelude::*;

use super::*;
use crate::rpc::BARE_METHODS;
use crate::rpc::list::{self, Filtered, Kind};
use crate::types::IntentName;
use condition::{Arguments, Condition, Moment};

const AGENT_NAMES: [&str; 3] = ["a0", "a1", "a2"];
const SERVERS: [&str; 2] = ["customer-ops", "files"];
const INTENTS: [&str; 5] = ["x.a", "x.b", "x.b.c", "y.a", "z"];
const PATTERNS: [&str; 8] = ["x.a", "x.b", "x.b.c", "y.a", "z", "x.*", "x.b.*", "*"];
const TOOLS: [&str; 4] = ["t0", "t1", "t2", "t3"];
const RESOURCES: [&str; 6] = ["f:/a/*", "f:/a/b/*", "f:/a/b", "f:/a/b/c", "g:/*", "f:/a/bb*"];
/// Three of the protocol's own, one that is not, and one that nothing closes.
const METHODS: [&str; 5] = ["tools/list", "logging/setLevel", "subscriptions/listen", "skills/get", "ping"];
const METHOD_PATTERNS: [&str; 6] =
    ["tools/list", "logging/*", "logging/setLevel", "subscriptions/listen", "sk*", "pi*"];
const URIS: [&str; 8] = ["f:/a/x", "f:/a/b", "f:/a/b/c", "f:/a/b/d", "g:/", "h:/", "f:/a/../a/b", "f:/a/bbb"];

#[derive(Debug, Clone)]
struct Model {
    /// Per intent: matchers.
    intents: Vec<Vec<Matcher>>,
    rules: Vec<Rule>,
    velocity: Vec<(usize, usize)>,
    bounded: Option<usize>,
    profiles: Vec<profile::Profile>,
    flow: flow::Flow,
    /// The server whose rules are in shadow.
    shadowed: Option<usize>,
}

#[derive(Debug, Clone)]
enum Matcher {
    /// `when` is there only with facts.
    Tool {
        server: usize,
        tool: usize,
        has_fact: bool,
        when: Vec<Condition>,
    },
    Resource {
        server: usize,
        resource: usize,
    },
    Method {
        server: usize,
        method: usize,
    },
}

#[derive(Debug, Clone)]
struct Rule {
    pattern: usize,
    agents: Vec<usize>,
    decision: u8,
    conditions: Vec<Condition>,
    shadow: bool,
}

#[derive(Debug, Clone)]
struct Call {
    agent: usize,
    server: usize,
    target: Called,
    arguments: Arguments,
    moment: Moment,
    /// None, `default`, and those that a policy may define.
    profile: usize,
    /// What was read before, by the label's number; `None`: nothing.
    read: Option<usize>,
    risk: Option<u8>,
}

#[derive(Debug, Clone, Copy)]
enum Called {
    Tool(usize),
    Uri(usize),
    Method(usize),
}

fn matcher() -> impl Strategy<Value = Matcher> {
    prop_oneof![
        2 => (0..2_usize, 0..4_usize, any::<bool>(), when()).prop_map(|(server, tool, has_fact, when)| {
            let when = if has_fact { when } else { Vec::new() };
            Matcher::Tool { server, tool, has_fact, when }
        }),
        1 => (0..2_usize, 0..6_usize).prop_map(|(server, resource)| Matcher::Resource { server, resource }),
        1 => (0..2_usize, 0..METHOD_PATTERNS.len())
            .prop_map(|(server, method)| Matcher::Method { server, method }),
    ]
}

/// Conditions on facts, each key once.
fn when() -> impl Strategy<Value = Vec<Condition>> {
    proptest::collection::vec(condition::condition(), 0..3).prop_map(|mut when| {
        let mut keys: Vec<String> = Vec::new();
        when.retain(|condition| {
            let yaml = condition.yaml();
            let key = yaml.split(':').next().unwrap().to_owned();
            let is_new = !keys.contains(&key);
            keys.push(key);
            is_new && condition.needs_fact()
        });
        when
    })
}

fn rule() -> impl Strategy<Value = Rule> {
    let conditions = prop_oneof![
        6 => Just(Vec::new()),
        3 => condition::condition().prop_map(|condition| vec![condition]),
        1 => (condition::condition(), condition::condition()).prop_map(|(one, other)| vec![one, other]),
    ];
    (0..PATTERNS.len(), proptest::sample::subsequence(vec![0, 1, 2], 1..=3), 0..5_u8, conditions, 0..4_u8)
        .prop_map(|(pattern, agents, decision, conditions, shadow)| Rule {
            pattern,
            agents,
            decision,
            conditions,
            shadow: decision < 2 && shadow == 0,
        })
}

fn model() -> impl Strategy<Value = Model> {
    let intents = proptest::collection::vec(proptest::collection::vec(matcher(), 1..4), INTENTS.len());
    let velocity = proptest::collection::vec((0..3_usize, 0..PATTERNS.len()), 0..4);
    (
        intents,
        proptest::collection::vec(rule(), 0..10),
        velocity,
        proptest::option::weighted(0.2, 0..2_usize),
        proptest::collection::vec(profile::profile(), 0..3),
        flow::flow(),
        proptest::option::weighted(0.2, 0..2_usize),
    )
        .prop_map(|(mut intents, mut rules, mut velocity, bounded, mut profiles, flow, shadowed)| {
            for matchers in &mut intents {
                let mut seen: Vec<Matcher> = Vec::new();
                matchers.retain(|matcher| {
                    let is_new = !seen.iter().any(|before| before.place() == matcher.place());
                    seen.push(matcher.clone());
                    is_new
                });
            }
            velocity.sort_unstable();
            velocity.dedup();
            for rule in &mut rules {
                rule.settle(&intents);
            }
            for profile in &mut profiles {
                profile.settle(&intents);
            }
            Model { intents, rules, velocity, bounded, profiles, flow, shadowed }
        })
}

fn call() -> impl Strategy<Value = Call> {
    let target = prop_oneof![
        (0..TOOLS.len()).prop_map(Called::Tool),
        (0..URIS.len()).prop_map(Called::Uri),
        (0..METHODS.len()).prop_map(Called::Method),
    ];
    let before = (proptest::option::of(0..flow::LABELS.len()), proptest::option::weighted(0.9, 0..=100_u8));
    (0..3_usize, 0..2_usize, target, condition::arguments(), condition::moment(), 0..4_usize, before)
        .prop_map(|(agent, server, target, arguments, moment, profile, (read, risk))| Call {
            agent,
            server,
            target,
            arguments,
            moment,
            profile,
            read,
            risk,
        })
}

/// Written anew: nothing of the policy's own pattern code is used here.
fn matches(pattern: usize, intent: &str) -> bool {
    match PATTERNS[pattern] {
        "*" => true,
        "x.*" => intent.starts_with("x."),
        "x.b.*" => intent == "x.b.c",
        exact => exact == intent,
    }
}

impl Matcher {
    fn place(&self) -> (usize, u8, usize) {
        match self {
            Self::Tool { server, tool, .. } => (*server, 0, *tool),
            Self::Resource { server, resource } => (*server, 1, *resource),
            Self::Method { server, method } => (*server, 2, *method),
        }
    }

    fn when(&self) -> &[Condition] {
        if let Self::Tool { when, .. } = self { when } else { &[] }
    }

    fn covers(&self, call: &Call) -> bool {
        match (self, call.target) {
            (Self::Tool { server, tool, .. }, Called::Tool(called)) => {
                *server == call.server && *tool == called
            }
            (Self::Resource { server, resource }, Called::Uri(uri)) => {
                let (resource, uri) = (RESOURCES[*resource], URIS[uri]);
                *server == call.server
                    && match resource.strip_suffix('*') {
                        Some(prefix) => uri.starts_with(prefix) && !uri.contains(".."),
                        None => uri == resource,
                    }
            }
            (Self::Method { server, method }, Called::Method(called)) => {
                let (pattern, called) = (METHOD_PATTERNS[*method], METHODS[called]);
                *server == call.server
                    && pattern
                        .strip_suffix('*')
                        .map_or(pattern == called, |prefix| called.starts_with(prefix))
            }
            _ => false,
        }
    }
}

impl Rule {
    fn is_for(&self, agent: usize, intent: usize) -> bool {
        self.agents.contains(&agent) && matches(self.pattern, INTENTS[intent])
    }

    fn choice(&self) -> &'static str {
        match self.decision {
            0 => "deny",
            1 => "escalate",
            _ => "allow",
        }
    }

    /// What the loader refuses is not part of the model: conditions on facts that nobody provides, the same key twice, and
    /// some on deny rules.
    fn settle(&mut self, intents: &[Vec<Matcher>]) {
        let of_pattern = INTENTS.iter().zip(intents).filter(|(intent, _)| matches(self.pattern, intent));
        let has_fact = |matcher: &Matcher| matches!(matcher, Matcher::Tool { has_fact: true, .. });
        let provided = of_pattern.into_iter().all(|(_, matchers)| matchers.iter().any(has_fact));
        let decision = self.choice();
        let mut keys: Vec<String> = Vec::new();
        self.conditions.retain(|condition| {
            let yaml = condition.yaml();
            let key = yaml.split(':').next().unwrap().to_owned();
            let is_new = !keys.contains(&key);
            keys.push(key);
            is_new && condition.suits(decision) && (provided || !condition.needs_fact())
        });
    }

    /// `None`: cannot be judged.
    fn holds(&self, has_fact: bool, call: &Call) -> Option<bool> {
        let holds = |condition: &Condition| {
            condition.holds(self.choice() == "allow", has_fact, &call.arguments, call.moment)
        };
        self.conditions.iter().try_fold(true, |all, condition| Some(holds(condition)? && all))
    }
}

#[derive(Debug, PartialEq, Eq, Clone, Copy, PartialOrd, Ord)]
enum Answer {
    Deny(DenyCode, bool),
    Hold(usize),
    Allow(usize),
}

impl Model {
    fn yaml(&self) -> Vec<(String, String)> {
        let mut text = String::from("agents:\n");
        for (index, agent) in AGENT_NAMES.iter().enumerate() {
            let servers = match self.bounded {
                Some(server) if index == 0 => format!(", servers: [{}]", SERVERS[server]),
                _ => String::new(),
            };
            let profiles = &profile::PROFILES[..self.profiles.len()].join(", ");
            writeln!(text, "  {agent}: {{client_id: c{servers}, profiles: [default, {profiles}]}}").unwrap();
        }
        text += "intents:\n";
        for (intent, matchers) in INTENTS.iter().zip(&self.intents) {
            writeln!(text, "  {intent}:").unwrap();
            for matcher in matchers {
                match matcher {
                    Matcher::Tool { server, tool, has_fact, when } => {
                        let facts = "{n: {number: n}, t: {text: t}, d: {domains: d}, p: {path: p}}";
                        let facts = if *has_fact { format!(", facts: {facts}") } else { String::new() };
                        let when: Vec<_> = when.iter().map(Condition::yaml).collect();
                        let when = match when.join(", ") {
                            none if none.is_empty() => none,
                            some => format!(", when: {{{some}}}"),
                        };
                        let carries = self.flow.yaml_of(matcher);
                        writeln!(
                            text,
                            "    - {{server: {}, tool: {}{facts}{when}{carries}}}",
                            SERVERS[*server], TOOLS[*tool]
                        )
                        .unwrap();
                    }
                    Matcher::Resource { server, resource } => {
                        let resource = RESOURCES[*resource];
                        let carries = self.flow.yaml_of(matcher);
                        writeln!(
                            text,
                            "    - {{server: {}, resource: '{resource}'{carries}}}",
                            SERVERS[*server]
                        )
                        .unwrap();
                    }
                    Matcher::Method { server, method } => {
                        let method = METHOD_PATTERNS[*method];
                        writeln!(text, "    - {{server: {}, method: '{method}'}}", SERVERS[*server]).unwrap();
                    }
                }
            }
        }
        if !self.profiles.is_empty() {
            text += "profiles:\n";
        }
        text.extend(self.profiles.iter().zip(profile::PROFILES).map(|(profile, name)| profile.yaml(name)));
        text += &self.flow.yaml();
        text += &self.shadow_yaml();
        // One file per rule, so that order can be changed by names alone.
        let mut files = vec![("base.yaml".to_owned(), text)];
        for rule in &self.rules {
            let agents: Vec<_> = rule.agents.iter().map(|agent| AGENT_NAMES[*agent]).collect();
            let conditions: Vec<_> = rule.conditions.iter().map(Condition::yaml).collect();
            let conditions = if conditions.is_empty() {
                String::new()
            } else {
                format!(", conditions: {{{}}}", conditions.join(", "))
            };
            let (pattern, agents) = (PATTERNS[rule.pattern], agents.join(", "));
            let text = format!(
                "policies:\n  - {{intent: '{pattern}', agents: [{agents}], decision: {}{conditions}, shadow: {}}}\n",
                rule.choice(),
                rule.shadow
            );
            files.push((format!("r{}.yaml", files.len()), text));
        }
        for (agent, pattern) in &self.velocity {
            let (agent, pattern) = (AGENT_NAMES[*agent], PATTERNS[*pattern]);
            let text = format!(
                "velocity_rules:\n  - {{agent: {agent}, intent: '{pattern}', window: 1m, max_calls: 5, exceeded_action: deny}}\n"
            );
            files.push((format!("v{}.yaml", files.len()), text));
        }
        files
    }

    fn load(&self, reversed: bool) -> Policy {
        let files = self.files(reversed);
        let files: Vec<_> = files.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        policy(&files).unwrap_or_else(|problems| panic!("{problems}\n{files:#?}"))
    }

    fn files(&self, reversed: bool) -> Vec<(String, String)> {
        let mut files = self.yaml();
        if reversed {
            let names: Vec<_> = files.iter().map(|(name, _)| name.clone()).rev().collect();
            files.iter_mut().zip(names).for_each(|(file, name)| file.0 = name);
        }
        files
    }

    fn is_bounded(&self, agent: usize, server: usize) -> bool {
        agent == 0 && self.bounded.is_some_and(|only| only != server)
    }

    /// The rules of `agent` for an intent, each with whether the fact is there for this call.
    fn rules_for(&self, agent: usize, intent: usize) -> Vec<&Rule> {
        let is_for = |rule: &&Rule| !rule.shadow && rule.is_for(agent, intent);
        self.rules.iter().filter(is_for).collect()
    }

    /// The intents that some call of the target means.
    fn targeted(&self, call: &Call) -> Vec<usize> {
        (0..INTENTS.len()).filter(|i| self.intents[*i].iter().any(|m| m.covers(call))).collect()
    }

    /// Whether a call of the target means the intent; `None`: nobody can tell.
    fn means(&self, intent: usize, call: &Call) -> Option<bool> {
        let matcher = self.intents[intent].iter().find(|m| m.covers(call) && !m.when().is_empty());
        let when = matcher.map_or(&[][..], Matcher::when);
        let holds = |allows: bool| {
            let holds = |condition: &Condition| condition.holds(allows, true, &call.arguments, None);
            when.iter().map(holds).collect::<Option<Vec<_>>>()
        };
        let (each, any) = (holds(true)?, holds(false)?);
        (each == any).then(|| !each.contains(&false))
    }

    fn has_when(&self, call: &Call) -> bool {
        self.intents.iter().flatten().any(|m| m.covers(call) && !m.when().is_empty())
    }

    /// The names of the rules in shadow that would have refused it, sorted.
    fn would_deny(&self, call: &Call) -> Vec<String> {
        let would = |rule: &Rule| {
            (0..INTENTS.len()).filter(|intent| rule.is_for(call.agent, *intent)).any(|intent| {
                let matchers: Vec<_> = self.intents[intent].iter().filter(|m| m.covers(call)).collect();
                let has_fact = |m: &&Matcher| matches!(m, Matcher::Tool { has_fact: true, .. });
                let is_meant = !matchers.is_empty() && self.means(intent, call) != Some(false);
                is_meant && rule.holds(matchers.iter().any(has_fact), call) != Some(false)
            })
        };
        let rules = self.rules.iter().zip(1..).filter(|(rule, _)| rule.shadow && would(rule));
        let mut names: Vec<_> = rules.map(|(_, number)| format!("r{number}.yaml:2")).collect();
        names.extend(self.flow.would_deny(self, call));
        names.sort();
        names
    }

    fn decide(&self, call: &Call) -> Answer {
        self.narrow(call, self.decide_for_agent(call))
    }

    fn decide_for_agent(&self, call: &Call) -> Answer {
        let intents = self.targeted(call);
        let is_named = intents.iter().any(|intent| !self.rules_for(call.agent, *intent).is_empty());
        let is_protocol = flow::is_of_protocol(call);
        let is_needed = matches!(call.target, Called::Method(method) if METHODS[method] == "ping");
        if is_protocol && (intents.is_empty() || is_needed) && self.is_granted(call.agent, call.server) {
            return if is_bare(call) { Answer::Allow(0) } else { self.flow.worse_of_protocol(self, call) };
        }
        if self.is_bounded(call.agent, call.server)
            || (!is_named && !self.is_granted(call.agent, call.server))
        {
            return Answer::Deny(DenyCode::ServerNotGranted, false);
        }
        if intents.is_empty() {
            return Answer::Deny(DenyCode::NoIntent, true);
        }
        if !is_named {
            return Answer::Deny(DenyCode::DefaultDeny, true);
        }
        let intents: Vec<_> =
            intents.into_iter().filter(|intent| self.means(*intent, call) != Some(false)).collect();
        if intents.is_empty() {
            return self.flow.worse(self, call, Answer::Deny(DenyCode::NoIntent, false));
        }
        let answers = intents.iter().map(|intent| {
            let rules = self.rules_for(call.agent, *intent);
            let has_fact = self.intents[*intent].iter().any(|matcher| {
                matcher.covers(call) && matches!(matcher, Matcher::Tool { has_fact: true, .. })
            });
            if self.means(*intent, call).is_none() {
                return Answer::Deny(DenyCode::ConditionFailed, false);
            }
            if rules.is_empty() {
                return Answer::Deny(DenyCode::DefaultDeny, false);
            }
            let verdicts: Vec<_> =
                rules.iter().map(|rule| (rule.choice(), rule.holds(has_fact, call))).collect();
            if verdicts.contains(&("deny", Some(true))) {
                return Answer::Deny(DenyCode::DeniedByRule, false);
            }
            if verdicts.iter().any(|(_, holds)| holds.is_none()) {
                return Answer::Deny(DenyCode::ConditionFailed, false);
            }
            if verdicts.contains(&("escalate", Some(true))) {
                return Answer::Hold(0);
            }
            if verdicts.contains(&("allow", Some(true))) {
                return Answer::Allow(0);
            }
            if rules.iter().all(|rule| rule.choice() != "allow") {
                return Answer::Deny(DenyCode::DefaultDeny, false);
            }
            Answer::Deny(DenyCode::ConditionFailed, false)
        });
        // Sorted: denials by code first, then hold, then allow.
        let worst = answers.min().unwrap();
        let worst = if is_named { self.flow.worse(self, call, worst) } else { worst };
        let counted = |&(agent, pattern): &(usize, usize)| {
            agent == call.agent && intents.iter().any(|intent| matches(pattern, INTENTS[*intent]))
        };
        let counted = self.velocity.iter().filter(|rule| counted(rule)).count();
        match worst {
            Answer::Hold(_) => Answer::Hold(counted),
            Answer::Allow(_) => Answer::Allow(counted),
            deny @ Answer::Deny(..) => deny,
        }
    }
}

fn answer(decision: &Decision) -> Answer {
    match decision {
        Decision::Allow(allow) => Answer::Allow(allow.velocity().len()),
        Decision::Hold(hold) => Answer::Hold(hold.velocity().len()),
        Decision::Deny(deny) => Answer::Deny(deny.code(), deny.is_hidden()),
    }
}

fn is_bare(call: &Call) -> bool {
    matches!(call.target, Called::Method(method) if BARE_METHODS.contains(&METHODS[method]))
}

fn put<T>(policy: &Policy, call: &Call, ask: impl FnOnce(&Policy, &Question<'_>) -> T) -> T {
    let agent = AgentName::parse(AGENT_NAMES[call.agent]).unwrap();
    let server = ServerName::parse(SERVERS[call.server]).unwrap();
    let (method, target) = match call.target {
        Called::Tool(tool) => ("tools/call", Target::Tool(TOOLS[tool])),
        Called::Uri(uri) => ("resources/read", Target::Resource(URIS[uri])),
        Called::Method(method) => (METHODS[method], Target::Method),
    };
    let profile = profile::of(call);
    let arguments = call.arguments.json();
    // Resources and methods have no arguments.
    let arguments = arguments.as_ref().filter(|_| matches!(call.target, Called::Tool(_)));
    let read = flow::read(call);
    let around = Circumstances {
        moment: condition::timestamp(call.moment),
        risk: call.risk,
        read: Some(&read),
        is_bare: is_bare(call),
        ..Circumstances::default()
    };
    ask(
        policy,
        &Question {
            agent: &agent,
            profile: profile.as_ref(),
            server: &server,
            method,
            target,
            arguments,
            around,
        },
    )
}

proptest! {
    // 400 policies with 250 calls each.
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_compiled_policy_agrees_with_reading_the_rules_one_by_one(
        model in model(),
        calls in proptest::collection::vec(call(), 250),
    ) {
        let (policy, reversed) = (model.load(false), model.load(true));
        let on = [model.on(0), model.on(1)];
        for call in &calls {
            let model = &on[call.server];
            let decision = put(&policy, call, Policy::decide);
            prop_assert_eq!(answer(&decision), model.decide(call), "{:?}", call);
            let (would_deny, rule) = match &decision {
                Decision::Allow(allow) => (allow.would_deny(), allow.rule().as_str()),
                Decision::Hold(hold) => (hold.would_deny(), hold.rule().as_str()),
                Decision::Deny(_) => (&[][..], ""),
            };
            let in_shadow = match rule {
                "" => vec![],
                "protocol" if is_bare(call) => vec![],
                "protocol" => model.flow.would_deny_of_protocol(model, call),
                _ => model.would_deny(call),
            };
            prop_assert_eq!(would_deny.iter().map(ToString::to_string).collect::<Vec<_>>(), in_shadow, "{:?}", call);
            if let Decision::Allow(allow) = &decision
                && rule != "protocol"
            {
                prop_assert_eq!(allow.label().map(LabelName::as_str), model.flow.label(model, call), "{:?}", call);
            }
            // No profile adds anything.
            if let Decision::Deny(_) = put(&policy, &Call { profile: 0, ..call.clone() }, Policy::decide) {
                prop_assert!(matches!(decision, Decision::Deny(_)), "{:?}", call);
            }
            // The order of files and rules has no meaning.
            let again = put(&reversed, call, Policy::decide);
            prop_assert_eq!(answer(&again), answer(&decision), "{:?}", call);
            // A list never hides what could be called, and never shows what is denied whatever the arguments.
            if matches!(call.target, Called::Method(_)) {
                continue;
            }
            let is_seen = put(&policy, call, |policy, q| policy.may_see(q.agent, q.profile, q.server, q.target));
            match &decision {
                Decision::Allow(_) => prop_assert!(is_seen),
                // What nothing but a condition holds is in no list.
                Decision::Hold(_) => prop_assert!(is_seen || model.is_held_alone(call), "{:?}", call),
                Decision::Deny(deny) => match deny.code() {
                    DenyCode::ConditionFailed | DenyCode::DeniedByRule | DenyCode::Flow => {
                        prop_assert!(!(is_seen && model.is_shut(call)));
                    }
                    // A call that means something else may be let through, and one that is less risky.
                    _ => prop_assert!(!is_seen || model.has_when(call) || model.is_too_risky(call)),
                },
            }
        }
    }

    #[test]
    fn a_list_shows_an_entry_if_and_only_if_some_call_of_it_would_not_be_denied(mut model in model()) {
        // A list takes each `when` by itself, so that it may show what no single call could.
        for matcher in model.intents.iter_mut().flatten() {
            if let Matcher::Tool { when, .. } = matcher {
                when.clear();
            }
        }
        // Conditions that one call can meet together: 0 is within each, and a deny rule wants more.
        for rule in &mut model.rules {
            // An escalate rule with conditions shows nothing.
            let wanted = match rule.decision {
                0 => Some(2),
                1 => None,
                _ => Some(0),
            };
            rule.conditions.retain(|condition| match condition {
                Condition::Bound(bound, _) => Some(*bound) == wanted,
                _ => false,
            });
        }
        // What was read is nothing that a list looks at.
        model.flow.clear();
        let policy = model.load(false);
        let tools = TOOLS.map(|name| serde_json::json!({ "name": name }));
        let resources = URIS.map(|uri| serde_json::json!({ "uri": uri }));
        let list = serde_json::json!({"id": 1, "result": {"tools": tools, "resources": resources}}).to_string();
        for (agent, server) in (0..AGENT_NAMES.len()).flat_map(|agent| [(agent, 0), (agent, 1)]) {
            let (agent_name, server_name) =
                (AgentName::parse(AGENT_NAMES[agent]).unwrap(), ServerName::parse(SERVERS[server]).unwrap());
            let judge = |target: Target<'_>| policy.may_see(&agent_name, None, &server_name, target);
            let shown = match list::filter(list.as_bytes(), &judge, 1).unwrap() {
                Filtered::Unchanged => serde_json::from_str(&list),
                Filtered::Changed(bytes) => serde_json::from_slice::<serde_json::Value>(&bytes),
            };
            let shown = shown.unwrap()["result"].clone();
            // What bounds the arguments are is nothing that 0 would exceed.
            let with = Arguments::With { n: 0, things: Default::default() };
            let arguments = [Arguments::Absent, Arguments::Without, with];
            let may_pass = |target| arguments.iter().any(|arguments| {
                let call = Call { agent, server, target, arguments: arguments.clone(), moment: None, profile: 0, read: None, risk: None };
                !matches!(put(&policy, &call, Policy::decide), Decision::Deny(_))
            });
            let wanted: Vec<_> = (0..TOOLS.len()).filter(|tool| may_pass(Called::Tool(*tool))).map(|tool| tools[tool].clone()).collect();
            prop_assert_eq!(&shown["tools"], &serde_json::Value::from(wanted.clone()));
            let uris: Vec<_> = (0..URIS.len()).filter(|uri| may_pass(Called::Uri(*uri))).map(|uri| resources[uri].clone()).collect();
            prop_assert_eq!(&shown["resources"], &serde_json::Value::from(uris.clone()));
            // A capability goes only where nothing of its kind is left, here or under another name.
            let any = |kind| policy.may_see_any(&agent_name, None, &server_name, kind);
            prop_assert!(any(Kind::Tool) != wanted.is_empty());
            prop_assert!(any(Kind::Resource) || uris.is_empty());
            prop_assert!(!any(Kind::Prompt));
        }
    }

    #[test]
    fn one_more_deny_rule_never_allows_anything(
        model in model(),
        pattern in 0..PATTERNS.len(),
        agent in 0..3_usize,
        conditions in proptest::collection::vec(condition::condition(), 0..2),
        calls in proptest::collection::vec(call(), 20),
    ) {
        let before = model.load(false);
        let mut stricter = model;
        let mut rule = Rule { pattern, agents: vec![agent], decision: 0, conditions, shadow: false };
        rule.settle(&stricter.intents);
        stricter.rules.push(rule);
        let after = stricter.load(false);
        for call in &calls {
            let before = put(&before, call, Policy::decide);
            let after = put(&after, call, Policy::decide);
            let rank = |decision: &Decision| match decision {
                Decision::Deny(_) => 0,
                Decision::Hold(_) => 1,
                Decision::Allow(_) => 2,
            };
            prop_assert!(rank(&after) <= rank(&before));
        }
    }
}
