//! What a trail says of its own beginning, where that is no more.

use std::borrow::Cow;
use std::io;
use std::path::Path;

use serde::Deserialize;

use super::reread::{Since, reread};
use super::walk::segments;

#[derive(Deserialize)]
struct Line<'a> {
    seq: u64,
    #[serde(borrow)]
    kind: Cow<'a, str>,
    to: Option<u64>,
}

/// The first record of the trail in `dir`, and whether that is as one of its first `signed` records has it: nothing was pruned, or what is
/// missing was. Takes the records at their word.
pub(super) fn beginning(dir: &Path, signed: u64) -> io::Result<(u64, bool)> {
    let first = segments(dir)?.first().map_or(0, |(first, _)| *first);
    if first == 0 {
        return Ok((first, true));
    }
    let mut is_told = false;
    reread(dir, Since::Record(0), r#""kind":"pruned""#, |bytes| {
        let line: Line<'_> = serde_json::from_slice(bytes)?;
        is_told |= line.kind == "pruned" && line.seq < signed && line.to.is_some_and(|to| to >= first);
        Ok(())
    })?;
    Ok((first, is_told))
}
