//! Reads the blocks that may have what is wanted, on all cores.

use std::collections::HashMap;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::thread;

use memchr::memmem::Finder;

use super::index::{Index, IndexError};
use super::terms::{Fields, Term};
use super::{Query, block::Block};
use crate::audit::packed;

/// Blocks behind that of a call in which its outcome is looked for. A call may take long; what comes later is not shown with it.
const OUTCOME_BLOCKS: usize = 64;

/// Which record comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Newest,
    Oldest,
}

/// Whether each call comes with how it ended. To look for that means to read on behind the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcomes {
    Shown,
    LeftOut,
}

/// A record that fits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub seq: u64,
    /// As it stands in the trail.
    pub line: String,
    /// Of a forwarded call: how it ended, if that was asked for and is known.
    pub outcome: Option<String>,
}

/// Hands every record that fits to `take`, in order, until that says stop.
pub fn search(
    index: &Index,
    query: &Query,
    (order, outcomes): (Order, Outcomes),
    mut take: impl FnMut(Found) -> ControlFlow<()>,
) -> Result<(), IndexError> {
    let terms = query.terms();
    let blocks: Vec<(&Path, &Block)> = index
        .segments
        .iter()
        .flat_map(|segment| segment.blocks.iter().map(|block| (segment.path.as_path(), block)))
        .collect();
    let mut wanted: Vec<usize> = (0..)
        .zip(&blocks)
        .filter(|(_, (_, block))| block.may_have(query, &terms))
        .map(|(at, _)| at)
        .collect();
    if order == Order::Newest {
        wanted.reverse();
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    for some in wanted.chunks(cores) {
        let read: Vec<_> = thread::scope(|scope| {
            let reading: Vec<_> =
                some.iter().map(|at| scope.spawn(|| read(&blocks, *at, query, (order, outcomes)))).collect();
            let failed = |at: &usize| Err(failed(blocks.get(*at).map_or(Path::new(""), |(path, _)| path)));
            reading
                .into_iter()
                .zip(some)
                .map(|(reading, at)| reading.join().unwrap_or_else(|_| failed(at)))
                .collect()
        });
        for found in read.into_iter().collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
            if take(found).is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Of a reader that panicked: what it would have found is not left out in silence.
fn failed(path: &Path) -> IndexError {
    let error = io::Error::other("a part of it could not be read; `mcp-guard audit verify` may tell why");
    IndexError { path: path.to_owned(), error }
}

/// What fits in the block `at`, with outcomes.
fn read(
    blocks: &[(&Path, &Block)],
    at: usize,
    query: &Query,
    (order, outcomes): (Order, Outcomes),
) -> Result<Vec<Found>, IndexError> {
    let mut found = Vec::new();
    let mut open = HashMap::new();
    let literals = literals(query);
    each_line(blocks, at, |line| {
        if !literals.iter().all(|literal| literal.find(line).is_some()) {
            return;
        }
        let Some(record) = Fields::of(line).filter(|record| query.takes(record, line)) else { return };
        if outcomes == Outcomes::Shown
            && record.decision.as_deref() == Some("allow")
            && let Some(id) = record.id.as_deref()
        {
            open.insert(id.to_owned(), found.len());
        }
        let line = String::from_utf8_lossy(line).into_owned();
        found.push(Found { seq: record.seq, line, outcome: None });
    })?;
    let outcome = Finder::new(br#""kind":"outcome""#);
    for at in (at..blocks.len()).take(OUTCOME_BLOCKS) {
        let has_one = |block: &Block| open.keys().any(|id| block.may_have_term(Term::of("id", id)));
        if open.is_empty() {
            break;
        }
        if !blocks.get(at).is_some_and(|(_, block)| has_one(block)) {
            continue;
        }
        each_line(blocks, at, |line| {
            if outcome.find(line).is_none() {
                return;
            }
            let of = Fields::of(line).filter(|record| record.kind == "outcome");
            let call = of.and_then(|record| open.remove(record.id.as_deref()?));
            if let Some(found) = call.and_then(|at| found.get_mut(at)) {
                found.outcome = Some(String::from_utf8_lossy(line).into_owned());
            }
        })?;
    }
    if order == Order::Newest {
        found.reverse();
    }
    Ok(found)
}

/// Parts that each line that is wanted has, in the one spelling of the guard. To look for them is cheaper than to read a line.
fn literals(query: &Query) -> Vec<Finder<'static>> {
    let fields = [
        ("agent", &query.agent),
        ("user", &query.user),
        ("server", &query.server),
        ("decision", &query.decision),
        ("reason", &query.reason),
        ("id", &query.id),
        ("kind", &query.kind),
    ];
    let literal = |(name, value): &(&str, &Option<String>)| {
        let value = super::super::text::encode(value.as_ref()?).ok()?;
        let literal = [format!("\"{name}\":").into_bytes(), value].concat();
        Some(Finder::new(&literal).into_owned())
    };
    fields.iter().filter_map(literal).collect()
}

fn each_line(blocks: &[(&Path, &Block)], at: usize, mut take: impl FnMut(&[u8])) -> Result<(), IndexError> {
    let Some((path, block)) = blocks.get(at) else { return Ok(()) };
    let bytes = bytes(path, block).map_err(|error| IndexError { path: (*path).to_owned(), error })?;
    for line in bytes.split_inclusive(|byte| *byte == b'\n') {
        take(line.strip_suffix(b"\n").unwrap_or(line));
    }
    Ok(())
}

fn bytes(path: &Path, block: &Block) -> io::Result<Vec<u8>> {
    let length = usize::try_from(block.bytes).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    packed::read_exact_at(path, &mut bytes, block.offset)?;
    Ok(bytes)
}
