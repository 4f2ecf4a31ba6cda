//! A call as its author writes it down, at a command line or in a file of cases.

use jiff::Timestamp;
use serde::Serialize;

use super::target::TASK_METHODS;
use super::{Circumstances, Question};
use crate::risk::Known;
use crate::rpc::{BARE_METHODS, Json, Target};
use crate::types::{AgentName, LabelName, ProfileName, ServerName, UserName, Within};

/// Who asks what of whom.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    pub agent: AgentName,
    /// `None`: the first of the agent's entry.
    pub profile: Option<ProfileName>,
    pub server: ServerName,
    pub what: What,
    pub arguments: Option<Json>,
    /// When; conditions on the time of an unknown moment cannot be judged, as those on where a call comes from.
    pub moment: Option<Timestamp>,
    /// For whom the agent works.
    pub user: Option<UserName>,
    /// What was before it; `None`: no term of its score speaks of that.
    pub known: Option<Known>,
    /// Its score, in place of what the policy makes of it.
    pub risk: Option<u8>,
    /// The labels of what the agent has read before.
    pub read: Vec<LabelName>,
    /// The session in which it comes.
    pub session: Within,
}

/// What a call is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    Tool(String),
    Prompt(String),
    Resource(String),
    /// One that names nothing, such as `tools/list`.
    Method(String),
    /// What the server asks of its client.
    ServerRequest(String),
}

impl What {
    /// The keys of the kinds, as matchers have them.
    pub const KINDS: [&str; 5] = ["tool", "resource", "prompt", "method", "server_request"];

    /// `text` as a thing of this kind; else what is wrong, and what to write.
    pub fn parse(kind: &str, text: &str) -> Result<Self, (String, String)> {
        if text.is_empty() {
            return Err((format!("{kind} is empty"), "write its name".into()));
        }
        let owned = text.to_owned();
        Ok(match kind {
            "tool" => Self::Tool(owned),
            "prompt" => Self::Prompt(owned),
            "resource" => Self::Resource(owned),
            "method" => return method(text),
            _ => Self::ServerRequest(owned),
        })
    }

    pub fn kind(&self) -> &'static str {
        match self {
            Self::Tool(_) => "tool",
            Self::Prompt(_) => "prompt",
            Self::Resource(_) => "resource",
            Self::Method(_) => "method",
            Self::ServerRequest(_) => "server_request",
        }
    }

    pub fn name(&self) -> &str {
        match self {
            Self::Tool(name)
            | Self::Prompt(name)
            | Self::Resource(name)
            | Self::Method(name)
            | Self::ServerRequest(name) => name,
        }
    }

    /// The method that such a call has.
    pub fn method(&self) -> &str {
        match self {
            Self::Tool(_) => "tools/call",
            Self::Prompt(_) => "prompts/get",
            Self::Resource(_) => "resources/read",
            Self::Method(method) | Self::ServerRequest(method) => method,
        }
    }

    pub(super) fn target(&self) -> Target<'_> {
        match self {
            Self::Tool(name) => Target::Tool(name),
            Self::Prompt(name) => Target::Prompt(name),
            Self::Resource(uri) => Target::Resource(uri),
            Self::Method(_) => Target::Method,
            Self::ServerRequest(method) => Target::ServerRequest(method),
        }
    }

    /// Only a tool and a prompt have some.
    pub fn has_arguments(&self) -> bool {
        matches!(self, Self::Tool(_) | Self::Prompt(_))
    }
}

impl Asked {
    /// What is asked by an agent in this profile.
    pub fn question<'a>(&'a self, profile: Option<&'a ProfileName>) -> Question<'a> {
        Question {
            agent: &self.agent,
            profile,
            server: &self.server,
            method: self.what.method(),
            target: self.what.target(),
            arguments: self.arguments.as_ref(),
            around: Circumstances {
                moment: self.moment,
                client: None,
                user: self.user.as_ref(),
                risk: self.risk,
                read: Some(&self.read),
                is_bare: matches!(&self.what, What::Method(method) if BARE_METHODS.contains(&method.as_str())),
                session: self.session,
            },
        }
    }
}

/// A method that names something is judged by what it names, so by itself it is no question.
fn method(text: &str) -> Result<What, (String, String)> {
    let hint = match text {
        "tools/call" => "name the tool",
        "prompts/get" => "name the prompt",
        "resources/read" | "resources/subscribe" | "resources/unsubscribe" => "name the resource",
        "completion/complete" => "name the prompt or the resource that is completed",
        task if TASK_METHODS.contains(&task) => "it is judged as the call that made the task: name its tool",
        _ => return Ok(What::Method(text.to_owned())),
    };
    Err((format!("method {text:?} says nothing by itself"), hint.to_owned()))
}
