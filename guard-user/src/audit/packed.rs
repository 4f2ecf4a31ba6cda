//! Segments that nothing is added to any more, packed with gzip (RFC 1952), and segments in either form to read.
//!
//! Many programs can unpack gzip, and an auditor may have none of ours. A packed segment is several gzip members, one for each MiB or so;
//! each says in its header how long it is packed and unpacked, so that a reader finds its way without unpacking all. Whoever does not
//! know these words reads the members as one file. Whoever unpacks one finds out whether these words are true. Reading takes bounded memory,
//! whatever was packed.

use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::DeflateEncoder;

mod members;

use super::disk::{beside, sync_dir};
use members::Members;

/// Behind the name of a segment.
pub(super) const ENDING: &str = ".gz";
/// Bytes of records in one member.
const MEMBER_BYTES: u64 = 1 << 20;
const BUFFER_BYTES: usize = 256 * 1024;
/// Magic, deflate, an extra field, no time, no flags, unknown system; the extra field's length; its name, and its content's length.
const HEAD: [u8; 16] = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 12, 0, b'M', b'G', 8, 0];
/// With the two lengths.
const HEAD_BYTES: usize = HEAD.len() + 8;
/// CRC-32 and length of what was packed.
const TAIL_BYTES: usize = 8;

/// A segment's bytes as they were written, from `offset` on. A plain one that was packed meanwhile is found.
pub(super) fn open(path: &Path, offset: u64) -> io::Result<Box<dyn BufRead + Send>> {
    let (mut file, is_packed) = file(path)?;
    if !is_packed {
        file.seek(SeekFrom::Start(offset))?;
        return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, file)));
    }
    let mut left = offset;
    while let Some(member) = Member::read(&mut file)? {
        if member.plain > left {
            file.seek(SeekFrom::Current(-Member::head_bytes()))?;
            break;
        }
        left -= member.plain;
        file.seek(SeekFrom::Current(member.rest()))?;
    }
    let mut unpacked = unpack(file)?;
    if io::copy(&mut (&mut unpacked).take(left), &mut io::sink())? < left {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(unpacked)
}

/// The bytes from `offset` on, exactly so many.
pub(super) fn read_exact_at(path: &Path, bytes: &mut [u8], offset: u64) -> io::Result<()> {
    open(path, offset)?.read_exact(bytes)
}

/// Bytes of a segment before it was packed.
pub(super) fn length(path: &Path) -> io::Result<u64> {
    let (mut file, is_packed) = file(path)?;
    if !is_packed {
        return Ok(file.metadata()?.len());
    }
    let mut length = 0_u64;
    while let Some(member) = Member::read(&mut file)? {
        length = length.saturating_add(member.plain);
        file.seek(SeekFrom::Current(member.rest()))?;
    }
    // What others packed does not tell.
    Ok(length.saturating_add(io::copy(&mut unpack(file)?, &mut io::sink())?))
}

/// Of the file in either form.
pub(super) fn metadata(path: &Path) -> io::Result<Metadata> {
    file(path)?.0.metadata()
}

/// Whether a reading failed since what is packed is not as it was written.
pub(super) fn is_damage(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData)
}

pub(super) fn is_packed(path: &Path) -> bool {
    path.extension() == Some(ENDING.trim_start_matches('.').as_ref())
}

/// The name of a plain segment once it is packed.
pub(super) fn name(plain: &Path) -> PathBuf {
    beside(plain, ENDING)
}

/// Packs what `plain` holds. `None`: `is_over` said so before the end. Returns the bytes that were read.
pub(super) fn pack(
    plain: &mut impl Read,
    to: &mut impl Write,
    is_over: impl Fn() -> bool,
) -> io::Result<Option<u64>> {
    let (mut part, mut all) = (Vec::new(), 0);
    loop {
        part.clear();
        if plain.take(MEMBER_BYTES).read_to_end(&mut part)? == 0 {
            return Ok(Some(all));
        }
        if is_over() {
            return Ok(None);
        }
        to.write_all(&member(&part)?)?;
        all += u64::try_from(part.len()).unwrap_or(u64::MAX);
    }
}

