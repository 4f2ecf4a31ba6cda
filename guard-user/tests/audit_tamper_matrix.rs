//! A table of what may be done to a trail, and what the guard's verifier, the offline one and the documented one say of it.
//!
//! A row is a name, the trail that it is done to, what is done, and the one verdict of all three. None passes in silence: the few
//! changes after which a trail is sound are told in its report, or change nothing that anybody reads.

mod written;

use std::fs::{self, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::{DeflateEncoder, GzEncoder};
use jiff::{SignedDuration, Timestamp};
use mcp_guard::audit::{self, Pruning, Retention, Verdict, VerifierKey};
use written::verifier::{note, trail, tree};
use written::{CHECKPOINT, Trail, VERIFIER_KEY};

const SOUND: u8 = 0;
const TAMPERED: u8 = 1;
const INCOMPLETE: u8 = 2;
const UNREADABLE: u8 = 3;

/// Bytes of a full file of these trails, and of records in each member of a packed one.
const SEGMENT_BYTES: u64 = 12_000;
const MEMBER_BYTES: usize = 3_000;

/// What a row is done to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Full files, packed in several members each, and one that is written to.
    Packed,
    /// The same with all full files as they were before they were packed.
    Plain,
    /// One whose beginning was removed by rule.
    Pruned,
}

struct Row {
    name: &'static str,
    kind: Kind,
    change: fn(&Copied<'_>),
    /// With an older checkpoint, that was copied before.
    since: bool,
    says: u8,
}

const fn row(name: &'static str, kind: Kind, says: u8, change: fn(&Copied<'_>)) -> Row {
    Row { name, kind, change, since: false, says }
}

const fn since(name: &'static str, kind: Kind, says: u8, change: fn(&Copied<'_>)) -> Row {
    Row { name, kind, change, since: true, says }
}

/// A trail to change, and what others there are.
struct Copied<'a> {
    dir: PathBuf,
    made: &'a Made,
}

/// The trails, as they were written.
struct Made {
    packed: tempfile::TempDir,
    plain: tempfile::TempDir,
    pruned: tempfile::TempDir,
    /// The packed one as it was earlier.
    earlier: tempfile::TempDir,
    /// Somebody else's.
    other: tempfile::TempDir,
}

use Kind::{Packed, Plain, Pruned};

