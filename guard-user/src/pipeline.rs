//! The product on one page: what happens to a request, from its first byte to the bytes that answer it.

mod batch;
mod identify;
mod metadata;
mod oauth;
mod post;
mod risk;
mod said;
mod standing;

use std::future;
use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Response};
use hyper::body::Incoming;
use jiff::Timestamp;

use batch::Shared;
use identify::{Identified, identify, without_own};
use risk::higher;
use standing::Standing;

use crate::audit::{self, AuditLog, Why};
use crate::case::Case;
use crate::config::Limits;
use crate::connection::Connection;
use crate::http::{Body, FramingError, Memory, Unreadable, read};
use crate::identity::{Caller, Wanted};
use crate::kernel::{Blocks, Suspect};
use crate::policy::{Circumstances, Decision, Measure, Meter, Question, RuleName};
use crate::refusal::Refusal;
use crate::respond::{self, Elsewhere, Site};
use crate::risk::{History, Score};
use crate::rpc::{self, Era, Kind, Message, Target};
use crate::rules::{InForce, Rules};
use crate::session::{Cause, Claim, Errands, Made, NotYours, Reason, SessionId, Sessions};
use crate::tools::{Mirrors, Tools};
use crate::types::{DecisionId, IntentName, LabelName, UserName};
use crate::upstream::{Outgoing, Upstream};
use crate::velocity::{Admission, Call, Clock, Exceeded, Pass, Velocity};

/// What the record of an unreadable request has for its HTTP method.
const UNREAD_METHOD: &[u8] = b"-";

/// What a refusal calls headers of which nobody can say what they repeat.
const ANY_MIRROR: &str = "mcp-param-*";

/// Everything that a request meets on its way. Shared by all connections; no lock is held across an await.
pub struct Pipeline {
    pub rules: InForce,
    /// Keys that issuers are to be asked for.
    pub wanted: Arc<Wanted>,
    pub velocity: Velocity,
    /// What the velocity windows go by.
    pub clock: Clock,
    /// What agents did before, for scores.
    pub history: History,
    /// What servers gave to whom.
    pub sessions: Arc<Sessions>,
    /// What the guard has to ask servers itself.
    pub errands: Errands,
    /// Calls that are answered on another exchange than their own.
    pub elsewhere: Elsewhere,
    /// What the servers' tools were when they were pinned.
    pub tools: Arc<Tools>,
    pub audit: AuditLog,
    pub upstream: Upstream,
    /// The kill switch.
    pub blocks: Blocks,
    pub limits: Limits,
    /// What all requests and answers under way may hold.
    pub memory: Memory,
    pub site: Site,
}

impl Pipeline {
    /// Answers one request: with the server's reply, or with a refusal.
    pub async fn handle(
        self: &Arc<Self>,
        connection: &Arc<Connection>,
        request: Request<Incoming>,
    ) -> Response<Body> {
        connection.look().await;
        let (rules, mut caller) = self.identify_asking(connection, request.headers()).await;
        let known = caller.as_ref().ok().filter(|(_, witnessed)| witnessed.is_ok());
        let agent = known.map(|(caller, _)| caller.agent());
        let (head, body, share) = read(request, &self.limits, &self.memory, agent).await;
        // One version of the rules judges all of this request: the one in force when it is there.
        let now = self.rules.load();
        if !Arc::ptr_eq(&rules, &now) {
            caller = identify(&now, connection, &head.headers).await;
        }
        let rules = now;
        if let Ok(body) = &body
            && self.is_to_split(connection, &head, &caller, body)
        {
            let batch = Shared { connection: Arc::clone(connection), rules, head, caller, _held: share };
            return self.handle_batch(batch, body).await;
        }
        self.handle_one(connection, &rules, &head, &caller, body).await
    }

    /// Answers one message.
    async fn handle_one(
        &self,
        connection: &Arc<Connection>,
        rules: &Arc<Rules>,
        head: &Parts,
        caller: &Identified,
        body: Result<Bytes, Unreadable>,
    ) -> Response<Body> {
        // A token that was the guard's, or is for another of its servers, ends here, whatever the server's entry says.
        let ends_here = |(caller, _): &(Caller, _)| caller.is_by_token() || rules.has_token(&head.headers);
        let is_own = caller.as_ref().is_ok_and(ends_here);
        let without = is_own.then(|| without_own(head));
        let head = without.as_ref().unwrap_or(head);
        let mut case = Case::open(DecisionId::random(), connection, Arc::clone(rules), head);
        match self.judge_and_forward(&mut case, caller.clone(), body).await {
            Ok(response) => response,
            Err(refusal) => self.refuse(&case, refusal).await,
        }
    }