/// Whether `packed` holds what `plain` does.
pub(super) fn is_same(plain: impl Read, packed: File, stops: impl Fn() -> bool) -> io::Result<Option<bool>> {
    let mut plain = BufReader::with_capacity(BUFFER_BYTES, plain);
    let mut unpacked = unpack(packed)?;
    loop {
        if stops() {
            return Ok(None);
        }
        let (one, other) = (plain.fill_buf()?, unpacked.fill_buf()?);
        let length = one.len().min(other.len());
        if one.get(..length) != other.get(..length) || (length == 0 && one.len() != other.len()) {
            return Ok(Some(false));
        }
        if length == 0 {
            return Ok(Some(true));
        }
        plain.consume(length);
        unpacked.consume(length);
    }
}

/// Unpacks the file that is written on to, if it is packed, and gives its name then.
pub(super) fn restore(path: &Path) -> io::Result<PathBuf> {
    if !is_packed(path) {
        return Ok(path.to_owned());
    }
    let plain = path.with_extension("");
    let next = beside(&plain, ".next");
    let mut to = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(&next)?;
    // What stood there already has others.
    to.set_permissions(Permissions::from_mode(0o600))?;
    io::copy(&mut open(&plain, 0)?, &mut to)?;
    to.sync_all()?;
    fs::rename(&next, &plain)?;
    let dir = path.parent().unwrap_or(Path::new("."));
    sync_dir(dir)?;
    fs::remove_file(path)?;
    sync_dir(dir)?;
    Ok(plain)
}

fn file(path: &Path) -> io::Result<(File, bool)> {
    match File::open(path) {
        Ok(file) => Ok((file, is_packed(path))),
        Err(error) if error.kind() == ErrorKind::NotFound && !is_packed(path) => {
            File::open(name(path)).map(|file| (file, true)).map_err(|_neither| error)
        }
        Err(error) => Err(error),
    }
}

/// What follows in a packed file; nothing, at its end.
fn unpack(file: File) -> io::Result<Box<dyn BufRead + Send>> {
    let mut file = BufReader::new(file);
    if file.fill_buf()?.is_empty() {
        return Ok(Box::new(io::empty()));
    }
    Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, Members::new(file))))
}

fn member(part: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = DeflateEncoder::new(vec![0; HEAD_BYTES], Compression::fast());
    encoder.write_all(part)?;
    let mut bytes = encoder.finish()?;
    let mut crc = flate2::Crc::new();
    crc.update(part);
    bytes.extend_from_slice(&crc.sum().to_le_bytes());
    let plain = u32::try_from(part.len()).map_err(io::Error::other)?.to_le_bytes();
    bytes.extend_from_slice(&plain);
    let packed = u32::try_from(bytes.len()).map_err(io::Error::other)?.to_le_bytes();
    let head = [HEAD.as_slice(), &packed, &plain].concat();
    if let Some(room) = bytes.get_mut(..HEAD_BYTES) {
        room.copy_from_slice(&head);
    }
    Ok(bytes)
}

/// Packed and unpacked, as the extra field of a member's header says; `None`: others have packed it.
fn lengths(extra: &[u8]) -> Option<(u64, u64)> {
    let lengths = extra.strip_prefix(HEAD.split_at_checked(12)?.1)?;
    let [packed, plain]: [[u8; 4]; 2] = lengths.as_chunks::<4>().0.try_into().ok()?;
    Some((u32::from_le_bytes(packed).into(), u32::from_le_bytes(plain).into()))
}

/// What the header of a member says.
struct Member {
    packed: u64,
    plain: u64,
}

impl Member {
    /// Leaves the file behind the header. `None`: there is no member of ours; the file is where it was.
    fn read(file: &mut File) -> io::Result<Option<Self>> {
        let at = file.stream_position()?;
        let mut head = [0; HEAD_BYTES];
        let lengths = match file.read_exact(&mut head) {
            Ok(()) => head.strip_prefix(&HEAD).and_then(|lengths| lengths.as_chunks::<4>().0.try_into().ok()),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => None,
            Err(error) => return Err(error),
        };
        let member = lengths.map(|[packed, plain]: [[u8; 4]; 2]| Self {
            packed: u64::from(u32::from_le_bytes(packed)),
            plain: u64::from(u32::from_le_bytes(plain)),
        });
        // Else a reader would not get on.
        let least = u64::try_from(HEAD_BYTES + TAIL_BYTES).unwrap_or(u64::MAX);
        let member = member.filter(|member| member.packed > least && member.plain > 0);
        if member.is_none() {
            file.seek(SeekFrom::Start(at))?;
        }
        Ok(member)
    }

