//! Facts of calls, and what conditions say of them.

use super::*;
use crate::policy::condition::Entries;

fn condition(measure: Measure, max: impl Into<Number>) -> FactTest {
    bound(measure, Bound::Max, max)
}

fn bound(measure: Measure, bound: Bound, limit: impl Into<Number>) -> FactTest {
    let path = ["mail", "to"].map(Box::from).into();
    let test = Test::Bound(bound, limit.into());
    FactTest { fact: "recipients".into(), test, source: Some(Source { measure, path, absent: None }) }
}

fn judge(test: &FactTest, arguments: &Json) -> Verdict {
    let each = test.judge(Some(arguments), Judging::Each);
    // A number is one thing.
    assert_eq!(each, test.judge(Some(arguments), Judging::Any));
    each
}

fn listed(measure: Measure, entries: &[&str], fits: bool) -> FactTest {
    let entries = Entries::new(entries);
    let list = match measure {
        Measure::Domains => List::Domains(entries.domains.unwrap()),
        Measure::Path => List::Directories(entries.directories.unwrap()),
        _ => List::Texts(entries.texts),
    };
    let test = Test::Listed { list, fits, shown: entries.shown };
    FactTest { test, ..condition(measure, 0) }
}

fn mail(to: Json) -> Json {
    Json::Object(vec![("mail".into(), Json::Object(vec![("to".into(), to)]))])
}

fn texts(texts: &[&str]) -> Json {
    Json::Array(texts.iter().map(|text| Json::String((*text).into())).collect())
}

#[test]
fn a_list_cannot_hide_in_a_text() {
    let two = condition(Measure::Count, 2);
    for (to, met) in [
        (texts(&[]), true),
        (texts(&["a@x", "b@x"]), true),
        (texts(&["a@x", "b@x", "c@x"]), false),
        (texts(&["a@x, b@x; c@x"]), false),
        (Json::String("a@x,b@x".into()), true),
        (Json::String("a@x\nb@x\nc@x".into()), false),
        (Json::Array(vec![Json::Null, Json::Bool(true), Json::Object(vec![])]), false),
    ] {
        assert_eq!(judge(&two, &mail(to.clone())) == Verdict::Met, met, "{to:?}");
    }
}

#[test]
fn a_missing_or_ill_typed_fact_is_unknown_and_never_met() {
    let unknown = |test: &FactTest, arguments: Option<&Json>| {
        for judging in [Judging::Each, Judging::Any] {
            assert!(matches!(test.judge(arguments, judging), Verdict::Unknown(_)), "{arguments:?}");
        }
    };
    let of_kinds = [
        condition(Measure::Count, 2),
        bound(Measure::Number, Bound::Above, 2),
        listed(Measure::Text, &["a"], true),
        listed(Measure::Text, &["a"], false),
        listed(Measure::Domains, &["a.example"], true),
        listed(Measure::Path, &["/a"], false),
    ];
    for test in &of_kinds {
        unknown(test, None);
        unknown(test, Some(&Json::Null));
        unknown(test, Some(&Json::Object(vec![])));
        unknown(test, Some(&mail(Json::Null)));
        unknown(test, Some(&mail(Json::Object(vec![]))));
        unknown(test, Some(&mail(Json::Array(vec![texts(&["a", "b", "c"])]))));
        unknown(&FactTest { source: None, ..test.clone() }, Some(&mail(Json::String("a".into()))));
    }
    for test in &of_kinds[2..] {
        unknown(test, Some(&mail(texts(&[]))));
        unknown(test, Some(&mail(Json::Number(1.into()))));
        unknown(test, Some(&mail(Json::Array(vec![Json::String("/a".into()), Json::Number(1.into())]))));
    }
    let recipients = condition(Measure::Count, 2);
    unknown(&recipients, Some(&mail(Json::Number(1.into()))));
    let amount = condition(Measure::Number, 2);
    unknown(&amount, Some(&mail(Json::String("1".into()))));
    unknown(&amount, Some(&mail(texts(&["a"]))));
    unknown(&FactTest { source: None, ..amount }, Some(&mail(Json::Number(1.into()))));
}

#[test]
fn whole_numbers_are_compared_exactly_and_others_as_floats() {
    let amount = |max: Number, value: Number| {
        judge(&condition(Measure::Number, max), &mail(Json::Number(value))) == Verdict::Met
    };
    let float = |value| Number::from_f64(value).unwrap();
    assert!(amount(100.into(), 100.into()) && !amount(100.into(), 101.into()));
    assert!(amount(100.into(), float(99.99)) && !amount(100.into(), float(100.01)));
    assert!(amount(0.into(), (-5).into()));
    let most = 9_007_199_254_740_991_u64;
    assert!(amount(most.into(), most.into()));
    // As a float the first is one less, the second one more.
    for value in [most + 2, most + 4, u64::MAX] {
        let huge = judge(&condition(Measure::Number, u64::MAX), &mail(Json::Number(value.into())));
        assert!(matches!(huge, Verdict::Unknown(_)), "{huge:?}");
    }
    assert!(!amount(float(1e300), float(1e30)));
    assert!(!amount(i64::MAX.into(), u64::MAX.into()));
}