    /// The way of a call. Each `?` is a refusal that names its reason.
    async fn judge_and_forward(
        &self,
        case: &mut Case<'_>,
        caller: Identified,
        body: Result<Bytes, Unreadable>,
    ) -> Result<Response<Body>, Refusal> {
        // Is this something that the server's MCP endpoint could be asked, and does everybody read it alike?
        check_endpoint(case)?;
        let body = body?;
        case.body_bytes = body.len();
        rpc::head::check(&case.head.headers)?;
        let server = Arc::clone(&case.connection.server);
        if let Some(authorize) = server.authorize.as_ref().filter(|_| case.is_for_metadata()) {
            // A stolen credential names nobody here, and is held like everywhere.
            let witnessed = caller.ok().and_then(|(caller, witnessed)| witnessed.ok().map(|()| caller));
            let suspect = |caller: &Caller| self.blocks.suspect(caller.agent(), case.connection.client());
            if witnessed.as_ref().is_some_and(|caller| self.blocks.hold(&suspect(caller))) {
                case.caller = witnessed;
                return Err(Refusal::Blocked { forwarded: false });
            }
            return self.tell_metadata(case, authorize, witnessed).await;
        }
        let is_for_oauth = case.is_for_oauth();
        if is_for_oauth {
            rpc::form::check_query(case.head.uri.query().unwrap_or_default().as_bytes())?;
        }
        if is_for_oauth && case.head.method == Method::POST {
            rpc::form::check(&case.head.headers, &body, self.limits.json_depth_max)?;
        } else if case.head.method == Method::POST {
            case.read(rpc::decode(&case.head.headers, body.clone(), self.limits.json_depth_max)?);
        }

        // Who asks, may they, and not too often?
        let (caller, witnessed) = caller?;
        case.caller = Some(caller.clone());
        let suspect = self.blocks.suspect(caller.agent(), case.connection.client());
        if self.blocks.hold(&suspect) {
            return Err(Refusal::Blocked { forwarded: false });
        }
        witnessed?;
        metadata::check_scopes(case, &caller)?;
        if is_for_oauth {
            let why = Why::default();
            let cut = self.cut(case, &caller, (suspect, None), (future::pending(), &why));
            return self.pass_oauth(case, &caller, body, (cut, &why)).await;
        }
        let claim = self.claim(case, &caller)?;
        if let Some(path) = claim.posted_to() {
            let link = self.elsewhere.links.find(&case.connection.server.name, path);
            case.link = Some(link.ok_or(NotYours::Session(Cause::Over(Reason::StreamEnded)))?);
        }
        self.decide(case, &caller, &claim)?;
        check_whose(case.message.as_ref(), &claim)?;
        // Before anything of the answer can go to the agent, and so before the next call that it could fill in with that.
        if let Some(label) = &case.label {
            claim.raise(label).await.map_err(Refusal::Unmarked)?;
        }

        // Nothing goes on before its record is on disk: only that makes the permit.
        let why = Why::default();
        let mut cut = Box::pin(self.cut(case, &caller, (suspect, Some(&claim)), (claim.until_over(), &why)));
        if let Some(link) = case.link.clone() {
            let link = &link;
            caller.check_expiry(Timestamp::now())?;
            let (expected, headers, permit) = self.expect(case, &caller, claim, link).await?;
            return tokio::select! {
                biased;
                refusal = &mut cut => Err(refusal),
                accepted = self.post(case, link, (expected, &headers, permit.heeding(&why)), body) => accepted,
            };
        }
        caller.check_expiry(Timestamp::now())?;
        self.remember(case, &caller);
        let permit = self.intend(case).await?;
        let permit = permit.heeding(&why).telling(&case.found).keep(std::mem::take(&mut case.leases));
        claim.spend();
        let answer = async {
            let Connection { server, door, .. } = &**case.connection;
            let head = case.head;
            let headers = claim.forwarded(&head.headers);
            let request = Outgoing { method: &head.method, uri: &head.uri, headers: &headers, body };
            let reply = self.upstream.forward(permit, server, *door, request).await?;
            if let Some(id) = case.message.as_ref().and_then(Message::cancelled) {
                self.elsewhere.suspended.cancel(&claim.scope(), &id);
            }
            let view = case.view(&caller, &self.rules, &self.limits, claim, &self.tools);
            respond::relay(reply, &case.asked, view, (&self.limits, &self.memory), &self.elsewhere).await
        };
        let response = tokio::select! {
            biased;
            // The permit that is dropped with the call writes its closing record.
            refusal = &mut cut => return Err(refusal),
            response = answer => response?,
        };
        Ok(response.map(|answer| answer.until(cut)))
    }

