//! The pins of all servers while the guard runs: asked at each call, told of each list, kept on disk.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::ArcSwap;
use serde_json::value::RawValue;
use tokio::sync::{Notify, mpsc};

use super::canon::{Digest, canonical};
use super::mirrors::{Mirrors, mirrors};
use super::pins::{Bounds, By, Change, NAME_BYTES_MAX, Observed, Pin, Pins, Seen, Standing, Step, Tool};
use super::state::{self, Unreadable};
use crate::config::{Config, FirstSight, Limits, Server, ToolRules};
use crate::types::ServerName;

/// Lists that are known by their digest, for each server. A list of many pages, in a few variants.
const PAGES_MAX: usize = 64;
/// Bytes of the names that were held of a list, up to which it is known again.
const PAGE_BYTES_MAX: usize = 64 * 1024;
/// Steps that wait to be recorded. What has no room is counted.
const NEWS_MAX: usize = 4096;
/// Records of one server that may follow each other at once; one more each [`RECORD_EVERY_SECONDS`]. First sights are not
/// counted: a server has no more of them than tools that are kept.
const RECORDS_MAX: u32 = 100;
const RECORD_EVERY_SECONDS: u64 = 10;

/// The pinned tools of all servers of one guard. No lock is held across an await, and none at all to ask about a call.
pub struct Tools {
    state_dir: PathBuf,
    servers: HashMap<ServerName, Kept>,
    bounds: Bounds,
    news: mpsc::Sender<News>,
    /// Taken by the one who records.
    to_record: Mutex<Option<mpsc::Receiver<News>>>,
    /// Something is not on disk yet.
    dirty: Notify,
}

/// A step to be recorded.
#[derive(Debug)]
pub struct News {
    pub server: ServerName,
    pub step: Step,
    /// Steps of this server before it that are not in the trail: there were too many.
    pub unrecorded: u64,
}

/// A tool that cannot be called now, whatever the policy says.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Held {
    #[error(
        "the server has changed the definition of this tool since it was pinned, and nobody has approved the new one \
         (operators: `mcp-guard tools diff {server} {tool}`)"
    )]
    Changed { server: ServerName, tool: String },
    #[error("nobody has approved this tool yet (operators: `mcp-guard tools diff {server} {tool}`)")]
    New { server: ServerName, tool: String },
    #[error(
        "the server has more tools than the guard may pin (operators: `mcp-guard tools list {server}`, \
         limits.tools_per_server_max, limits.tool_pins_bytes_max)"
    )]
    NoRoom { server: ServerName },
    #[error("a tool's name has at most {NAME_BYTES_MAX} bytes, and this one is longer")]
    LongName,
}

impl Held {
    /// In `snake_case`; a word of the audit format.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Changed { .. } => "tool_changed",
            Self::New { .. } => "tool_not_approved",
            Self::NoRoom { .. } | Self::LongName => "tool_not_pinned",
        }
    }
}

struct Kept {
    name: ServerName,
    rules: ToolRules,
    pins: Mutex<Pins>,
    standings: ArcSwap<Standings>,
    /// Moves with each change of the pins.
    version: AtomicU64,
    /// The version that must be on disk before a list goes on: that of the last first sight.
    needed: AtomicU64,
    /// The version that is on disk.
    written: AtomicU64,
    /// Held while the file is written.
    disk: Mutex<()>,
    pages: Mutex<VecDeque<Page>>,
    room: Mutex<Room>,
}

/// How each tool stands, as calls ask for it.
#[derive(Default)]
struct Standings {
    tools: HashMap<String, Stand>,
    has_room: bool,
}

struct Stand {
    standing: Standing,
    /// Of what is pinned; none if nothing is.
    digest: Option<Digest>,
    mirrors: Mirrors,
    /// When what is pinned took the place of another, or was approved, in seconds since 1970.
    changed: Option<i64>,
}

/// A list that came by, and what of it was held.
struct Page {
    digest: Digest,
    version: u64,
    held: Arc<[String]>,
}

/// How many records are left.
struct Room {
    left: u32,
    since: Instant,
    unrecorded: u64,
}

