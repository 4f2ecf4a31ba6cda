//! What is known about one request so far. The stages add to it, and its audit record is read off it.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::Method;
use http::request::Parts;

use crate::audit::{
    CallRecord, Digester, Inspected, Local, Target as RecordTarget, Velocity, WOULD_DENY_MAX,
};
use crate::config::Limits;
use crate::connection::Connection;
use crate::identity::{Caller, CredentialId};
use crate::kernel::Client;
use crate::policy::RuleName;
use crate::refusal::{Approval, Refusal};
use crate::respond::{About, Asked, Link, View};
use crate::risk::Score;
use crate::rpc::{Era, HeaderAgreement, Kind, Message, Target, Trace, Words};
use crate::rules::{InForce, Rules};
use crate::session::{Claim, SESSION_HEADER, Said, SessionId};
use crate::tools::Tools;
use crate::types::{DecisionId, IntentName, LabelName, UserName};
use crate::velocity::{Counted, Exceeded, Filled, Lease, Pass};

/// A request whose answer is a stream, and comes only at its end.
const LISTEN: &str = "subscriptions/listen";

/// The reason in the record of a call that goes on.
const ALLOWED: &str = "allowed";
/// The same, if its headers say something else than its body, so that the server must refuse it.
const HEADERS_DISAGREE: &str = "headers_disagree";

/// One request on its way through the [`pipeline`](crate::pipeline).
pub struct Case<'a> {
    pub asked: Asked,
    pub connection: &'a Arc<Connection>,
    pub rules: Arc<Rules>,
    pub head: &'a Parts,
    pub body_bytes: usize,
    pub message: Option<Message>,
    pub caller: Option<Caller>,
    pub intent: Option<IntentName>,
    pub rule: Option<RuleName>,
    /// The session that it uses, once that is known: `Some(None)` is none, whatever its headers say.
    pub session: Option<Option<SessionId>>,
    /// The stream on which it is answered, if it was posted to a session of HTTP+SSE.
    pub link: Option<Arc<Link>>,
    /// Decision id of the call that this request goes on with.
    pub continues: Option<DecisionId>,
    /// Of the windows that it fits, the one with the least room left.
    pub fullest: Option<Filled>,
    /// The windows that counted it, and the rules in shadow that it exceeds.
    pub counted: Counted,
    pub would_deny: BTreeSet<RuleName>,
    /// Allowed, and not a part of a call that was counted before.
    pub is_new: bool,
    /// How risky it is.
    pub risk: Option<Score>,
    /// Held while it is under way; its permit takes them.
    pub leases: Vec<Lease>,
    /// What its answer carries, and the highest label that its agent had read before.
    pub label: Option<LabelName>,
    pub mark: Option<LabelName>,
    /// What flow rules let pass if its agent has said just this before.
    pub said: Option<Said>,
    /// What is found in its answers.
    pub found: Inspected,
}

impl<'a> Case<'a> {
    pub fn open(id: DecisionId, connection: &'a Arc<Connection>, rules: Arc<Rules>, head: &'a Parts) -> Self {
        let asked = Asked::unread(id, &head.headers);
        Self {
            asked,
            connection,
            rules,
            head,
            body_bytes: 0,
            message: None,
            caller: None,
            intent: None,
            rule: None,
            session: None,
            link: None,
            continues: None,
            fullest: None,
            counted: Counted::default(),
            would_deny: BTreeSet::new(),
            is_new: false,
            risk: None,
            leases: Vec::new(),
            label: None,
            mark: None,
            said: None,
            found: Inspected::default(),
        }
    }

    /// Takes the message in; from now on a refusal can answer it by its id.
    pub fn read(&mut self, message: Message) -> &Message {
        self.asked.read(&message);
        self.message.insert(message)
    }

    /// Whether it was posted where only sessions of HTTP+SSE post: its client looks for no message in the answer.
    pub fn is_posted_to_stream(&self) -> bool {
        let server = &self.connection.server;
        server.sse_path.is_some()
            && self.head.method == Method::POST
            && self.head.uri.path() != server.path
            && !self.is_for_oauth()
    }

    /// Whether it is not for the MCP endpoint, but for what its server's entry lets pass beside it.
    pub fn is_for_oauth(&self) -> bool {
        self.connection.server.is_asked_for_oauth(&self.head.method, self.head.uri.path())
    }

    /// Whether it is for the document about its server that the guard has.
    pub fn is_for_metadata(&self) -> bool {
        self.connection.server.is_asked_for_metadata(&self.head.method, self.head.uri.path())
    }

