use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const NAME: &str = "a.example";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn question() -> Question {
    (NAME.to_owned(), Family::V4)
}

fn found(addresses: &[&str], ttl: u64) -> Found {
    let addresses = addresses.iter().map(|text| ip(text)).collect();
    Found::Addresses { addresses, ttl: Duration::from_secs(ttl), source: Source::Dns }
}

fn nothing() -> Found {
    Found::Nothing("no answer".to_owned())
}

fn known(names: &Names, now: Instant) -> Vec<String> {
    names.addresses(NAME, now).map(|(ip, _)| ip.to_string()).collect()
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn a_name_is_due_at_once_and_then_when_its_answer_holds_no_more() {
    let (mut names, start) = (Names::default(), Instant::now());
    assert_eq!(names.due([NAME], start).len(), 2, "both families");
    names.learn(question(), found(&["192.0.2.1"], 60), start);
    assert_eq!(names.due([NAME], start + seconds(59)), [(NAME.to_owned(), Family::V6)]);
    assert_eq!(names.due([NAME], start + seconds(60)).len(), 2);
    assert_eq!(names.pause(start + seconds(20)), seconds(40));
    assert_eq!(names.pause(start + seconds(70)), Duration::ZERO);
}

#[test]
fn an_address_that_a_newer_answer_has_not_stays_for_its_time_and_the_overlap() {
    let (mut names, start) = (Names::default(), Instant::now());
    names.learn(question(), found(&["192.0.2.1"], 60), start);
    names.learn(question(), found(&["192.0.2.2"], 60), start + seconds(60));
    let over = start + seconds(60) + OVERLAP;
    assert_eq!(known(&names, start + seconds(64)), ["192.0.2.1", "192.0.2.2"]);
    assert_eq!(known(&names, over), ["192.0.2.2"]);
}

#[test]
fn the_time_of_an_answer_counts_within_limits() {
    for (ttl, refresh) in [(0, REFRESH_MIN), (30, seconds(30)), (4_000_000_000, REFRESH_MAX)] {
        let (mut names, start) = (Names::default(), Instant::now());
        names.learn(question(), found(&["192.0.2.1"], ttl), start);
        assert_eq!(names.pause(start), refresh, "{ttl}");
    }
}

#[test]
fn without_news_the_last_answer_stays_for_the_time_of_grace_and_not_longer() {
    let (mut names, start) = (Names::default(), Instant::now());
    names.learn(question(), found(&["192.0.2.1"], 60), start);
    let end = start + seconds(60) + GRACE;
    let mut now = start + seconds(60);
    while now < end {
        names.learn(question(), nothing(), now);
        assert_eq!(names.pause(now), RETRY);
        assert_eq!(known(&names, now), ["192.0.2.1"], "{:?}", now - start);
        assert!(names.problems(NAME, now)[0].contains("cannot be resolved: no answer"));
        now += RETRY;
    }
    assert_eq!(known(&names, end), Vec::<String>::new());
    names.learn(question(), nothing(), end);
    assert_eq!(names.problems(NAME, end), ["a.example has no address: no answer"]);
    names.learn(question(), found(&["192.0.2.9"], 60), end);
    assert_eq!(known(&names, end), ["192.0.2.9"], "the name is there again");
}

#[test]
fn an_answer_without_addresses_is_an_answer() {
    let (mut names, start) = (Names::default(), Instant::now());
    names.learn(question(), found(&["192.0.2.1"], 5), start);
    names.learn(question(), found(&[], 5), start + seconds(5));
    assert_eq!(known(&names, start + seconds(5) + OVERLAP), Vec::<String>::new());
    assert!(names.problems(NAME, start + seconds(5)).is_empty());
}

#[test]
fn one_family_may_fail_while_the_other_one_works() {
    let (mut names, start) = (Names::default(), Instant::now());
    names.learn(question(), found(&["192.0.2.1"], 60), start);
    names.learn((NAME.to_owned(), Family::V6), nothing(), start);
    assert_eq!(known(&names, start), ["192.0.2.1"]);
    assert!(names.problems(NAME, start).is_empty());
}

#[test]
fn of_thousands_of_addresses_a_few_are_held_and_the_newest_win() {
    let (mut names, start) = (Names::default(), Instant::now());
    let many = |third: u8| {
        let addresses = (0..=u8::MAX).map(|last| IpAddr::from([198, 18, third, last])).collect();
        Found::Addresses { addresses, ttl: seconds(60), source: Source::Dns }
    };
    for third in 0..10 {
        names.learn(question(), many(third), start + seconds(third.into()));
    }
    let now = start + seconds(9);
    let held = known(&names, now);
    assert_eq!(held.len(), ADDRESSES_MAX);
    assert!(held.iter().all(|ip| ip.starts_with("198.18.9.")), "{held:?}");
    assert!(names.problems(NAME, now)[0].contains("more than 64 addresses"));
}

#[test]
fn dns_opens_nothing_of_this_host_or_its_link_and_the_hosts_file_does() {
    for local in [
        "127.0.0.1",
        "127.255.255.254",
        "0.0.0.0",
        "0.1.2.3",
        "169.254.169.254",
        "224.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:127.0.0.1",
        "::127.0.0.1",
        "64:ff9b::169.254.169.254",
        "fe80::1",
        "ff02::1",
        "fd00:ec2::254",
    ] {
        assert!(!Source::Dns.may_open(ip(local)), "{local}");
        assert!(Source::Host.may_open(ip(local)), "{local}");
    }
    for other in ["10.0.0.1", "192.168.0.1", "203.0.113.1", "64:ff9b::203.0.113.1", "2001:db8::1", "fd00::1"]
    {
        assert!(Source::Dns.may_open(ip(other)), "{other}");
    }
}

#[test]
fn an_address_that_no_name_opens_is_told() {
    let (mut names, start) = (Names::default(), Instant::now());
    names.learn(question(), found(&["192.0.2.1", "127.0.0.1"], 60), start);
    let problems = names.problems(NAME, start);
    assert!(problems[0].contains("resolves to 127.0.0.1, which no name opens"), "{problems:?}");
}

/// An answer or a failure, and how many seconds after the one before it comes.
fn event() -> impl Strategy<Value = (u64, Option<(Vec<u8>, u32)>)> {
    (0_u64..400, proptest::option::of((proptest::collection::vec(any::<u8>(), 0..100), any::<u32>())))
}

proptest! {
    #[test]
    fn what_is_held_is_bounded_was_answered_and_is_not_too_old(
        events in proptest::collection::vec(event(), 1..40),
        later in 0_u64..1000,
    ) {
        let (mut names, start) = (Names::default(), Instant::now());
        let mut now = start;
        // When each address was answered last, and for how long.
        let mut answered: BTreeMap<IpAddr, (Instant, Duration)> = BTreeMap::new();
        for (after, answer) in events {
            now += seconds(after);
            let newest: Option<BTreeSet<IpAddr>> = answer.as_ref().map(|(lasts, _)| {
                lasts.iter().take(ADDRESSES_MAX).map(|last| IpAddr::from([192, 0, 2, *last])).collect()
            });
            let found = match answer {
                None => nothing(),
                Some((lasts, ttl)) => {
                    let ttl = seconds(ttl.into());
                    let addresses: Vec<_> =
                        lasts.into_iter().map(|last| IpAddr::from([192, 0, 2, last])).collect();
                    for ip in &addresses {
                        answered.insert(*ip, (now, ttl.clamp(REFRESH_MIN, REFRESH_MAX)));
                    }
                    Found::Addresses { addresses, ttl, source: Source::Dns }
                }
            };
            names.learn(question(), found, now);
            let held: BTreeSet<_> = names.addresses(NAME, now).map(|(ip, _)| ip).collect();
            prop_assert!(held.len() <= ADDRESSES_MAX);
            if let Some(newest) = newest {
                prop_assert!(newest.is_subset(&held), "a fresh answer holds at once");
            }
            let pause = names.pause(now);
            prop_assert!(pause >= REFRESH_MIN && pause <= REFRESH_MAX);
        }
        now += seconds(later);
        for (ip, _) in names.addresses(NAME, now) {
            let (at, ttl) = answered[&ip];
            prop_assert!(now < at + ttl + GRACE.max(OVERLAP), "{ip} is too old");
        }
    }

    #[test]
    fn an_address_is_held_as_long_as_its_answer_says(ttl in any::<u32>(), after in 0_u64..300, others in 1_u8..60) {
        let (mut names, start) = (Names::default(), Instant::now());
        names.learn(question(), found(&["203.0.113.1"], ttl.into()), start);
        let holds = seconds(ttl.into()).clamp(REFRESH_MIN, REFRESH_MAX);
        let now = start + seconds(after);
        prop_assume!(after < holds.as_secs());
        let addresses = (0..others).map(|last| IpAddr::from([192, 0, 2, last])).collect();
        names.learn(question(), Found::Addresses { addresses, ttl: seconds(1), source: Source::Dns }, now);
        prop_assert!(names.addresses(NAME, now).any(|(known, _)| known == ip("203.0.113.1")));
    }
}
