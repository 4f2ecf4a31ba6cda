//! What one agent may see of a server's messages.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde_json::value::RawValue;

use super::inspected::About;
use super::refuse::Asked;
use crate::audit::{Inspected, OutcomeResult};
use crate::config::Server;
use crate::policy::Circumstances;
use crate::rpc::list::{self, Filtered, Judge, Kind, ListError};
use crate::rpc::reply::{self, Notice, Outcome, Reply, ReplyKind};
use crate::rpc::{Id, Target};
use crate::rules::{InForce, Rules};
use crate::session::Claim;
use crate::tools::Tools;
use crate::types::{AgentName, ProfileName, UserName};

/// The error by which a server sends its client to a URL (2025-11-25), and what that is by its other name.
const URL_ELICITATION: i64 = -32042;
const ELICITATION: &str = "elicitation/create";
pub(super) const LABELLED_HIGHER: &str =
    "by a reload of the policy it carries more than its agent's mark tells of; ask again";
pub(super) const NOT_TO_ASK: &str = "the server asks the client for what the policy does not let it ask";

/// Reads a server's messages on behalf of one request: each by the rules that are in force when it comes.
pub struct View {
    pub rules: InForce,
    pub agent: AgentName,
    pub profile: ProfileName,
    pub user: Option<UserName>,
    pub server: Arc<Server>,
    /// The request that waits for an answer; on a GET stream any answer may come.
    pub waits_for: Option<Id>,
    /// Its client takes an end without an answer for what it is: nobody tells it anything any more.
    pub listens: bool,
    pub list_bytes_max: usize,
    pub list_ttl_milliseconds_max: u64,
    pub tools: Arc<Tools>,
    /// The version by which its agent's mark was raised.
    pub judged_by: Arc<Rules>,
    pub claim: Claim,
    /// What was asked, for rules on answers.
    pub about: About,
    pub asked: Asked,
    /// What is found in the answers, for the closing record.
    pub found: Inspected,
}

/// A message that may go to the client.
pub(super) struct Passed {
    /// `None`: the client does not get it.
    pub data: Option<Bytes>,
    /// How the request that waits came out, if this message answers it.
    pub answer: Option<Answer>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub result: OutcomeResult,
    pub error_code: Option<i64>,
    /// Why the guard did not pass it on.
    pub reason: Option<&'static str>,
}

impl View {
    /// Reads one message: a JSON body, or the data of an event. Lists lose what the agent may not use.
    pub(super) fn pass(&self, data: Bytes) -> Result<Passed, &'static str> {
        let reply = Self::look(&data)?;
        self.read(data, &reply)
    }

    pub(super) fn look(data: &Bytes) -> Result<Reply, &'static str> {
        reply::look(data).map_err(|_error| "it is not a JSON-RPC message that every client reads alike")
    }

    /// The same for a message that was looked at.
    pub(super) fn read(&self, data: Bytes, reply: &Reply) -> Result<Passed, &'static str> {
        let now = Now { view: self, rules: self.rules.load() };
        if !self.is_marked(&now.rules) {
            return Ok(self.withheld(reply));
        }
        let passed = now.read(data, reply)?;
        let passed = self.inspected(passed, reply, &now.rules);
        if let (Some(data), Some(answer)) = (&passed.data, passed.answer)
            && answer.result != OutcomeResult::Refused
        {
            self.found.answered(data);
        }
        Ok(passed)
    }
}

/// The view at the moment of one message: all of it is read by one version of the rules.
struct Now<'v> {
    view: &'v View,
    rules: Arc<Rules>,
}