    /// What ends a request that goes on, from now on. Whoever holds its permit hears of it by `why`.
    fn cut<O: Future<Output = ()> + Send + 'static>(
        &self,
        case: &Case<'_>,
        caller: &Caller,
        (suspect, claim): (Suspect, Option<&Claim>),
        (over, why): (O, &Why),
    ) -> impl Future<Output = Refusal> + Send + use<O> {
        let (blocks, standing) =
            (self.blocks.clone(), Standing::of(case, caller.clone(), (&self.sessions, claim)));
        let withdrawn = standing::until_over(standing, self.rules.clone());
        let why = why.clone();
        async move {
            let refusal = tokio::select! {
                () = blocks.until_held(&suspect) => Refusal::Blocked { forwarded: true },
                () = over => Refusal::SessionOver,
                () = withdrawn => Refusal::Withdrawn,
            };
            why.tell(refusal.reason());
            refusal
        }
    }

    /// Does it use only what was given to this agent?
    fn claim(&self, case: &mut Case<'_>, caller: &Caller) -> Result<Claim, Refusal> {
        let (sessions, errands) = (&self.sessions, &self.errands);
        let request = (case.head, case.message.as_ref());
        let claim = Claim::check(sessions, errands, case.connection, caller, request, case.asked.decision)?;
        case.session = Some(claim.session().cloned());
        case.continues = claim.round().map(|round| round.call);
        Ok(claim)
    }

    /// What the rules say of this request; of one that subscribes to many resources, what they say of each.
    fn decide(&self, case: &mut Case<'_>, caller: &Caller, claim: &Claim) -> Result<(), Refusal> {
        let mut passes = Vec::new();
        said::compare(case, claim);
        let read = claim.read();
        let judged = self.judge_all(case, caller, (claim, &read), &mut passes);
        case.mark = case.rules.policy.mark(&read).filter(|_| !read.is_empty()).cloned();
        case.label.clone_from(&judged.label);
        case.intent = judged.intent;
        case.risk = judged.risk;
        let has_room = case.pass(passes);
        let rule = judged.rule?;
        if !has_room {
            return Err(Refusal::exceeded(Exceeded::too_much_at_once(rule)));
        }
        case.rule = Some(rule);
        // Not the further rounds of a call, nor what asks for a task's result.
        case.is_new = claim.round().is_none() && claim.made().is_none();
        Ok(())
    }

    fn judge_all(
        &self,
        case: &Case<'_>,
        caller: &Caller,
        (claim, read): (&Claim, &[LabelName]),
        passes: &mut Vec<Pass>,
    ) -> Judged {
        let message = case.message.as_ref();
        let question = question(case, caller);
        let around = Circumstances { read: Some(read), session: claim.within(), ..question.around };
        let question = Question { around, ..question };
        let is_first = claim.round().is_none();
        if let Some(made) = claim.made() {
            return judge_task(&case.rules, &question, made, passes);
        }
        let mut highest = None;
        let mut carried: Vec<LabelName> = Vec::new();
        for target in message.map_or_else(Vec::new, Message::listened) {
            let judged = match target {
                Target::Task(id) => match claim.task(id) {
                    Ok(made) => judge_task(&case.rules, &question, &made, passes),
                    Err(refusal) => {
                        Judged { intent: None, rule: Err(refusal.into()), risk: None, label: None }
                    }
                },
                _ => self.judge(case, &Question { target, ..question }, is_first, passes),
            };
            if judged.rule.is_err() {
                return judged;
            }
            highest = higher(highest, judged.risk);
            carried.extend(judged.label);
        }
        let mut judged = self.judge(case, &question, is_first, passes);
        carried.extend(judged.label.take());
        // What is listened to carries the highest of all.
        judged.label = case.rules.policy.mark(&carried).filter(|_| !carried.is_empty()).cloned();
        Judged { risk: higher(highest, judged.risk), ..judged }
    }

    /// Policy first, then velocity, which counts only what the policy lets through, and a call of several rounds once.
    fn judge(
        &self,
        case: &Case<'_>,
        question: &Question<'_>,
        is_first: bool,
        passes: &mut Vec<Pass>,
    ) -> Judged {
        let mut admit = |meters, in_shadow: &[RuleName]| {
            let mut pass = self.admit(case, question, meters, is_first)?;
            pass.would_deny.extend_from_slice(in_shadow);
            passes.push(pass);
            Ok(())
        };
        let mut question = *question;
        let risk = self.score(case, &question);
        question.around.risk = risk.as_ref().map(|risk| risk.score);
        let question = &question;
        match case.rules.policy.decide(question) {
            Decision::Allow(allow) => Judged {
                intent: allow.intents().first().cloned(),
                rule: admit(allow.velocity(), allow.would_deny()).map(|()| allow.rule().clone()),
                risk,
                label: allow.label().cloned(),
            },
            Decision::Hold(hold) => Judged {
                intent: Some(hold.intent().clone()),
                rule: admit(hold.velocity(), hold.would_deny()).and(Err(Refusal::held(&hold))),
                risk,
                label: None,
            },
            Decision::Deny(deny) => {
                let intent = deny.intent().cloned();
                Judged { intent, rule: Err(Refusal::Denied(deny)), risk, label: None }
            }
        }
    }

    /// What is refused for the tool's sake counts for nothing.
    fn admit(
        &self,
        case: &Case<'_>,
        question: &Question<'_>,
        meters: &[Meter],
        is_first: bool,
    ) -> Result<Pass, Refusal> {
        let tool = if let Target::Tool(tool) = question.target { Some(tool) } else { None };
        if let Some(tool) = tool {
            if let Some(held) = self.tools.held(question.server, tool) {
                return Err(Refusal::Tool(held));
            }
            check_mirrors(case, &self.tools.mirrors(question.server, tool))?;
        }
        // A further round is under way like a first one.
        let further: Vec<Meter>;
        let meters = if is_first {
            meters
        } else {
            further = meters.iter().filter(|m| m.rule.measure == Measure::Concurrent).cloned().collect();
            &further
        };
        let session = case.session.iter().flatten().next().map(SessionId::as_str);
        let user = question.around.user.map(UserName::as_str);
        let call = Call { agent: question.agent, user, session, server: question.server, tool };
        match self.velocity.admit(self.clock.now(), &call, meters) {
            Admission::Within(pass) => Ok(pass),
            Admission::Exceeded(exceeded) => Err(Refusal::exceeded(exceeded)),
        }
    }

    /// Records a refusal and answers it. What was forwarded has its records already.
    async fn refuse(&self, case: &Case<'_>, refusal: Refusal) -> Response<Body> {
        let asked = if case.is_posted_to_stream() { &case.asked.by_status() } else { &case.asked };
        let answer = |refusal: &Refusal| {
            respond::refuse(asked, refusal, &case.connection.server, &self.site, &case.head.headers)
        };
        let response = Self::refuse_on_stream(case, &refusal).unwrap_or_else(|| answer(&refusal));
        if matches!(refusal, Refusal::Body(Unreadable::Busy)) {
            // Like a connection too many. To wait for a record would hold more of what there is too little of.
            tracing::debug!(decision = %case.asked.decision, %refusal, "not answered");
            return response;
        }
        if let Refusal::Audit(error) = &refusal {
            tracing::warn!(decision = %case.asked.decision, code = error.code(), %error, "not answered");
            return response;
        }
        if refusal.is_after_permit() {
            tracing::warn!(decision = %case.asked.decision, reason = refusal.reason(), %refusal, "not answered");
            return response;
        }
        let verdict = match refusal {
            Refusal::NeedsApproval(_) => audit::Refusal::Hold,
            _ => audit::Refusal::Deny,
        };
        let status = response.status().as_u16();
        self.remember_refused(case.caller.as_ref(), &refusal);
        let written = case.record(Some(&refusal), self.audit.digester(), async |record| {
            self.audit.refuse(record, verdict, status).await
        });
        match written.await.map(|_seq| case.count_shadows()) {
            Ok(()) => response,
            Err(error) => answer(&error.into()),
        }
    }

    /// Records and answers what is no request, since nobody can tell where it ends.
    pub async fn refuse_framing(&self, connection: &Arc<Connection>, fault: FramingError) -> Response<Body> {
        let (mut head, ()) = Request::new(()).into_parts();
        head.method = Method::from_bytes(UNREAD_METHOD).unwrap_or_default();
        connection.look().await;
        let case = Case::open(DecisionId::random(), connection, self.rules.load(), &head);
        self.refuse(&case, fault.into()).await
    }
}

