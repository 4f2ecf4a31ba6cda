//! Against a literal reading of the rules, over clock jumps, reloads, snapshots and deaths.

use proptest::prelude::*;

use super::*;

const AGENTS: [&str; 2] = ["a", "b"];
const USERS: [Option<&str>; 3] = [None, Some("u"), Some("v")];
const TOOLS: [Option<&str>; 2] = [Some("t"), None];
const KINDS: [(Measure, Part, Option<Part>, ExceededAction); 6] = [
    (Measure::Calls, Part::Agent, None, ExceededAction::Deny),
    (Measure::Cost, Part::User, None, ExceededAction::Deny),
    (Measure::Calls, Part::Tool, Some(Part::User), ExceededAction::Escalate),
    (Measure::Concurrent, Part::Agent, None, ExceededAction::Deny),
    (Measure::Cost, Part::Agent, Some(Part::Tool), ExceededAction::Shadow),
    (Measure::Calls, Part::Server, None, ExceededAction::Shadow),
];

#[derive(Debug, Clone)]
enum Step {
    Call {
        agent: usize,
        user: usize,
        tool: usize,
        weight: u32,
        by: i64,
        rules: u8,
    },
    /// One that is under way ends.
    End(usize),
    /// All limits change.
    Reload(u64),
    Snapshot,
    /// The guard dies. Its trail is there, and its snapshot unless that was lost.
    Die {
        has_snapshot: bool,
    },
    Tidy,
}

fn step() -> impl Strategy<Value = Step> {
    let call = (
        0..AGENTS.len(),
        0..USERS.len(),
        0..TOOLS.len(),
        1..4_u32,
        prop_oneof![8 => 0_i64..300, 2 => -2_000_i64..0, 1 => 900_i64..5_000],
        1..64_u8,
    );
    let call = call.prop_map(|(agent, user, tool, weight, by, rules)| Step::Call {
        agent,
        user,
        tool,
        weight,
        by,
        rules,
    });
    prop_oneof![
        20 => call,
        3 => (0..20_usize).prop_map(Step::End),
        1 => (1..8_u64).prop_map(Step::Reload),
        1 => Just(Step::Snapshot),
        1 => any::<bool>().prop_map(|has_snapshot| Step::Die { has_snapshot }),
        1 => Just(Step::Tidy),
    ]
}

/// What counted a call, by rule and by the names that are told apart.
type Key = (usize, Vec<String>);

#[derive(Default)]
struct Model {
    latest: u64,
    counted: Vec<(Key, u64, u64)>,
    under_way: Vec<Vec<Key>>,
}

impl Model {
    fn used(&self, key: &Key, now: u64, length: u64) -> u64 {
        if length == 0 {
            let keys = self.under_way.iter().flatten();
            return u64::try_from(keys.filter(|one| *one == key).count()).unwrap();
        }
        let inside = self.counted.iter().filter(|(one, at, _)| one == key && now - at < length);
        inside.map(|(_, _, weight)| weight).sum()
    }
}

fn names(kind: usize, call: &Call<'_>) -> Vec<String> {
    let (_, first, second, _) = KINDS[kind];
    let none = format!("none of {}", call.agent);
    let of = |part| match part {
        Part::Agent => call.agent.to_string(),
        Part::User => call.user.map_or(none.clone(), str::to_owned),
        Part::Tool => call.tool.map_or(none.clone(), str::to_owned),
        _ => "crm".to_owned(),
    };
    // In the order in which parts are counted.
    std::iter::once(first).chain(second).map(of).collect()
}