impl Tools {
    /// Reads what is known of the servers' tools. None of it may be changing: no other guard runs.
    pub fn open(config: &Config) -> Result<Self, Unreadable> {
        let Limits { tools_per_server_max, tool_definition_bytes_max, tool_pins_bytes_max, .. } =
            config.limits;
        let bounds = Bounds {
            tools_max: tools_per_server_max,
            bytes_max: tool_pins_bytes_max,
            definition_bytes: tool_definition_bytes_max.min(tool_pins_bytes_max),
        };
        let (news, to_record) = mpsc::channel(NEWS_MAX);
        let kept = |server: &Server| {
            let pins = state::load(&config.state_dir, &server.name, tool_pins_bytes_max)?;
            Ok((server.name.clone(), Kept::new(server, pins, bounds)))
        };
        Ok(Self {
            state_dir: config.state_dir.clone(),
            servers: config.servers.iter().map(kept).collect::<Result<_, _>>()?,
            bounds,
            news,
            to_record: Mutex::new(Some(to_record)),
            dirty: Notify::new(),
        })
    }

    /// What each step was; once.
    pub fn news(&self) -> Option<mpsc::Receiver<News>> {
        lock(&self.to_record).take()
    }

    /// Why this tool cannot be called now. Costs one look-up.
    pub fn held(&self, server: &ServerName, tool: &str) -> Option<Held> {
        let kept = self.servers.get(server)?;
        let standings = kept.standings.load();
        let (server, named) = (server.clone(), tool.to_owned());
        match standings.tools.get(tool).map(|stand| stand.standing) {
            Some(Standing::Pinned) => None,
            Some(Standing::Changed) => Some(Held::Changed { server, tool: named }),
            Some(Standing::New) => Some(Held::New { server, tool: named }),
            // No list shows what cannot be pinned.
            None if named.len() > NAME_BYTES_MAX => Some(Held::LongName),
            None if kept.rules.first_sight == FirstSight::Hold => Some(Held::New { server, tool: named }),
            None if standings.has_room => None,
            None => Some(Held::NoRoom { server }),
        }
    }

    /// Which of its arguments headers repeat, as it is pinned. Costs one look-up.
    pub fn mirrors(&self, server: &ServerName, tool: &str) -> Mirrors {
        let standings = self.servers.get(server).map(|kept| kept.standings.load());
        let stand = standings.as_ref().and_then(|standings| standings.tools.get(tool));
        stand.map_or(Mirrors::Unclear, |stand| stand.mirrors.clone())
    }

    /// When its definition was approved, or pinned by rule in place of another, in seconds since 1970; `None`: it is what was
    /// seen first. Costs one look-up.
    pub fn changed(&self, server: &ServerName, tool: &str) -> Option<i64> {
        self.servers.get(server)?.standings.load().tools.get(tool)?.changed
    }

