//! The blocks of a trail, kept in files beside it. They are derived: what is missing, stale or cut is made anew from the records.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

use super::block::{BLOCK_BYTES, Block, ENCODED_BYTES};
use crate::audit::walk::{Found, Lines, segments};
use crate::audit::{LINE_BYTES_MAX, packed};
use crate::config::who_else_may_write;

/// The folder in the trail's directory. Not part of the trail.
const DIR: &str = "index";
/// Begins each file; the number is that of the form.
const HEAD: &[u8; 16] = b"mcp-guard index1";

/// Why a trail cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {error}", .path.display())]
pub struct IndexError {
    pub path: PathBuf,
    pub error: io::Error,
}

/// All blocks of a trail.
pub struct Index {
    pub(super) segments: Vec<Segment>,
}

/// The blocks of one file, which leave nothing out up to the last whole line.
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) blocks: Vec<Block>,
}

impl Index {
    /// Of the trail in `dir`. Reads what is kept, then the records behind that, and keeps their full blocks if it may.
    /// `progress` is told the bytes that were read and those that there are to read.
    pub fn open(dir: &Path, mut progress: impl FnMut(u64, u64)) -> Result<Self, IndexError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| IndexError { path, error }
        };
        let found = segments(dir).map_err(at(dir))?;
        if found.is_empty() {
            return Err(at(dir)(io::Error::other(
                "there is no trail here; has the guard run, and is this its audit.dir?",
            )));
        }
        let shelf = Shelf::open(dir).inspect_err(|error| tracing::debug!(%error, "there is no index"));
        let shelf = shelf.as_ref().ok();
        let mut known = Vec::new();
        let last = found.len();
        for (number, (first, path)) in (1..).zip(found) {
            let kept = shelf.and_then(|shelf| Kept::read(shelf, &path)).filter(|kept| kept.fits(&path));
            let kept = kept.unwrap_or_else(|| Kept::none(&path));
            let bytes = packed::length(&path).map_err(at(&path))?;
            let from = kept.blocks.last().map_or((0, first), |last| (last.end(), last.first + last.count));
            known.push((path, kept, from, bytes, number < last));
        }
        let all = known.iter().map(|(_, _, (from, _), bytes, _)| bytes.saturating_sub(*from)).sum();
        let (mut done, mut segments) = (0, Vec::new());
        for (path, mut kept, from, _, is_full) in known {
            let added = blocks(&path, from, u64::MAX, |bytes| {
                done += bytes;
                progress(done, all);
            });
            let added = added.map_err(at(&path))?;
            kept.keep((shelf, is_full), kept.blocks.len(), &added);
            kept.blocks.extend(added);
            segments.push(Segment { path, blocks: kept.blocks });
        }
        Ok(Self { segments })
    }

    /// Keeps what a query would have to read first, from the last kept block of each segment on: full blocks of about `bytes_max`. For a
    /// guard that runs, so that its queries are fast. That nothing can be kept here is no error.
    pub fn keep_up(dir: &Path, bytes_max: u64) -> Result<(), IndexError> {
        let found = segments(dir).map_err(|error| IndexError { path: dir.to_owned(), error })?;
        let is_long = |path: &PathBuf| path.metadata().is_ok_and(|meta| meta.len() >= BLOCK_BYTES);
        if found.len() < 2 && !found.iter().any(|(_, path)| is_long(path)) {
            return Ok(());
        }
        let Ok(shelf) = Shelf::open(dir) else { return Ok(()) };
        let (mut left, all) = (bytes_max, found.len());
        for (number, (first, path)) in (1..).zip(found) {
            // It was kept as long as it was plain.
            if packed::is_packed(&path) && shelf.file(&Kept::none(&path).name, OFlags::RDONLY).is_ok() {
                continue;
            }
            let at = |error| IndexError { path: path.clone(), error };
            let (count, last) = Kept::tail(&shelf, &path).unwrap_or((0, None));
            let from = last.map_or((0, first), |last| (last.end(), last.first + last.count));
            let (is_full, rest) = (number < all, packed::length(&path).map_err(at)?.saturating_sub(from.0));
            if rest < if is_full { 1 } else { BLOCK_BYTES } {
                continue;
            }
            let added = blocks(&path, from, left, |bytes| left = left.saturating_sub(bytes)).map_err(at)?;
            Kept::none(&path).keep((Some(&shelf), is_full), count, &added);
            if left == 0 {
                break;
            }
        }
        Ok(())
    }

    /// Records of all blocks.
    pub fn records(&self) -> u64 {
        self.segments.iter().flat_map(|segment| &segment.blocks).map(|block| block.count).sum()
    }

    /// The number of the next record: the trail may begin with another than 0.
    pub fn next(&self) -> u64 {
        let last = self.segments.iter().rev().find_map(|segment| segment.blocks.last());
        last.map_or(0, |block| block.first.saturating_add(block.count))
    }
}