    /// Whether it tells its server nothing that its agent could choose, or nothing that the server has not heard from it; headers aside.
    pub fn is_bare(&self) -> bool {
        let is_known = self.said.as_ref().is_some_and(|said| said.is_known);
        let is_bare = self.message.as_ref().map_or(self.body_bytes == 0, Message::is_bare);
        (is_known || is_bare) && !self.has_query()
    }

    /// What is compared with what its agent said before.
    pub fn words(&self) -> Option<Words> {
        self.message.as_ref().filter(|_| !self.has_query())?.words()
    }

    /// The path that a session posts to is the server's own, query and all.
    fn has_query(&self) -> bool {
        self.head.uri.query().is_some() && !self.is_posted_to_stream()
    }

    /// Takes in what let it pass. `false`: that is more than a record can tell of.
    pub fn pass(&mut self, passes: Vec<Pass>) -> bool {
        let mut has_room = true;
        for pass in passes {
            has_room = has_room && self.counted.merge(pass.counted);
            self.leases.push(pass.lease);
            if let Some(filled) = pass.fullest
                && self.fullest.as_ref().is_none_or(|it| it.has_more_room_than(filled.count, filled.max))
            {
                self.fullest = Some(filled);
            }
            self.note_shadows(pass.would_deny);
        }
        has_room
    }

    /// Takes in which rules in shadow would refuse it.
    pub fn note_shadows(&mut self, rules: Vec<RuleName>) {
        for rule in rules {
            if self.would_deny.insert(rule.clone()) {
                tracing::info!(decision = %self.asked.decision, %rule, "a rule in shadow would refuse this");
            }
        }
    }

    /// Its record is on disk, and `status` tells of no more than that.
    pub fn count_shadows(&self) {
        self.would_deny.iter().for_each(|rule| self.rules.shadows.count(rule));
    }

