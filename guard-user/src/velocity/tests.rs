use super::*;
use crate::policy::{IntentPattern, Part, Per, VelocityRule};
use crate::types::{IntentName, ServerName};

mod model;

pub(super) fn agent(name: &str) -> AgentName {
    AgentName::parse(name).unwrap()
}

fn velocity() -> Velocity {
    Velocity::new(Room { all: 1_000_000, each: 1_000_000, kept: 0 })
}

/// Of one agent's calls at one server, without user and session.
fn by(agent: &AgentName) -> Call<'_> {
    Call { agent, user: None, session: None, server: server(), tool: Some("t") }
}

fn server() -> &'static ServerName {
    static NAME: std::sync::OnceLock<ServerName> = std::sync::OnceLock::new();
    NAME.get_or_init(|| ServerName::parse("crm").unwrap())
}

pub(super) fn meter(rule: VelocityRule) -> Meter {
    let intent = rule.per.parts().any(|part| part == Part::Intent);
    let intent = intent.then(|| IntentName::parse("an.intent").unwrap());
    Meter { scope: rule.scope(), rule: Arc::new(rule), intent, weight: 1 }
}

pub(super) fn plain(intent: &str, window_seconds: u64, max: u64, action: ExceededAction) -> VelocityRule {
    VelocityRule {
        name: RuleName::for_tests(&format!("{intent}-{window_seconds}")),
        agent: None,
        server: None,
        tool: None,
        profile: None,
        intent: IntentPattern::parse(intent).unwrap(),
        per: Per::default(),
        measure: if window_seconds == 0 { Measure::Concurrent } else { Measure::Calls },
        window_milliseconds: window_seconds * 1000,
        max,
        action,
        reason: None,
    }
}

fn rule(intent: &str, window_seconds: u64, max: u64, action: ExceededAction) -> Meter {
    meter(plain(intent, window_seconds, max, action))
}

#[track_caller]
fn within(admission: Admission) -> Pass {
    match admission {
        Admission::Within(pass) => pass,
        Admission::Exceeded(exceeded) => panic!("{exceeded:?}"),
    }
}

#[track_caller]
fn exceeded(admission: Admission) -> Exceeded {
    match admission {
        Admission::Exceeded(exceeded) => exceeded,
        Admission::Within(_) => panic!("must be exceeded"),
    }
}

#[test]
fn the_call_over_the_limit_is_refused_with_rule_reason_and_wait() {
    let velocity = velocity();
    let rules = [rule("data.read", 60, 100, ExceededAction::Deny)];
    let (a, b) = (agent("a"), agent("b"));
    for now in 0..100 {
        within(velocity.admit(now, &by(&a), &rules));
    }
    let refused = exceeded(velocity.admit(100, &by(&a), &rules));
    assert_eq!((refused.count, refused.max, refused.retry_after_milliseconds), (100, 100, 59_900));
    assert_eq!(refused.rule.as_str(), "data.read-60");
    assert_eq!(&*refused.reason, "more than 100 calls with data.read in 60 seconds");
    // Another agent has its own window; the refused call took no place in this one.
    within(velocity.admit(100, &by(&b), &rules));
    within(velocity.admit(60_000, &by(&a), &rules));
}

#[test]
fn what_passes_says_how_full_the_window_is_that_has_the_least_room_left() {
    let velocity = velocity();
    let (wide, narrow) = (rule("x", 3600, 100, ExceededAction::Deny), rule("x", 60, 5, ExceededAction::Deny));
    let a = agent("a");
    let filled = |now: u64, meters: &[Meter]| {
        let filled = within(velocity.admit(now, &by(&a), meters)).fullest.unwrap();
        (filled.rule.as_str().to_owned(), filled.count, filled.max)
    };
    let both = [wide.clone(), narrow];
    assert_eq!(filled(0, &both), ("x-60".into(), 1, 5));
    assert_eq!(filled(0, &both), ("x-60".into(), 2, 5));
    // In a minute the narrow one is empty again; the wide one has what it had.
    for _ in 0..40 {
        assert_eq!(filled(1, std::slice::from_ref(&wide)).2, 100);
    }
    assert_eq!(filled(61_000, &both), ("x-3600".into(), 43, 100));
    assert_eq!(within(velocity.admit(0, &by(&a), &[])).fullest, None);
}

