//! All windows in one file, so that a guard that starts has to read the end of the trail only.
//!
//! The trail is what counts: a snapshot that is lost or damaged costs time, not counts. It is taken while calls go on, one
//! shard after the other. Each key has the number of the last admission that is in it, so a record that is read again counts for
//! the keys that lack it and for no other.
//!
//! ```text
//! the line FORMAT
//! boot id, milliseconds since the boot, since 1970, and on the clock of the windows; where to read on in which trail
//! 1: an agent's number and name    before the first key that names it
//! 2: a key
//! 0: how many keys, and the last admission's number
//! SHA-256 of all before
//! ```
//! Numbers are little-endian; texts have their length before them.

use std::collections::HashMap;
use std::fs::File;
use std::hash::BuildHasher;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::sync::atomic::Ordering;

use aws_lc_rs::digest::{Context, SHA256};

use super::shard::{Count, Entry};
use super::window::{MOMENTS_MAX, Moment, Window};
use super::{Anchor, Recounted, SWEEP, Velocity, key, lock, shard_of};
use crate::types::AgentName;

/// In the state directory.
pub const SNAPSHOT_FILE: &str = "velocity.snapshot";
/// What an unfinished one is called.
const TEMPORARY_PREFIX: &str = ".velocity-";

const FORMAT: &[u8] = b"mcp-guard velocity 1\n";

/// Why a snapshot is of no use.
#[derive(Debug, thiserror::Error)]
pub enum Damaged {
    #[error("there is none")]
    Missing,
    #[error("it cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error("it is not what was written: {0}")]
    Content(&'static str),
}

/// What a snapshot says beside the windows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    pub anchor: Anchor,
    /// The trail that it belongs to, and the first record that may not be in it.
    pub trail: String,
    pub next_record: u64,
}

impl Velocity {
    /// Writes all windows to `dir`. What is admitted meanwhile may be in it or not, so `about.next_record` must be from before.
    pub fn save(&self, dir: &Path, about: &Restored) -> io::Result<()> {
        // A name of its own: two that write at once, such as two guards at a take-over, must not write one file. Mode 0600.
        let (file, next) = tempfile::Builder::new().prefix(TEMPORARY_PREFIX).tempfile_in(dir)?.into_parts();
        let mut to =
            Digested { to: BufWriter::with_capacity(256 * 1024, file), digest: Context::new(&SHA256) };
        self.write(&mut to, about)?;
        let Digested { to: mut file, digest } = to;
        file.write_all(digest.finish().as_ref())?;
        let file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        next.persist(dir.join(SNAPSHOT_FILE)).map_err(|error| error.error)?;
        File::open(dir)?.sync_all()
    }

    fn write(&self, to: &mut impl Write, about: &Restored) -> io::Result<()> {
        let Restored { anchor, trail, next_record } = about;
        let now = anchor.time;
        to.write_all(FORMAT)?;
        let mut bytes = Vec::new();
        text(&mut bytes, &anchor.boot_id);
        for number in [anchor.boot, anchor.wall, anchor.time, *next_record] {
            bytes.extend(number.to_le_bytes());
        }
        text(&mut bytes, trail);
        to.write_all(&bytes)?;
        let (mut told, mut count) = (Vec::new(), 0_u64);
        for shard in &self.0.shards {
            bytes.clear();
            let mut new = Vec::new();
            for entry in lock(shard).entries() {
                let length = u64::from(entry.length);
                let Count::Window(window) = &mut entry.count else { continue };
                if window.tidy(now, length) {
                    continue;
                }
                bytes.push(2);
                bytes.extend(u16::try_from(entry.key.len()).unwrap_or_default().to_le_bytes());
                bytes.extend_from_slice(&entry.key);
                bytes.extend(entry.number.to_le_bytes());
                bytes.extend(entry.owner.to_le_bytes());
                bytes.extend(entry.length.to_le_bytes());
                let (base, moments) = window.parts();
                bytes.extend(base.to_le_bytes());
                bytes.extend(u16::try_from(moments.len()).unwrap_or_default().to_le_bytes());
                for moment in moments {
                    bytes.extend(moment.at.to_le_bytes());
                    bytes.extend(moment.weight.to_le_bytes());
                }
                count += 1;
                if !told.contains(&entry.owner) {
                    told.push(entry.owner);
                    new.push(entry.owner);
                }
            }
            for owner in new {
                let name = lock(&self.0.owners).name(owner).map(|name| name.as_str().to_owned());
                let mut line = vec![1];
                line.extend(owner.to_le_bytes());
                text(&mut line, &name.unwrap_or_default());
                to.write_all(&line)?;
            }
            to.write_all(&bytes)?;
        }
        to.write_all(&[0])?;
        to.write_all(&count.to_le_bytes())?;
        to.write_all(&self.number().to_le_bytes())
    }