    fn head_bytes() -> i64 {
        i64::try_from(HEAD_BYTES).unwrap_or(0)
    }

    /// Behind the header.
    fn rest(&self) -> i64 {
        i64::try_from(self.packed).unwrap_or(i64::MAX).saturating_sub(Self::head_bytes())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Some lines, with long stretches that pack well and others that do not.
    fn lines(count: usize) -> Vec<u8> {
        let line =
            |at: usize| format!("{at} {}\n", hex::encode(super::super::merkle::leaf_hash(&at.to_le_bytes())));
        (0..count).flat_map(|at| line(at).into_bytes()).collect()
    }

    fn compare(plain: &[u8], path: &Path) -> io::Result<bool> {
        is_same(plain, File::open(path).unwrap(), || false).map(|same| same.unwrap())
    }

    fn packed(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("00000000000000000000.jsonl.gz");
        let mut to = Vec::new();
        let mut plain = bytes;
        assert_eq!(pack(&mut plain, &mut to, || false).unwrap(), Some(u64::try_from(bytes.len()).unwrap()));
        fs::write(&path, to).unwrap();
        (dir, path)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn what_was_packed_is_read_again_from_every_place(count in 0_usize..60_000, places in prop::collection::vec(0.0..=1.0_f64, 8)) {
            let plain = lines(count);
            let (_dir, path) = packed(&plain);
            let length = u64::try_from(plain.len()).unwrap();
            prop_assert_eq!(super::length(&path).unwrap(), length);
            prop_assert!(compare(plain.as_slice(), &path).unwrap());
            for place in places {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place, about")]
                let at = (place * plain.len() as f64) as usize;
                let mut rest = Vec::new();
                open(&path, u64::try_from(at).unwrap()).unwrap().read_to_end(&mut rest).unwrap();
                prop_assert!(rest == plain[at..], "from {} of {}", at, plain.len());
            }
            prop_assert!(open(&path, length + 1).is_err());
        }
    }

    #[test]
    fn other_programs_unpack_it_and_what_they_packed_is_read() {
        let plain = lines(40_000);
        let (_dir, path) = packed(&plain);
        let theirs = std::process::Command::new("gzip").arg("-dc").arg(&path).output().unwrap();
        assert!(theirs.status.success() && theirs.stdout == plain);

        let again = path.with_file_name("00000000000000000007.jsonl");
        fs::write(&again, &plain).unwrap();
        assert!(std::process::Command::new("gzip").arg(&again).status().unwrap().success());
        assert_eq!(length(&again).unwrap(), u64::try_from(plain.len()).unwrap());
        let mut rest = Vec::new();
        open(&again, 1_234_567).unwrap().read_to_end(&mut rest).unwrap();
        assert!(rest == plain[1_234_567..]);
    }

    #[test]
    fn a_changed_or_shorter_file_is_not_the_same() {
        let plain = lines(30_000);
        let (_dir, path) = packed(&plain);
        let whole = fs::read(&path).unwrap();
        for at in (0..whole.len()).step_by(whole.len() / 97) {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            for bytes in [&changed[..], &whole[..at]] {
                fs::write(&path, bytes).unwrap();
                let same = compare(plain.as_slice(), &path);
                // A few bytes of a header say nothing of the content.
                let is_harmless = bytes.len() == whole.len() && same.as_ref().is_ok_and(|same| *same);
                assert!(!matches!(same, Ok(true)) || is_harmless, "byte {at}");
            }
        }
        assert!(!compare(&plain[..plain.len() - 1], &path).unwrap_or(false));
        fs::write(&path, whole).unwrap();
        assert!(!compare(&plain[..plain.len() - 1], &path).unwrap());
    }

    #[test]
    fn an_empty_member_ends_no_search() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("00000000000000000000.jsonl.gz");
        let head = [HEAD.as_slice(), &[0; 8]].concat();
        fs::write(&path, head.repeat(3)).unwrap();
        assert!(open(&path, 0).and_then(|mut file| file.read_to_end(&mut Vec::new())).is_err());
        assert!(length(&path).is_err());
    }
}
