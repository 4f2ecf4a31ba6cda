//! Calls that take several requests: the server asks for input, and the client sends the same call again with it.
//!
//! The new request has another id and says nothing of the old one, so a call is known by what it asks for. Only a request
//! that a server has asked for goes on with a call; any other is a call of its own. The state that a server gives with its
//! question is known as that agent's also when the call has gone on: servers take it from anybody.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use aws_lc_rs::digest::{Context, SHA256};

use super::ages::Ages;
use super::{Cause, Owner, Refused, Sessions};
use crate::rpc::{Era, Json, Kind, Message};
use crate::types::{DecisionId, ServerName};

/// Requests of one call that count as one. A server that asks on and on costs like so many calls.
pub const ROUND_REQUESTS_MAX: u32 = 16;
/// Questions of servers that are kept of one agent, answered or not; with one more, the oldest is forgotten. Its answer is then
/// a call of its own, and its state is nobody's any more.
pub const ROUNDS_PER_AGENT_MAX: usize = 4096;
/// How long a call waits for an answer.
const ROUND_MILLISECONDS_MAX: u64 = 24 * 60 * 60 * 1000;

/// What a request asks for, less what changes from round to round.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Logical {
    server: ServerName,
    /// Of the method, and of the parameters without `_meta`, `inputResponses` and `requestState`.
    digest: [u8; 32],
    /// Of the server's opaque state, as it came or goes back.
    state: Option<[u8; 32]>,
}

impl Logical {
    /// `None`: a request of which no server may ask more.
    pub fn of(server: &ServerName, message: &Message) -> Option<Self> {
        let takes_rounds = matches!(message.method(), "tools/call" | "prompts/get" | "resources/read");
        let is_request = matches!(message.kind(), Kind::Request { .. });
        // Some servers read a request by another revision than it says: what goes on is looked at in each.
        let has_rounds = message.era() == Era::Modern || message.goes_on();
        if !has_rounds || !is_request || !takes_rounds {
            return None;
        }
        let mut context = Context::new(&SHA256);
        context.update(message.method().as_bytes());
        if let Some(params) = message.params().and_then(Json::as_object) {
            let changes = |key: &str| matches!(key, "_meta" | "inputResponses" | "requestState");
            members(&mut context, params.iter().filter(|(key, _)| !changes(key)));
        }
        let state = message.params().and_then(|params| params.get("requestState")?.as_str());
        let digest = finish(context);
        Some(Self { server: server.clone(), digest, state: state.map(state_digest) })
    }

    fn key(&self) -> Key {
        (self.server.clone(), self.state.unwrap_or(self.digest))
    }

    /// The same, with the state that a server gives to its next request.
    #[must_use]
    pub fn with_state(self, state: Option<&str>) -> Self {
        Self { state: state.map(state_digest), ..self }
    }
}

fn state_digest(state: &str) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(state.as_bytes());
    finish(context)
}

fn finish(context: Context) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// The same for every order of members. Each value begins with its kind and, where it could run on, its length.
fn value(context: &mut Context, json: &Json) {
    let length = |context: &mut Context, kind: u8, length: usize| {
        context.update(&[kind]);
        context.update(&length.to_be_bytes());
    };
    match json {
        Json::Null => context.update(b"n"),
        Json::Bool(value) => context.update(if *value { b"t" } else { b"f" }),
        Json::Number(number) => {
            let text = number.to_string();
            length(context, b'#', text.len());
            context.update(text.as_bytes());
        }
        Json::String(text) => {
            length(context, b'"', text.len());
            context.update(text.as_bytes());
        }
        Json::Array(items) => {
            length(context, b'[', items.len());
            for item in items {
                value(context, item);
            }
        }
        Json::Object(object) => members(context, object.iter()),
    }
}

