//! Whether what was let in may go on when the rules change.
//!
//! A call that was decided goes to its end, like one whose record says so. But a stream may last for days, and whoever
//! would not be let in any more must not be told more on it.

use std::future;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use super::judged_method;
use crate::case::Case;
use crate::connection::Connection;
use crate::identity::{Caller, Fresh};
use crate::policy::{Circumstances, Decision, Question};
use crate::respond::About;
use crate::rpc::{Message, Target};
use crate::rules::{InForce, Rules};
use crate::session::{Claim, Owner, Sessions};
use crate::types::Uptime;

/// Between two looks at the host's clocks.
const CLOCK_LOOK: Duration = Duration::from_secs(10);

/// Of one request that was let in.
pub(super) struct Standing {
    caller: Caller,
    connection: Arc<Connection>,
    /// What was asked for beside a tool, a resource and the like; none for those.
    method: Option<String>,
    /// What its answers are about, by which its agent's mark was raised.
    carried: Vec<About>,
    sessions: Arc<Sessions>,
}

impl Standing {
    pub(super) fn of(
        case: &Case<'_>,
        caller: Caller,
        (sessions, claim): (&Arc<Sessions>, Option<&Claim>),
    ) -> Self {
        let is_method = case.target() == Target::Method;
        let method = is_method.then(|| judged_method(case.message.as_ref()).to_owned());
        let carried = claim.map(|claim| carried(case, claim)).unwrap_or_default();
        let (connection, sessions) = (Arc::clone(case.connection), Arc::clone(sessions));
        Self { caller, connection, method, carried, sessions }
    }

    /// Whether it may go on by these rules. What cannot be told without a look at the client must be asked for anew.
    pub(super) fn holds(&self, rules: &Rules) -> bool {
        let (agent, server) = (self.caller.agent(), &self.connection.server.name);
        let profile = Some(self.caller.profile());
        let around = Circumstances::default();
        let process = rules.policy.agent(agent).and_then(|entry| entry.needs.process());
        let digest = self.connection.known_digest();
        rules.still_know(&self.caller)
            && process.is_none_or(|rule| rule.check(self.connection.client(), digest.as_ref()).is_ok())
            && rules.policy.may_connect(agent, profile, server)
            && self.is_marked(rules)
            && self.method.as_deref().is_none_or(|method| {
                let question = Question {
                    agent,
                    profile,
                    server,
                    method,
                    target: Target::Method,
                    arguments: None,
                    around,
                };
                !matches!(rules.policy.decide_as_shown(&question), Decision::Deny(_))
            })
    }
}

impl Standing {
    /// Whether its agent has read, as far as its mark tells, what its answers carry by these rules. A label that a reload raises ends it.
    fn is_marked(&self, rules: &Rules) -> bool {
        let owner = Owner::of(&self.caller, self.connection.client());
        let read = self.sessions.contexts.read_by(&owner);
        let (agent, server) = (self.caller.agent(), &self.connection.server.name);
        let mut about = self.carried.iter().filter_map(About::target);
        about.all(|about| rules.policy.has_read(&read, agent, server, about))
    }
}

fn carried(case: &Case<'_>, claim: &Claim) -> Vec<About> {
    let listened = case.message.as_ref().map(Message::listened).unwrap_or_default();
    let listened = listened.into_iter().filter_map(|target| match target {
        Target::Resource(uri) => Some(About::Resource(uri.to_owned())),
        Target::Task(id) => claim.task(id).ok().map(|made| About::Tool(made.tool)),
        _ => None,
    });
    listened.chain([case.about(claim)]).collect()
}

/// Ends when it may not go on: by a version of the rules, since what was shown has expired, or since its issuer was not heard of
/// for too long.
pub(super) async fn until_over(standing: Standing, rules: InForce) {
    let mut versions = rules.versions();
    loop {
        let (expires, fresh) = {
            let rules = versions.borrow_and_update();
            if !standing.holds(&rules) {
                return;
            }
            (rules.expires(&standing.caller), rules.fresh(&standing.caller).cloned())
        };
        tokio::select! {
            () = until_expired(expires) => return,
            () = until_stale(fresh) => return,
            changed = versions.changed() => if changed.is_err() { return },
        }
    }
}

/// Never, without a time. The clock of the host may be set meanwhile.
async fn until_expired(expires: Option<Timestamp>) {
    let Some(expires) = expires else { return future::pending().await };
    while let Ok(left) = Duration::try_from(expires.duration_since(Timestamp::now()))
        && !left.is_zero()
    {
        tokio::time::sleep(left.min(CLOCK_LOOK)).await;
    }
}

/// Never, where no keys come over the network. The host may sleep meanwhile, and timers with it.
async fn until_stale(fresh: Option<Fresh>) {
    let Some(fresh) = fresh else { return future::pending().await };
    while !fresh.is_over(Uptime::now()) {
        tokio::time::sleep(CLOCK_LOOK).await;
    }
}