    /// Takes over what [`Velocity::save`] wrote to `dir`. Only for one that has counted nothing yet, and that is of no use after
    /// an error.
    pub fn restore(&self, dir: &Path) -> Result<Restored, Damaged> {
        let path = dir.join(SNAPSHOT_FILE);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Damaged::Missing),
            opened => opened?,
        };
        let content = file.metadata()?.len().checked_sub(32).ok_or(Damaged::Content("it is too short"))?;
        check_digest(&file, content)?;
        read(&path, content, |owner, key, (number, length, window)| {
            let owner = lock(&self.0.owners).add(owner);
            let entry =
                Entry { key: key::Key::new(key), number, owner, length, count: Count::Window(window) };
            self.insert(entry);
        })
        .map(|(restored, number)| {
            self.0.number.fetch_max(number, Ordering::Relaxed);
            restored
        })
    }

    /// Counts a call of `agent` that a record tells of, where it is not counted yet. Returns whether it was, anywhere. After
    /// the last one, [`Velocity::recounted`] must be called.
    pub fn recount(&self, now: u64, agent: &AgentName, record: &Recounted) -> bool {
        let mut is_new = false;
        self.0.number.fetch_max(record.number, Ordering::Relaxed);
        for (key, length, weight) in record.keys() {
            if now.saturating_sub(record.at) >= u64::from(length) {
                continue;
            }
            let hash = self.0.hasher.hash_one(&*key);
            let Some(shard) = self.0.shards.get(shard_of(hash)) else { continue };
            let mut shard = lock(shard);
            if shard.find(hash, &key).is_none() {
                shard.sweep(now, SWEEP, |owner| lock(&self.0.owners).give_back(owner, 1));
                let owner = lock(&self.0.owners).add(agent);
                shard.insert(hash, Entry::new(&key, owner, length), &self.0.hasher);
            }
            let place = shard.find(hash, &key);
            let Some(entry) = place.and_then(|place| shard.get_mut(place)) else { continue };
            // Records may stand in another order than that of their numbers, so the entry's number stays as it was saved.
            if entry.number < record.number && entry.length == length {
                entry.count(record.at, weight);
                is_new = true;
            }
        }
        is_new
    }

    /// From now on, all records up to here are counted.
    pub fn recounted(&self) {
        let number = self.number();
        for shard in &self.0.shards {
            lock(shard).entries().for_each(|entry| entry.number = number);
        }
    }

    fn insert(&self, entry: Entry) {
        let hash = self.0.hasher.hash_one(&*entry.key);
        let Some(shard) = self.0.shards.get(shard_of(hash)) else { return };
        lock(shard).insert(hash, entry, &self.0.hasher);
    }
}

type Saved = (u64, u32, Window);