fn members<'j>(context: &mut Context, object: impl Iterator<Item = &'j (String, Json)>) {
    let mut sorted: Vec<_> = object.collect();
    sorted.sort_by(|(a, _), (b, _)| a.cmp(b));
    context.update(b"{");
    context.update(&sorted.len().to_be_bytes());
    for (key, member) in sorted {
        context.update(&key.len().to_be_bytes());
        context.update(key.as_bytes());
        value(context, member);
    }
}

/// A call that waits for more input.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Round {
    pub logical: Logical,
    pub owner: Owner,
    /// Decision id of the call's first request.
    pub call: DecisionId,
    /// Requests of this call so far.
    pub requests: u32,
}

/// A request's hold on the call that it goes on with: no other request goes on with it. Dropped before it is spent, the call
/// waits as before.
pub struct Going {
    sessions: Arc<Sessions>,
    round: Round,
    number: u64,
    is_spent: AtomicBool,
}

impl Going {
    pub(super) fn new(sessions: Arc<Sessions>, (number, round): (u64, Round)) -> Self {
        Self { sessions, round, number, is_spent: AtomicBool::new(false) }
    }

    pub fn round(&self) -> &Round {
        &self.round
    }

    /// The request goes to the server.
    pub fn spend(&self) {
        self.is_spent.store(true, Ordering::Relaxed);
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        let is_spent = *self.is_spent.get_mut();
        self.sessions.lock().rounds.went_on(&self.round, self.number, is_spent);
    }
}

/// Server, and its state or, where it gives none, what is asked for.
type Key = (ServerName, [u8; 32]);

/// All of them. Pure: time is an argument, in milliseconds since 1970.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    asked: HashMap<Key, HashMap<Owner, Vec<Asked>>>,
    ages: Ages<(Key, Owner)>,
}

/// A server's question.
#[derive(Debug)]
struct Asked {
    round: Round,
    at: u64,
    number: u64,
    /// A request has gone on with it, or is about to.
    is_answered: bool,
}

impl Rounds {
    pub(super) fn wait(&mut self, round: Round, now: u64) {
        let agent = &round.owner.agent;
        while let Some((number, (key, owner))) = self.ages.oldest_of(agent, ROUNDS_PER_AGENT_MAX) {
            self.take(&key, &owner, number);
            self.ages.remove(agent, number);
        }
        let (key, owner) = (round.logical.key(), round.owner.clone());
        let number = self.ages.add(agent, (key.clone(), owner.clone()));
        let asked = Asked { round, at: now, number, is_answered: false };
        self.asked.entry(key).or_default().entry(owner).or_default().push(asked);
    }

    /// The call that such a request goes on with, and its number for [`Rounds::went_on`]; until then no other does. `None`: it
    /// is a new call. What a server gave to somebody else is refused.
    pub(super) fn go_on(
        &mut self,
        logical: &Logical,
        owner: &Owner,
        now: u64,
    ) -> Result<Option<(u64, Round)>, Refused> {
        let Some(owners) = self.asked.get_mut(&logical.key()) else { return Ok(None) };
        let Some(own) = owners.get_mut(owner) else {
            return if logical.state.is_some() {
                Err(Refused::Unknown(Cause::AnotherAgents))
            } else {
                Ok(None)
            };
        };
        let is_meant = |asked: &&mut Asked| {
            !asked.is_answered
                && asked.round.logical == *logical
                && asked.round.requests < ROUND_REQUESTS_MAX
                && now.saturating_sub(asked.at) < ROUND_MILLISECONDS_MAX
        };
        Ok(own.iter_mut().find(is_meant).map(|asked| {
            asked.is_answered = true;
            (asked.number, asked.round.clone())
        }))
    }

