//! The kill switch. It is written into the pinned maps by whoever runs the command, so it needs no running guard, takes
//! no lock, and holds whatever becomes of the guard.

use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail, ensure};
use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use guard_common::{
    ABI, BLOCK_AGENT, BLOCK_ALL, BLOCK_CGROUP, BLOCK_SERVER, Block, Blocked, FLAG_BLOCKED, MODE_GUARDED,
    Meta, Port, Rule, SWITCH_BLOCK_ALL,
};
use serde::Serialize;

use super::guard::pins_dir;
use super::maps::{Maps, gone, lock};
use super::rules::{block_key, server_key};
use super::{cut, gates, host};
use crate::config::Kernel;
use crate::types::{AgentName, ServerName};

/// What can be blocked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Every protected port.
    All,
    Server(ServerName),
    Agent(AgentName),
    /// A cgroup and all below it: a directory, or a path that counts from the cgroup2 root.
    Cgroup(PathBuf),
}

/// One block that holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BlockStatus {
    /// `all`, `server`, `agent` or `cgroup`.
    pub kind: &'static str,
    /// Of the server or agent, or the cgroup's directory; empty for all.
    pub name: String,
    pub reason: String,
    /// Milliseconds since 1970.
    pub since: u64,
    /// Who did it.
    pub uid: u32,
}

/// What a command did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Done {
    /// What holds now, or held until now.
    pub block: BlockStatus,
    /// It was so before.
    pub unchanged: bool,
    /// Until new connections were met by it.
    pub written_microseconds: u64,
    /// Connections that were ended.
    pub ended: usize,
    /// What did not work, in words. The block itself holds.
    pub problems: Vec<String>,
}

/// The pinned maps that blocks live in.
struct Pinned {
    policy: HashMap<MapData, Port, Rule>,
    blocks: HashMap<MapData, Block, Blocked>,
    lifted: HashMap<MapData, Block, Blocked>,
    cgroups: HashMap<MapData, u64, u32>,
    switches: Array<MapData, u32>,
    root: PathBuf,
    guard: PathBuf,
}

/// Blocks `target` for new connections, then ends those that are open. An agent's are ended by the running guard.
pub fn block(config: &Kernel, target: &Target, reason: &str) -> anyhow::Result<Done> {
    let begun = Instant::now();
    let mut pinned = Pinned::open(config)?;
    let (key, value) = pinned.entry(target, reason)?;
    let unchanged = pinned.blocks.get(&key, 0).is_ok();
    // First the reason for a rule, then the rules: a guard that writes a rule now finds the one or the other.
    pinned.blocks.insert(key, value, 0).context("cannot write the block")?;
    pinned.apply(target, value.cgroup, true)?;
    let written_microseconds = begun.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
    let (ended, problems) = pinned.cut(target);
    Ok(Done { block: status(&key, &value), unchanged, written_microseconds, ended, problems })
}

/// Takes a block back.
pub fn unblock(config: &Kernel, target: &Target) -> anyhow::Result<Done> {
    let begun = Instant::now();
    let mut pinned = Pinned::open(config)?;
    let key = pinned.key(target)?;
    let value = match pinned.blocks.get(&key, 0) {
        Ok(value) => Some(value),
        Err(MapError::KeyNotFound) => None,
        Err(error) => return Err(error).context("cannot read the block"),
    };
    let mut problems = Vec::new();
    // It outlives a guard that is dead: the next one records it.
    if let Some(value) = value
        && let Err(error) = pinned.lifted.insert(key, value, 0)
    {
        problems.push(format!("no record of it will be in the audit trail: {error}"));
    }
    gone(pinned.blocks.remove(&key)).context("cannot take the block back")?;
    pinned.apply(target, value.map_or(0, |value| value.cgroup), false)?;
    let written_microseconds = begun.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
    let (_, empty) = pinned.entry(target, "").unwrap_or((key, EMPTY));
    Ok(Done {
        written_microseconds,
        block: status(&key, &value.unwrap_or(empty)),
        unchanged: value.is_none(),
        ended: 0,
        problems,
    })
}

/// Every block that holds. Empty also where nothing of a guard is in the kernel.
pub fn blocks(config: &Kernel) -> anyhow::Result<Vec<BlockStatus>> {
    if !pins_dir(config)
        .join("maps/BLOCKS")
        .try_exists()
        .context("cannot look at the pins; run this as root")?
    {
        return Ok(Vec::new());
    }
    let pinned = Pinned::open(config)?;
    let mut found: Vec<_> =
        pinned.blocks.iter().filter_map(Result::ok).map(|(key, value)| status(&key, &value)).collect();
    found.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
    Ok(found)
}

const EMPTY: Blocked =
    Blocked { since: 0, cgroup: 0, uid: 0, name_len: 0, reason_len: 0, name: [0; 232], reason: [0; 256] };