/// Reads a snapshot whose digest is right, and hands out each key. Returns what it says beside them, and the last number.
fn read(
    path: &Path,
    content: u64,
    mut each: impl FnMut(&AgentName, &[u8], Saved),
) -> Result<(Restored, u64), Damaged> {
    let mut from = BufReader::with_capacity(256 * 1024, File::open(path)?.take(content));
    let mut format = vec![0; FORMAT.len()];
    from.read_exact(&mut format)?;
    if format != FORMAT {
        return Err(Damaged::Content("another version of the guard wrote it"));
    }
    let boot_id = read_text(&mut from)?;
    let mut number = || u64_of(&mut from);
    let (boot, wall, time, next_record) = (number()?, number()?, number()?, number()?);
    let anchor = Anchor { boot_id, boot, wall, time };
    let restored = Restored { anchor, trail: read_text(&mut from)?, next_record };
    let mut owners: HashMap<u32, AgentName> = HashMap::new();
    let mut count = 0;
    loop {
        let [kind] = array(&mut from)?;
        match kind {
            0 => break,
            1 => {
                let owner = u32::from_le_bytes(array(&mut from)?);
                let name = read_text(&mut from)?;
                let name = AgentName::parse(&name).map_err(|_bad| Damaged::Content("a name is none"))?;
                owners.insert(owner, name);
            }
            2 => {
                let mut name = vec![0; usize::from(u16::from_le_bytes(array(&mut from)?))];
                from.read_exact(&mut name)?;
                key::read(&name).ok_or(Damaged::Content("a key is none"))?;
                let number = u64_of(&mut from)?;
                let owner = u32::from_le_bytes(array(&mut from)?);
                let length = u32::from_le_bytes(array(&mut from)?);
                let base = u64_of(&mut from)?;
                let moments = usize::from(u16::from_le_bytes(array(&mut from)?));
                if moments > MOMENTS_MAX || length == 0 {
                    return Err(Damaged::Content("a window is none"));
                }
                let moments: Result<Vec<Moment>, io::Error> = (0..moments)
                    .map(|_| {
                        let at = u32::from_le_bytes(array(&mut from)?);
                        Ok(Moment { at, weight: u32::from_le_bytes(array(&mut from)?) })
                    })
                    .collect();
                let window =
                    Window::from_parts(base, moments?).ok_or(Damaged::Content("a window is none"))?;
                let owner = owners.get(&owner).ok_or(Damaged::Content("a key is nobody's"))?;
                each(owner, &name, (number, length, window));
                count += 1;
            }
            _ => return Err(Damaged::Content("a part of it is of no known kind")),
        }
    }
    if u64_of(&mut from)? != count {
        return Err(Damaged::Content("keys are missing"));
    }
    Ok((restored, u64_of(&mut from)?))
}

fn check_digest(file: &File, content: u64) -> Result<(), Damaged> {
    let mut from = BufReader::with_capacity(256 * 1024, file);
    let mut to = Digested { to: io::sink(), digest: Context::new(&SHA256) };
    io::copy(&mut (&mut from).take(content), &mut to)?;
    let mut written = [0; 32];
    from.read_exact(&mut written)?;
    if to.digest.finish().as_ref() == written {
        Ok(())
    } else {
        Err(Damaged::Content("its digest is another"))
    }
}

struct Digested<W> {
    to: W,
    digest: Context,
}

impl<W: Write> Write for Digested<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.digest.update(bytes.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

/// At most 255 bytes; what is longer has no meaning here.
fn text(to: &mut Vec<u8>, text: &str) {
    let length = u8::try_from(text.len()).unwrap_or_default();
    to.push(length);
    to.extend(text.bytes().take(usize::from(length)));
}

fn read_text(from: &mut impl Read) -> Result<String, Damaged> {
    let [length] = array(from)?;
    let mut bytes = vec![0; usize::from(length)];
    from.read_exact(&mut bytes)?;
    String::from_utf8(bytes).map_err(|_not_text| Damaged::Content("a text is none"))
}

fn u64_of(from: &mut impl Read) -> io::Result<u64> {
    array(from).map(u64::from_le_bytes)
}

fn array<const N: usize>(from: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    from.read_exact(&mut bytes)?;
    Ok(bytes)
}
