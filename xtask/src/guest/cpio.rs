//! Writes an archive of the format `newc`, which the kernel unpacks as its first file system.

use std::collections::BTreeSet;
use std::io::{self, Write};

const DIR: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LAST: &str = "TRAILER!!!";

/// An archive that is being written.
pub(super) struct Cpio<W> {
    out: W,
    dirs: BTreeSet<String>,
    inode: u32,
}

impl<W: Write> Cpio<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, dirs: BTreeSet::new(), inode: 0 }
    }

    /// Adds a directory, unless it is there. Its parent must be.
    pub(super) fn dir(&mut self, path: &str) -> io::Result<()> {
        if self.dirs.insert(path.to_owned()) { self.entry(path, DIR | 0o755, &[]) } else { Ok(()) }
    }

    pub(super) fn file(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.entry(path, FILE | mode, bytes)
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.entry(LAST, 0, &[])?;
        self.out.flush()
    }

    fn entry(&mut self, path: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.inode += 1;
        let length = |length: usize| u32::try_from(length).map_err(io::Error::other);
        let (size, name) = (length(bytes.len())?, length(path.len() + 1)?);
        // inode, mode, uid, gid, links, time, size, four device numbers, length of the name, no checksum.
        let fields = [self.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name, 0];
        self.out.write_all(b"070701")?;
        for field in fields {
            write!(self.out, "{field:08x}")?;
        }
        self.out.write_all(path.as_bytes())?;
        self.out.write_all(&[0])?;
        // Head and name together, and the bytes, each end at a multiple of four.
        self.fill(110 + path.len() + 1)?;
        self.out.write_all(bytes)?;
        self.fill(bytes.len())
    }

    fn fill(&mut self, written: usize) -> io::Result<()> {
        let missing = written.next_multiple_of(4) - written;
        self.out.write_all(&[0; 4][..missing])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_aligned_and_the_last_one_ends_the_archive() {
        let mut out = Vec::new();
        let mut cpio = Cpio::new(&mut out);
        cpio.dir("a").unwrap();
        cpio.dir("a").unwrap();
        cpio.file("a/b", 0o755, b"hello").unwrap();
        cpio.finish().unwrap();
        let heads: Vec<usize> = (0..out.len()).filter(|at| out[*at..].starts_with(b"070701")).collect();
        // 110 + "a\0" is 112; 110 + "a/b\0" is 114, filled to 116, and five bytes filled to eight.
        assert_eq!(heads, [0, 112, 112 + 116 + 8]);
        assert_eq!(&out[110..112], b"a\0");
        assert!(out.ends_with(b"TRAILER!!!\0\0\0\0"), "{:?}", &out[heads[2]..]);
    }
}
