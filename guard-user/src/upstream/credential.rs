//! What the guard itself shows to servers: read from files that may change at any time, and given to nobody else.
//!
//! Each request asks for its server's credential anew. A file that is gone or cannot be used ends its use at once: no call goes
//! on without it or with what was there before. A file that has just changed is read once nobody has changed it for a moment;
//! until then what was read last is shown, so that half a file is never.

mod file;

use std::collections::HashMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use http::{HeaderName, HeaderValue};
use serde::Serialize;

use super::Error;
use crate::config::{Problem, Problems, Server};
use crate::types::ServerName;
pub use file::CREDENTIAL_BYTES_MAX;
use file::Identity;

/// How long a file must have stood still before it is read. Also longer than the kernel's clock for files ticks: what is written
/// after that has another time.
const QUIET: Duration = Duration::from_millis(200);
/// A file that keeps changing is read after this in any case.
const LATEST: Duration = Duration::from_secs(10);

/// Where systemd puts what it hands to a unit.
const SYSTEMD_DIRECTORY: &str = "CREDENTIALS_DIRECTORY";

/// Those of all servers that have one.
#[derive(Debug, Default)]
pub struct Credentials(HashMap<ServerName, Source>);

/// One of them, as `status` shows it.
#[derive(Debug, Clone, Serialize)]
pub struct CredentialStatus {
    pub server: ServerName,
    pub header: String,
    pub file: PathBuf,
    /// Why no call goes to the server.
    pub problem: Option<Problem>,
}

/// A header that goes to one server.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub name: HeaderName,
    pub value: HeaderValue,
}

struct Source {
    server: ServerName,
    header: HeaderName,
    /// With the space after it.
    scheme: String,
    path: PathBuf,
    known: ArcSwap<Known>,
    changing: Mutex<Option<Changing>>,
}

/// What was read last.
struct Known {
    /// `None`: the file could not be looked at.
    identity: Option<Identity>,
    value: Result<HeaderValue, Problem>,
}

/// A file that is not what was read last.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Changing {
    identity: Identity,
    /// Since when it has been this.
    seen: Instant,
    /// Since when it has not been what was read last.
    since: Instant,
}

impl Changing {
    /// What is known now that the file is `identity`.
    fn after(before: Option<&Self>, identity: &Identity, now: Instant) -> Self {
        let since = before.map_or(now, |before| before.since);
        let seen = before.filter(|before| before.identity == *identity).map_or(now, |before| before.seen);
        Self { identity: identity.clone(), seen, since }
    }

    /// Whether it can be read. The host's clock is asked first: a file that was changed long ago and is seen only now need not wait.
    fn is_due(&self, now: Instant, clock: SystemTime) -> bool {
        let by_clock = clock.duration_since(self.identity.changed());
        by_clock.is_ok_and(|age| age >= QUIET)
            || now.duration_since(self.seen) >= QUIET
            || now.duration_since(self.since) >= LATEST
    }
}

impl Credentials {
    /// Reads all of them, or says what is wrong with which. Waits for a moment for those that somebody has just written.
    pub fn open(servers: &[Server]) -> Result<Self, Problems> {
        let directory = std::env::var_os(SYSTEMD_DIRECTORY).map(PathBuf::from);
        Self::open_in(servers, directory.as_deref())
    }

    fn open_in(servers: &[Server], directory: Option<&Path>) -> Result<Self, Problems> {
        let (mut all, mut problems) = (HashMap::new(), Problems::default());
        for server in servers {
            match Source::open(server, directory) {
                Ok(Some(source)) => drop(all.insert(server.name.clone(), source)),
                Ok(None) => {}
                Err(problem) => problems.push(problem),
            }
        }
        problems.or(Self(all))
    }

    /// What is wrong with those that any process can read, and what could not be looked at.
    pub fn check(servers: &[Server]) -> (Problems, Vec<String>) {
        let is_under_systemd = std::env::var_os(SYSTEMD_DIRECTORY).is_some();
        let is_systemds = |server: &&Server| {
            server.credential.as_ref().is_some_and(|credential| credential.systemd.is_some())
        };
        let (hidden, visible): (Vec<_>, Vec<_>) =
            servers.iter().partition(|server| is_systemds(server) && !is_under_systemd);
        let visible: Vec<Server> = visible.into_iter().cloned().collect();
        let notes = hidden.iter().map(|server| {
            format!(
                "the credential of {} is not checked: only the guard's unit has what systemd hands to it",
                server.name
            )
        });
        (Self::open(&visible).err().unwrap_or_default(), notes.collect())
    }

