//! Builds the guard, in the order in which a failure does least harm, and takes it down again.

mod changes;
mod closed;
mod errands;
mod files;
mod heartbeat;
mod heritage;
mod keys;
mod listeners;
mod proof;
mod reloads;
mod risk;
mod sessions;
mod tools;
mod trail;
mod upkeep;
mod velocity;
mod watchers;

pub(crate) use trail::audit_options;

use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use ::http::{Request, Response};
use anyhow::{Context, anyhow};
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::accept::{Accepted, Acceptor};
use crate::admin::{self, Ask, Reply};
use crate::audit::{
    Acceptance, BootMoment, Cause, Copies, Event, Occasion, RECORD_SCHEMA, Start, TookEffect,
};
use crate::config::{Config, Server};
use crate::connection::{Connection, Process};
use crate::http::{Body, FramingError};
use crate::identity::Certificate;
use crate::kernel::Handover;
use crate::pipeline::Pipeline;
use crate::privilege::Privileges;
use crate::respond::{Elsewhere, Site};
use crate::rules::{InForce, Rules};
use crate::service::{Inherited, Manager, Word};
use crate::session::{Errands, Sessions, ToDo};
use crate::tls::{Secured, TlsEnd};
use crate::tools::Tools;
use crate::upstream::{Credentials, Upstream};
use crate::{http, kernel};
use reloads::Reloads;

/// How often a certificate of the local CA is replaced while the guard runs; one lives for 397 days.
const CERTIFICATE_RENEWAL: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// How soon it is tried again where that failed, as while the trail cannot be written.
const RENEWAL_RETRY: Duration = Duration::from_secs(60 * 60);

/// How long an heir may take to receive the listeners.
const HAND_OVER: Duration = Duration::from_secs(60);

/// What an operator and the service manager say of a start.
#[derive(Debug, Default)]
pub struct StartOptions {
    /// A running guard hands its listeners on, once this one has read its files.
    pub take_over: bool,
    /// A newer version may have made the pins.
    pub allow_downgrade: bool,
    /// What the service manager kept.
    pub inherited: Vec<Inherited>,
    /// An operator goes on without records of the trail that are lost.
    pub accept_loss: Option<Acceptance>,
}

/// The running guard.
pub struct App {
    config: Arc<Config>,
    pipeline: Arc<Pipeline>,
    copies: Copies,
    tls: TlsEnd,
    kernel: kernel::Guard,
    connections: AtomicU64,
    /// The blocks that the trail tells of.
    recorded: tokio::sync::Mutex<kernel::AllBlocks>,
    /// Held by the reload under way: one that read older files must not end after, and undo, one that read newer.
    reloading: tokio::sync::Mutex<()>,
    reloads: std::sync::Mutex<Reloads>,
    asked_issuers: keys::AskedIssuers,
    manager: Manager,
    /// Where another guard's wish for the listeners goes.
    wishes: mpsc::Sender<Heir>,
    wished: std::sync::Mutex<Option<mpsc::Receiver<Heir>>>,
    /// Requests of the guard's own; taken by the tasks that make them.
    to_do: std::sync::Mutex<Vec<ToDo>>,
}

/// To be kept until the process ends: the guard that took over waits for the end of this connection.
#[must_use]
#[derive(Debug)]
pub struct Farewell(Option<UnixStream>);

impl Farewell {
    /// Whether another guard goes on with the listeners.
    pub fn is_handed_on(&self) -> bool {
        self.0.is_some()
    }
}

/// Another guard that waits for the listeners.
type Heir = oneshot::Sender<(Handover, oneshot::Sender<UnixStream>)>;

/// How this guard ends.
enum End {
    Stop,
    HandOver(Heir),
}

impl App {
    /// Everything that can be wrong with files is found before the kernel is touched. From then on the ports are
    /// closed to all but the guard, also if the rest fails. After a boot, when nothing is in the kernel yet, a start that fails
    /// closes them, too.
    pub async fn start(
        config: Config,
        manager: Manager,
        options: StartOptions,
    ) -> anyhow::Result<(Arc<Self>, Acceptor)> {
        let config = Arc::new(config);
        // Once this one has the trail, nobody can tell any more.
        let is_another = closed::is_another(&config);
        let started = Self::try_to_start(&config, manager, options).await;
        if let Err(error) = &started
            && !is_another
        {
            closed::after(&config, error).await;
        }
        started
    }