#[test]
fn a_call_that_one_rule_refuses_is_counted_by_none() {
    let velocity = velocity();
    let wide = rule("data.*", 60, 10, ExceededAction::Deny);
    let narrow = rule("data.read", 60, 2, ExceededAction::Deny);
    let both = [wide.clone(), narrow];
    let a = agent("a");
    for _ in 0..2 {
        within(velocity.admit(0, &by(&a), &both));
    }
    for _ in 0..50 {
        assert_eq!(exceeded(velocity.admit(0, &by(&a), &both)).max, 2);
    }
    for _ in 0..8 {
        within(velocity.admit(0, &by(&a), std::slice::from_ref(&wide)));
    }
    assert_eq!(exceeded(velocity.admit(0, &by(&a), &[wide])).count, 10);
}

#[test]
fn deny_is_told_before_escalate_and_the_longer_wait_before_the_shorter() {
    let velocity = velocity();
    let escalate = rule("x", 3600, 1, ExceededAction::Escalate);
    let deny = rule("x", 60, 1, ExceededAction::Deny);
    let longer = rule("x", 120, 1, ExceededAction::Deny);
    let rules = [escalate.clone(), deny, longer];
    let a = agent("a");
    within(velocity.admit(0, &by(&a), &rules));
    assert_eq!(exceeded(velocity.admit(1, &by(&a), &rules)).rule.as_str(), "x-120");
    assert_eq!(exceeded(velocity.admit(1, &by(&a), &[escalate])).action, ExceededAction::Escalate);
}

#[test]
fn a_changed_limit_judges_the_calls_already_made() {
    let velocity = velocity();
    let with_max = |max| [rule("x", 60, max, ExceededAction::Deny)];
    let a = agent("a");
    for now in 0..5 {
        within(velocity.admit(now, &by(&a), &with_max(5)));
    }
    assert_eq!(exceeded(velocity.admit(5, &by(&a), &with_max(3))).count, 5);
    within(velocity.admit(5, &by(&a), &with_max(6)));
}

#[test]
fn two_limits_of_one_window_count_a_call_once() {
    let velocity = velocity();
    let rules = [rule("x", 60, 4, ExceededAction::Deny), rule("x", 60, 3, ExceededAction::Escalate)];
    let a = agent("a");
    for n in 0..3 {
        within(velocity.admit(n, &by(&a), &rules));
    }
    let refused = exceeded(velocity.admit(3, &by(&a), &rules));
    assert_eq!((refused.action, refused.count), (ExceededAction::Escalate, 3));
    assert_eq!(velocity.keys(), 1);
}

#[test]
fn a_rule_in_shadow_lets_pass_what_it_would_refuse_and_counts_what_it_would_let_pass() {
    let velocity = velocity();
    let shadow = rule("x", 60, 2, ExceededAction::Shadow);
    let deny = rule("x.y", 60, 5, ExceededAction::Deny);
    let a = agent("a");
    let mut told = Vec::new();
    for n in 0..5 {
        told.push(within(velocity.admit(n, &by(&a), &[shadow.clone(), deny.clone()])).would_deny.len());
    }
    assert_eq!(told, [0, 0, 1, 1, 1]);
    assert_eq!(exceeded(velocity.admit(5, &by(&a), &[shadow.clone(), deny])).rule.as_str(), "x.y-60");
    // Two calls are in its window, and leave it one by one, as if it were in force.
    assert!(within(velocity.admit(60_000, &by(&a), &[shadow])).would_deny.is_empty());
}