    pub fn target(&self) -> Target<'_> {
        self.message.as_ref().map_or(Target::Method, Message::target)
    }

    /// How `caller` sees the server's answer to this request.
    pub fn view(
        &self,
        caller: &Caller,
        rules: &InForce,
        limits: &Limits,
        claim: Claim,
        tools: &Arc<Tools>,
    ) -> View {
        let waits_for =
            self.message.as_ref().filter(|message| matches!(message.kind(), Kind::Request { .. }));
        View {
            rules: rules.clone(),
            agent: caller.agent().clone(),
            profile: caller.profile().clone(),
            user: caller.user().cloned(),
            server: Arc::clone(&self.connection.server),
            waits_for: waits_for.and_then(Message::id).cloned(),
            listens: self.message.as_ref().is_some_and(|message| message.method() == LISTEN),
            list_bytes_max: limits.list_bytes_max,
            list_ttl_milliseconds_max: limits.list_ttl_milliseconds_max,
            tools: Arc::clone(tools),
            about: self.about(&claim),
            asked: self.asked.clone(),
            found: self.found.clone(),
            judged_by: Arc::clone(&self.rules),
            claim,
        }
    }

    /// What its answers are about.
    pub fn about(&self, claim: &Claim) -> About {
        let Some(message) = &self.message else { return About::Anything };
        if let Some(made) = claim.made() {
            return About::Tool(made.tool.clone());
        }
        match message.target() {
            Target::Tool(name) => About::Tool(name.to_owned()),
            Target::Prompt(name) => About::Prompt(name.to_owned()),
            Target::Resource(uri) => About::Resource(uri.to_owned()),
            // On it comes what many resources and tools say.
            Target::Method if message.method() != LISTEN => About::Method(message.method().to_owned()),
            _ => About::Anything,
        }
    }

    fn reason_to_allow(&self) -> &'static str {
        let headers = &self.head.headers;
        match self.message.as_ref().map(|message| message.headers_agree(headers)) {
            Some(HeaderAgreement::Disagree { .. }) => HEADERS_DISAGREE,
            _ => ALLOWED,
        }
    }

    /// Hands the record of this case, as far as it is known, to `write`.
    pub async fn record<T>(
        &self,
        refusal: Option<&Refusal>,
        digester: &Digester,
        write: impl AsyncFnOnce(&CallRecord<'_>) -> T,
    ) -> T {
        let text = refusal.map(ToString::to_string);
        let rpc_id = self
            .message
            .as_ref()
            .and_then(Message::id)
            .map(|id| serde_json::to_string(id).unwrap_or_default());
        let rule = refusal.and_then(Refusal::rule).or(self.rule.as_ref()).map(RuleName::as_str);
        let rpc_method = self.message.as_ref().map(Message::method).filter(|method| !method.is_empty());
        let caller = self.caller.as_ref();
        let would_deny: Vec<_> = self.would_deny.iter().take(WOULD_DENY_MAX).cloned().collect();
        // Of nobody knows whom, they would be a way to ask what digest a guess has.
        let message = self.message.as_ref().filter(|_| self.caller.is_some());
        let arguments = message.and_then(|message| {
            let in_clear = self.rules.policy.in_clear(&self.connection.server.name, message.target());
            Some(digester.arguments(message.arguments()?, in_clear))
        });
        let trace = Trace::of(self.message.as_ref(), &self.head.headers);
        let certificate = self.connection.certificate.as_ref().map(|certificate| certificate.fingerprint());
        let record = CallRecord {
            id: self.asked.decision,
            conn: Some(self.connection.id),
            server: self.connection.server.name.as_str(),
            agent: caller.map(|caller| caller.agent().as_str()),
            client: caller.map(|caller| caller.client().as_str()),
            profile: caller.map(|caller| caller.profile().as_str()),
            user: caller.and_then(Caller::user).map(UserName::as_str),
            evidence: caller.map(Caller::evidence),
            credential: caller.and_then(Caller::credential).map(CredentialId::as_str),
            certificate: certificate.as_deref(),
            peer: Some(self.connection.peer),
            original_dst: Some(self.connection.original_dst),
            local: local(self.connection),
            era: self.message.as_ref().map(|message| era(message.era())),
            session: match &self.session {
                Some(session) => session.as_ref().map(SessionId::as_str),
                None => self.head.headers.get(SESSION_HEADER).and_then(|session| session.to_str().ok()),
            },
            http_method: self.head.method.as_str(),
            rpc_method,
            rpc_id: rpc_id.as_deref(),
            target: if self.is_for_oauth()
                || self.is_for_metadata()
                || matches!(refusal, Some(Refusal::Path(_)))
            {
                Some(RecordTarget { kind: "path", name: self.head.uri.path() })
            } else {
                target(self.target(), rpc_method)
            },
            arguments: arguments.as_ref(),
            intent: self.intent.as_ref().map(IntentName::as_str),
            continues: self.continues,
            reason: refusal.map_or_else(|| self.reason_to_allow(), Refusal::reason),
            cause: refusal.and_then(Refusal::cause),
            text: text.as_deref(),
            rule,
            velocity: match refusal {
                Some(refusal) => exceeded(refusal),
                None => self.fullest.as_ref().map(filled),
            },
            counted: (!self.counted.is_empty()).then_some(&self.counted),
            would_deny: &would_deny,
            risk: self.risk.as_ref(),
            label: self.label.as_ref().map(LabelName::as_str),
            mark: self.mark.as_ref().map(LabelName::as_str),
            trace: trace.as_ref(),
            policy: Some(&self.rules.digest),
            body_bytes: u64::try_from(self.body_bytes).unwrap_or(u64::MAX),
            guest: Some(Arc::clone(&self.connection.guest)),
        };
        write(&record).await
    }
}

fn exceeded(refusal: &Refusal) -> Option<Velocity<'_>> {
    let (Refusal::TooOften(Exceeded { rule, count, max, .. })
    | Refusal::NeedsApproval(Approval { rule, window: Some((count, max)), .. })) = refusal
    else {
        return None;
    };
    Some(Velocity { rule: rule.as_str(), count: *count, max: *max })
}

fn filled(Filled { rule, count, max }: &Filled) -> Velocity<'_> {
    Velocity { rule: rule.as_str(), count: *count, max: *max }
}

fn local(connection: &Connection) -> Local<'_> {
    let sha256 = connection.known_digest();
    match connection.client() {
        Client::Process(evidence) => Local::Process { evidence, relay: None, sha256 },
        Client::Relay { name, evidence } => Local::Process { evidence, relay: Some(name), sha256 },
        Client::Neighbour { relay, evidence } => Local::Neighbour { evidence, relay: *relay },
        Client::UnknownLocal => Local::Unknown,
        Client::Remote => Local::Remote,
    }
}

fn era(era: Era) -> &'static str {
    match era {
        Era::Legacy => "legacy",
        Era::Modern => "modern",
    }
}

fn target<'a>(target: Target<'a>, method: Option<&'a str>) -> Option<RecordTarget<'a>> {
    let (kind, name) = match target {
        Target::Tool(name) => ("tool", name),
        Target::Resource(uri) => ("resource", uri),
        Target::Prompt(name) => ("prompt", name),
        Target::Task(id) => ("task", id),
        Target::ServerRequest(method) => ("server_request", method),
        Target::Method | Target::Unnamed => ("method", method?),
    };
    Some(RecordTarget { kind, name })
}