    /// What goes to `server` now; none if it has no credential.
    pub(super) fn of(&self, server: &ServerName) -> Result<Option<Shown>, Error> {
        let Some(source) = self.0.get(server) else { return Ok(None) };
        let value = source.now().map_err(|_problem| Error::NoCredential)?;
        Ok(Some(Shown { name: source.header.clone(), value }))
    }

    /// How each of them is now, by server.
    pub fn status(&self) -> Vec<CredentialStatus> {
        let mut all: Vec<_> = self.0.values().map(Source::status).collect();
        all.sort_by(|a, b| a.server.cmp(&b.server));
        all
    }
}

impl Source {
    fn open(server: &Server, directory: Option<&Path>) -> Result<Option<Self>, Problem> {
        let Some(credential) = &server.credential else { return Ok(None) };
        let whole =
            |what: &str| Problem::of_file(Path::new("guard.yaml"), format!("{}: {what}", server.name));
        let path = match (&credential.file, &credential.systemd, directory) {
            (Some(file), None, _) => file.clone(),
            (None, Some(name), Some(directory)) => directory.join(name),
            (None, Some(name), None) => {
                let what = format!("systemd has handed no credential {name:?} to this process");
                let hint = format!(
                    "add `LoadCredential={name}:/path/of/the/secret` to the guard's unit and start it by that, or name a `file`"
                );
                return Err(whole(&what).with_hint(hint));
            }
            _ => return Err(whole("its credential is nowhere")),
        };
        let header = credential.header_name().ok_or_else(|| whole("its header cannot hold a credential"))?;
        let source = Self {
            server: server.name.clone(),
            header,
            scheme: credential.scheme().map_or_else(String::new, |scheme| format!("{scheme} ")),
            known: ArcSwap::from_pointee(Known { identity: None, value: Err(file::changing(&path)) }),
            path,
            changing: Mutex::default(),
        };
        let begun = Instant::now();
        while source.now().is_err() && source.is_changing() && begun.elapsed() < LATEST {
            std::thread::sleep(QUIET / 4);
        }
        source.now()?;
        Ok(Some(source))
    }

    fn is_changing(&self) -> bool {
        self.lock().is_some()
    }

    /// The value to show. Costs one look at the file's identity, unless that has changed.
    fn now(&self) -> Result<HeaderValue, Problem> {
        let identity = Identity::at(&self.path);
        let known = self.known.load();
        if let Ok(identity) = &identity
            && known.identity.as_ref() == Some(identity)
        {
            return known.value.clone();
        }
        drop(known);
        self.renew(identity)
    }

    fn renew(&self, identity: Result<Identity, Problem>) -> Result<HeaderValue, Problem> {
        let mut changing = self.lock();
        let known = self.known.load_full();
        let identity = match identity {
            Ok(identity) if known.identity.as_ref() == Some(&identity) => return known.value.clone(),
            Ok(identity) => identity,
            Err(problem) => {
                *changing = None;
                return self.keep(&known, Known { identity: None, value: Err(problem) });
            }
        };
        let now = Instant::now();
        let seen = Changing::after(changing.as_ref(), &identity, now);
        let is_due = seen.is_due(now, SystemTime::now());
        let read = if is_due { file::read(&self.path, &identity, &self.scheme) } else { None };
        let Some(value) = read else {
            *changing = Some(seen);
            return known.value.clone();
        };
        *changing = None;
        self.keep(&known, Known { identity: Some(identity), value })
    }

    fn keep(&self, before: &Known, now: Known) -> Result<HeaderValue, Problem> {
        let value = now.value.clone();
        match (&before.value, &value) {
            (Ok(_), Ok(_)) => tracing::info!(server = %self.server, "the server's credential was changed"),
            (Err(_), Ok(_)) => tracing::info!(server = %self.server, "the server's credential was read"),
            (Err(before), Err(now)) if before == now => {}
            (_, Err(problem)) => {
                tracing::error!(server = %self.server, "no call goes to this server, whose credential cannot be used: {problem}");
            }
        }
        self.known.store(Arc::new(now));
        value
    }

    fn status(&self) -> CredentialStatus {
        CredentialStatus {
            server: self.server.clone(),
            header: self.header.to_string(),
            file: self.path.clone(),
            problem: self.now().err(),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Changing>> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("server", &self.server)
            .field("path", &self.path)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