fn meters(rules: u8, weight: u32, max: u64) -> Vec<(usize, Meter)> {
    let of = |kind: usize| {
        let (measure, first, second, action) = KINDS[kind];
        let window = if measure == Measure::Concurrent { 0 } else { [1, 2, 3][kind % 3] };
        let per = Per::new(first, second).unwrap();
        let max = max + u64::try_from(kind % 2).unwrap() + u64::from(measure == Measure::Cost) * 4;
        let rule = VelocityRule { per, measure, ..plain("x", window, max, action) };
        let name = RuleName::for_tests(&kind.to_string());
        let weight = if measure == Measure::Cost { weight } else { 1 };
        (kind, Meter { weight, ..meter(VelocityRule { name, ..rule }) })
    };
    (0..KINDS.len()).filter(|kind| rules & (1 << kind) != 0).map(of).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn rules_agree_with_a_literal_reading_over_clock_jumps_reloads_and_deaths(
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let agents = AGENTS.map(agent);
        let (mut velocity, mut model) = (velocity(), Model::default());
        let (mut now, mut max) = (10_000_u64, 3);
        let mut leases: Vec<Lease> = Vec::new();
        // What records say, and who called.
        let mut trail: Vec<(usize, String)> = Vec::new();
        for step in steps {
            match step {
                Step::Call { agent, user, tool, weight, by, rules } => {
                    now = now.saturating_add_signed(by);
                    // The guard's clock never goes back.
                    model.latest = model.latest.max(now);
                    now = model.latest;
                    let call = Call { user: USERS[user], tool: TOOLS[tool], ..super::by(&agents[agent]) };
                    let meters = meters(rules, weight, max);
                    let over = |(kind, meter): &(usize, Meter)| {
                        let used = model.used(&(*kind, names(*kind, &call)), now, meter.rule.window_milliseconds);
                        used + u64::from(meter.weight) > meter.rule.max
                    };
                    let is_shadow = |meter: &Meter| meter.rule.action == ExceededAction::Shadow;
                    let refused = meters.iter().any(|one| over(one) && !is_shadow(&one.1));
                    let mut would_deny: Vec<_> =
                        meters.iter().filter(|one| over(one) && is_shadow(&one.1)).map(|one| one.0.to_string()).collect();
                    would_deny.sort();
                    let only: Vec<Meter> = meters.iter().map(|(_, meter)| meter.clone()).collect();
                    match velocity.admit(now, &call, &only) {
                        Admission::Exceeded(_) => prop_assert!(refused, "refused for nothing"),
                        Admission::Within(pass) => {
                            prop_assert!(!refused, "let pass what is too much");
                            let told: Vec<_> = pass.would_deny.iter().map(ToString::to_string).collect();
                            prop_assert_eq!(&told, &would_deny);
                            let mut held = Vec::new();
                            for (kind, meter) in &meters {
                                let key = (*kind, names(*kind, &call));
                                match meter.rule.measure {
                                    _ if told.contains(&kind.to_string()) => {}
                                    Measure::Concurrent => held.push(key),
                                    _ => model.counted.push((key, now, meter.weight.into())),
                                }
                            }
                            model.under_way.push(held);
                            leases.push(pass.lease);
                            trail.push((agent, serde_json::to_string(&pass.counted).unwrap()));
                        }
                    }
                }
                Step::End(which) if !leases.is_empty() => {
                    let which = which % leases.len();
                    drop(leases.swap_remove(which));
                    model.under_way.swap_remove(which);
                }
                Step::End(_) => {}
                Step::Reload(new) => max = new,
                Step::Snapshot => {
                    let next_record = u64::try_from(trail.len()).unwrap();
                    let anchor = Anchor { boot_id: "b".into(), boot: 1, wall: 1, time: now };
                    velocity.save(dir.path(), &Restored { anchor, trail: "t".into(), next_record }).unwrap();
                }
                Step::Die { has_snapshot } => {
                    leases.clear();
                    model.under_way.clear();
                    if !has_snapshot {
                        let _none = std::fs::remove_file(dir.path().join(SNAPSHOT_FILE));
                    }
                    velocity = super::velocity();
                    let from = match velocity.restore(dir.path()) {
                        // Some records before it are read again.
                        Ok(saved) => usize::try_from(saved.next_record).unwrap().saturating_sub(7),
                        Err(Damaged::Missing) => 0,
                        Err(error) => return Err(TestCaseError::fail(error.to_string())),
                    };
                    for (by, record) in &trail[from..] {
                        velocity.recount(now, &agents[*by], &serde_json::from_str(record).unwrap());
                    }
                    velocity.recounted();
                }
                Step::Tidy => {
                    let rules: Vec<_> = meters(u8::MAX, 1, max).into_iter().map(|(_, meter)| meter.rule).collect();
                    velocity.tidy(now, &rules);
                }
            }
        }
    }
}

#[test]
fn a_damaged_snapshot_is_told_at_every_byte() {
    let dir = tempfile::tempdir().unwrap();
    let velocity = velocity();
    let a = agent("a");
    for n in 0..3 {
        within(velocity.admit(n, &by(&a), &[rule("x", 60, 5, ExceededAction::Deny)]));
    }
    let anchor = Anchor { boot_id: "b".into(), boot: 1, wall: 2, time: 3 };
    let about = Restored { anchor, trail: "host/mcp-guard/1".into(), next_record: 17 };
    velocity.save(dir.path(), &about).unwrap();
    assert_eq!(super::velocity().restore(dir.path()).unwrap(), about);
    let path = dir.path().join(SNAPSHOT_FILE);
    let whole = std::fs::read(&path).unwrap();
    for at in 0..whole.len() {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&path, &bytes).unwrap();
        assert!(super::velocity().restore(dir.path()).is_err(), "byte {at}");
        std::fs::write(&path, &whole[..at]).unwrap();
        assert!(super::velocity().restore(dir.path()).is_err(), "cut at {at}");
    }
}

#[test]
fn records_in_another_order_than_their_numbers_are_all_counted_once() {
    let dir = tempfile::tempdir().unwrap();
    let a = agent("a");
    let rules = [rule("x", 60, 100, ExceededAction::Deny)];
    let velocity = velocity();
    let mut records: Vec<String> = Vec::new();
    for n in 0..20 {
        let pass = within(velocity.admit(n, &by(&a), &rules));
        records.push(serde_json::to_string(&pass.counted).unwrap());
        if n == 9 {
            let anchor = Anchor { boot_id: "b".into(), boot: 1, wall: 1, time: n };
            velocity.save(dir.path(), &Restored { anchor, trail: "t".into(), next_record: 5 }).unwrap();
        }
    }
    records.reverse();
    for _ in 0..2 {
        let next = super::velocity();
        next.restore(dir.path()).unwrap();
        let new =
            records.iter().filter(|record| next.recount(30, &a, &serde_json::from_str(record).unwrap()));
        assert_eq!(new.count(), 10);
        next.recounted();
        assert!(records.iter().all(|record| !next.recount(30, &a, &serde_json::from_str(record).unwrap())));
        assert_eq!(next.number(), 20);
        let row = next.fullest(30, &[rules[0].rule.clone()], 1, &[]).remove(0);
        assert_eq!((row.used, row.max), (20, 100));
    }
}