impl Pinned {
    fn open(config: &Kernel) -> anyhow::Result<Self> {
        let maps = pins_dir(config).join("maps");
        ensure!(!host::hides_bpffs(&config.bpffs), "{}", host::hidden(&config.bpffs));
        ensure!(
            maps.join("META").try_exists().context("cannot look at the pins; run this as root")?,
            "nothing of the guard is in the kernel ({} has no maps), so nothing could refuse a connection; the ports are open. \
             Start the guard, or stop the servers",
            pins_dir(config).display()
        );
        let data = |name: &str| {
            MapData::from_pin(maps.join(name))
                .with_context(|| format!("cannot open {} (root is needed)", maps.join(name).display()))
        };
        let meta: Meta =
            Array::try_from(Map::Array(data("META")?))?.get(&0, 0).context("cannot read META")?;
        ensure!(
            meta.abi == ABI,
            "the pins are of a guard with map layout {}, this one has {ABI}; use that guard's command",
            meta.abi
        );
        Ok(Self {
            policy: hash(data("POLICY")?)?,
            blocks: hash(data("BLOCKS")?)?,
            lifted: hash(data("LIFTED")?)?,
            cgroups: hash(data("BLOCKED_CGROUPS")?)?,
            switches: Array::try_from(Map::Array(data("SWITCHES")?))?,
            root: host::cgroup2_root()?,
            guard: PathBuf::from(&config.cgroup),
        })
    }

    fn key(&self, target: &Target) -> anyhow::Result<Block> {
        Ok(match target {
            Target::All => block_key(BLOCK_ALL, ""),
            Target::Server(name) => block_key(BLOCK_SERVER, name.as_str()),
            Target::Agent(name) => block_key(BLOCK_AGENT, name.as_str()),
            Target::Cgroup(path) => block_key(BLOCK_CGROUP, &self.cgroup(path)?.to_string_lossy()),
        })
    }

    fn entry(&self, target: &Target, reason: &str) -> anyhow::Result<(Block, Blocked)> {
        let (name, cgroup) = match target {
            Target::All => (String::new(), 0),
            Target::Server(name) => (name.to_string(), 0),
            Target::Agent(name) => (name.to_string(), 0),
            Target::Cgroup(path) => {
                let dir = self.cgroup(path)?;
                let id = gates::id(&dir).with_context(|| format!("there is no cgroup {}", dir.display()))?;
                (dir.to_string_lossy().into_owned(), id)
            }
        };
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let mut value = Blocked {
            since: since.try_into().unwrap_or(u64::MAX),
            cgroup,
            uid: nix::unistd::getuid().as_raw(),
            ..EMPTY
        };
        ensure!(
            name.len() <= value.name.len(),
            "{name} is longer than the {} bytes that a block has room for; block a cgroup above it",
            value.name.len()
        );
        value.name_len = put(&mut value.name, &name);
        value.reason_len = put(&mut value.reason, reason);
        Ok((self.key(target)?, value))
    }

    /// The directory of a cgroup that may be blocked.
    fn cgroup(&self, path: &Path) -> anyhow::Result<PathBuf> {
        let dir = match path.strip_prefix(&self.root) {
            Ok(below) => self.root.join(below),
            Err(_) => gates::directory(&self.root, &path.to_string_lossy()),
        };
        let has_dots = dir.components().any(|part| matches!(part, std::path::Component::ParentDir));
        if has_dots || dir == self.root || self.root.join(&self.guard).starts_with(&dir) {
            bail!(
                "{} is not a cgroup that can be blocked: write one below {} that does not hold the guard",
                path.display(),
                self.root.display()
            );
        }
        Ok(dir)
    }

    /// Writes what the programs look at.
    fn apply(&mut self, target: &Target, cgroup: u64, on: bool) -> anyhow::Result<()> {
        match target {
            Target::All => {
                self.switches.set(SWITCH_BLOCK_ALL, u32::from(on), 0).context("cannot set the switch")?;
            }
            Target::Server(name) => {
                for (port, mut rule) in self.rules(Some(name)) {
                    rule.flags = if on { rule.flags | FLAG_BLOCKED } else { rule.flags & !FLAG_BLOCKED };
                    self.policy
                        .insert(port, rule, BPF_EXIST)
                        .or_else(|error| gone(Err(error)))
                        .with_context(|| format!("cannot block port {}", port.port))?;
                }
            }
            Target::Cgroup(_) if on => {
                self.cgroups.insert(cgroup, 1, 0).context("cannot block the cgroup")?;
            }
            Target::Cgroup(_) => gone(self.cgroups.remove(&cgroup)).context("cannot unblock the cgroup")?,
            // Agents are known to the running guard alone.
            Target::Agent(_) => {}
        }
        Ok(())
    }

