//! The directory in bpffs that keeps the guard's maps and links alive when the guard is not.
//!
//! ```text
//! <bpffs>/<pins>/maps/POLICY ...        one layout version, written in META
//! <bpffs>/<pins>/links/<generation>/tie ...             of the programs that serve all namespaces
//! <bpffs>/<pins>/links/<generation>/steer-<cookie> ...  one for each protected namespace
//! ```

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use aya::maps::{Array, Map, MapData};
use guard_common::{ABI, Meta};

use super::sys;

/// Begins the name of each link by which a namespace is steered.
const STEER: &str = "steer-";

/// The pins of one guard, locked for one process.
#[derive(Debug)]
pub(super) struct Pins {
    dir: PathBuf,
    _lock: File,
}

/// What `Pins::inspect` found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing that steers.
    Nothing,
    /// Pins of this layout, which can be taken over.
    Ours(Meta),
}

impl Pins {
    /// Opens (or makes) the directory and locks it. Fails if another process holds the lock.
    pub(super) fn open(dir: &Path) -> anyhow::Result<Self> {
        loop {
            match fs::DirBuilder::new().mode(0o700).create(dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(error)
                        .with_context(|| format!("cannot make {} (root is needed)", dir.display()));
                }
                _ => {}
            }
            if let Some(pins) = Self::open_existing(dir)? {
                return Ok(pins);
            }
        }
    }

    /// Opens and locks the directory if it is there.
    pub(super) fn open_existing(dir: &Path) -> anyhow::Result<Option<Self>> {
        let lock = match File::open(dir) {
            Ok(lock) => lock,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot open {}", dir.display())),
        };
        let meta = lock.metadata().with_context(|| format!("cannot look at {}", dir.display()))?;
        if meta.uid() != 0 || meta.mode() & 0o077 != 0 {
            bail!(
                "{0} must belong to root with mode 0700, and belongs to uid {1} with mode {2:04o}: who can write there can open the \
                 ports. If its pins are a guard's, `chown root:root {0} && chmod 700 {0}`; else remove it",
                dir.display(),
                meta.uid(),
                meta.mode() & 0o7777
            );
        }
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => bail!(
                "another guard is running on the pins in {}; stop it first, or set another `kernel.pins`",
                dir.display()
            ),
            Err(fs::TryLockError::Error(error)) => {
                return Err(error).with_context(|| format!("cannot lock {}", dir.display()));
            }
        }
        // An `unload` may have removed the directory between the open and the lock.
        let same = fs::metadata(dir).is_ok_and(|now| now.ino() == meta.ino() && now.dev() == meta.dev());
        Ok(same.then(|| Self { dir: dir.to_owned(), _lock: lock }))
    }

    /// Whether a guard was here before, and of which kind.
    pub(super) fn inspect(&self, netns: u64) -> anyhow::Result<Found> {
        inspect(&self.dir, netns)
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        map(&self.dir, name)
    }

    /// The kernel's number of the map of protected ports, which no other map ever gets: it tells these pins from those that
    /// somebody made in their place.
    pub(super) fn policy_id(&self) -> Option<u32> {
        MapData::from_pin(self.map("POLICY")).and_then(|data| data.info()).ok().map(|info| info.id())
    }

    pub(super) fn make_maps_dir(&self) -> anyhow::Result<()> {
        make_dir(&self.dir.join("maps"))
    }

    /// Makes the directory for the links of one start.
    pub(super) fn make_generation(&self, generation: u32) -> anyhow::Result<PathBuf> {
        make_dir(&self.links())?;
        let dir = self.links().join(generation.to_string());
        make_dir(&dir)?;
        Ok(dir)
    }

    /// A number for the links of the next start, above those of all before it, whether they got to their end or not.
    pub(super) fn next_generation(&self, last: u32) -> anyhow::Result<u32> {
        let dirs = children(&self.links())?;
        let used = dirs.iter().filter_map(|dir| dir.file_name()?.to_str()?.parse().ok());
        Ok(used.fold(last, u32::max).saturating_add(1))
    }

    /// Undoes a start that failed over the pins of a former guard. Where the former guard's program is still attached, ours
    /// goes; where it is gone, ours must stay: the ports are closed in either case.
    pub(super) fn undo_takeover(&self, ours: u32) -> anyhow::Result<()> {
        let older = self.older(ours)?;
        let ours = self.links().join(ours.to_string());
        for link in children(&ours)? {
            let Some(name) = link.file_name() else { continue };
            if older.iter().any(|dir| dir.join(name).exists()) {
                remove_pin(&link)?;
            }
        }
        remove_if_empty(&ours)
    }

    /// Removes former guards' links of the programs that serve all namespaces.
    pub(super) fn remove_older_shared(&self, ours: u32) -> anyhow::Result<()> {
        for dir in self.older(ours)? {
            for link in children(&dir)? {
                if steered_by(&link).is_none() {
                    remove_pin(&link)?;
                }
            }
            remove_if_empty(&dir)?;
        }
        Ok(())
    }

    /// Pins of former guards' links.
    pub(super) fn older_links(&self, ours: u32) -> anyhow::Result<Vec<PathBuf>> {
        let mut links = Vec::new();
        for dir in self.older(ours)? {
            links.extend(children(&dir)?);
        }
        Ok(links)
    }

    /// Removes former guards' steering of one namespace.
    pub(super) fn remove_older_steering(&self, netns: u64, ours: u32) -> anyhow::Result<()> {
        for dir in self.older(ours)? {
            remove_pin(&dir.join(steer_name(netns)))?;
            remove_if_empty(&dir)?;
        }
        Ok(())
    }

    /// Removes all steering of one namespace.
    pub(super) fn remove_steering(&self, netns: u64) -> anyhow::Result<()> {
        for dir in children(&self.links())? {
            remove_pin(&dir.join(steer_name(netns)))?;
            remove_if_empty(&dir)?;
        }
        Ok(())
    }

    /// Cookies of the namespaces that have steering, dead ones too.
    pub(super) fn steered(&self) -> Vec<u64> {
        let dirs = children(&self.links()).unwrap_or_default();
        let mut cookies: Vec<u64> = dirs
            .iter()
            .flat_map(|dir| children(dir).unwrap_or_default())
            .filter_map(|link| steered_by(&link))
            .collect();
        cookies.sort_unstable();
        cookies.dedup();
        cookies
    }

    /// Ids of the programs that steer, by their pinned links.
    pub(super) fn steering(&self) -> Vec<u32> {
        let dirs = children(&self.links()).unwrap_or_default();
        let links = dirs.iter().flat_map(|dir| children(dir).unwrap_or_default());
        let steers = links.filter(|link| steered_by(link).is_some());
        steers.filter_map(|link| sys::link(&link).ok()).map(|link| link.program).collect()
    }

    /// Whether a namespace that has steering is still there. What cannot be told counts as there.
    pub(super) fn is_steered_alive(&self, netns: u64) -> bool {
        let links: Vec<PathBuf> = children(&self.links())
            .unwrap_or_default()
            .into_iter()
            .map(|dir| dir.join(steer_name(netns)))
            .filter(|link| link.exists())
            .collect();
        let is_alive = |link: &PathBuf| sys::netns_of_link(link).map_or(true, |inode| inode != 0);
        !links.is_empty() && links.iter().any(is_alive)
    }

    /// The directory of the links of one start.
    pub(super) fn links_of(&self, generation: u32) -> PathBuf {
        self.links().join(generation.to_string())
    }

    fn links(&self) -> PathBuf {
        self.dir.join("links")
    }

    /// The directories of starts before this one.
    fn older(&self, ours: u32) -> anyhow::Result<Vec<PathBuf>> {
        let ours = ours.to_string();
        let mut dirs = children(&self.links())?;
        dirs.retain(|dir| dir.file_name().is_none_or(|name| name != ours.as_str()));
        Ok(dirs)
    }

    /// Removes the links and maps that are there, and keeps the (locked) directory.
    pub(super) fn clear(&self) -> anyhow::Result<()> {
        remove_tree(&self.links())?;
        remove_tree(&self.dir.join("maps"))?;
        Ok(())
    }

    /// Removes everything, the directory too. The links go first.
    pub(super) fn remove_all(&self) -> anyhow::Result<Vec<PathBuf>> {
        let mut removed = remove_tree(&self.links())?;
        removed.extend(remove_tree(&self.dir)?);
        Ok(removed)
    }
}