    async fn try_to_start(
        config: &Arc<Config>,
        manager: Manager,
        StartOptions { take_over, allow_downgrade, inherited, accept_loss }: StartOptions,
    ) -> anyhow::Result<(Arc<Self>, Acceptor)> {
        manager.tell(&[Word::Status("starting: the ports are closed, nothing is served yet")]);
        let config = Arc::clone(config);
        let rules = Rules::load(&config)?;
        tell_notes(&rules);
        let shown_to_servers = Credentials::open(&config.servers)?;
        let reloads = Reloads::begin();
        let first_keys = keys::begin(&config);
        let tls = TlsEnd::open(&config.tls, &config.tls_dir(), rules.clients.verifier())?;
        Sessions::check(&config.state_dir, &config.limits)?;
        kernel::refuse_downgrade(&config.kernel, allow_downgrade)?;
        // Another guard may still change them; whether they can be read is known now.
        drop(Tools::open(&config)?);
        let kept: Vec<String> = inherited.iter().map(|one| one.name.clone()).collect();
        // A trail that a running guard holds can be read and written: it does so. Any other is opened before that guard is
        // asked to go.
        let may_go_back = accept_loss.is_some();
        let known = Start::new(&config, accept_loss);
        let own_trail = if take_over { trail::open_unless_held(&config, &known).await? } else { None };
        let handed = heritage::find(&config, take_over, inherited).await?;
        let occasion = if handed.is_empty() { Occasion::Start } else { Occasion::TakeOver };
        let audit = match own_trail {
            Some(audit) => audit,
            None => manager.wait_for(trail::open(&config, &known)).await?,
        };
        let (velocity, clock) = {
            let (config, audit) = (Arc::clone(&config), audit.clone());
            let counting = tokio::task::spawn_blocking(move || velocity::open(&config, &audit));
            manager.wait_for(counting).await??
        };
        let history = manager.wait_for(risk::open(&config, &audit)).await?;
        // With the trail open, no other guard changes them.
        let tools = Arc::new(Tools::open(&config)?);
        let (digest, in_shadow) = (rules.digest.clone(), rules.policy.in_shadow());
        let digests = rules.digests(&tls.digest());
        let kernel = kernel::Guard::start_with(config.clone(), handed).await?;
        let acceptor = Acceptor::new(&kernel)?;
        // Only now has the guard before this one written down what it knew.
        let sessions = Sessions::open(&config.state_dir, &config.limits, kernel.dialer())?;
        let servers = config.servers.iter().map(|server| &server.name);
        let (errands, to_do) = Errands::new(servers, &config.limits);
        let pipeline = Arc::new(Pipeline {
            rules: InForce::new(rules),
            wanted: keys::wanted(&config),
            velocity,
            clock,
            history,
            sessions: Arc::new(sessions),
            errands,
            elsewhere: Elsewhere::new(&config.limits),
            tools,
            blocks: kernel.blocks(),
            upstream: Upstream::new(kernel.dialer(), &config.limits, shown_to_servers),
            limits: config.limits.clone(),
            memory: http::Memory::new(&config.limits),
            site: Site { ca_file: tls.ca_file() },
            audit,
        });
        let configured = config.digest();
        let start = Event::Start {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            durability: config.audit.durability,
            digest_key: pipeline.audit.digester().id(),
            config: &configured,
            schema: RECORD_SCHEMA,
            moment: BootMoment::now(),
        };
        pipeline.audit.note(&start).await.context("cannot write the first audit record")?;
        let took_effect = TookEffect {
            digest: &digest,
            text: in_shadow.as_deref(),
            cause: Cause::Start,
            digests: &digests,
        };
        pipeline.audit.note(&Event::Policy(took_effect)).await?;
        let (ask_heirs, heirs) = mpsc::channel(1);
        let copies =
            Copies::begin(&config, may_go_back).context("cannot begin to copy the audit checkpoint")?;
        let app = Self {
            config,
            pipeline,
            copies,
            tls,
            kernel,
            connections: AtomicU64::new(0),
            recorded: tokio::sync::Mutex::default(),
            reloading: tokio::sync::Mutex::default(),
            reloads: std::sync::Mutex::new(reloads),
            asked_issuers: keys::AskedIssuers::default(),
            manager,
            wishes: ask_heirs,
            wished: std::sync::Mutex::new(Some(heirs)),
            to_do: std::sync::Mutex::new(to_do),
        };
        app.heartbeat(occasion).await;
        heritage::forget(&app.manager, &kept);
        let app = Arc::new(app);
        app.record_blocks().await?;
        watchers::spawn(&app);
        app.record_approved_tools().await?;
        tools::spawn(&app);
        app.take_first_keys(first_keys).await;
        Ok((app, acceptor))
    }