/// The blocks of a file from a line's beginning on, with its record's number, up to its end or until they have `bytes_max`.
fn blocks(
    path: &Path,
    (offset, first): (u64, u64),
    bytes_max: u64,
    mut progress: impl FnMut(u64),
) -> io::Result<Vec<Block>> {
    let mut lines = Lines::open(path)?;
    lines.start_at(offset)?;
    let (mut blocks, mut block) = (Vec::new(), Block::at(offset, first));
    while let Some(Found::Line(line)) = lines.next()? {
        block.add(line);
        if block.bytes >= BLOCK_BYTES {
            progress(block.bytes);
            let next = Block::at(block.end(), block.first + block.count);
            blocks.push(std::mem::replace(&mut block, next));
            if block.offset - offset >= bytes_max {
                return Ok(blocks);
            }
        }
    }
    if block.count > 0 {
        blocks.push(block);
    }
    Ok(blocks)
}

/// The blocks of a segment that is no more. What is left over costs some room, and nothing else.
pub(in crate::audit) fn forget(dir: &Path, first: u64) {
    let path = dir.join(DIR).join(format!("{first:020}.blocks"));
    if let Err(error) = std::fs::remove_file(path) {
        tracing::debug!(%error, first, "the index of a pruned file stays");
    }
}

/// What a file beside the trail has of a segment.
struct Kept {
    name: PathBuf,
    blocks: Vec<Block>,
}

impl Kept {
    fn none(segment: &Path) -> Self {
        let name = segment.file_stem().unwrap_or(segment.as_os_str());
        Self { name: Path::new(name).with_extension("blocks"), blocks: Vec::new() }
    }

    /// `None`: there is nothing that could be used.
    fn read(shelf: &Shelf, segment: &Path) -> Option<Self> {
        let mut kept = Self::none(segment);
        let mut bytes = Vec::new();
        shelf.file(&kept.name, OFlags::RDONLY).ok()?.read_to_end(&mut bytes).ok()?;
        let mut end = 0;
        for bytes in bytes.strip_prefix(HEAD)?.chunks(ENCODED_BYTES) {
            // What follows a block that is cut, or does not go on, is not usable either.
            let Some(block) = Block::decode(bytes).filter(|block| block.offset == end) else { break };
            end = block.end();
            kept.blocks.push(block);
        }
        Some(kept)
    }

    /// How many blocks there are, and the last one; `None`: nothing that could be used.
    fn tail(shelf: &Shelf, segment: &Path) -> Option<(usize, Option<Block>)> {
        let kept = Self::none(segment);
        let file = shelf.file(&kept.name, OFlags::RDONLY).ok()?;
        let bytes = usize::try_from(file.metadata().ok()?.len()).ok()?.checked_sub(HEAD.len())?;
        let count = bytes / ENCODED_BYTES;
        let Some(before) = count.checked_sub(1) else { return Some((0, None)) };
        let mut last = vec![0; ENCODED_BYTES];
        let at = u64::try_from(HEAD.len() + before * ENCODED_BYTES).ok()?;
        file.read_exact_at(&mut last, at).ok()?;
        let last = Block::decode(&last)?;
        let kept = Self { name: kept.name, blocks: vec![last] };
        kept.fits(segment).then(|| (count, kept.blocks.into_iter().next()))
    }

