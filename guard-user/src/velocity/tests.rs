use super::*;

fn agent(name: &str) -> AgentName {
    AgentName::parse(name).unwrap()
}

fn rule(intent: &str, window_seconds: u64, max_calls: u64, action: ExceededAction) -> Arc<VelocityRule> {
    let name = RuleName::for_tests(&format!("{intent}-{window_seconds}"));
    let (agent, intent) = (agent("a"), IntentPattern::parse(intent).unwrap());
    let window_milliseconds = window_seconds * 1000;
    Arc::new(VelocityRule { name, agent, intent, window_milliseconds, max_calls, action, reason: None })
}

fn exceeded(admission: Admission) -> Exceeded {
    match admission {
        Admission::Exceeded(exceeded) => exceeded,
        Admission::Within => panic!("must be exceeded"),
    }
}

#[test]
fn the_call_over_the_limit_is_refused_with_rule_reason_and_wait() {
    let velocity = Velocity::new();
    let rules = [rule("data.read", 60, 100, ExceededAction::Deny)];
    for now in 0..100 {
        assert_eq!(velocity.admit(now, &agent("a"), &rules), Admission::Within);
    }
    let refused = exceeded(velocity.admit(100, &agent("a"), &rules));
    assert_eq!((refused.count, refused.max_calls, refused.retry_after_milliseconds), (100, 100, 59_900));
    assert_eq!(refused.rule.as_str(), "data.read-60");
    assert_eq!(&*refused.reason, "more than 100 calls with data.read in 60 seconds");
    // Another agent has its own window; the refused call took no place in this one.
    assert_eq!(velocity.admit(100, &agent("b"), &rules), Admission::Within);
    assert_eq!(velocity.admit(60_000, &agent("a"), &rules), Admission::Within);
}

#[test]
fn a_call_that_one_rule_refuses_is_counted_by_none() {
    let velocity = Velocity::new();
    let wide = rule("data.*", 60, 10, ExceededAction::Deny);
    let narrow = rule("data.read", 60, 2, ExceededAction::Deny);
    let both = [wide.clone(), narrow];
    for _ in 0..2 {
        assert_eq!(velocity.admit(0, &agent("a"), &both), Admission::Within);
    }
    for _ in 0..50 {
        assert_eq!(exceeded(velocity.admit(0, &agent("a"), &both)).max_calls, 2);
    }
    for _ in 0..8 {
        assert_eq!(velocity.admit(0, &agent("a"), std::slice::from_ref(&wide)), Admission::Within);
    }
    assert_eq!(exceeded(velocity.admit(0, &agent("a"), &[wide])).count, 10);
}

#[test]
fn deny_is_told_before_escalate_and_the_longer_wait_before_the_shorter() {
    let velocity = Velocity::new();
    let escalate = rule("x", 3600, 1, ExceededAction::Escalate);
    let deny = rule("x", 60, 1, ExceededAction::Deny);
    let longer = rule("x", 120, 1, ExceededAction::Deny);
    let rules = [escalate.clone(), deny, longer];
    assert_eq!(velocity.admit(0, &agent("a"), &rules), Admission::Within);
    assert_eq!(exceeded(velocity.admit(1, &agent("a"), &rules)).rule.as_str(), "x-120");
    assert_eq!(exceeded(velocity.admit(1, &agent("a"), &[escalate])).action, ExceededAction::Escalate);
}

#[test]
fn a_changed_limit_judges_the_calls_already_made() {
    let velocity = Velocity::new();
    let with_max = |max| [rule("x", 60, max, ExceededAction::Deny)];
    for now in 0..5 {
        assert_eq!(velocity.admit(now, &agent("a"), &with_max(5)), Admission::Within);
    }
    assert_eq!(exceeded(velocity.admit(5, &agent("a"), &with_max(3))).count, 5);
    assert_eq!(velocity.admit(5, &agent("a"), &with_max(6)), Admission::Within);
}

#[test]
fn empty_windows_are_given_back() {
    let velocity = Velocity::new();
    for n in 0..500 {
        let rules = [rule("x", 60, 5, ExceededAction::Deny), rule("y", 120, 5, ExceededAction::Deny)];
        assert_eq!(velocity.admit(0, &agent(&format!("a{n}")), &rules), Admission::Within);
    }
    assert_eq!(velocity.keys(), 1000);
    velocity.tidy(60_000);
    assert_eq!(velocity.keys(), 500);
    velocity.tidy(120_000);
    assert_eq!(velocity.keys(), 0);
}

#[test]
fn threads_together_get_no_call_more_than_one_would() {
    let velocity = Velocity::new();
    let rules = [rule("x", 60, 1_000, ExceededAction::Deny)];
    let within = std::thread::scope(|scope| {
        let one = || (0..500).filter(|_| velocity.admit(7, &agent("a"), &rules) == Admission::Within).count();
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(one)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
    });
    assert_eq!(within, 1_000);
}

#[test]
fn the_101st_read_of_the_example_is_denied_with_its_reason_and_the_51st_refund_is_escalated() {
    use crate::policy::{Decision, Policy, Question};
    use crate::types::ServerName;

    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/examples/customer-ops/guard.yaml");
    let config = crate::config::Config::load(&path).unwrap();
    let policy = Policy::load(&config.policy_dir, &config.servers).unwrap();
    let rules = |name: &str, tool: &str| {
        let (agent, server) = (agent(name), ServerName::parse("customer-ops").unwrap());
        let target = crate::rpc::Target::Tool(tool);
        let question =
            Question { agent: &agent, server: &server, method: "tools/call", target, arguments: None };
        match policy.decide(&question) {
            Decision::Allow(allow) => allow.velocity().to_vec(),
            Decision::Hold(hold) => hold.velocity().to_vec(),
            Decision::Deny(deny) => panic!("{deny:?}"),
        }
    };
    let velocity = Velocity::new();
    let (analytics, reads) = (agent("analytics-agent"), rules("analytics-agent", "read_customer"));
    for n in 0..100 {
        assert_eq!(velocity.admit(n * 500, &analytics, &reads), Admission::Within);
    }
    let refused = exceeded(velocity.admit(50_000, &analytics, &reads));
    assert_eq!(&*refused.reason, "Rate limit exceeded -- possible data enumeration");
    assert_eq!((refused.action, refused.retry_after_milliseconds), (ExceededAction::Deny, 10_000));
    assert_eq!(velocity.admit(60_000, &analytics, &reads), Admission::Within);
    assert_eq!(exceeded(velocity.admit(60_001, &analytics, &reads)).retry_after_milliseconds, 499);

    let (support, refunds) = (agent("support-agent"), rules("support-agent", "process_refund"));
    for n in 0..50 {
        assert_eq!(velocity.admit(n, &support, &refunds), Admission::Within);
    }
    assert_eq!(exceeded(velocity.admit(50, &support, &refunds)).action, ExceededAction::Escalate);
}
