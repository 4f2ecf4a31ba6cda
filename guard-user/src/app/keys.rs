//! Keeps the keys of issuers that publish them over the network: asks from time to time, and when a token names a key that is
//! not known.
//!
//! What was read last stays in force while an issuer cannot be asked, for `stale_seconds` at most. Nothing of it is kept on disk: a guard
//! that starts must hear from the issuer itself, or it would believe keys that were withdrawn while it was away.

mod fetch;
mod schedule;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::{JoinHandle, JoinSet};

use super::{App, lock};
use crate::audit::Event;
use crate::config::{Config, Issuer, JwksUrl, KeySource};
use crate::identity::{KeySet, Published, Wanted};
use crate::types::{IssuerName, Uptime};
use fetch::Document;
use schedule::Schedule;

/// How long a start waits for issuers. Then it goes on without the keys of those that have not answered.
const START_PATIENCE: Duration = Duration::from_secs(3);

/// Between two looks at the host's clock: timers sleep when the host does.
const CLOCK_LOOK: Duration = Duration::from_secs(5);

/// How each issuer stands that is asked.
#[derive(Debug, Default)]
pub(super) struct AskedIssuers(Mutex<BTreeMap<IssuerName, Standing>>);

#[derive(Debug)]
struct Standing {
    schedule: Schedule,
    read_at: Option<Uptime>,
    /// Why the last question had no answer of use.
    error: Option<String>,
    /// Keys that were passed over.
    notes: Vec<String>,
}

/// What came of one question.
type Attempt = Result<(KeySet, Vec<String>, Option<Duration>), Unusable>;

/// Why an answer is of no use.
struct Unusable {
    why: String,
    /// It is a key set all the same: a key that is not in it is withdrawn.
    published: Option<Published>,
}

/// The first questions, under way.
pub(super) struct First {
    begun: Uptime,
    asking: JoinHandle<Vec<(Issuer, Attempt)>>,
}

fn asked(config: &Config) -> impl Iterator<Item = (&Issuer, &JwksUrl)> {
    config.issuers.iter().filter_map(|issuer| match &issuer.keys {
        KeySource::JwksUrl(jwks) => Some((issuer, jwks)),
        KeySource::JwksFile(_) | KeySource::PemFiles(_) => None,
    })
}

/// Where requests ask for keys.
pub(super) fn wanted(config: &Config) -> Arc<Wanted> {
    Arc::new(Wanted::new(asked(config).map(|(issuer, _)| issuer.name.clone())))
}

/// Asks every issuer, while the guard goes on starting.
pub(super) fn begin(config: &Config) -> First {
    let protected: Arc<[u16]> = config.server_ports().into();
    let all: Vec<_> = asked(config).map(|(issuer, jwks)| (issuer.clone(), jwks.clone())).collect();
    let asking = tokio::spawn(async move {
        let mut asking = JoinSet::new();
        for (issuer, jwks) in all {
            let protected = Arc::clone(&protected);
            asking.spawn(async move {
                let attempt = attempt(&issuer, &jwks, &protected);
                let late = |_late| {
                    Err(unanswered(format!("no answer within {} s of the start", START_PATIENCE.as_secs())))
                };
                let attempt = tokio::time::timeout(START_PATIENCE, attempt).await.unwrap_or_else(late);
                (issuer, attempt)
            });
        }
        asking.join_all().await
    });
    First { begun: Uptime::now(), asking }
}

async fn attempt(issuer: &Issuer, jwks: &JwksUrl, protected: &[u16]) -> Attempt {
    let Document { text, max_age } = fetch::get(jwks, protected).await.map_err(unanswered)?;
    let (keys, notes) = KeySet::parse(&text, &issuer.algorithms).map_err(|why| {
        let published = Published::read(&text, &issuer.algorithms);
        Unusable { why, published }
    })?;
    Ok((keys, notes, max_age))
}

fn unanswered(why: String) -> Unusable {
    Unusable { why, published: None }
}