fn check_endpoint(case: &Case<'_>) -> Result<(), Refusal> {
    let connection = case.connection;
    if !connection.is_tls && !connection.may_be_plain() {
        return Err(Refusal::Plaintext);
    }
    let server = &connection.server;
    let is_posted = server.sse_path.is_some() && case.head.method == Method::POST;
    let path = case.head.uri.path();
    if case.is_for_oauth() || case.is_for_metadata() {
        return Ok(());
    }
    match case.head.method {
        // The path to post to is the server's choice; whose it is the session says.
        Method::POST if is_posted => Ok(()),
        Method::GET if server.sse_path.as_deref() == Some(path) => Ok(()),
        _ if path != server.path => Err(Refusal::Path(server.path.clone())),
        Method::POST | Method::GET | Method::DELETE => Ok(()),
        _ => Err(Refusal::Method),
    }
}

/// Whether headers that repeat arguments say what the arguments say. What nobody can say must not be there.
fn check_mirrors(case: &Case<'_>, mirrors: &Mirrors) -> Result<(), Refusal> {
    let headers = &case.head.headers;
    let told = match (mirrors, &case.message) {
        (Mirrors::Known(mirrors), Some(message)) => message.mirrors_agree(headers, mirrors),
        (Mirrors::Unclear, _) if rpc::has_mirrors(headers) => Err(ANY_MIRROR),
        _ => Ok(()),
    };
    told.map_err(|header| Refusal::HeaderMismatch(header.to_owned()))
}

