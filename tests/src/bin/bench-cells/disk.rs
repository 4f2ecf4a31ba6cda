//! What the disk itself takes to keep a record, without a guard: the least that a durable call can wait.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::Instant;

/// Of one round.
const SYNCS: u32 = 500;
/// About a record of a call.
const RECORD: [u8; 700] = [b'x'; 700];

/// Microseconds that each of some records takes, from its write to the end of its `fdatasync`, in a file of its own in `dir`; ascending.
pub(crate) fn syncs(dir: &Path) -> anyhow::Result<Vec<f64>> {
    let mut file = tempfile::tempfile_in(dir)?;
    let mut all = (0..SYNCS).map(|_| sync(&mut file)).collect::<std::io::Result<Vec<_>>>()?;
    all.sort_by(f64::total_cmp);
    Ok(all)
}

fn sync(file: &mut File) -> std::io::Result<f64> {
    let start = Instant::now();
    file.write_all(&RECORD)?;
    file.sync_data()?;
    Ok(start.elapsed().as_secs_f64() * 1e6)
}
