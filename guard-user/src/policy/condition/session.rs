//! Conditions on the session in which a call comes.

use std::fmt;

use super::Verdict;
use crate::policy::fact::{Bound, Judging};
use crate::types::Within;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::policy) enum SessionTest {
    /// Whether it comes in one.
    Is(bool),
    /// How many calls it has had, this one among them.
    Calls(Bound, u64),
    /// How old it is.
    Minutes(Bound, u64),
}

impl SessionTest {
    /// Of a call without a session a rule that allows by the session's state says nothing. One that restricts cannot be judged:
    /// whoever would be refused would leave the session out.
    pub(super) fn judge(self, within: Within, judging: Judging) -> Verdict {
        let state = match within {
            Within::Unknown => return Verdict::Unknown("whether the call has a session is not known".into()),
            Within::Nothing => None,
            Within::Session { calls, milliseconds } => Some((calls, milliseconds)),
        };
        if let Self::Is(wanted) = self {
            return match state.is_some() {
                is if is == wanted => Verdict::Met,
                true => Verdict::NotMet("it comes in a session".into()),
                false => Verdict::NotMet(WITHOUT.into()),
            };
        }
        let Some((calls, milliseconds)) = state else {
            return match judging {
                Judging::Each => Verdict::NotMet(WITHOUT.into()),
                Judging::Any => Verdict::Unknown(WITHOUT.into()),
            };
        };
        let (bound, limit, is, words) = match self {
            Self::Is(_) => return Verdict::Met,
            Self::Calls(bound, limit) => {
                let Some(before) = calls else { return Verdict::Unknown(NOT_COUNTED.into()) };
                let number = before.saturating_add(1);
                (bound, limit, number.cmp(&limit), format!("it is call {number} of its session"))
            }
            Self::Minutes(bound, limit) => {
                let words = format!("its session is {} minutes old", milliseconds / MINUTE);
                (bound, limit, milliseconds.cmp(&limit.saturating_mul(MINUTE)), words)
            }
        };
        if bound.holds(is) {
            Verdict::Met
        } else {
            Verdict::NotMet(format!("{words}, and not {} {limit}", bound.asks()))
        }
    }
}

const MINUTE: u64 = 60_000;
const WITHOUT: &str = "it comes without a session";
const NOT_COUNTED: &str =
    "how many calls its session had before the guard was started is not known; open a new session";

impl fmt::Display for SessionTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Is(is) => write!(f, "in_session: {is}"),
            Self::Calls(bound, limit) => write!(f, "{}session_calls: {limit}", bound.prefix()),
            Self::Minutes(bound, limit) => write!(f, "{}session_minutes: {limit}", bound.prefix()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `y`es, `n`o or `?`, as a rule that allows and one that restricts take it.
    fn judged(test: SessionTest, within: Within) -> String {
        let letter = |judging| match test.judge(within, judging) {
            Verdict::Met => 'y',
            Verdict::NotMet(_) => 'n',
            Verdict::Unknown(_) => '?',
        };
        [letter(Judging::Each), letter(Judging::Any)].into_iter().collect()
    }

    #[test]
    fn without_a_session_its_state_lets_nothing_pass() {
        let bounds = [Bound::Max, Bound::Min, Bound::Above, Bound::Below];
        let states = bounds.into_iter().flat_map(|bound| {
            [1, 5, 1_000_000]
                .map(|limit| [SessionTest::Calls(bound, limit), SessionTest::Minutes(bound, limit)])
        });
        for test in states.flatten() {
            assert_eq!(judged(test, Within::Nothing), "n?", "{test}");
            assert_eq!(judged(test, Within::Unknown), "??", "{test}");
        }
        for (is, without, within) in [(true, "nn", "yy"), (false, "yy", "nn")] {
            assert_eq!(judged(SessionTest::Is(is), Within::Nothing), without);
            assert_eq!(judged(SessionTest::Is(is), Within::of(0, 0)), within);
            assert_eq!(judged(SessionTest::Is(is), Within::Unknown), "??");
        }
    }

    #[test]
    fn a_call_is_counted_with_those_before_it_and_an_age_to_the_millisecond() {
        for (bound, limit, of_calls) in [
            (Bound::Max, 3, "yyynn"),
            (Bound::Above, 3, "nnnyy"),
            (Bound::Min, 3, "nnyyy"),
            (Bound::Below, 3, "yynnn"),
        ] {
            let told: String = (0..5)
                .map(|before| judged(SessionTest::Calls(bound, limit), Within::of(before, 0)).remove(0))
                .collect();
            assert_eq!(told, of_calls, "{bound:?}");
        }
        let at = |milliseconds| Within::Session { calls: None, milliseconds };
        for (milliseconds, max, above) in [(0, "yy", "nn"), (180_000, "yy", "nn"), (180_001, "nn", "yy")] {
            assert_eq!(judged(SessionTest::Minutes(Bound::Max, 3), at(milliseconds)), max);
            assert_eq!(judged(SessionTest::Minutes(Bound::Above, 3), at(milliseconds)), above);
        }
        assert_eq!(judged(SessionTest::Calls(Bound::Max, 3), at(0)), "??", "it is older than the guard");
    }
}
