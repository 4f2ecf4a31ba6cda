//! Calls that take several requests: the server asks for input, and the client sends the same call again with it.
//!
//! The new request has another id and says nothing of the old one, so a call is known by what it asks for. Only a request
//! that a server has asked for goes on with a call; any other is a call of its own.

use std::collections::HashMap;

use aws_lc_rs::digest::{Context, SHA256};

use super::{Owner, Refused};
use crate::rpc::{Era, Json, Kind, Message};
use crate::types::{DecisionId, ServerName};

/// Requests of one call that count as one. A server that asks on and on costs like so many calls.
pub const ROUND_REQUESTS_MAX: u32 = 16;
/// Calls that may wait for more input at the same time, over all agents; one more counts anew when it goes on.
const ROUNDS_WAITING_MAX: usize = 16_384;
/// How long one waits.
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
        if message.era() != Era::Modern || !is_request || !takes_rounds {
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

    fn key(&self) -> [u8; 32] {
        self.state.unwrap_or(self.digest)
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

/// All of them. Pure: time is an argument, in milliseconds since 1970.
#[derive(Debug, Default)]
pub(super) struct Rounds {
    /// By the server's state or, where it gives none, by what is asked for.
    waiting: HashMap<[u8; 32], Vec<(Round, u64)>>,
    count: usize,
}

impl Rounds {
    pub(super) fn wait(&mut self, round: Round, now: u64) {
        if self.count < ROUNDS_WAITING_MAX {
            self.count += 1;
            self.waiting.entry(round.logical.key()).or_default().push((round, now));
        }
    }

    /// The call that such a request goes on with, once. `None`: it is a new call. What a server gave to somebody else is
    /// refused.
    pub(super) fn go_on(
        &mut self,
        logical: &Logical,
        owner: &Owner,
        now: u64,
    ) -> Result<Option<Round>, Refused> {
        let Some(waiting) = self.waiting.get_mut(&logical.key()) else { return Ok(None) };
        let is_own = |round: &Round| round.logical == *logical && round.owner == *owner;
        let Some(at) = waiting.iter().position(|(round, _)| is_own(round)) else {
            let is_stolen = |round: &Round| round.logical.server == logical.server && round.owner != *owner;
            let is_own_state = waiting.iter().any(|(round, _)| round.owner == *owner);
            let is_stolen = logical.state.is_some() && waiting.iter().any(|(round, _)| is_stolen(round));
            return if is_stolen && !is_own_state { Err(Refused::Unknown) } else { Ok(None) };
        };
        let (round, since) = waiting.swap_remove(at);
        self.count = self.count.saturating_sub(1);
        if waiting.is_empty() {
            self.waiting.remove(&logical.key());
        }
        let is_live = now.saturating_sub(since) < ROUND_MILLISECONDS_MAX;
        Ok((is_live && round.requests < ROUND_REQUESTS_MAX).then_some(round))
    }

    pub(super) fn sweep(&mut self, now: u64) {
        self.waiting.retain(|_, waiting| {
            waiting.retain(|(_, at)| now.saturating_sub(*at) < ROUND_MILLISECONDS_MAX);
            !waiting.is_empty()
        });
        self.count = self.waiting.values().map(Vec::len).sum();
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

    #[test]
    fn a_call_goes_on_once_and_for_its_owner_alone() {
        let mut rounds = Rounds::default();
        let asked = logical("").with_state(Some("s"));
        let round =
            Round { logical: asked.clone(), owner: owner("a"), call: DecisionId([7; 16]), requests: 1 };
        rounds.wait(round.clone(), 0);
        assert_eq!(rounds.go_on(&logical(""), &owner("a"), 1), Ok(None), "another state");
        assert_eq!(rounds.go_on(&asked, &owner("b"), 1), Err(Refused::Unknown));
        assert_eq!(rounds.go_on(&asked, &owner("a"), 1), Ok(Some(round.clone())));
        assert_eq!(rounds.go_on(&asked, &owner("a"), 1), Ok(None), "a second time");
        rounds.wait(Round { requests: ROUND_REQUESTS_MAX, ..round.clone() }, 0);
        assert_eq!(rounds.go_on(&asked, &owner("a"), 1), Ok(None), "too many rounds");
        rounds.wait(round, 0);
        assert_eq!(rounds.go_on(&asked, &owner("a"), ROUND_MILLISECONDS_MAX), Ok(None), "too late");
        assert_eq!(rounds.count, 0);
    }

    #[test]
    fn two_agents_may_get_the_same_state_or_none() {
        for state in [Some("step-2"), None] {
            let mut rounds = Rounds::default();
            let logical = logical("").with_state(state);
            let round = |agent: &str| Round {
                logical: logical.clone(),
                owner: owner(agent),
                call: DecisionId([7; 16]),
                requests: 1,
            };
            rounds.wait(round("a"), 0);
            rounds.wait(round("b"), 0);
            assert_eq!(rounds.go_on(&logical, &owner("b"), 1), Ok(Some(round("b"))));
            assert_eq!(rounds.go_on(&logical, &owner("a"), 1), Ok(Some(round("a"))));
        }
    }

    #[test]
    fn only_so_many_calls_wait() {
        let mut rounds = Rounds::default();
        let logical = logical("");
        let round = Round { logical, owner: owner("a"), call: DecisionId([7; 16]), requests: 1 };
        for _ in 0..=ROUNDS_WAITING_MAX {
            rounds.wait(round.clone(), 0);
        }
        assert_eq!(rounds.count, ROUNDS_WAITING_MAX);
        rounds.sweep(ROUND_MILLISECONDS_MAX);
        assert_eq!((rounds.count, rounds.waiting.len()), (0, 0));
    }
}
