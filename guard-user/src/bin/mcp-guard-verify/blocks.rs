//! Reads files in blocks of whole lines, and has every core read records from them. What comes out is in order.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use flate2::bufread::GzDecoder;

use super::record::{self, Record};

/// Longest line, without its newline.
const LINE_BYTES_MAX: u64 = 65_535;
/// Bytes of lines that one core reads in one go.
const BLOCK_BYTES: usize = 1 << 20;
/// Blocks that wait for a core, and as many that it has read.
const BLOCKS_WAITING: usize = 2;

/// Some lines of one file.
struct Block {
    path: Arc<Path>,
    /// Number of its first line in the file, from 1.
    first: u64,
    lines: Vec<u8>,
    /// Bytes of the file that they took.
    bytes: u64,
    /// What keeps the file from going on behind these lines.
    end: Option<End>,
}

/// Why a file does not go on. The line's number is that of the line that could not be read.
#[derive(Debug)]
pub(crate) enum End {
    /// A last line without a newline, or one that is too long.
    Torn,
    Unreadable(io::Error),
}

/// What a core has read from a block.
pub(crate) struct Batch {
    pub(crate) path: Arc<Path>,
    pub(crate) first: u64,
    pub(crate) bytes: u64,
    /// Up to the first line that is no record.
    pub(crate) records: Vec<Result<Record, String>>,
    pub(crate) end: Option<End>,
}

/// Hands the records of `files`, in order, to `take`, until that says stop.
pub(crate) fn read<E>(
    files: &[PathBuf],
    cores: usize,
    mut take: impl FnMut(Batch) -> Result<(), E>,
) -> Result<(), E> {
    thread::scope(|scope| {
        // The first block goes to the first core, the second to the second, and their results are taken in the same turn.
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for _ in 0..cores.max(1) {
            let (input, blocks) = sync_channel(BLOCKS_WAITING);
            let (done, output) = sync_channel(BLOCKS_WAITING);
            scope.spawn(move || work(&blocks, &done));
            inputs.push(input);
            outputs.push(output);
        }
        scope.spawn(move || feed(files, &inputs));
        for output in outputs.iter().cycle() {
            // Whoever has no more blocks was next in turn, so none has.
            let Ok(batch) = output.recv() else { return Ok(()) };
            take(batch)?;
        }
        Ok(())
    })
}

/// Ends when nobody takes the results any more.
fn work(blocks: &Receiver<Block>, done: &SyncSender<Batch>) {
    for block in blocks {
        let (mut records, mut begin) = (Vec::new(), 0);
        for end in memchr::memchr_iter(b'\n', &block.lines) {
            let record = record::read(block.lines.get(begin..end).unwrap_or_default());
            begin = end + 1;
            let is_last = record.is_err();
            records.push(record);
            if is_last {
                break;
            }
        }
        let batch =
            Batch { path: block.path, first: block.first, bytes: block.bytes, records, end: block.end };
        if done.send(batch).is_err() {
            return;
        }
    }
}

/// Ends when nobody takes the blocks any more.
fn feed(files: &[PathBuf], cores: &[SyncSender<Block>]) {
    let mut cores = cores.iter().cycle();
    for path in files {
        let path: Arc<Path> = path.as_path().into();
        let mut give = |first, lines, bytes, end| {
            let block = Block { path: Arc::clone(&path), first, lines, bytes, end };
            cores.next().is_some_and(|core| core.send(block).is_ok())
        };
        let (mut file, read) = match open(&path) {
            Ok(opened) => opened,
            Err(error) => {
                give(0, Vec::new(), 0, Some(End::Unreadable(error)));
                return;
            }
        };
        let mut first = 1;
        loop {
            let (lines, count, end) = block(&mut file);
            let is_over = end.is_some() || count == 0;
            if !give(first, lines, read.take(), end) || is_over {
                break;
            }
            first += count;
        }
    }
}

/// What it holds, and how much of it was read.
type Opened = (Box<dyn BufRead>, Rc<Cell<u64>>);