    /// Takes in a page of a `tools` list: the text of the list, and the name and text of each entry. Gives the names that no
    /// agent may see. What is seen for the first time is on disk when this returns.
    pub fn look<'a>(
        &self,
        server: &ServerName,
        list: &str,
        entries: impl Iterator<Item = (&'a str, &'a RawValue)>,
    ) -> io::Result<Arc<[String]>> {
        let Some(kept) = self.servers.get(server) else {
            return Err(io::Error::other("a list of a server that is not configured"));
        };
        let digest = Digest::of(list.as_bytes());
        if let Some(held) = kept.known(digest) {
            return Ok(held);
        }
        let seen = entries
            .map(|(name, entry)| Seen {
                name: name.to_owned(),
                what: canonical(name, entry.get(), self.bounds.definition_bytes),
            })
            .collect();
        let (Observed { held, steps, is_changed }, version) = kept.observe(seen, self.bounds, &now());
        let held: Arc<[String]> = held.into();
        // They are seen once: what cannot be written now is told all the same.
        self.tell(kept, steps);
        if kept.must_be_written() {
            blocking(|| kept.save(&self.state_dir)).inspect_err(|error| {
                tracing::error!(%server, %error, "tools that are seen for the first time cannot be pinned");
            })?;
        } else if is_changed {
            self.dirty.notify_one();
        }
        kept.remember(Page { digest, version, held: Arc::clone(&held) });
        Ok(held)
    }

    /// Waits until something is to be written.
    pub async fn dirty(&self) {
        self.dirty.notified().await;
    }

    /// How many tools are held.
    pub fn count_held(&self) -> usize {
        let of = |kept: &Kept| {
            kept.standings.load().tools.values().filter(|stand| stand.standing != Standing::Pinned).count()
        };
        self.servers.values().map(of).sum()
    }

    /// What was approved or forgotten while no guard ran, to be recorded by this one.
    pub fn to_record(&self) -> Vec<News> {
        let mut news = Vec::new();
        for kept in self.servers.values() {
            let steps = lock(&kept.pins).to_record().to_vec();
            news.extend(steps.into_iter().map(|step| News {
                server: kept.name.clone(),
                step,
                unrecorded: 0,
            }));
        }
        news
    }

    /// That is in the trail now.
    pub fn forget_to_record(&self) -> io::Result<()> {
        for kept in self.servers.values() {
            let mut pins = lock(&kept.pins);
            if !pins.to_record().is_empty() {
                pins.forget_to_record();
                kept.publish(&pins, self.bounds);
            }
        }
        self.save()
    }

    /// Writes what is not on disk yet.
    pub fn save(&self) -> io::Result<()> {
        let saved: Vec<_> = self.servers.values().map(|kept| kept.save(&self.state_dir)).collect();
        saved.into_iter().collect()
    }

    /// The pins of a server, as they are now.
    pub fn pins(&self, server: &ServerName) -> Option<Pins> {
        Some(lock(&self.servers.get(server)?.pins).clone())
    }

    pub fn servers(&self) -> impl Iterator<Item = &ServerName> {
        self.servers.keys()
    }

    /// Puts a pin in place that an operator chose, and writes it. It holds even if it cannot be written.
    pub fn adopt(&self, server: &ServerName, tool: &str, pin: Pin) -> io::Result<()> {
        let Some(kept) = self.servers.get(server) else { return Ok(()) };
        {
            let mut pins = lock(&kept.pins);
            pins.adopt(tool, pin);
            kept.publish(&pins, self.bounds);
        }
        kept.save(&self.state_dir)
    }

    /// Forgets a tool, as an operator wishes. It holds even if it cannot be written.
    pub fn forget(&self, server: &ServerName, tool: &str, uid: u32) -> io::Result<()> {
        let Some(kept) = self.servers.get(server) else { return Ok(()) };
        {
            let mut pins = lock(&kept.pins);
            if pins.forget(tool, uid).is_err() {
                return Ok(());
            }
            kept.publish(&pins, self.bounds);
        }
        kept.save(&self.state_dir)
    }

    fn tell(&self, kept: &Kept, steps: Vec<Step>) {
        let mut room = lock(&kept.room);
        for step in steps {
            let is_first = step.change == Change::FirstSight;
            if !is_first && !room.admits(Instant::now()) {
                room.unrecorded += 1;
                continue;
            }
            let (server, tool, change) = (&kept.name, &step.tool, step.change);
            if is_first {
                tracing::info!(%server, ?tool, "a tool is pinned at first sight");
            } else {
                tracing::warn!(%server, ?tool, ?change, "a tool's definition is not what was pinned, or looks wrong");
            }
            let news = News { server: kept.name.clone(), step, unrecorded: room.unrecorded };
            room.unrecorded = if self.news.try_send(news).is_ok() { 0 } else { room.unrecorded + 1 };
        }
    }
}

impl Kept {
    fn new(server: &Server, pins: Pins, bounds: Bounds) -> Self {
        let kept = Self {
            name: server.name.clone(),
            rules: server.tools,
            pins: Mutex::default(),
            standings: ArcSwap::default(),
            version: AtomicU64::new(0),
            needed: AtomicU64::new(0),
            written: AtomicU64::new(1),
            disk: Mutex::default(),
            pages: Mutex::default(),
            room: Mutex::new(Room { left: RECORDS_MAX, since: Instant::now(), unrecorded: 0 }),
        };
        kept.publish(&pins, bounds);
        *lock(&kept.pins) = pins;
        kept
    }