    /// Whether the segment still has the line that the last block ends with: a disk's error cuts lines off.
    fn fits(&self, segment: &Path) -> bool {
        let Some(last) = self.blocks.last() else { return true };
        let back = u64::try_from(LINE_BYTES_MAX + 2).unwrap_or(u64::MAX);
        let start = last.end().saturating_sub(back).max(last.offset);
        let Ok(length) = usize::try_from(last.end() - start) else { return false };
        let mut bytes = vec![0; length];
        if packed::read_exact_at(segment, &mut bytes, start).is_err() {
            return false;
        }
        let Some(bytes) = bytes.strip_suffix(b"\n") else { return false };
        let begin = memchr::memrchr(b'\n', bytes).map_or(0, |at| at + 1);
        bytes.get(begin..).is_some_and(|line| last.ends_with(line))
    }

    /// Writes the full ones of `added` behind the first `count`; of a full segment, all. That this cannot be done is no error: the next one
    /// reads more.
    fn keep(&self, (place, is_full): (Option<&Shelf>, bool), count: usize, added: &[Block]) {
        let full: Vec<_> = added.iter().filter(|block| is_full || block.bytes >= BLOCK_BYTES).collect();
        let (Some(place), false) = (place, full.is_empty()) else { return };
        if let Err(error) = self.write(place, count, &full) {
            tracing::debug!(file = %self.name.display(), %error, "the index is not kept");
        }
    }

    fn write(&self, place: &Shelf, count: usize, added: &[&Block]) -> io::Result<()> {
        let file = place.file(&self.name, OFlags::RDWR | OFlags::CREATE)?;
        // Two that write at once would write the same; one is enough.
        let lock = nix::fcntl::Flock::lock(file, nix::fcntl::FlockArg::LockExclusiveNonblock);
        let mut file = lock.map_err(|(_, error)| io::Error::from(error))?;
        let kept = u64::try_from(count * ENCODED_BYTES + HEAD.len()).unwrap_or(u64::MAX);
        if count == 0 {
            file.set_len(0)?;
            file.write_all(HEAD)?;
        } else {
            file.set_len(kept)?;
            io::Seek::seek(&mut *file, io::SeekFrom::Start(kept))?;
        }
        let bytes: Vec<u8> = added.iter().flat_map(|block| block.encode()).collect();
        file.write_all(&bytes)
    }
}

/// The folder with the index. There is none where somebody else could write: what they put there would hide records, or be a
/// link to a file that is not theirs.
struct Shelf(OwnedFd);

impl Shelf {
    fn open(trail: &Path) -> io::Result<Self> {
        let folder = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let trail = rustix::fs::open(trail, folder & !OFlags::NOFOLLOW, Mode::empty())?;
        only_own(&trail)?;
        match rustix::fs::mkdirat(&trail, DIR, Mode::RWXU) {
            Err(error) if error != rustix::io::Errno::EXIST => return Err(error.into()),
            _ => {}
        }
        let shelf = rustix::fs::openat(&trail, DIR, folder, Mode::empty())?;
        only_own(&shelf)?;
        Ok(Self(shelf))
    }

    fn file(&self, name: &Path, how: OFlags) -> io::Result<File> {
        let how = how | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file = rustix::fs::openat(&self.0, name, how, Mode::RUSR | Mode::WUSR)?;
        only_own(&file)?;
        Ok(file.into())
    }
}

/// An error unless root or this user owns it and nobody else may write to it.
fn only_own(file: &OwnedFd) -> io::Result<()> {
    let status = rustix::fs::fstat(file)?;
    match who_else_may_write(status.st_mode, status.st_uid, rustix::process::geteuid().as_raw()) {
        None => Ok(()),
        Some((who, _)) => Err(io::Error::other(format!("{who} may write there"))),
    }
}