/// A file of either form, unpacked, and how much of it was read. Nothing of what it unpacks to is kept but some lines.
fn open(path: &Path) -> io::Result<Opened> {
    let read = Rc::new(Cell::new(0));
    let mut is_packed = path.extension().is_some_and(|ending| ending == "gz");
    let file = match File::open(path) {
        // A guard that runs has packed it since the directory was read.
        Err(error) if error.kind() == ErrorKind::NotFound && !is_packed => {
            is_packed = true;
            File::open(path.with_extension("jsonl.gz")).map_err(|_neither| error)?
        }
        file => file?,
    };
    let file = BufReader::with_capacity(1 << 18, Counted { file, read: Rc::clone(&read) });
    Ok(if is_packed {
        let members = Members { of: Some(Place::Between(Taken { file, count: 0 })) };
        (Box::new(BufReader::with_capacity(1 << 18, members)), read)
    } else {
        (Box::new(file), read)
    })
}

/// A gzip file. A member that carries its two lengths (`MG`) must have these, or who goes by them is led astray.
struct Members<R> {
    /// None: there is nothing more, or an error was told.
    of: Option<Place<R>>,
}

enum Place<R> {
    Between(Taken<R>),
    /// With what the file had given before it, and what it has unpacked to.
    Member(Box<GzDecoder<Taken<R>>>, u64, u64),
}

/// Counts what is taken from a file.
struct Taken<R> {
    file: R,
    count: u64,
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let damaged = |why: &str| Err(io::Error::new(ErrorKind::InvalidData, why));
        if bytes.is_empty() {
            return Ok(0);
        }
        while let Some(place) = &mut self.of {
            match place {
                Place::Between(file) => {
                    // A decoder would wait for more of what is no member.
                    let begins = file.fill_buf()?.first().map(|byte| *byte == 0x1f);
                    let Some(Place::Between(file)) = self.of.take() else { break };
                    match begins {
                        None => {}
                        Some(true) => {
                            let before = file.count;
                            self.of = Some(Place::Member(Box::new(GzDecoder::new(file)), before, 0));
                        }
                        Some(false) => return damaged("something else than a gzip member"),
                    }
                }
                Place::Member(member, _, plain) => {
                    let count = member.read(bytes)?;
                    if count > 0 {
                        *plain += u64::try_from(count).unwrap_or(0);
                        return Ok(count);
                    }
                    let Some(Place::Member(member, before, plain)) = self.of.take() else { break };
                    let said = member.header().and_then(|header| header.extra()).and_then(said);
                    let file = member.into_inner();
                    if said.is_some_and(|said| said != [file.count - before, plain]) {
                        return damaged("a gzip member has other lengths than it says");
                    }
                    self.of = Some(Place::Between(file));
                }
            }
        }
        Ok(0)
    }
}

/// Bytes packed, all of the member, and unpacked.
fn said(extra: &[u8]) -> Option<[u64; 2]> {
    let (packed, plain) = extra.strip_prefix(b"MG\x08\0")?.split_first_chunk::<4>()?;
    let plain: [u8; 4] = plain.try_into().ok()?;
    Some([u32::from_le_bytes(*packed).into(), u32::from_le_bytes(plain).into()])
}

impl<R: BufRead> Read for Taken<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(bytes)?;
        self.count += u64::try_from(count).unwrap_or(0);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Taken<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.file.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.count += u64::try_from(count).unwrap_or(0);
        self.file.consume(count);
    }
}

struct Counted {
    file: File,
    read: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(bytes)?;
        self.read.set(self.read.get() + u64::try_from(count).unwrap_or(0));
        Ok(count)
    }
}

/// The next whole lines, how many, and what is wrong behind them. None: the file ends.
fn block(file: &mut impl BufRead) -> (Vec<u8>, u64, Option<End>) {
    let (mut lines, mut count) = (Vec::with_capacity(BLOCK_BYTES), 0);
    while lines.len() < BLOCK_BYTES {
        let whole = lines.len();
        match file.take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut lines) {
            Ok(0) => break,
            Ok(_) if lines.last() == Some(&b'\n') => count += 1,
            Ok(_) => {
                lines.truncate(whole);
                return (lines, count, Some(End::Torn));
            }
            Err(error) => {
                lines.truncate(whole);
                return (lines, count, Some(End::Unreadable(error)));
            }
        }
    }
    (lines, count, None)
}