/// To add one: say what is done, and to what.
#[expect(clippy::semicolon_if_nothing_returned, reason = "a change is one expression")]
const ROWS: &[Row] = &[
    row("nothing", Packed, SOUND, |_| {}),
    row("nothing, before packing", Plain, SOUND, |_| {}),
    row("nothing, pruned", Pruned, SOUND, |_| {}),
    // Lines.
    row("a byte flipped", Plain, TAMPERED, |it| it.bytes(0, |bytes| bytes[700] ^= 1)),
    row("a byte flipped in the last line", Plain, TAMPERED, |it| {
        it.bytes(it.last(), |bytes| *bytes.iter_mut().rev().nth(20).unwrap() ^= 1);
    }),
    row("two lines swapped", Plain, TAMPERED, |it| it.lines(0, |lines| lines.swap(2, 3))),
    row("the first line gone", Plain, TAMPERED, |it| it.lines(0, |lines| drop(lines.remove(0)))),
    row("a middle line gone", Plain, TAMPERED, |it| it.lines(1, |lines| drop(lines.remove(2)))),
    row("the last line of a full file gone", Plain, INCOMPLETE, |it| it.lines(0, |lines| drop(lines.pop()))),
    row("the last line of all gone", Plain, INCOMPLETE, |it| it.lines(it.last(), |lines| drop(lines.pop()))),
    row("a line twice", Plain, TAMPERED, |it| it.lines(0, |lines| lines.insert(3, lines[3].clone()))),
    row("a line moved to the next file", Plain, INCOMPLETE, |it| {
        let mut moved = Vec::new();
        it.lines(0, |lines| moved = lines.pop().unwrap());
        it.lines(1, |lines| lines.insert(0, moved.clone()));
    }),
    row("lines end with CR LF", Plain, TAMPERED, |it| {
        it.lines(0, |lines| lines.iter_mut().for_each(|line| line.insert(line.len() - 1, b'\r')));
    }),
    row("a torn end", Plain, INCOMPLETE, |it| it.bytes(it.last(), |bytes| bytes.extend(b"{\"seq\":"))),
    row("an empty line", Plain, TAMPERED, |it| it.lines(0, |lines| lines.insert(1, b"\n".to_vec()))),
    // What is behind the checkpoint is told as unsigned, and has one form.
    row("a record added behind the checkpoint", Plain, SOUND, |it| {
        it.add(r#""kind":"denied_connection""#);
        let key = it.key();
        let ours = audit::verify(&it.dir, Some(&VerifierKey::parse(&key).unwrap()), None);
        assert_eq!(ours.unsigned_records, 1);
        assert_eq!(it.offline(None).unsigned_records, 1);
        assert!(it.documented(None).1.contains("1 of them behind the signed checkpoint"));
    }),
    row("one with letters of others there", Plain, TAMPERED, |it| {
        it.add("\"kind\":\"note\",\"text\":\"\u{e9}\"")
    }),
    row("one with a tab there", Plain, TAMPERED, |it| it.add("\"kind\":\"note\",\t\"text\":1")),
    row("one with its members in another order there", Plain, TAMPERED, |it| {
        it.add_line(|seq, prev| {
            format!(r#"{{"prev":"{prev}","seq":{seq},"time":"2026-01-01T00:00:00Z","kind":"note"}}"#)
        });
    }),
    row("one with a blank before its number there", Plain, TAMPERED, |it| {
        it.add_line(|seq, prev| {
            format!(r#"{{"seq": {seq},"prev":"{prev}","time":"2026-01-01T00:00:00Z","kind":"note"}}"#)
        });
    }),
    row("one that says that a record was pruned there", Plain, TAMPERED, |it| {
        let to = it.first(1);
        it.add(&format!(r#""kind":"pruned","to":{to},"cause":"policy","records":{to},"files":1,"bytes":1"#));
        it.remove(0);
    }),
    // Files.
    row("the first file gone", Packed, TAMPERED, |it| it.remove(0)),
    row("a middle file gone", Packed, INCOMPLETE, |it| it.remove(1)),
    row("the last file gone", Packed, INCOMPLETE, |it| it.remove(it.last())),
    row("all files gone", Packed, INCOMPLETE, |it| {
        it.segments().iter().for_each(|path| fs::remove_file(path).unwrap())
    }),
    row("a file with another number", Packed, INCOMPLETE, |it| {
        let path = it.segment(1);
        fs::rename(&path, it.dir.join(format!("{:020}.jsonl.gz", it.first(1) + 1))).unwrap();
    }),
    row("a file with another name", Packed, INCOMPLETE, |it| {
        fs::rename(it.segment(1), it.dir.join("old.gz")).unwrap()
    }),
    row("two files change names", Packed, TAMPERED, |it| {
        let (one, other) = (fs::read(it.segment(0)).unwrap(), fs::read(it.segment(1)).unwrap());
        fs::write(it.segment(0), other).unwrap();
        fs::write(it.segment(1), one).unwrap();
    }),
    row("a file of another trail", Packed, TAMPERED, |it| {
        fs::copy(&segments(it.made.other.path())[0], it.segment(0)).unwrap();
    }),
    row("a directory in a file's place", Packed, UNREADABLE, |it| {
        let path = it.segment(1);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
    }),
    // Packed files.
    row("a packed byte flipped", Packed, TAMPERED, |it| it.bytes(0, |bytes| bytes[200] ^= 4)),
    row("a member left out", Packed, TAMPERED, |it| it.members(0, |members| drop(members.remove(1)))),
    row("the last member left out", Packed, INCOMPLETE, |it| it.members(0, |members| drop(members.pop()))),
    row("two members swapped", Packed, TAMPERED, |it| it.members(0, |members| members.swap(1, 2))),
    row("a member twice", Packed, TAMPERED, |it| {
        it.members(0, |members| members.insert(1, members[1].clone()))
    }),
    row("another member behind the last", Packed, TAMPERED, |it| {
        it.members(0, |members| members.push(member(b"{}\n")))
    }),
    row("an empty member behind the last", Packed, SOUND, |it| {
        it.members(0, |members| members.push(gzip(b"")))
    }),
    row("cut within a member", Packed, INCOMPLETE, |it| {
        it.bytes(0, |bytes| bytes.truncate(bytes.len() - 30))
    }),
    row("cut to nothing", Packed, INCOMPLETE, |it| it.bytes(0, Vec::clear)),
    row("zeros behind the last member", Packed, TAMPERED, |it| it.bytes(0, |bytes| bytes.extend([0; 512]))),
    row("a zero behind the last member", Packed, TAMPERED, |it| it.bytes(0, |bytes| bytes.push(0))),
    row("zeros between members", Packed, TAMPERED, |it| {
        it.members(0, |members| members.insert(1, vec![0; 8]))
    }),
    row("text behind the last member", Packed, TAMPERED, |it| it.bytes(0, |bytes| bytes.extend(b"more"))),
    row("a member says that it is longer packed", Packed, TAMPERED, |it| it.length(1, PACKED, 7)),
    row("a member says that it is longer unpacked", Packed, TAMPERED, |it| it.length(1, UNPACKED, 700)),
    row("the first member hides the second from who seeks", Packed, TAMPERED, |it| {
        // It seems to be as long as both.
        it.members(0, |members| {
            let (packed, plain) = (lengths(&members[0]), lengths(&members[1]));
            set(&mut members[0], PACKED, packed.0 + plain.0);
            set(&mut members[0], UNPACKED, packed.1 + plain.1);
        });
    }),
    row("the last member says that it has no length", Packed, TAMPERED, |it| {
        it.members(0, |members| set(members.last_mut().unwrap(), UNPACKED, 0));
    }),
    row("a changed line, packed anew with right lengths", Packed, TAMPERED, |it| {
        it.members(1, |members| {
            members[1] = member(&unpacked(&members[1]).replacen(b"support-agent", b"another-agent"))
        });
    }),
    row("packed anew by gzip", Packed, SOUND, |it| it.repack(0, gzip)),
    row("both forms, the same", Packed, SOUND, |it| drop(it.unpack(0))),
    row("both forms, the plain one changed", Packed, TAMPERED, |it| {
        let plain = it.unpack(0);
        let mut bytes = fs::read(&plain).unwrap();
        bytes[700] ^= 1;
        fs::write(plain, bytes).unwrap();
    }),
    // The plain one counts for all: the other is what an interrupted packing left.
    row("both forms, the packed one cut", Packed, SOUND, |it| {
        let packed = it.segment(0);
        it.unpack(0);
        it.bytes_of(&packed, |bytes| bytes.truncate(100));
    }),
    // What was pruned.
    row("more gone than was said", Pruned, TAMPERED, |it| it.remove(0)),
    row("how the trail stood, changed", Pruned, TAMPERED, |it| {
        it.repack(0, |plain| gzip(&plain.to_vec().replacen(br#""open_count":0"#, br#""open_count":1"#)));
    }),
    since("an older checkpoint of what was pruned", Pruned, INCOMPLETE, |_| {}),
    // Checkpoints and keys.
    row("no checkpoint", Packed, INCOMPLETE, |it| fs::remove_file(it.dir.join(CHECKPOINT)).unwrap()),
    row("an empty checkpoint", Packed, TAMPERED, |it| fs::write(it.dir.join(CHECKPOINT), "").unwrap()),
    row("a checkpoint of no text", Packed, TAMPERED, |it| {
        fs::write(it.dir.join(CHECKPOINT), [0xff, 0xfe]).unwrap()
    }),
    row("a checkpoint with a changed size", Packed, TAMPERED, |it| {
        let text = fs::read_to_string(it.dir.join(CHECKPOINT)).unwrap();
        let mut lines: Vec<_> = text.split('\n').map(str::to_owned).collect();
        lines[1] = "3".into();
        fs::write(it.dir.join(CHECKPOINT), lines.join("\n")).unwrap();
    }),
    row("a checkpoint of another trail", Packed, TAMPERED, |it| it.take(it.made.other.path(), CHECKPOINT)),
    row("an older checkpoint of the same trail", Packed, SOUND, |it| {
        it.take(it.made.earlier.path(), CHECKPOINT);
        assert!(it.offline(None).unsigned_records > 10, "it is told");
    }),
    row("another trail, with its key and checkpoint", Packed, TAMPERED, |it| {
        it.replace(it.made.other.path())
    }),
    since("an earlier copy of the whole directory", Packed, INCOMPLETE, |it| {
        it.replace(it.made.earlier.path())
    }),
    row("the same, without a later checkpoint to compare", Packed, SOUND, |it| {
        it.replace(it.made.earlier.path())
    }),
];

/// Where the two lengths of a member stand.
const PACKED: usize = 16;
const UNPACKED: usize = 20;

trait Replacen {
    fn replacen(&self, from: &[u8], to: &[u8]) -> Vec<u8>;
}

impl Replacen for Vec<u8> {
    /// The first one, which must be there.
    fn replacen(&self, from: &[u8], to: &[u8]) -> Vec<u8> {
        let at = memchr::memmem::find(self, from).expect("it is there");
        [&self[..at], to, &self[at + from.len()..]].concat()
    }
}

impl Copied<'_> {
    fn segments(&self) -> Vec<PathBuf> {
        segments(&self.dir)
    }

    fn segment(&self, at: usize) -> PathBuf {
        self.segments()[at].clone()
    }

    fn last(&self) -> usize {
        self.segments().len() - 1
    }

    /// The first record of a file.
    fn first(&self, at: usize) -> u64 {
        self.segment(at).file_name().unwrap().to_str().unwrap()[..20].parse().unwrap()
    }

    fn remove(&self, at: usize) {
        fs::remove_file(self.segment(at)).unwrap();
    }

    fn bytes(&self, at: usize, change: impl FnOnce(&mut Vec<u8>)) {
        self.bytes_of(&self.segment(at), change);
    }

    fn bytes_of(&self, path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
        assert!(path.starts_with(&self.dir));
        let mut bytes = fs::read(path).unwrap();
        change(&mut bytes);
        fs::write(path, bytes).unwrap();
    }

    fn lines(&self, at: usize, change: impl FnOnce(&mut Vec<Vec<u8>>)) {
        self.bytes(at, |bytes| {
            let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect();
            change(&mut lines);
            *bytes = lines.concat();
        });
    }

    fn members(&self, at: usize, change: impl FnOnce(&mut Vec<Vec<u8>>)) {
        self.bytes(at, |bytes| {
            let mut members = members(bytes);
            assert!(members.len() > 2);
            change(&mut members);
            *bytes = members.concat();
        });
    }

    /// Adds to one of the lengths that a member says it has.
    fn length(&self, member: usize, which: usize, more: u32) {
        self.members(0, |members| {
            let (packed, plain) = lengths(&members[member]);
            set(&mut members[member], which, if which == PACKED { packed } else { plain } + more);
        });
    }

    fn repack(&self, at: usize, pack: impl Fn(&[u8]) -> Vec<u8>) {
        self.bytes(at, |bytes| {
            let plain: Vec<u8> = members(bytes).iter().flat_map(|member| unpacked(member)).collect();
            *bytes = pack(&plain);
        });
    }

    /// Puts the plain form beside the packed one.
    fn unpack(&self, at: usize) -> PathBuf {
        let path = self.segment(at);
        let bytes: Vec<u8> =
            members(&fs::read(&path).unwrap()).iter().flat_map(|member| unpacked(member)).collect();
        fs::write(path.with_extension(""), bytes).unwrap();
        path.with_extension("")
    }

    /// A record with these members, and a right link, behind the last.
    fn add(&self, members: &str) {
        self.add_line(|seq, prev| {
            format!(r#"{{"seq":{seq},"prev":"{prev}","time":"2026-01-01T00:00:00.000000Z",{members}}}"#)
        });
    }

    fn add_line(&self, line: impl FnOnce(u64, &str) -> String) {
        let (first, last) = (self.first(self.last()), self.last());
        self.lines(last, |lines| {
            let prev = note::hex(&tree::leaf(lines.last().unwrap().trim_ascii_end()));
            let line = line(first + lines.len() as u64, &prev);
            lines.push(format!("{line}\n").into_bytes());
        });
    }

    fn take(&self, from: &Path, name: &str) {
        fs::copy(from.join(name), self.dir.join(name)).unwrap();
    }

    fn replace(&self, with: &Path) {
        for entry in fs::read_dir(&self.dir).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        copy(with, &self.dir);
    }

    fn key(&self) -> String {
        fs::read_to_string(self.made.packed.path().join(VERIFIER_KEY)).unwrap()
    }

    fn offline(&self, since: Option<&Path>) -> trail::Report {
        let key = self.key();
        trail::verify(&trail::Wanted { dir: &self.dir, key: Some(&key), keys: None, since }, |_, _| {})
    }

    fn documented(&self, since: Option<&Path>) -> (u8, String) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/verify_trail.py");
        let key = self.made.packed.path().join(VERIFIER_KEY);
        let ran = Command::new("python3").arg(script).arg(&self.dir).arg(key).args(since).output().unwrap();
        let text = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(ran.stderr.is_empty(), "{}", String::from_utf8_lossy(&ran.stderr));
        (ran.status.code().unwrap().try_into().unwrap(), text)
    }

    /// What the three say, and their words.
    fn verdicts(&self, since: Option<&Path>) -> ([u8; 3], String) {
        let ours = audit::verify(&self.dir, Some(&VerifierKey::parse(&self.key()).unwrap()), since);
        let code = match ours.verdict {
            Verdict::Sound => SOUND,
            Verdict::Tampered => TAMPERED,
            Verdict::Incomplete => INCOMPLETE,
            Verdict::Unreadable => UNREADABLE,
        };
        let theirs = self.offline(since);
        let (documented, text) = self.documented(since);
        let words = format!("{:?}\n    {:?}\n    {text}", ours.fault, theirs.fault);
        ([code, theirs.verdict().code(), documented], words)
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<_> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    all.retain(|path| {
        path.to_string_lossy().ends_with(".jsonl") || path.to_string_lossy().ends_with(".jsonl.gz")
    });
    all.sort();
    all
}

/// As the guard packs, but for the size of a member.
fn member(plain: &[u8]) -> Vec<u8> {
    let mut encoder = DeflateEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(plain).unwrap();
    let deflated = encoder.finish().unwrap();
    let mut crc = flate2::Crc::new();
    crc.update(plain);
    let head = [0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 0xff, 12, 0, b'M', b'G', 8, 0];
    let length = u32::try_from(plain.len()).unwrap().to_le_bytes();
    let all = u32::try_from(head.len() + 8 + deflated.len() + 8).unwrap().to_le_bytes();
    [&head[..], &all, &length, &deflated, &crc.sum().to_le_bytes(), &length].concat()
}

fn gzip(plain: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(plain).unwrap();
    encoder.finish().unwrap()
}

/// Packed and unpacked, as the member says.
fn lengths(member: &[u8]) -> (u32, u32) {
    let number = |at: usize| u32::from_le_bytes(member[at..at + 4].try_into().unwrap());
    (number(PACKED), number(UNPACKED))
}

fn set(member: &mut [u8], which: usize, length: u32) {
    member[which..which + 4].copy_from_slice(&length.to_le_bytes());
}

fn members(packed: &[u8]) -> Vec<Vec<u8>> {
    let (mut all, mut rest) = (Vec::new(), packed);
    while !rest.is_empty() {
        let (one, others) = rest.split_at(lengths(rest).0 as usize);
        all.push(one.to_vec());
        rest = others;
    }
    all
}

fn unpacked(member: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(member), &mut plain).unwrap();
    plain
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let copy = to.join(path.file_name().unwrap());
        fs::copy(&path, &copy).unwrap();
        fs::set_permissions(copy, Permissions::from_mode(0o600)).unwrap();
    }
}

/// In smaller members, so that there are several.
fn in_small_members(dir: &Path) {
    for path in segments(dir).into_iter().filter(|path| path.extension().is_some_and(|ending| ending == "gz"))
    {
        let plain: Vec<u8> =
            members(&fs::read(&path).unwrap()).iter().flat_map(|member| unpacked(member)).collect();
        fs::write(path, plain.chunks(MEMBER_BYTES).flat_map(member).collect::<Vec<u8>>()).unwrap();
    }
}

async fn made() -> Made {
    let retention = || Retention { segment_bytes: SEGMENT_BYTES, ..Retention::default() };
    let directory = || tempfile::tempdir().unwrap();
    let (earlier, plain, packed, pruned) = (directory(), directory(), directory(), directory());
    let mut trail = Trail { dir: directory() };
    trail.append_with(20, retention()).await;
    in_small_members(trail.dir.path());
    copy(trail.dir.path(), earlier.path());
    trail.append_with(25, retention()).await;
    in_small_members(trail.dir.path());
    copy(trail.dir.path(), packed.path());
    copy(trail.dir.path(), plain.path());
    for path in segments(plain.path())
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ending| ending == "gz"))
    {
        let bytes: Vec<u8> =
            members(&fs::read(&path).unwrap()).iter().flat_map(|member| unpacked(member)).collect();
        fs::write(path.with_extension(""), bytes).unwrap();
        fs::remove_file(path).unwrap();
    }
    let before = Some(Timestamp::now() + SignedDuration::from_secs(60));
    trail.prune(Pruning { before, ..Pruning::default() }).await;
    trail.append_with(30, retention()).await;
    in_small_members(trail.dir.path());
    copy(trail.dir.path(), pruned.path());
    trail.dir = directory();
    trail.append_with(20, retention()).await;
    Made { packed, plain, pruned, earlier, other: trail.dir }
}

#[tokio::test]
async fn audit_tamper_matrix() {
    let made = made().await;
    let mut wrong = Vec::new();
    for row in ROWS {
        let dir = tempfile::tempdir().unwrap();
        let from = match row.kind {
            Packed => &made.packed,
            Plain => &made.plain,
            Pruned => &made.pruned,
        };
        copy(from.path(), dir.path());
        let it = Copied { dir: dir.path().to_owned(), made: &made };
        (row.change)(&it);
        // Of the trail before it was pruned, or put back.
        let later = if row.kind == Pruned { &made.earlier } else { &made.packed }.path().join(CHECKPOINT);
        let (said, words) = it.verdicts(row.since.then_some(later.as_path()));
        println!("{:<60} {:?} {said:?}", row.name, row.kind);
        if said != [row.says; 3] {
            wrong.push(format!(
                "{} ({:?}): {said:?} instead of {}\n    {words}",
                row.name, row.kind, row.says
            ));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), ROWS.len(), wrong.join("\n"));
}