/// Asks one issuer again and again. Ends with the guard.
async fn keep(app: Arc<App>, issuer: Issuer, jwks: JwksUrl) {
    let (name, protected) = (issuer.name.clone(), app.config.server_ports());
    loop {
        let Some((next, stale)) = app.times(&name) else { return };
        let is_asked = tokio::select! {
            () = until(Some(next)) => false,
            () = until(stale) => {
                app.end_keys(&name).await;
                continue;
            }
            () = app.pipeline.wanted.until_asked(&name) => true,
        };
        let begun = Uptime::now();
        if !is_asked || app.may_ask(&name, begun) {
            let mut asking = std::pin::pin!(attempt(&issuer, &jwks, &protected));
            let attempt = tokio::select! {
                attempt = &mut asking => attempt,
                () = until(stale) => {
                    app.end_keys(&name).await;
                    asking.await
                }
            };
            app.take_keys(&issuer, begun, attempt).await;
        }
        app.pipeline.wanted.answer(&name);
    }
}

/// Never, without a time.
async fn until(time: Option<Uptime>) {
    let Some(time) = time else { return std::future::pending().await };
    loop {
        let left = time.since(Uptime::now());
        if left.is_zero() {
            return;
        }
        tokio::time::sleep(left.min(CLOCK_LOOK)).await;
    }
}

impl App {
    /// Takes what the first questions brought, waiting for it for a while.
    pub(super) async fn take_first_keys(&self, first: First) {
        let now = Uptime::now();
        for (issuer, jwks) in asked(&self.config) {
            let standing = Standing {
                schedule: Schedule::new(jwks, now),
                read_at: None,
                error: None,
                notes: Vec::new(),
            };
            lock(&self.asked_issuers.0).insert(issuer.name.clone(), standing);
        }
        for (issuer, attempt) in first.asking.await.unwrap_or_default() {
            self.take_keys(&issuer, first.begun, attempt).await;
        }
    }

    /// The tasks that go on asking.
    pub(super) fn keep_keys(self: &Arc<Self>) -> Vec<tokio::task::AbortHandle> {
        let start = |(issuer, jwks): (&Issuer, &JwksUrl)| {
            tokio::spawn(keep(Arc::clone(self), issuer.clone(), jwks.clone())).abort_handle()
        };
        asked(&self.config).map(start).collect()
    }

    fn times(&self, issuer: &IssuerName) -> Option<(Uptime, Option<Uptime>)> {
        let all = lock(&self.asked_issuers.0);
        all.get(issuer).map(|standing| (standing.schedule.next(), standing.schedule.stale_at()))
    }

    fn may_ask(&self, issuer: &IssuerName, now: Uptime) -> bool {
        let mut all = lock(&self.asked_issuers.0);
        all.get_mut(issuer).is_some_and(|standing| standing.schedule.may_be_asked(now))
    }

    /// Notes what came of a question, and takes the keys in force.
    async fn take_keys(&self, issuer: &Issuer, begun: Uptime, attempt: Attempt) {
        let name = &issuer.name;
        let (keys, is_news, published) = {
            let mut all = lock(&self.asked_issuers.0);
            let Some(standing) = all.get_mut(name) else { return };
            match attempt {
                Ok((keys, notes, max_age)) => {
                    standing.schedule.succeeded(begun, max_age);
                    standing.error = None;
                    standing.read_at = Some(begun);
                    if notes != standing.notes {
                        for note in &notes {
                            tracing::warn!(issuer = %name, "{note}");
                        }
                        standing.notes = notes;
                    }
                    (Ok(keys), true, None)
                }
                Err(Unusable { why, published }) => {
                    standing.schedule.failed(Uptime::now());
                    let before = standing.error.replace(why.clone());
                    (Err(why), before.is_none(), published)
                }
            }
        };
        if let (Err(why), Some(published)) = (&keys, published) {
            self.withdraw(name, &published, why).await;
        }
        match keys {
            Ok(keys) => {
                let has_news = self.put_keys(name, Some(keys), None).await;
                let end = lock(&self.asked_issuers.0).get_mut(name).and_then(|standing| {
                    if has_news {
                        standing.schedule.has_news();
                    }
                    standing.schedule.stale_at()
                });
                // Not before they are in force: what it withdrew must not be good again for a moment.
                if let (Some(fresh), Some(end)) = (self.pipeline.rules.load().issuers.fresh(name), end) {
                    fresh.until(end);
                }
            }
            Err(error) if is_news => {
                tracing::error!(issuer = %name, "the issuer's keys cannot be had: {error}");
                let count = self.pipeline.rules.load().issuers.keys(name).map_or(0, KeySet::count);
                self.note_keys(name, "unavailable", (count, None), Some(&error)).await;
            }
            Err(error) => tracing::debug!(issuer = %name, "the issuer's keys cannot be had: {error}"),
        }
    }

