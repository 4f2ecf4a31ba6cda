//! Which systemd unit or container a cgroup2 path names. Pure.
//!
//! Whoever owns a cgroup may make others below it and call them as he likes. So only what stands outermost counts:
//! a container's own services are that container, a service's own children are that service, and all that a user's
//! service manager starts carries that user.

use std::fmt;
use std::sync::Arc;

/// Container engines that name a scope `<engine>-<id>.scope`. Their monitors (`libpod-conmon-<id>.scope`) are no
/// containers.
const ENGINES: [&str; 6] = ["docker", "cri-containerd", "crio", "libpod", "nerdctl", "buildkit"];
/// Services below which an engine may put its containers' cgroups.
const ENGINE_SERVICES: [&str; 8] = [
    "containerd.service",
    "crio.service",
    "docker.service",
    "k3s-agent.service",
    "k3s.service",
    "kubelet.service",
    "podman.service",
    "rke2-server.service",
];
/// What a unit with processes of its own ends with.
const UNIT_SUFFIXES: [&str; 5] = [".service", ".scope", ".socket", ".mount", ".swap"];
/// systemd's `UNIT_NAME_MAX`.
const UNIT_BYTES_MAX: usize = 255;
/// A container's id: SHA-256 in hex.
const ID_DIGITS: usize = 64;
/// What Docker prints of an id; fewer digits might fit two containers.
const ID_DIGITS_MIN: usize = 12;

/// Where a process runs. Not both: a process in a container is not of the unit that holds the container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    pub unit: Option<Unit>,
    pub container: Option<Container>,
}

/// A systemd unit: `agent.service`, or `user@1000.service/agent.service` of that user's own manager.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Unit {
    user: Option<u32>,
    name: Arc<str>,
}

/// A container: its id, or `user@1000.service/<id>` of an engine that a user runs without root.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Container {
    user: Option<u32>,
    /// 64 hex digits; in a policy, 12 or more of them.
    id: Arc<str>,
}

/// Why a text names no unit or no container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    #[error(
        "a unit is written agent.service, or user@1000.service/agent.service for one of a user's own manager"
    )]
    Unit,
    #[error(
        "a container is written as 12 to 64 digits of its id, with user@1000.service/ before them if a user runs it"
    )]
    Container,
}

impl Place {
    /// Of a path below the cgroup2 root, such as `/system.slice/agent.service`.
    pub fn of(path: &str) -> Self {
        let mut parts = path.split('/').filter(|part| !part.is_empty()).peekable();
        if path.split('/').any(|part| part == "..") {
            // Seen from inside a cgroup namespace: what stands above is not known.
            return Self::default();
        }
        let mut outermost = after_slices(&mut parts);
        let user = outermost.and_then(user_manager);
        let manager = outermost;
        if user.is_some() {
            outermost = after_slices(&mut parts);
        }
        let Some(first) = outermost else {
            return Self { unit: manager.and_then(|name| Unit::of_part(None, name)), container: None };
        };
        let container = match (engine_scope(first), is_unit(first)) {
            (Some(id), _) => Some(id),
            (None, true) if ENGINE_SERVICES.contains(&first) => parts.find_map(inner_container),
            (None, true) => None,
            (None, false) => inner_container(first).or_else(|| parts.find_map(inner_container)),
        };
        match container {
            Some(id) => Self { unit: None, container: Some(Container { user, id: id.into() }) },
            None => Self { unit: Unit::of_part(user, first), container: None },
        }
    }
}

impl Unit {
    fn new(user: Option<u32>, name: &str) -> Option<Self> {
        is_unit(name).then(|| Self { user, name: name.into() })
    }

    /// systemd puts `_` before names that could be taken for files of the cgroup file system.
    fn of_part(user: Option<u32>, part: &str) -> Option<Self> {
        Self::new(user, part.strip_prefix('_').unwrap_or(part))
    }

    pub fn parse(text: &str) -> Result<Self, PlaceError> {
        let (user, name) = owned(text).ok_or(PlaceError::Unit)?;
        Self::new(user, name).ok_or(PlaceError::Unit)
    }
}

impl Container {
    pub fn parse(text: &str) -> Result<Self, PlaceError> {
        let (user, id) = owned(text).ok_or(PlaceError::Container)?;
        if (ID_DIGITS_MIN..=ID_DIGITS).contains(&id.len()) && is_hex(id) {
            Ok(Self { user, id: id.into() })
        } else {
            Err(PlaceError::Container)
        }
    }

    /// Whether this names `other`, in full or by the first digits of its id.
    pub fn names(&self, other: &Self) -> bool {
        self.user == other.user && other.id.starts_with(&*self.id)
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_owned(f, self.user, &self.name)
    }
}

impl fmt::Display for Container {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_owned(f, self.user, &self.id)
    }
}

fn write_owned(f: &mut fmt::Formatter<'_>, user: Option<u32>, name: &str) -> fmt::Result {
    if let Some(user) = user {
        write!(f, "user@{user}.service/")?;
    }
    f.write_str(name)
}

/// The user and the rest of `user@1000.service/rest`, or all of it.
fn owned(text: &str) -> Option<(Option<u32>, &str)> {
    match text.split_once('/') {
        Some((manager, name)) => Some((Some(user_manager(manager)?), name)),
        None => Some((None, text)),
    }
}

fn after_slices<'p>(parts: &mut impl Iterator<Item = &'p str>) -> Option<&'p str> {
    parts.find(|part| part.strip_suffix(".slice").is_none())
}

/// The user of `user@1000.service`.
fn user_manager(part: &str) -> Option<u32> {
    let digits = part.strip_prefix("user@")?.strip_suffix(".service")?;
    let is_plain = digits == "0" || !digits.starts_with(['0', '+']);
    digits.parse().ok().filter(|_| is_plain)
}

fn is_unit(name: &str) -> bool {
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b':' | b'-' | b'_' | b'.' | b'\\' | b'@');
    name.len() <= UNIT_BYTES_MAX
        && name.bytes().all(is_plain)
        && UNIT_SUFFIXES.iter().any(|suffix| name.strip_suffix(suffix).is_some_and(|stem| !stem.is_empty()))
}

/// `docker-<id>.scope`
fn engine_scope(part: &str) -> Option<&str> {
    engine_name(part.strip_suffix(".scope")?)
}

/// `docker-<id>`
fn engine_name(part: &str) -> Option<&str> {
    let (engine, id) = part.rsplit_once('-')?;
    (ENGINES.contains(&engine) && is_id(id)).then_some(id)
}

/// The id in a part of a path that an engine made without systemd: `<id>`, `libpod-<id>`, or
/// `kubepods-burstable-pod….slice:cri-containerd:<id>`.
fn inner_container(part: &str) -> Option<&str> {
    let by_engine = || engine_scope(part).or_else(|| engine_name(part));
    let by_colons = || {
        let (rest, id) = part.rsplit_once(':')?;
        let (_, engine) = rest.rsplit_once(':')?;
        (ENGINES.contains(&engine) && is_id(id)).then_some(id)
    };
    is_id(part).then_some(part).or_else(by_engine).or_else(by_colons)
}

fn is_id(text: &str) -> bool {
    text.len() == ID_DIGITS && is_hex(text)
}

fn is_hex(text: &str) -> bool {
    text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests;