    /// A request has gone on with it, or has not.
    pub(super) fn went_on(&mut self, round: &Round, number: u64, is_spent: bool) {
        let key = round.logical.key();
        let Some(own) = self.asked.get_mut(&key).and_then(|owners| owners.get_mut(&round.owner)) else {
            return;
        };
        // Of several with one state, one says enough of whose it is.
        let is_last = own.len() == 1;
        let is_kept = !is_spent || (is_last && round.logical.state.is_some());
        match own.iter_mut().find(|asked| asked.number == number) {
            Some(asked) if is_kept => asked.is_answered = is_spent,
            Some(_) => {
                self.take(&key, &round.owner, number);
                self.ages.remove(&round.owner.agent, number);
            }
            None => {}
        }
    }

    fn take(&mut self, key: &Key, owner: &Owner, number: u64) {
        let Some(owners) = self.asked.get_mut(key) else { return };
        if let Some(own) = owners.get_mut(owner) {
            own.retain(|asked| asked.number != number);
            if own.is_empty() {
                owners.remove(owner);
            }
        }
        if owners.is_empty() {
            self.asked.remove(key);
        }
    }

    /// Forgets what is older.
    pub(super) fn sweep(&mut self, now: u64, milliseconds_max: u64) {
        let ages = &mut self.ages;
        self.asked.retain(|_, owners| {
            owners.retain(|owner, own| {
                own.retain(|asked| {
                    let is_kept = now.saturating_sub(asked.at) < milliseconds_max;
                    if !is_kept {
                        ages.remove(&owner.agent, asked.number);
                    }
                    is_kept
                });
                !own.is_empty()
            });
            !owners.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::super::owner::tests::owner;
    use super::*;
    use crate::rpc::decode;

    fn logical(params: &str) -> Logical {
        let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"a",{meta}{params}}}}}"#
        );
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/json".parse().unwrap());
        let message = decode(&headers, Bytes::from(body), 64).unwrap();
        Logical::of(&ServerName::parse("crm").unwrap(), &message).unwrap()
    }

    #[test]
    fn a_call_is_known_by_what_it_asks_for() {
        let first = logical(r#","arguments":{"x":1,"y":[1,2]}"#);
        assert_eq!(first, logical(r#","arguments":{"y":[1,2],"x":1}"#));
        assert_eq!(first, logical(r#","arguments":{"x":1,"y":[1,2]},"inputResponses":{"q":{}}"#));
        let with_state = logical(r#","arguments":{"x":1,"y":[1,2]},"requestState":"s""#);
        assert_eq!(first.clone().with_state(Some("s")), with_state);
        for other in [
            r#","arguments":{"x":1,"y":[12]}"#,
            r#","arguments":{"x":"1","y":[1,2]}"#,
            r#","arguments":{"x":1,"y":[1,2],"z":null}"#,
            r#","argument":{"x":1,"y":[1,2]}"#,
        ] {
            assert_ne!(first, logical(other), "{other}");
        }
    }

    fn round(state: Option<&str>, agent: &str) -> Round {
        let (logical, owner) = (logical("").with_state(state), owner(agent));
        Round { logical, owner, call: DecisionId([7; 16]), requests: 1 }
    }

    /// A request that is sent to its server.
    fn go_on(rounds: &mut Rounds, asked: &Logical, agent: &str, now: u64) -> Result<bool, Refused> {
        let going = rounds.go_on(asked, &owner(agent), now)?;
        if let Some((number, round)) = &going {
            rounds.went_on(round, *number, true);
        }
        Ok(going.is_some())
    }

    #[test]
    fn a_call_goes_on_once_and_for_its_owner_alone() {
        let mut rounds = Rounds::default();
        let round = round(Some("s"), "a");
        let asked = round.logical.clone();
        rounds.wait(round.clone(), 0);
        assert_eq!(go_on(&mut rounds, &logical(""), "a", 1), Ok(false), "another state");
        assert_eq!(go_on(&mut rounds, &asked, "b", 1), Err(Refused::Unknown(Cause::AnotherAgents)));
        assert_eq!(go_on(&mut rounds, &asked, "a", 1), Ok(true));
        assert_eq!(go_on(&mut rounds, &asked, "a", 1), Ok(false), "a second time");
        rounds.wait(Round { requests: ROUND_REQUESTS_MAX, ..round.clone() }, 0);
        assert_eq!(go_on(&mut rounds, &asked, "a", 1), Ok(false), "too many rounds");
        rounds.wait(round, 0);
        assert_eq!(go_on(&mut rounds, &asked, "a", ROUND_MILLISECONDS_MAX), Ok(false), "too late");
    }

    #[test]
    fn a_state_is_its_agents_after_the_call_has_gone_on() {
        let mut rounds = Rounds::default();
        let round = round(Some("s"), "a");
        let asked = round.logical.clone();
        for _ in 0..3 {
            rounds.wait(round.clone(), 0);
            assert_eq!(go_on(&mut rounds, &asked, "a", 1), Ok(true));
            assert_eq!(go_on(&mut rounds, &asked, "b", 1), Err(Refused::Unknown(Cause::AnotherAgents)));
        }
        let elsewhere = Logical { server: ServerName::parse("mail").unwrap(), ..asked.clone() };
        assert_eq!(go_on(&mut rounds, &elsewhere, "b", 1), Ok(false));
        rounds.sweep(9, 10);
        assert_eq!(go_on(&mut rounds, &asked, "b", 9), Err(Refused::Unknown(Cause::AnotherAgents)));
        rounds.sweep(10, 10);
        assert_eq!(go_on(&mut rounds, &asked, "b", 10), Ok(false), "forgotten");
        assert!(rounds.asked.is_empty() && rounds.ages.is_empty());
    }

    #[test]
    fn what_did_not_reach_its_server_may_go_on_again_and_two_at_once_may_not() {
        let mut rounds = Rounds::default();
        let round = round(Some("s"), "a");
        rounds.wait(round.clone(), 0);
        let (number, going) = rounds.go_on(&round.logical, &owner("a"), 1).unwrap().unwrap();
        assert_eq!(go_on(&mut rounds, &round.logical, "a", 1), Ok(false), "at the same time");
        rounds.went_on(&going, number, false);
        assert_eq!(go_on(&mut rounds, &round.logical, "a", 1), Ok(true));
        // What has no state leaves nothing behind.
        let mut rounds = Rounds::default();
        let round = Round { logical: logical(""), ..round };
        rounds.wait(round.clone(), 0);
        assert_eq!(go_on(&mut rounds, &round.logical, "a", 1), Ok(true));
        assert!(rounds.asked.is_empty() && rounds.ages.is_empty());
    }

    #[test]
    fn two_agents_may_get_the_same_state_or_none() {
        for state in [Some("step-2"), None] {
            let mut rounds = Rounds::default();
            let logical = logical("").with_state(state);
            rounds.wait(round(state, "a"), 0);
            rounds.wait(round(state, "b"), 0);
            assert_eq!(go_on(&mut rounds, &logical, "b", 1), Ok(true));
            assert_eq!(go_on(&mut rounds, &logical, "a", 1), Ok(true));
        }
    }

    #[test]
    fn who_is_asked_much_loses_the_oldest_of_his_own() {
        let mut rounds = Rounds::default();
        let first = round(Some("first"), "a");
        rounds.wait(first.clone(), 0);
        rounds.wait(round(Some("other"), "b"), 0);
        for number in 0..ROUNDS_PER_AGENT_MAX {
            assert_eq!(
                go_on(&mut rounds, &first.logical, "c", 1),
                Err(Refused::Unknown(Cause::AnotherAgents)),
                "{number}"
            );
            rounds.wait(round(Some(&number.to_string()), "a"), 0);
        }
        assert_eq!(go_on(&mut rounds, &first.logical, "a", 1), Ok(false));
        assert_eq!(go_on(&mut rounds, &round(Some("other"), "b").logical, "b", 1), Ok(true));
        assert_eq!(rounds.asked.len(), ROUNDS_PER_AGENT_MAX + 1);
    }
}