impl Now<'_> {
    fn has_read(&self, about: (Target<'_>, &str)) -> bool {
        let View { agent, server, claim, .. } = self.view;
        self.rules.policy.has_read(&claim.read(), agent, &server.name, about)
    }

    fn read(&self, data: Bytes, reply: &Reply) -> Result<Passed, &'static str> {
        let came = |result, error_code| Answer { result, error_code, reason: None };
        let answer = match &reply.kind {
            ReplyKind::Error { code: URL_ELICITATION } if !self.may_ask(ELICITATION) => {
                return Err(NOT_TO_ASK);
            }
            ReplyKind::Error { code } => came(OutcomeResult::RpcError, Some(*code)),
            ReplyKind::Result(Outcome { is_error: true, .. }) => came(OutcomeResult::ToolError, None),
            ReplyKind::Result(_) => came(OutcomeResult::Ok, None),
            ReplyKind::Request { method } => return Ok(self.ask(data, reply, method)),
            ReplyKind::Notification(notice) => {
                return Ok(Passed { data: self.may_know(notice).then_some(data), answer: None });
            }
        };
        match (&self.view.waits_for, &reply.id) {
            // An error without an id is about a request that the server could not read: ours.
            (Some(_), None) if answer.result == OutcomeResult::RpcError => {}
            (Some(waiting), id) if id.as_ref() != Some(waiting) => return Err("it answers another request"),
            _ => {}
        }
        let data = match &reply.kind {
            ReplyKind::Result(outcome) => self.pass_result(data, outcome)?,
            _ => data,
        };
        Ok(Passed { data: Some(data), answer: self.view.waits_for.is_some().then_some(answer) })
    }

    /// A server's request to its client, if the policy lets it ask that.
    fn ask(&self, data: Bytes, reply: &Reply, method: &str) -> Passed {
        if self.may_ask(method) {
            return Passed { data: Some(data), answer: None };
        }
        if let Some(id) = &reply.id {
            self.view.claim.refuse(id, method);
        }
        Passed { data: None, answer: None }
    }

    /// Whether a notification is about nothing that is hidden from the agent, or another's.
    fn may_know(&self, notice: &Notice) -> bool {
        let has_read = |uri: &str| self.has_read((Target::Resource(uri), "resources/read"));
        let may_see = |uri: &str| self.may_see(Target::Resource(uri)) && has_read(uri);
        let of_resource = notice.method.starts_with("notifications/resources/");
        let of_elicitation = notice.method.starts_with("notifications/elicitation/");
        (!of_resource || notice.uri.as_deref().is_none_or(may_see))
            && notice.task.as_deref().is_none_or(|task| self.may_have_task(task))
            && notice.asks.iter().all(|method| self.may_ask(method))
            && (!of_elicitation || self.may_ask(ELICITATION))
    }

    /// Whether a task is the agent's, and of a tool that it may still see.
    fn may_have_task(&self, id: &str) -> bool {
        let made = self.view.claim.task(id).ok();
        made.is_some_and(|made| self.may_see(Target::Tool(&made.tool)))
    }

    fn may_see(&self, target: Target<'_>) -> bool {
        let View { agent, profile, server, .. } = self.view;
        self.rules.policy.may_see(agent, Some(profile), &server.name, target)
    }

    fn may_ask(&self, method: &str) -> bool {
        self.may_ask_about(method, None)
    }

    /// The answer is a part of the call `about`.
    fn may_ask_about(&self, method: &str, about: Option<(Target<'_>, &str)>) -> bool {
        let View { agent, profile, user, server, .. } = self.view;
        let read = self.view.claim.read();
        // Where the client is says nothing about what the server asks.
        let around = Circumstances {
            moment: Some(Timestamp::now()),
            user: user.as_ref(),
            read: Some(&read),
            session: self.view.claim.within_now(),
            ..Circumstances::default()
        };
        self.rules.policy.may_ask((agent, Some(profile)), &server.name, method, around, about)
    }

    fn pass_result(&self, data: Bytes, outcome: &Outcome) -> Result<Bytes, &'static str> {
        let about = self.view.about.target();
        if !outcome.asks.iter().all(|method| self.may_ask_about(method, about)) {
            return Err(NOT_TO_ASK);
        }
        self.view.claim.take_result(outcome)?;
        if outcome.has_list && data.len() > self.view.list_bytes_max {
            return Err("its list is longer than limits.list_bytes_max");
        }
        if outcome.has_list || outcome.has_terms { self.filter(data) } else { Ok(data) }
    }

    fn filter(&self, data: Bytes) -> Result<Bytes, &'static str> {
        match list::filter(&data, self, self.view.list_ttl_milliseconds_max) {
            Ok(Filtered::Unchanged) => Ok(data),
            Ok(Filtered::Changed(filtered)) => Ok(filtered),
            Err(ListError::Unpinned(_error)) => {
                Err("its tools cannot be pinned, since the guard cannot write state_dir")
            }
            Err(_error) => Err("its list cannot be read for sure"),
        }
    }
}

impl Judge for Now<'_> {
    fn shows(&self, target: Target<'_>) -> bool {
        match target {
            Target::Task(id) => self.may_have_task(id),
            _ => self.may_see(target),
        }
    }

    fn shows_any(&self, kind: Kind) -> bool {
        let View { agent, profile, server, .. } = self.view;
        self.rules.policy.may_see_any(agent, Some(profile), &server.name, kind)
    }

    fn held(&self, list: &str, tools: &[(Cow<'_, str>, &RawValue)]) -> std::io::Result<Arc<[String]>> {
        self.view.tools.look(
            &self.view.server.name,
            list,
            tools.iter().map(|(name, entry)| (name.as_ref(), *entry)),
        )
    }
}