#[test]
fn each_bound_says_whether_its_own_number_fits() {
    for (which, below, same, more) in [
        (Bound::Max, true, true, false),
        (Bound::Min, false, true, true),
        (Bound::Above, false, false, true),
        (Bound::Below, true, false, false),
    ] {
        for (value, met) in [(9.5, below), (10.0, same), (10.5, more)] {
            let number = Json::Number(Number::from_f64(value).unwrap());
            let told = judge(&bound(Measure::Number, which, 10), &mail(number)) == Verdict::Met;
            assert_eq!(told, met, "{which:?} {value}");
        }
    }
}

#[test]
fn padding_meets_no_lower_bound_and_an_empty_list_is_few_for_an_upper_one_alone() {
    let told = |which, to: &Json| judge(&bound(Measure::Count, which, 2), &mail(to.clone()));
    let two = texts(&["a@x", "b@x"]);
    assert_eq!(told(Bound::Min, &two), Verdict::Met);
    assert_eq!(told(Bound::Below, &texts(&["a@x"])), Verdict::Met);
    for padded in [
        texts(&["a@x,a@x"]),
        texts(&["a@x", ""]),
        texts(&["a@x", " "]),
        texts(&["a@x;", "b@x"]),
        texts(&[]),
        Json::String("a@x\nb@x".into()),
        Json::String(String::new()),
        Json::Array(vec![Json::String("a@x".into()), Json::Null]),
        Json::Array(vec![Json::String("a@x".into()), Json::Object(vec![])]),
    ] {
        for which in [Bound::Min, Bound::Below] {
            assert!(matches!(told(which, &padded), Verdict::Unknown(_)), "{which:?} {padded:?}");
        }
    }
    assert!(matches!(told(Bound::Above, &texts(&[])), Verdict::Unknown(_)));
    assert_eq!(told(Bound::Above, &texts(&["a@x,b@x;c@x"])), Verdict::Met, "an upper bound of a deny rule");
}

#[test]
fn more_text_than_can_be_compared_in_no_time_cannot_be_judged() {
    let long = "a".repeat(LISTED_BYTES_MAX / 2);
    let of =
        |texts: &Json| listed(Measure::Text, &["b"], false).judge(Some(&mail(texts.clone())), Judging::Each);
    assert_eq!(of(&texts(&[&long, &long])), Verdict::Met);
    assert!(matches!(of(&texts(&[&long, &long, "a"])), Verdict::Unknown(_)));
}

#[test]
fn an_allow_rule_wants_each_entry_to_fit_and_a_restricting_rule_one() {
    let asked = |fits: bool, judging, names: &[&str]| {
        listed(Measure::Text, &["a", "b"], fits).judge(Some(&mail(texts(names))), judging) == Verdict::Met
    };
    for (names, [each_in, any_in, each_out, any_out]) in [
        (&["a"][..], [true, true, false, false]),
        (&["a", "b"], [true, true, false, false]),
        (&["a", "c"], [false, true, false, true]),
        (&["c", "d"], [false, false, true, true]),
    ] {
        assert_eq!(asked(true, Judging::Each, names), each_in, "{names:?}");
        assert_eq!(asked(true, Judging::Any, names), any_in, "{names:?}");
        assert_eq!(asked(false, Judging::Each, names), each_out, "{names:?}");
        assert_eq!(asked(false, Judging::Any, names), any_out, "{names:?}");
    }
    // What cannot be judged is not outweighed by its neighbours.
    for (fits, judging) in [(true, Judging::Any), (false, Judging::Any), (false, Judging::Each)] {
        for names in [&["a", "c", "A"][..], &["A", "c", "a"]] {
            let verdict = listed(Measure::Text, &["a"], fits).judge(Some(&mail(texts(names))), judging);
            assert!(matches!(verdict, Verdict::Unknown(_)), "{fits} {judging:?} {names:?}");
        }
    }
}

#[test]
fn one_address_or_path_that_is_not_allowed_is_enough() {
    let domains = listed(Measure::Domains, &["good.com"], true);
    let paths = listed(Measure::Path, &["/srv/data"], true);
    for (test, names, met) in [
        (&domains, &["a@good.com", "b@good.com"][..], true),
        (&domains, &["a@good.com, b@good.com"], true),
        (&domains, &["a@good.com", "b@evil.com"], false),
        (&domains, &["a@good.com, b@evil.com"], false),
        (&domains, &["a@good.com", "b"], false),
        (&paths, &["/srv/data/a", "/srv/data/b"], true),
        (&paths, &["/srv/data/a", "/etc/passwd"], false),
        (&paths, &["/srv/data/a", "/srv/data/../b"], false),
    ] {
        let verdict = test.judge(Some(&mail(texts(names))), Judging::Each);
        assert_eq!(verdict == Verdict::Met, met, "{names:?}: {verdict:?}");
    }
}