#[test]
fn what_is_counted_apart_has_windows_of_its_own() {
    let velocity = velocity();
    let (a, b) = (agent("a"), agent("b"));
    let per = |one, other| {
        let per = Per::new(one, other).unwrap();
        [meter(VelocityRule { per, ..plain("x", 60, 1, ExceededAction::Deny) })]
    };
    let (base, crm) = (by(&a), server());
    let other = ServerName::parse("erp").unwrap();
    // Each is counted apart from `base` by just the parts that are named.
    let calls = [
        (Part::Agent, Call { agent: &b, user: Some("u"), session: Some("s"), ..base }),
        (Part::User, Call { user: Some("v"), session: Some("s"), ..base }),
        (Part::Session, Call { user: Some("u"), session: Some("t"), ..base }),
        (Part::Tool, Call { user: Some("u"), session: Some("s"), tool: Some("other"), ..base }),
        (Part::Server, Call { user: Some("u"), session: Some("s"), server: &other, ..base }),
    ];
    let base = Call { user: Some("u"), session: Some("s"), server: crm, ..base };
    for (at, part) in Part::ALL.into_iter().enumerate() {
        let rules = per(part, None);
        let now = u64::try_from(at).unwrap() * 100_000;
        within(velocity.admit(now, &base, &rules));
        exceeded(velocity.admit(now, &base, &rules));
        for (differs, call) in calls {
            // Ids of sessions are a server's choice.
            let is_apart = differs == part || (part == Part::Session && differs == Part::Server);
            let admitted = matches!(velocity.admit(now, &call, &rules), Admission::Within(_));
            assert_eq!(admitted, is_apart, "per {part:?}, another {differs:?}");
        }
    }
    let pair = per(Part::Tool, Some(Part::User));
    within(velocity.admit(900_000, &base, &pair));
    within(velocity.admit(900_000, &Call { user: Some("v"), ..base }, &pair));
    within(velocity.admit(900_000, &Call { tool: Some("other"), ..base }, &pair));
    exceeded(velocity.admit(900_000, &Call { session: Some("t"), ..base }, &pair));
}

#[test]
fn what_has_no_user_session_or_tool_is_counted_for_its_agent() {
    let velocity = velocity();
    let (a, b) = (agent("a"), agent("b"));
    for part in [Part::User, Part::Session, Part::Tool] {
        let per = Per::new(part, None).unwrap();
        let rules = [meter(VelocityRule { per, ..plain("x", 60, 1, ExceededAction::Deny) })];
        let call = |agent| Call { tool: None, ..by(agent) };
        let (first, second) = (call(&a), call(&b));
        within(velocity.admit(0, &first, &rules));
        exceeded(velocity.admit(0, &first, &rules));
        within(velocity.admit(0, &second, &rules));
        // Nor is it the one who is called so.
        within(velocity.admit(
            0,
            &Call { user: Some("~none:a"), session: Some("~none:a"), tool: Some("~none:a"), ..first },
            &rules,
        ));
    }
}

#[test]
fn names_that_are_cut_stay_apart() {
    let a = agent("a");
    let per = Per::new(Part::User, None).unwrap();
    let meter = meter(VelocityRule { per, ..plain("x", 60, 1, ExceededAction::Deny) });
    let key = |user: &str| {
        let mut key = Vec::new();
        key::write(&mut key, &meter, &Call { user: Some(user), ..by(&a) });
        let (_, parts) = key::read(&key).unwrap();
        assert!(parts[0].len() <= 70 && parts[0].bytes().all(|byte| byte.is_ascii_graphic()), "{parts:?}");
        parts[0].to_owned()
    };
    let long = "a".repeat(65);
    let users =
        ["a", "A", "a b", "a_b", "a~b", "ä", "\u{1b}[2J", "", &long, &format!("{long}a"), &key(&long)];
    let keys: std::collections::BTreeSet<_> = users.iter().map(|user| key(user)).collect();
    assert_eq!(keys.len(), users.len(), "{keys:?}");
}

#[test]
fn calls_under_way_count_until_they_have_ended() {
    let velocity = velocity();
    let rules = [rule("x", 0, 2, ExceededAction::Deny)];
    let a = agent("a");
    let first = within(velocity.admit(0, &by(&a), &rules));
    let _second = within(velocity.admit(0, &by(&a), &rules));
    let refused = exceeded(velocity.admit(0, &by(&a), &rules));
    assert_eq!(&*refused.reason, "more than 2 calls with x at a time");
    assert_eq!((refused.count, refused.retry_after_milliseconds), (2, 1000));
    // It is no window: no time makes room.
    exceeded(velocity.admit(100_000_000, &by(&a), &rules));
    assert!(first.counted.is_empty(), "nothing to count again after a restart");
    drop(first);
    let third = within(velocity.admit(0, &by(&a), &rules));
    velocity.tidy(200_000_000, &[]);
    exceeded(velocity.admit(200_000_000, &by(&a), &rules));
    drop(third);
}