    /// Gives the version after it, too.
    fn observe(&self, seen: Vec<Seen>, bounds: Bounds, now: &str) -> (Observed, u64) {
        let mut pins = lock(&self.pins);
        let observed = pins.observe(seen, self.rules, bounds, now);
        if observed.is_changed {
            let version = self.publish(&pins, bounds);
            if observed.steps.iter().any(|step| step.change == Change::FirstSight) {
                self.needed.store(version, Ordering::Release);
            }
        }
        (observed, self.version.load(Ordering::Acquire))
    }

    /// Calls see the pins as they are now. The caller has them locked. Gives their version.
    fn publish(&self, pins: &Pins, bounds: Bounds) -> u64 {
        let before = self.standings.load();
        let stand = |name: &str, tool: &Tool| {
            let pinned = tool.pinned.as_ref().map(|pin| &pin.definition);
            let digest = pinned.map(|definition| definition.digest);
            // Read once for each definition.
            let known = before.tools.get(name).filter(|before| digest.is_some() && before.digest == digest);
            let read = || pinned.and_then(|definition| definition.text.as_deref()).map(mirrors);
            let mirrors =
                known.map_or_else(|| read().unwrap_or(Mirrors::Unclear), |before| before.mirrors.clone());
            let changed = tool.pinned.as_ref().filter(|pin| pin.by != By::FirstSight);
            let changed = changed.map(|pin| pin.since.parse().map_or(i64::MAX, jiff::Timestamp::as_second));
            Stand { standing: tool.standing(), digest, mirrors, changed }
        };
        let tools = pins.tools().map(|(name, tool)| (name.clone(), stand(name, tool))).collect();
        self.standings.store(Arc::new(Standings { tools, has_room: pins.has_room(bounds) }));
        self.version.fetch_add(1, Ordering::AcqRel) + 1
    }

    fn must_be_written(&self) -> bool {
        self.written.load(Ordering::Acquire) < self.needed.load(Ordering::Acquire)
    }

    /// Writes the newest version, unless it is on disk.
    fn save(&self, state_dir: &Path) -> io::Result<()> {
        let _alone = lock(&self.disk);
        let (pins, version) = {
            let pins = lock(&self.pins);
            let version = self.version.load(Ordering::Acquire);
            if version == self.written.load(Ordering::Acquire) {
                return Ok(());
            }
            (pins.clone(), version)
        };
        state::save(state_dir, &self.name, &pins)?;
        self.written.store(version, Ordering::Release);
        Ok(())
    }

    /// What was held of this very list, if nothing has changed since.
    fn known(&self, digest: Digest) -> Option<Arc<[String]>> {
        let version = self.version.load(Ordering::Acquire);
        if self.must_be_written() {
            return None;
        }
        let pages = lock(&self.pages);
        let page = pages.iter().find(|page| page.digest == digest && page.version == version)?;
        Some(Arc::clone(&page.held))
    }

    /// Notes what was held of a list. The same list again, while no pin has changed, changes nothing.
    fn remember(&self, page: Page) {
        if page.held.iter().map(String::len).sum::<usize>() > PAGE_BYTES_MAX {
            return;
        }
        let mut pages = lock(&self.pages);
        pages.retain(|before| before.digest != page.digest);
        pages.truncate(PAGES_MAX - 1);
        pages.push_front(page);
    }
}

impl Room {
    fn admits(&mut self, now: Instant) -> bool {
        let more = now.duration_since(self.since).as_secs() / RECORD_EVERY_SECONDS;
        if more > 0 {
            self.left = self.left.saturating_add(u32::try_from(more).unwrap_or(u32::MAX)).min(RECORDS_MAX);
            self.since = now;
        }
        let admits = self.left > 0;
        self.left = self.left.saturating_sub(1);
        admits
    }
}

/// Waits for the disk without keeping other requests from their turn.
fn blocking<T>(work: impl FnOnce() -> T) -> T {
    use tokio::runtime::{Handle, RuntimeFlavor};
    match Handle::try_current().map(|handle| handle.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// The time of pins and offers.
pub fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
