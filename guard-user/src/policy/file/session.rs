//! Conditions on the session in which a call comes.

use super::File;
use super::condition::Clause;
use super::velocity::{VELOCITY_MAX, WINDOW_SECONDS_MAX};
use crate::config::yaml::{Node, Value};
use crate::policy::condition::SessionTest;
use crate::policy::fact::Bound;

/// Whether there is one.
pub(super) const IN_SESSION: &str = "in_session";
/// What is asked with a bound, and what no fact can be called.
pub(super) const OF_SESSION: [&str; 2] = [CALLS, "session_minutes"];
const CALLS: &str = "session_calls";

impl File<'_> {
    pub(super) fn in_session(&mut self, value: &Node) -> Option<Clause> {
        let Value::Bool(is) = value.value else {
            let what = format!("{IN_SESSION} must be true or false, this is {}", value.value.kind());
            self.reader.problem(value, what, None);
            return None;
        };
        Some(Clause::Session(SessionTest::Is(is)))
    }

    /// `max_session_calls: 10`, `above_session_minutes: 30`
    pub(super) fn session_bound(
        &mut self,
        value: &Node,
        name: &str,
        (bound, of): (Bound, &str),
    ) -> Option<Clause> {
        let is_calls = of == CALLS;
        let limit =
            self.reader.count(value, name, if is_calls { VELOCITY_MAX } else { WINDOW_SECONDS_MAX / 60 })?;
        let test =
            if is_calls { SessionTest::Calls(bound, limit) } else { SessionTest::Minutes(bound, limit) };
        Some(Clause::Session(test))
    }
}