/// Whether a guard was here before, and of which kind. Needs no lock: a running guard may hold it.
pub(super) fn inspect(dir: &Path, netns: u64) -> anyhow::Result<Found> {
    let path = map(dir, "META");
    if !path.exists() {
        return Ok(Found::Nothing);
    }
    let meta = MapData::from_pin(&path)
        .ok()
        .and_then(|data| Array::<_, Meta>::try_from(Map::Array(data)).ok())
        .and_then(|array| array.get(&0, 0).ok());
    let dir = dir.display();
    match meta {
        Some(Meta { abi: 0, .. }) => Ok(Found::Nothing),
        Some(meta) if meta.abi == ABI && meta.netns == netns => Ok(Found::Ours(meta)),
        Some(meta) if meta.abi == ABI => bail!(
            "the pins in {dir} protect another network namespace (cookie {}, this one is {netns}); \
                 start the guard there, or run `mcp-guard unload` first, which opens its ports",
            meta.netns
        ),
        found => bail!(
            "the pins in {dir} were made by a guard with map layout {}, this one has {ABI}; they keep refusing \
                 connections. Run `mcp-guard unload` (the ports are open until the next start), then start again",
            found.map_or_else(|| "unknown".into(), |meta| meta.abi.to_string())
        ),
    }
}

