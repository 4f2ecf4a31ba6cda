//! What a guard that starts reads again of its trail.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use memchr::memmem::Finder;
use serde_json::Error;

use super::packed;
use super::walk::{Found, Lines, segments};

/// Where to begin to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    Record(u64),
    /// The first segment that was written to within this time.
    Ago(Duration),
}

/// Hands each line of `dir` that holds `sought` to `each`, in the order of the trail, which was checked when it was opened. What an attacker
/// wrote into a name may hold it, too. A line that cannot be read is an error. Returns how many records it looked at.
pub(super) fn reread(
    dir: &Path,
    since: Since,
    sought: &str,
    mut each: impl FnMut(&[u8]) -> Result<(), Error>,
) -> io::Result<u64> {
    let segments = segments(dir).map_err(|error| naming(dir, &error))?;
    let from = first_segment(&segments, since);
    let finder = Finder::new(sought);
    let mut looked_at = 0;
    for (first, path) in segments.iter().skip(from) {
        let mut lines = Lines::open(path).map_err(|error| naming(path, &error))?;
        let mut seq = *first;
        while let Some(Found::Line(bytes)) = lines.next().map_err(|error| naming(path, &error))? {
            looked_at += 1;
            let is_new = match since {
                Since::Record(oldest) => seq >= oldest,
                Since::Ago(_) => true,
            };
            seq += 1;
            if is_new && finder.find(bytes).is_some() {
                each(bytes).map_err(|error| naming(path, &error.into()))?;
            }
        }
    }
    Ok(looked_at)
}

/// The same, and where it was.
fn naming(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Where to begin among the segments of a trail.
fn first_segment(segments: &[(u64, PathBuf)], since: Since) -> usize {
    let is_before = |index: usize, path: &Path| match since {
        // Later segments begin at or before the record.
        Since::Record(seq) => segments.get(index + 1).is_some_and(|(next, _)| *next <= seq),
        Since::Ago(span) => SystemTime::now().checked_sub(span).is_some_and(|oldest| {
            packed::metadata(path).and_then(|meta| meta.modified()).is_ok_and(|written| written < oldest)
        }),
    };
    segments.iter().enumerate().take_while(|(index, (_, path))| is_before(*index, path)).count()
}