#[test]
fn a_refused_call_is_not_under_way() {
    let velocity = velocity();
    let rules = [rule("x", 0, 1, ExceededAction::Deny), rule("x", 60, 1, ExceededAction::Deny)];
    let a = agent("a");
    drop(within(velocity.admit(0, &by(&a), &rules)));
    for _ in 0..5 {
        assert_eq!(exceeded(velocity.admit(0, &by(&a), &rules)).rule.as_str(), "x-60");
    }
    drop(within(velocity.admit(60_000, &by(&a), &rules)));
}

#[test]
fn empty_windows_are_given_back() {
    let velocity = velocity();
    for n in 0..500 {
        let rules = [rule("x", 60, 5, ExceededAction::Deny), rule("y", 120, 5, ExceededAction::Deny)];
        within(velocity.admit(0, &by(&agent(&format!("a{n}"))), &rules));
    }
    let rules = ["x", "y"].map(|name| {
        let seconds = if name == "x" { 60 } else { 120 };
        Arc::new(plain(name, seconds, 5, ExceededAction::Deny))
    });
    assert_eq!(velocity.keys(), 1000);
    velocity.tidy(59_999, &rules);
    assert_eq!(velocity.keys(), 1000);
    velocity.tidy(60_000, &rules);
    assert_eq!(velocity.keys(), 500);
    velocity.tidy(120_000, &rules);
    assert_eq!(velocity.keys(), 0);
}

#[test]
fn what_no_rule_counts_any_more_is_forgotten_and_what_is_under_way_is_not() {
    let velocity = velocity();
    let (gone, stays) = (rule("x", 60, 1, ExceededAction::Deny), rule("y", 60, 1, ExceededAction::Deny));
    let under_way = rule("z", 0, 1, ExceededAction::Deny);
    let a = agent("a");
    let pass = within(velocity.admit(0, &by(&a), &[gone.clone(), stays.clone(), under_way.clone()]));
    velocity.tidy(1, &[Arc::clone(&stays.rule)]);
    assert_eq!(velocity.keys(), 2);
    within(velocity.admit(1, &by(&a), &[gone]));
    exceeded(velocity.admit(1, &by(&a), &[stays]));
    exceeded(velocity.admit(1, &by(&a), std::slice::from_ref(&under_way)));
    drop(pass);
    within(velocity.admit(1, &by(&a), &[under_way]));
}

/// A call of `a` by a user of its own.
fn flood(velocity: &Velocity, agent: &AgentName, now: u64, users: std::ops::Range<u32>) -> usize {
    let per = Per::new(Part::User, None).unwrap();
    let rules = [meter(VelocityRule { per, ..plain("x", 60, 5, ExceededAction::Deny) })];
    let mut admitted = 0;
    for n in users {
        let user = format!("u{n}");
        let call = Call { user: Some(&user), ..by(agent) };
        admitted += usize::from(matches!(velocity.admit(now, &call, &rules), Admission::Within(_)));
    }
    admitted
}

#[test]
fn one_agents_flood_of_keys_ends_at_its_share_and_takes_none_from_others() {
    let velocity = Velocity::new(Room { all: 3_000, each: 1_000, kept: 0 });
    let (a, b, c, d) = (agent("a"), agent("b"), agent("c"), agent("d"));
    assert_eq!(flood(&velocity, &a, 0, 0..20_000), 1_000);
    assert_eq!(velocity.keys(), 1_000);
    // Keys that are there count on.
    assert_eq!(flood(&velocity, &a, 1, 0..1_000), 1_000);
    assert_eq!(flood(&velocity, &b, 0, 30_000..30_500), 500);
    assert_eq!(flood(&velocity, &c, 0, 40_000..50_000), 1_000);
    assert_eq!(flood(&velocity, &d, 0, 60_000..70_000), 500);
    assert_eq!(velocity.keys(), 3_000);
    let per = Per::new(Part::User, None).unwrap();
    let rules = [meter(VelocityRule { per, ..plain("x", 60, 5, ExceededAction::Escalate) })];
    let shares = [
        (&a, "the agent's calls already need 1000 counters, which is its share"),
        (
            &d,
            "calls already need 3000 counters beyond those kept for each agent, and there is room for no more",
        ),
    ];
    for (agent, reason) in shares {
        let refused = exceeded(velocity.admit(0, &Call { user: Some("new"), ..by(agent) }, &rules));
        assert_eq!(refused.action, ExceededAction::Deny, "nobody can approve room");
        assert_eq!(&*refused.reason, reason);
    }
}