/// Whether a guard runs on these pins.
pub(super) fn is_locked(dir: &Path) -> io::Result<bool> {
    match File::open(dir) {
        Ok(lock) => match lock.try_lock() {
            Ok(()) => Ok(false),
            Err(fs::TryLockError::WouldBlock) => Ok(true),
            Err(fs::TryLockError::Error(error)) => Err(error),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

fn map(dir: &Path, name: &str) -> PathBuf {
    dir.join("maps").join(name)
}

/// The name of the link by which a namespace is steered. By cookie, since inodes are reused.
pub(super) fn steer_name(netns: u64) -> String {
    format!("{STEER}{netns}")
}

fn steered_by(link: &Path) -> Option<u64> {
    link.file_name()?.to_str()?.strip_prefix(STEER)?.parse().ok()
}

fn remove_pin(pin: &Path) -> anyhow::Result<()> {
    match fs::remove_file(pin) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", pin.display()))
        }
        _ => Ok(()),
    }
}

fn remove_if_empty(dir: &Path) -> anyhow::Result<()> {
    if children(dir)?.is_empty() {
        remove_tree(dir)?;
    }
    Ok(())
}

fn make_dir(dir: &Path) -> anyhow::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot make {}", dir.display()))
        }
        _ => Ok(()),
    }
}

fn children(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", dir.display())),
    };
    entries.map(|entry| Ok(entry.with_context(|| format!("cannot read {}", dir.display()))?.path())).collect()
}

/// Removes a directory of pins, deepest first. Returns the pins (not the directories).
fn remove_tree(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for child in children(dir)? {
        if fs::symlink_metadata(&child).is_ok_and(|meta| meta.is_dir()) {
            removed.extend(remove_tree(&child)?);
        } else {
            fs::remove_file(&child).with_context(|| format!("cannot remove {}", child.display()))?;
            removed.push(child);
        }
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(removed),
    }
}
