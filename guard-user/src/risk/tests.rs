//! Scores: what each term adds, and that none takes anything off.

use proptest::prelude::*;

use super::*;

fn inputs(base: Base) -> Inputs {
    Inputs { base, arguments: Vec::new(), off_hours: None, known: Some(Known::default()) }
}

#[test]
fn the_default_model_scores_as_the_docs_say() {
    let model = Model::default();
    let score = |base, known: Known| model.score(&Inputs { known: Some(known), ..inputs(base) }).to_string();
    let read = Base::Class(Class::Read);
    assert_eq!(score(read, Known::default()), "5: class 5");
    assert_eq!(score(read, Known { today: 4, ..Known::default() }), "9: class 5, used_today 4");
    assert_eq!(score(read, Known { today: 499, ..Known::default() }), "21: class 5, used_today 16");
    assert_eq!(score(read, Known { today: u64::MAX, ..Known::default() }), "25: class 5, used_today 20");
    let known = Known { is_new: true, today: 0, refused: 7, changed: Some(71 * 3600) };
    assert_eq!(
        score(Base::Class(Class::Destructive), known),
        "95: class 50, new_tool 15, refused_lately 15, changed_tool 15"
    );
    let long_ago = Known { changed: Some(72 * 3600), ..Known::default() };
    assert_eq!(score(Base::Points(0), long_ago), "0: base 0");
}

#[test]
fn without_an_answer_about_what_was_before_no_term_speaks_of_it() {
    let inputs = Inputs { known: None, ..inputs(Base::Class(Class::Unknown)) };
    assert_eq!(Model::default().score(&inputs).to_string(), "40: class 40");
}

fn class() -> impl Strategy<Value = Class> {
    prop_oneof![Just(Class::Read), Just(Class::Write), Just(Class::Unknown), Just(Class::Destructive)]
}

fn known() -> impl Strategy<Value = Known> {
    (any::<bool>(), any::<u64>(), 0..200_u64, proptest::option::of(any::<u64>()))
        .prop_map(|(is_new, today, refused, changed)| Known { is_new, today, refused, changed })
}

fn model() -> impl Strategy<Value = Model> {
    let points = || 0..=100_u8;
    (
        (points(), points(), points(), points()),
        (points(), points(), points()),
        (points(), points(), 0..400_u16),
    )
        .prop_map(
            |((a, b, c, d), (new_tool, per_doubling, max), (off_hours, changed_tool, changed_hours))| {
                let mut classes = [a, b, c, d];
                classes.sort_unstable();
                let [read, write, unknown, destructive] = classes;
                let growth = Growth { per_doubling, max };
                Model {
                    read,
                    write,
                    unknown,
                    destructive,
                    new_tool,
                    used_today: growth,
                    refused_lately: growth,
                    off_hours,
                    changed_tool,
                    changed_hours,
                }
            },
        )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn no_term_takes_anything_off_and_the_score_is_their_sum_up_to_a_hundred(
        model in model(),
        (class, worse) in (class(), class()),
        known in known(),
        (more, later) in (any::<u64>(), any::<u64>()),
        arguments in proptest::collection::vec((0..=100_u8, "[a-z]{1,4}"), 0..4),
        argument in 0..=100_u8,
        off in any::<bool>(),
    ) {
        let off_hours = off.then(|| "it is late".to_owned());
        let before = Inputs { base: Base::Class(class), arguments, off_hours, known: Some(known) };
        let score = model.score(&before);
        let sum: u32 = score.terms.iter().map(|term| u32::from(term.points)).sum();
        prop_assert_eq!(u32::from(score.score), sum.min(100));
        prop_assert!(score.terms.iter().skip(1).all(|term| term.points > 0));
        let is_no_less = |inputs: &Inputs| model.score(inputs).score >= score.score;
        let with = |known: Known| Inputs { known: Some(known), ..before.clone() };
        let base = Base::Class(class.max(worse));
        prop_assert!(is_no_less(&Inputs { base, ..before.clone() }), "{:?}", before);
        let with_one_more = [&before.arguments[..], &[(argument, "it is more".to_owned())]].concat();
        prop_assert!(is_no_less(&Inputs { arguments: with_one_more, ..before.clone() }), "{:?}", before);
        let late = Some("it is late".to_owned());
        prop_assert!(is_no_less(&Inputs { off_hours: late, ..before.clone() }), "{:?}", before);
        prop_assert!(is_no_less(&with(Known { is_new: true, ..known })), "{:?}", before);
        prop_assert!(is_no_less(&with(Known { today: known.today.saturating_add(more), ..known })), "{:?}", before);
        prop_assert!(is_no_less(&with(Known { refused: known.refused.saturating_add(more), ..known })), "{:?}", before);
        let sooner = known.changed.map_or(later, |changed| changed.min(later));
        prop_assert!(is_no_less(&with(Known { changed: Some(sooner), ..known })), "{:?}", before);
        // Whatever is known adds to knowing nothing.
        prop_assert!(model.score(&Inputs { known: None, ..before.clone() }).score <= score.score, "{:?}", before);
    }
}