    /// Serves until SIGTERM or SIGINT, then lets calls under way end. The ports stay closed.
    pub async fn run(
        self: Arc<Self>,
        mut acceptor: Acceptor,
        mut signals: Signals,
    ) -> anyhow::Result<Farewell> {
        let _upkeep = upkeep::spawn(&self, &acceptor);
        let (drain, draining) = watch::channel(false);
        let mut renewal = tokio::time::interval(CERTIFICATE_RENEWAL);
        renewal.reset();
        let mut connections = JoinSet::new();
        let mut heirs = lock(&self.wished).take();
        let end = loop {
            tokio::select! {
                accepted = acceptor.accept() => {
                    let accepted = accepted.ok_or_else(|| anyhow!("the accept loop ended; the ports stay closed"))?;
                    connections.spawn(self.clone().serve(accepted, draining.clone()));
                }
                Some(_ended) = connections.join_next() => {}
                _ = renewal.tick() => if !self.renew_certificate().await {
                    renewal.reset_after(RENEWAL_RETRY);
                },
                wish = signals.next() => match wish {
                    Wish::Reload => drop(self.reload(Cause::Signal).await),
                    Wish::Stop => break End::Stop,
                },
                Some(heir) = heir(&mut heirs) => break End::HandOver(heir),
            }
        };
        // Who waits at a listener that somebody keeps is served by the next guard; else he is refused.
        let keeps = matches!(end, End::HandOver(_)) || self.manager.is_there();
        if keeps {
            acceptor.close();
        } else {
            acceptor.turn_away();
        }
        self.manager
            .tell(&[Word::Stopping, Word::Status("stopping: calls under way end, the ports stay closed")]);
        tracing::info!(connections = connections.len(), "stopping; the ports stay closed");
        drain.send_replace(true);
        let patience = Duration::from_secs(self.config.limits.drain_seconds);
        let ended = async { while connections.join_next().await.is_some() {} };
        if tokio::time::timeout(patience, ended).await.is_err() {
            tracing::warn!(connections = connections.len(), "drain_seconds is over; the rest is cut off");
            connections.shutdown().await;
        }
        if !keeps {
            self.settle().await;
        }
        drop(acceptor);
        self.pipeline.elsewhere.suspended.give_up_all();
        self.pipeline.sessions.save();
        self.settle_tools().await;
        self.save_velocity().await;
        self.save_history().await;
        self.heartbeat(if keeps { Occasion::HandOver } else { Occasion::Stop }).await;
        self.pipeline.audit.clone().close().await;
        tokio::task::block_in_place(|| self.copies.finish());
        self.bequeath(end).await
    }

    /// Hands the listeners to whoever goes on with them.
    async fn bequeath(&self, end: End) -> anyhow::Result<Farewell> {
        let handover = self.kernel.hand_over().context("cannot copy the listeners; the ports refuse now")?;
        match end {
            End::Stop => {
                heritage::leave(&self.manager, &self.config.runtime_dir, handover)?;
                Ok(Farewell(None))
            }
            End::HandOver(heir) => {
                let (sent, stream) = oneshot::channel();
                if heir.send((handover, sent)).is_err() {
                    return Ok(Farewell(None));
                }
                let stream = tokio::time::timeout(HAND_OVER, stream).await;
                Ok(Farewell(stream.ok().and_then(Result::ok)))
            }
        }
    }