#[test]
fn what_is_kept_for_an_agent_has_room_when_others_took_all_the_rest() {
    let velocity = Velocity::new(Room { all: 1_000, each: 600, kept: 100 });
    let (a, b, c) = (agent("a"), agent("b"), agent("c"));
    assert_eq!(flood(&velocity, &a, 0, 0..5_000), 600);
    assert_eq!(flood(&velocity, &b, 0, 10_000..15_000), 600);
    // These two have 500 beyond what is kept for each, and so all that there is.
    assert_eq!(flood(&velocity, &c, 0, 20_000..25_000), 100);
    assert_eq!(velocity.keys(), 1_300);
    // What counts nothing any more makes room, beyond what is kept too.
    velocity.tidy(60_000, &[]);
    assert_eq!((velocity.keys(), flood(&velocity, &c, 60_000, 0..5_000)), (0, 600));
    assert_eq!(flood(&velocity, &a, 60_000, 10_000..15_000), 600);
}

#[test]
fn rules_in_shadow_leave_half_of_the_room_to_those_in_force() {
    let velocity = Velocity::new(Room { all: 1_000, each: 400, kept: 10 });
    let per = Per::new(Part::User, None).unwrap();
    let shadow = [meter(VelocityRule { per, ..plain("s", 60, 5, ExceededAction::Shadow) })];
    let (a, b) = (agent("a"), agent("b"));
    for agent in [&a, &b] {
        for n in 0..1_000 {
            let user = format!("u{n}");
            let call = Call { user: Some(&user), ..by(agent) };
            assert!(within(velocity.admit(0, &call, &shadow)).would_deny.is_empty());
        }
    }
    assert_eq!(velocity.keys(), 400);
    assert_eq!(flood(&velocity, &a, 0, 5_000..9_000), 200);
}

#[test]
fn a_key_that_is_needed_takes_the_place_of_one_that_counts_nothing() {
    let velocity = Velocity::new(Room { all: 1_000, each: 500, kept: 0 });
    let a = agent("a");
    assert_eq!(flood(&velocity, &a, 0, 0..500), 500);
    assert_eq!(flood(&velocity, &a, 59_999, 1_000..1_001), 0);
    // Nobody has tidied up, and each call looks at some places only.
    assert_eq!(flood(&velocity, &a, 60_000, 0..500), 500, "the same keys");
    let admitted = flood(&velocity, &a, 120_000, 10_000..40_000);
    assert!((490..=500).contains(&admitted), "{admitted}");
    assert!(velocity.keys() <= 500);
}

#[test]
fn a_rule_in_shadow_that_has_no_room_refuses_nothing() {
    let velocity = Velocity::new(Room { all: 1, each: 1, kept: 0 });
    let per = Per::new(Part::User, None).unwrap();
    let shadow = meter(VelocityRule { per, ..plain("x", 60, 5, ExceededAction::Shadow) });
    let deny = rule("y", 60, 5, ExceededAction::Deny);
    let a = agent("a");
    let call = Call { user: Some("u"), ..by(&a) };
    let pass = within(velocity.admit(0, &call, &[shadow.clone(), deny.clone()]));
    assert!(pass.would_deny.is_empty() && !pass.counted.is_empty());
    within(velocity.admit(0, &call, &[deny, shadow]));
    assert_eq!(velocity.keys(), 1);
}