/// Without a session, a server could take it for the end of another agent's request, or for the answer to what it asked
/// another agent: both are known by ids that everybody counts from 1.
fn check_whose(message: Option<&Message>, claim: &Claim) -> Result<(), Refusal> {
    let is_alone = |message: &&Message| claim.session().is_none() || message.era() == Era::Modern;
    match message.filter(is_alone) {
        Some(message) if message.method() == "notifications/cancelled" => Err(Refusal::Cancelled),
        Some(message) if matches!(message.kind(), Kind::Response { .. }) => Err(Refusal::Answered),
        _ => Ok(()),
    }
}

fn question<'q>(case: &'q Case<'_>, caller: &'q Caller) -> Question<'q> {
    let message = case.message.as_ref();
    Question {
        agent: caller.agent(),
        profile: Some(caller.profile()),
        server: &case.connection.server.name,
        method: judged_method(message),
        target: case.target(),
        arguments: message.and_then(Message::arguments),
        around: Circumstances {
            moment: Some(Timestamp::now()),
            client: Some(case.connection.client()),
            user: caller.user(),
            is_bare: case.is_bare(),
            ..Circumstances::default()
        },
    }
}

/// What was judged, and the rule that lets it pass.
struct Judged {
    intent: Option<IntentName>,
    rule: Result<RuleName, Refusal>,
    risk: Option<Score>,
    /// What the answer carries.
    label: Option<LabelName>,
}

/// A task's result: whoever may still make the call may have it. That it needed an approval is over.
fn judge_task(rules: &Rules, question: &Question<'_>, made: &Made, passes: &mut Vec<Pass>) -> Judged {
    let question = Question { target: Target::Tool(&made.tool), ..*question };
    let decision = rules.policy.decide_as_shown(&question);
    passes.push(Pass { would_deny: decision.would_deny().to_vec(), ..Pass::default() });
    match decision {
        Decision::Allow(allow) => {
            let (intent, label) = (allow.intents().first().cloned(), allow.label().cloned());
            Judged { intent, rule: Ok(allow.rule().clone()), risk: None, label }
        }
        Decision::Hold(hold) => {
            let (intent, label) = (Some(hold.intent().clone()), hold.label().cloned());
            Judged { intent, rule: Ok(hold.rule().clone()), risk: None, label }
        }
        Decision::Deny(deny) => {
            let intent = deny.intent().cloned();
            Judged { intent, rule: Err(Refusal::Denied(deny)), risk: None, label: None }
        }
    }
}

/// Streams (GET), their end (DELETE) and a client's answers to its server name no method. They belong to the
/// protocol like a ping, and whoever may ping may have them.
fn judged_method(message: Option<&Message>) -> &str {
    message.map(Message::method).filter(|method| !method.is_empty()).unwrap_or("ping")
}