    async fn serve(self: Arc<Self>, accepted: Accepted, drain: watch::Receiver<bool>) {
        let Accepted { io, peer, original_dst, server, door, origin, guest, witness, place: _place } =
            accepted;
        let patience = Duration::from_secs(self.config.limits.tls_handshake_seconds);
        // Boxed, so that its room is free again after the handshake.
        let secured = match Box::pin(self.tls.secure(io, patience)).await {
            Ok(secured) => secured,
            Err(error) => return self.tls.tell(&error, peer, &server.name),
        };
        let connection = Arc::new(Connection {
            id: self.connections.fetch_add(1, Ordering::Relaxed) + 1,
            peer,
            original_dst,
            server,
            door,
            origin,
            is_tls: matches!(secured, Secured::Tls(_)),
            certificate: Certificate::of_chain(secured.client_chain()).map(Arc::new),
            guest,
            process: Process::new(witness),
        });
        let handler = Requests { app: self.clone(), connection };
        http::serve(secured, &self.config.limits, drain, handler).await;
    }

    /// Tries every claim with real connections; true if all hold.
    pub async fn prove(&self) -> bool {
        self.kernel.prove().await;
        self.kernel.status().protected
    }

    /// The guard in one line, for the service manager.
    fn in_a_line(&self) -> String {
        let down = self.servers_down().len();
        let down = if down > 0 { format!(", {down} of them down") } else { String::new() };
        let protected = if self.kernel.status().protected { "protected" } else { "NOT PROVEN" };
        let stale =
            if self.has_failed_reload() { ", NOT RELOADED: the last good policy is in force" } else { "" };
        format!("{protected}: {} server(s){down}{stale}", self.config.servers.len())
    }

    /// What the guard has to do without on this host, in words.
    pub fn shortcomings(&self) -> Vec<String> {
        let kernel::Status { wall, lock_problems, reduced, .. } = self.kernel.status();
        let walls = wall.problems.into_iter().map(|words| format!("NO SECOND WALL: {words}"));
        let locks = lock_problems.into_iter().map(|words| format!("LOCK-DOWN INCOMPLETE: {words}"));
        walls.chain(locks).chain(reduced.into_iter().map(|words| format!("REDUCED: {words}"))).collect()
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Servers that do not listen, or are not taken for those that were here first: calls to them are refused.
    pub fn servers_down(&self) -> Vec<&Server> {
        let namespaces = self.kernel.status().namespaces;
        self.config
            .servers
            .iter()
            .filter(|server| !namespaces.iter().any(|there| there.runs(server)))
            .collect()
    }

    /// The CA that clients must trust; none if the operator brought the certificate.
    pub fn ca_file(&self) -> Option<PathBuf> {
        self.tls.ca_file()
    }

    /// Answers an operator, who is this user.
    pub async fn answer(&self, ask: Ask, uid: u32) -> Reply {
        Reply::Json(match ask {
            Ask::Status { prove } => {
                if prove {
                    self.prove().await;
                }
                self.status()
            }
            Ask::Blocks => match self.heed_blocks().await {
                Ok(blocks) => json!({ "blocks": blocks }),
                Err(error) => json!({ "error": format!("{error:#}") }),
            },
            Ask::Reload => match self.reload(Cause::Operator { uid }).await {
                Ok(policy) => json!({ "policy": policy }),
                Err(problems) => json!({ "error": problems.to_string() }),
            },
            Ask::Prune { before, force } => self.prune(before, (uid, force)).await,
            Ask::Sessions => self.sessions(),
            Ask::ClearContexts { agent } => {
                let done = self.clear_contexts(agent.as_deref(), uid).await;
                done.unwrap_or_else(|error| json!({ "error": error }))
            }
            Ask::EndSessions(choice) => {
                let done = self.end_sessions_for(&choice, uid).await;
                done.unwrap_or_else(|error| json!({ "error": error }))
            }
            Ask::Velocity { rows, about } => self.fullest(usize::from(rows), about).await,
            Ask::Known(about) => self.known(&about),
            Ask::Listeners => json!({ "closed": self.kernel.closed() }),
            Ask::Decide(choice) => {
                self.decide(choice, uid).await.unwrap_or_else(|error| json!({ "error": error }))
            }
            Ask::Tools { server, with_definitions } => self
                .tools(server.as_deref(), with_definitions)
                .unwrap_or_else(|error| json!({ "error": error })),
            Ask::ApproveTools(choice) => {
                self.approve_tools(choice, uid).await.unwrap_or_else(|error| json!({ "error": error }))
            }
            Ask::ForgetTools { server, tools } => {
                let done = self.forget_tools(&server, tools, uid).await;
                done.unwrap_or_else(|error| json!({ "error": error }))
            }
            Ask::HandOver => {
                let (heir, handed) = oneshot::channel();
                if self.wishes.try_send(heir).is_ok()
                    && let Ok((handover, sent)) = handed.await
                {
                    return Reply::Listeners(handover, sent);
                }
                json!({ "error": "this guard is ending already" })
            }
        })
    }

    /// What `mcp-guard status --json` prints.
    pub fn status(&self) -> Value {
        let rules = self.pipeline.rules.load();
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "pid": std::process::id(),
            "managed": self.manager.is_there(),
            "waiting": self.kernel.closed().len(),
            "tools_held": self.pipeline.tools.count_held(),
            "unwatched": self.kernel.unwatched(),
            "privileges": Privileges::now().ok(),
            "kernel": self.kernel.status(),
            "policy": rules.digest,
            "reload": self.reloads(),
            "agents": rules.policy.agents().count(),
            "holders": self.holders(),
            "shadow_servers": rules.policy.shadow_servers(),
            "shadows": rules.shadows.list(),
            "durability": self.config.audit.durability,
            "audit": self.trail(),
            "checkpoints": self.copies.standing(),
            "ca": self.tls.ca_file(),
            "client_certificates_refused": self.tls.certificates_refused(),
            "servers": self.config.servers,
            "issuers": self.issuers(),
            "credentials": self.pipeline.upstream.credentials(),
        })
    }
}