    /// Rules of protected ports, of one server or of all.
    fn rules(&self, server: Option<&ServerName>) -> Vec<(Port, Rule)> {
        let key = server.map(|name| server_key(name.as_str()));
        let is_meant = |rule: &Rule| rule.mode == MODE_GUARDED && key.is_none_or(|key| key == rule.server);
        self.policy.iter().filter_map(Result::ok).filter(|(_, rule)| is_meant(rule)).collect()
    }

    /// Ends what is open: how many, and what went wrong.
    fn cut(&self, target: &Target) -> (usize, Vec<String>) {
        let server = match target {
            Target::Server(name) => Some(name),
            Target::All | Target::Cgroup(_) => None,
            Target::Agent(_) => return (0, Vec::new()),
        };
        let ports: Vec<Port> = self.rules(server).into_iter().map(|(port, _)| port).collect();
        match target {
            Target::Cgroup(path) => match self.cgroup(path) {
                Ok(dir) => cut::of_cgroup(&ports, &dir),
                Err(error) => (0, vec![format!("{error:#}")]),
            },
            _ => cut::at_ports(&ports),
        }
    }
}

/// Whether the programs know of a block.
pub(super) fn is_applied(maps: &Maps, key: &Block, block: &Blocked) -> bool {
    match key.kind {
        BLOCK_ALL => maps.switch(SWITCH_BLOCK_ALL).is_ok_and(|value| value != 0),
        BLOCK_SERVER => open_rules(maps, key, block).is_empty(),
        BLOCK_CGROUP => lock(&maps.blocked_cgroups).get(&block.cgroup, 0).is_ok(),
        // The guard knows agents by itself.
        _ => true,
    }
}

/// Writes what the programs look at, if the block still holds.
pub(super) fn apply_again(maps: &Maps, key: &Block) -> anyhow::Result<()> {
    let Ok(block) = lock(&maps.blocks).get(key, 0) else { return Ok(()) };
    match key.kind {
        BLOCK_ALL => maps.set_switch(SWITCH_BLOCK_ALL, 1).context("cannot set the switch"),
        BLOCK_CGROUP => {
            lock(&maps.blocked_cgroups).insert(block.cgroup, 1, 0).context("cannot block the cgroup")
        }
        _ => open_rules(maps, key, &block).into_iter().try_for_each(|(port, mut rule)| {
            rule.flags |= FLAG_BLOCKED;
            gone(lock(&maps.policy).insert(port, rule, BPF_EXIST))
                .with_context(|| format!("cannot block port {}", port.port))
        }),
    }
}

/// Rules of a blocked server that let connections pass.
fn open_rules(maps: &Maps, key: &Block, block: &Blocked) -> Vec<(Port, Rule)> {
    let server = server_key(&status(key, block).name);
    let policy = lock(&maps.policy);
    let is_open =
        |rule: &Rule| rule.mode == MODE_GUARDED && rule.server == server && rule.flags & FLAG_BLOCKED == 0;
    policy.iter().filter_map(Result::ok).filter(|(_, rule)| is_open(rule)).collect()
}

/// `BPF_EXIST`: a rule that was removed meanwhile stays so.
pub(super) const BPF_EXIST: u64 = 2;

fn hash<K: Pod, V: Pod>(data: MapData) -> anyhow::Result<HashMap<MapData, K, V>> {
    HashMap::try_from(Map::HashMap(data)).context("a pinned map has another shape")
}

/// What `status` and the audit trail say of a block.
pub(super) fn status(key: &Block, value: &Blocked) -> BlockStatus {
    BlockStatus {
        kind: match key.kind {
            BLOCK_ALL => "all",
            BLOCK_SERVER => "server",
            BLOCK_AGENT => "agent",
            _ => "cgroup",
        },
        name: text(&value.name, value.name_len),
        reason: text(&value.reason, value.reason_len),
        since: value.since,
        uid: value.uid,
    }
}

/// Copies as many whole characters as there is room for; returns their bytes.
fn put(room: &mut [u8], text: &str) -> u16 {
    let mut end = text.len().min(room.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    for (to, from) in room.iter_mut().zip(text.as_bytes().iter().take(end)) {
        *to = *from;
    }
    u16::try_from(end).unwrap_or(u16::MAX)
}

fn text(bytes: &[u8], len: u16) -> String {
    String::from_utf8_lossy(bytes.get(..len.into()).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_reason_is_cut_between_characters() {
        let mut room = [0; 5];
        let len = put(&mut room, "aäää");
        assert_eq!((len, text(&room, len).as_str()), (5, "aää"));
        let mut room = [0; 4];
        let len = put(&mut room, "aäää");
        assert_eq!(text(&room, len), "aä");
        assert_eq!(text(&room, 99), "");
    }
}