#[test]
fn threads_together_get_no_call_more_than_one_would() {
    let velocity = velocity();
    let per = Per::new(Part::User, None).unwrap();
    // Two keys in two shards, in both orders.
    let one = rule("x", 60, 1_000, ExceededAction::Deny);
    let other = meter(VelocityRule { per, ..plain("y", 60, 1_000, ExceededAction::Deny) });
    let orders = [[one.clone(), other.clone()], [other, one]];
    let a = agent("a");
    let within = std::thread::scope(|scope| {
        let threads: Vec<_> = orders
            .iter()
            .cycle()
            .take(4)
            .map(|rules| {
                let (velocity, a) = (&velocity, &a);
                let one = move || matches!(velocity.admit(7, &by(a), rules), Admission::Within(_));
                scope.spawn(move || (0..500).filter(|_| one()).count())
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    });
    assert_eq!(within, 1_000);
}

#[test]
fn the_fullest_come_first_and_nothing_is_counted_by_looking() {
    let velocity = velocity();
    let (a, b) = (agent("a"), agent("b"));
    let rules = [rule("x", 60, 4, ExceededAction::Deny), rule("y", 0, 1, ExceededAction::Escalate)];
    let _held = within(velocity.admit(0, &by(&a), &rules));
    for n in 0..3 {
        within(velocity.admit(n * 1_000, &by(&b), &rules[..1]));
    }
    let all: Vec<_> = rules.iter().map(|meter| meter.rule.clone()).collect();
    for _ in 0..2 {
        let rows = velocity.fullest(10_000, &all, 10, &[]);
        let told: Vec<_> = rows
            .iter()
            .map(|row| (row.key[0].1.as_str(), row.used, row.max, row.room_in_milliseconds))
            .collect();
        assert_eq!(told, [("a", 1, 1, None), ("b", 3, 4, Some(0)), ("a", 1, 4, Some(0))]);
    }
    within(velocity.admit(10_000, &by(&b), &rules[..1]));
    let rows = velocity.fullest(11_000, &all, 2, &[]);
    assert_eq!(rows.len(), 2);
    let told = rows.iter().map(|row| (row.key[0].1.as_str(), row.room_in_milliseconds));
    assert_eq!(told.collect::<Vec<_>>(), [("b", Some(49_000)), ("a", None)]);
    assert!(velocity.fullest(11_000, &[], 10, &[]).is_empty(), "rules that are no more");
}

#[test]
fn the_101st_read_of_the_example_is_denied_with_its_reason_and_the_51st_refund_is_escalated() {
    use crate::policy::{Circumstances, Decision, Policy, Question};

    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/examples/customer-ops/guard.yaml");
    let config = crate::config::Config::load(&path).unwrap();
    let policy = Policy::load(&config.policy_dir, &config.servers).unwrap();
    let server = ServerName::parse("customer-ops").unwrap();
    let rules = |name: &str, tool: &str| {
        let agent = agent(name);
        let target = crate::rpc::Target::Tool(tool);
        let question = Question {
            agent: &agent,
            profile: None,
            server: &server,
            method: "tools/call",
            target,
            arguments: None,
            around: Circumstances::default(),
        };
        match policy.decide(&question) {
            Decision::Allow(allow) => allow.velocity().to_vec(),
            Decision::Hold(hold) => hold.velocity().to_vec(),
            Decision::Deny(deny) => panic!("{deny:?}"),
        }
    };
    let velocity = velocity();
    let (analytics, reads) = (agent("analytics-agent"), rules("analytics-agent", "read_customer"));
    for n in 0..100 {
        within(velocity.admit(n * 500, &by(&analytics), &reads));
    }
    let refused = exceeded(velocity.admit(50_000, &by(&analytics), &reads));
    assert_eq!(&*refused.reason, "Rate limit exceeded -- possible data enumeration");
    assert_eq!((refused.action, refused.retry_after_milliseconds), (ExceededAction::Deny, 10_000));
    within(velocity.admit(60_000, &by(&analytics), &reads));
    assert_eq!(exceeded(velocity.admit(60_001, &by(&analytics), &reads)).retry_after_milliseconds, 499);

    let (support, refunds) = (agent("support-agent"), rules("support-agent", "process_refund"));
    for n in 0..50 {
        within(velocity.admit(n, &by(&support), &refunds));
    }
    assert_eq!(exceeded(velocity.admit(50, &by(&support), &refunds)).action, ExceededAction::Escalate);
}