/// The next one that waits; never, if nobody can come.
async fn heir(heirs: &mut Option<mpsc::Receiver<Heir>>) -> Option<Heir> {
    let Some(heirs) = heirs else { return std::future::pending().await };
    heirs.recv().await
}

fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The requests of one connection.
#[derive(Clone)]
struct Requests {
    app: Arc<App>,
    connection: Arc<Connection>,
}

impl http::Handler for Requests {
    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        self.app.pipeline.handle(&self.connection, request).await
    }

    async fn refuse(&self, fault: FramingError) -> Response<Body> {
        self.app.pipeline.refuse_framing(&self.connection, fault).await
    }
}

/// What people should know of the rules that were just read, beside mistakes.
fn tell_notes(rules: &Rules) {
    for note in rules.issuers.notes().iter().chain(rules.clients.notes()) {
        tracing::warn!("{note}");
    }
    for server in rules.policy.shadow_servers() {
        tracing::warn!(%server, "in shadow: no rule refuses, holds or masks anything of it");
    }
}

/// Listens for operators on the admin socket, for as long as the runtime lives.
pub fn serve_admin(app: &Arc<App>) -> anyhow::Result<()> {
    let path = app.config.admin_socket();
    let listener = admin::listen(&path).with_context(|| format!("cannot listen on {}", path.display()))?;
    let app = app.clone();
    tokio::spawn(admin::serve(listener, move |ask, uid| {
        let app = app.clone();
        async move { app.answer(ask, uid).await }
    }));
    Ok(())
}

/// SIGTERM, SIGINT and SIGHUP, caught from the first moment: none is lost while the guard starts, and none ends it
/// half started.
pub struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    Stop,
    Reload,
}

impl Signals {
    pub fn catch() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Wish {
        tokio::select! {
            _ = self.terminate.recv() => Wish::Stop,
            _ = self.interrupt.recv() => Wish::Stop,
            _ = self.hangup.recv() => Wish::Reload,
        }
    }
}