    /// Ends the keys that the issuer does not name any more, though what it publishes is not to be taken.
    async fn withdraw(&self, issuer: &IssuerName, published: &Published, why: &str) {
        let rules = self.pipeline.rules.load();
        let Some(known) = rules.issuers.keys(issuer) else { return };
        let left = known.left(published);
        if left.as_ref() != Some(known) {
            self.put_keys(issuer, left, Some(why)).await;
        }
    }

    /// The keys were not heard of for too long.
    async fn end_keys(&self, issuer: &IssuerName) {
        let error = {
            let mut all = lock(&self.asked_issuers.0);
            let Some(standing) = all.get_mut(issuer) else { return };
            standing.schedule.forget();
            standing.error.clone()
        };
        tracing::error!(%issuer, "the issuer's keys are stale: its tokens are refused until it answers");
        if let Some(fresh) = self.pipeline.rules.load().issuers.fresh(issuer) {
            fresh.end();
        }
        self.put_keys(issuer, None, error.as_deref()).await;
    }

    /// Puts other keys in force; `false`: they are no others. What is open with one that is gone ends.
    async fn put_keys(&self, issuer: &IssuerName, keys: Option<KeySet>, why: Option<&str>) -> bool {
        // A reload that is under way has the keys from before.
        let _alone = self.reloading.lock().await;
        let rules = self.pipeline.rules.load();
        if rules.issuers.keys(issuer) == keys.as_ref() {
            return false;
        }
        let digest = keys.as_ref().map(KeySet::digest);
        let (state, count) = match &keys {
            Some(keys) => ("taken", keys.count()),
            None => ("ended", 0),
        };
        tracing::info!(%issuer, keys = count, digest, "the issuer's keys have changed");
        // Whatever the disk says: a key that was withdrawn must not be good for longer, and no call goes on without a record.
        self.note_keys(issuer, state, (count, digest.as_deref()), why).await;
        self.pipeline.rules.replace(rules.with_keys(issuer, keys.as_ref()));
        true
    }

    async fn note_keys(
        &self,
        issuer: &IssuerName,
        state: &str,
        (keys, digest): (usize, Option<&str>),
        text: Option<&str>,
    ) {
        let event = Event::IssuerKeys { issuer: issuer.as_str(), state, keys, digest, text };
        if let Err(error) = self.pipeline.audit.note(&event).await {
            tracing::error!(%issuer, %error, "what became of an issuer's keys is not in the trail: {state}");
        }
    }

    /// For `mcp-guard status`.
    pub(super) fn issuers(&self) -> Value {
        let rules = self.pipeline.rules.load();
        let (all, now) = (lock(&self.asked_issuers.0), Uptime::now());
        let one = |issuer: &Issuer| {
            let source = match &issuer.keys {
                KeySource::JwksFile(file) => file.display().to_string(),
                // What stands behind a `?` may be a secret.
                KeySource::JwksUrl(jwks) => {
                    jwks.url.to_string().split('?').next().unwrap_or_default().to_owned()
                }
                KeySource::PemFiles(_) => "pem_files".to_owned(),
            };
            let standing = all.get(&issuer.name);
            let is_over = rules.issuers.fresh(&issuer.name).is_some_and(|fresh| fresh.is_over(now));
            let keys = rules.issuers.keys(&issuer.name).filter(|_| !is_over);
            json!({
                "name": issuer.name,
                "source": source,
                "keys": keys.map_or(0, KeySet::count),
                "digest": keys.map(KeySet::digest),
                "age_seconds": standing.and_then(|standing| standing.read_at).map(|at| now.since(at).as_secs()),
                "error": standing.and_then(|standing| standing.error.as_deref()),
            })
        };
        self.config.issuers.iter().map(one).collect()
    }
}
