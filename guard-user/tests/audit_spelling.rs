//! Records that are valid JSON, in spellings and with types that the guard does not write: its verifier, the offline one and the documented one
//! say the same of each.
//!
//! The trails are made here, by one who has a key; what stands behind their signed checkpoint anybody could have written.

mod written;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer, SigningKey};
use mcp_guard::audit;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use sha2::{Digest, Sha256};
use written::verifier::{note, trail, tree};
use written::{CHECKPOINT, SEGMENT, VERIFIER_KEY};

const SOUND: u8 = 0;
const TAMPERED: u8 = 1;

const NAME: &str = "box/mcp-guard/1";
const GENESIS: &str = r#""kind":"genesis","format":1,"origin":"box/mcp-guard/1""#;
const CALL: &str = r#""kind":"call","id":"c1","decision":"allow""#;
const PLAIN: &str = r#""kind":"denied","pid":7,"comm":"caf\u00e9""#;

/// Generated records, besides those of the table.
const GENERATED: usize = 300;

/// Trails to be told about, each in a directory.
struct Trails {
    all: tempfile::TempDir,
    names: Vec<String>,
}

fn key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

fn id() -> [u8; 4] {
    let public = key().verifying_key().to_bytes();
    let hash = Sha256::new().chain_update(NAME).chain_update([b'\n', 1]).chain_update(public).finalize();
    hash[..4].try_into().unwrap()
}

/// Of this many records, with so many signatures of strangers before the right one.
fn signed(size: usize, root: [u8; 32], strangers: &[String]) -> String {
    let text = format!("{NAME}\n{size}\n{}\n", BASE64.encode(root));
    let signature = BASE64.encode([&id()[..], &key().sign(text.as_bytes()).to_bytes()].concat());
    format!("{text}\n{}\u{2014} {NAME} {signature}\n", strangers.concat())
}

/// The records before `behind`, and those, with right links. `@NOTE@` and `@ROOT@` are what a checkpoint has there.
fn lines(before: &[&str], behind: &[String]) -> (Vec<String>, [u8; 32]) {
    let (mut prev, mut tree, mut root, mut lines) = ([0; 32], tree::Tree::default(), [0; 32], Vec::new());
    let bodies = before.iter().map(|body| (*body).to_owned()).chain(behind.iter().cloned());
    for (seq, body) in bodies.enumerate() {
        let own =
            serde_json::to_string(&signed(seq, tree.root(), &[])).unwrap().replace('\u{2014}', "\\u2014");
        let body = body.replace("\"@NOTE@\"", &own).replace("@ROOT@", &BASE64.encode(tree.root()));
        let prev_hex = note::hex(&prev);
        let line =
            format!(r#"{{"seq":{seq},"prev":"{prev_hex}","time":"2026-01-01T00:00:00.000000Z",{body}"#) + "}";
        prev = tree::leaf(line.as_bytes());
        tree.add(prev);
        lines.push(line + "\n");
        if seq + 1 == before.len() {
            root = tree.root();
        }
    }
    (lines, root)
}

impl Trails {
    fn new() -> Self {
        Self { all: tempfile::tempdir().unwrap(), names: Vec::new() }
    }

    fn paths(&self) -> impl Iterator<Item = PathBuf> {
        (0..self.names.len()).map(|number| self.all.path().join(number.to_string()))
    }

    /// The checkpoint covers what is `before`, and says so behind `strangers`.
    fn add(&mut self, name: &str, before: &[&str], behind: &[String], strangers: &[String]) -> PathBuf {
        let dir = self.all.path().join(self.names.len().to_string());
        self.names.push(name.to_owned());
        fs::create_dir(&dir).unwrap();
        let (lines, root) = lines(before, behind);
        fs::write(dir.join(SEGMENT), lines.concat()).unwrap();
        fs::write(dir.join(CHECKPOINT), signed(before.len(), root, strangers)).unwrap();
        let public = BASE64.encode([&[1], &key().verifying_key().to_bytes()[..]].concat());
        fs::write(dir.join(VERIFIER_KEY), format!("{NAME}+{}+{public}\n", note::hex(&id()))).unwrap();
        dir
    }

    /// A trail whose records before the fourth are gone, with all records signed.
    fn add_pruned(&mut self, name: &str, first: &str) {
        let before = [GENESIS, PLAIN, PLAIN, PLAIN, first, r#""kind":"pruned","to":4"#];
        let dir = self.add(name, &before, &[], &[]);
        let text = fs::read_to_string(dir.join(SEGMENT)).unwrap();
        fs::remove_file(dir.join(SEGMENT)).unwrap();
        let left: String = text.split_inclusive('\n').skip(4).collect();
        fs::write(dir.join("00000000000000000004.jsonl"), left).unwrap();
    }

    /// What the three say of each.
    fn verdicts(&self) -> Vec<([u8; 3], String)> {
        let documented = documented(&self.paths().collect::<Vec<_>>());
        let one = |(dir, (documented, text)): (PathBuf, (u8, String))| {
            let ours = audit::verify(&dir, None, None);
            let wanted = trail::Wanted { dir: &dir, key: None, keys: None, since: None };
            let theirs = trail::verify(&wanted, |_, _| {});
            let words = format!("{:?}\n    {:?}\n    {text}", ours.fault, theirs.fault);
            ([ours.verdict as u8, theirs.verdict().code(), documented], words)
        };
        self.paths().zip(documented).map(one).collect()
    }
}

/// All in one process, each as a run of its own.
fn documented(dirs: &[PathBuf]) -> Vec<(u8, String)> {
    const RUNS: &str = "\
import contextlib, io, runpy, sys
script, *dirs = sys.argv[1:]
for dir in dirs:
    sys.argv, out, code = [script, dir], io.StringIO(), 0
    with contextlib.redirect_stdout(out):
        try: runpy.run_path(script, run_name='__main__')
        except SystemExit as end: code = end.code
    print(code, ascii(out.getvalue()))
";
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/verify_trail.py");
    let ran = Command::new("python3").args(["-c", RUNS]).arg(script).args(dirs).output().unwrap();
    assert!(ran.stderr.is_empty(), "{}", String::from_utf8_lossy(&ran.stderr));
    let text = String::from_utf8(ran.stdout).unwrap();
    let each: Vec<_> = text.lines().map(|line| line.split_once(' ').unwrap()).collect();
    assert_eq!(each.len(), dirs.len());
    each.into_iter().map(|(code, text)| (code.parse().unwrap(), text.to_owned())).collect()
}

fn deep(levels: usize) -> String {
    format!(r#""kind":"later","x":{}{}"#, "[".repeat(levels), "]".repeat(levels))
}

/// Name, verdict, and the record behind the signed ones, which leave the call `c1` open.
fn rows() -> Vec<(&'static str, u8, String)> {
    let row = |name, says, body: &str| (name, says, body.to_owned());
    vec![
        row("as the guard writes it", SOUND, PLAIN),
        row(
            "a kind and members that nobody knows",
            SOUND,
            r#""kind":"later","x":{"y":[{"z":null},{"z":-1}]}"#,
        ),
        row("an outcome", SOUND, r#""kind":"outcome","id":"c1","call_seq":1"#),
        // Members twice.
        row("`seq` twice", TAMPERED, r#""kind":"denied","seq":3"#),
        row("`prev` twice", TAMPERED, r#""kind":"denied","prev":"x""#),
        row("`time` twice", TAMPERED, r#""kind":"denied","time":"2027-01-01T00:00:00.000000Z""#),
        row("`kind` twice", TAMPERED, r#""kind":"denied","kind":"outcome""#),
        row("`decision` twice", TAMPERED, r#""kind":"call","id":"c2","decision":"deny","decision":"deny""#),
        row("an unknown member twice", TAMPERED, r#""kind":"denied","x":1,"x":1"#),
        row("a member twice further in", TAMPERED, r#""kind":"denied","x":[{"y":1,"z":2,"y":1}]"#),
        row("a member twice, once escaped", TAMPERED, r#""kind":"denied","xy":1,"x\u0079":1"#),
        row("an empty name twice", TAMPERED, r#""kind":"denied","":1,"":2"#),
        // Texts.
        row("an escaped kind", TAMPERED, r#""kind":"c\u0061ll","id":"c2","decision":"deny""#),
        row("an escaped decision", TAMPERED, r#""kind":"call","id":"c2","decision":"den\u0079""#),
        row("an escaped peak", TAMPERED, r#""kind":"later","peaks":["\u0041"]"#),
        row(
            "a kind with a letter of others",
            SOUND,
            r#""kind":"caf\u00e9","decision":"\u00e9","peaks":["\u00e9"]"#,
        ),
        row("an escape in upper case", TAMPERED, r#""kind":"denied","x":"\u00E9""#),
        row("an escape where there is a shorter one", TAMPERED, r#""kind":"denied","x":"\u000a""#),
        row("an escaped slash", TAMPERED, r#""kind":"denied","x":"\/""#),
        row("a zero and a deletion", SOUND, r#""kind":"denied","x":"\u0000\u007f\b\t\n\f\r\"\\/""#),
        row("a character in two units", SOUND, r#""kind":"denied","x":"\ud83d\ude00""#),
        row("its first unit alone", TAMPERED, r#""kind":"denied","x":"\ud83d""#),
        row("its second unit alone", TAMPERED, r#""kind":"denied","x":"\ude00""#),
        row("both the other way round", TAMPERED, r#""kind":"denied","\ude00\ud83d":1"#),
        row("the first unit twice", TAMPERED, r#""kind":"denied","x":"\ud83d\ud83d\ude00""#),
        // Numbers.
        row("a fraction", TAMPERED, r#""kind":"denied","x":1.0"#),
        row("an exponent", TAMPERED, r#""kind":"denied","x":1e3"#),
        row("a zero below zero", TAMPERED, r#""kind":"denied","x":-0"#),
        row("the largest number", SOUND, r#""kind":"denied","x":18446744073709551615"#),
        row("a larger one", TAMPERED, r#""kind":"denied","x":18446744073709551616"#),
        row("the smallest number", SOUND, r#""kind":"denied","x":-9223372036854775808"#),
        row("a smaller one", TAMPERED, r#""kind":"denied","x":-9223372036854775809"#),
        row("no number", TAMPERED, r#""kind":"denied","x":NaN"#),
        row("no end of numbers", TAMPERED, r#""kind":"denied","x":-Infinity"#),
        row("a fraction for `call_seq`", TAMPERED, r#""kind":"outcome","id":"c1","call_seq":1.0"#),
        row("a truth for `call_seq`", TAMPERED, r#""kind":"outcome","id":"c1","call_seq":true"#),
        row("none for `call_seq`", TAMPERED, r#""kind":"outcome","id":"c9","call_seq":null"#),
        row("a fraction for `open_count`", TAMPERED, r#""kind":"gap","reason":"restart","open_count":1.0"#),
        row("a truth for `open_count`", TAMPERED, r#""kind":"gap","reason":"restart","open_count":true"#),
        row("a gap without a reason", SOUND, r#""kind":"gap","open_count":9"#),
        // Types, in any kind.
        row("a text for `epoch`", TAMPERED, r#""kind":"denied","epoch":"x""#),
        row("a text for `format`", TAMPERED, r#""kind":"denied","format":"x""#),
        row("a number below zero for `to`", TAMPERED, r#""kind":"denied","to":-1"#),
        row("a text for `lost_to`", TAMPERED, r#""kind":"denied","lost_to":"x""#),
        row("a large `format`", SOUND, r#""kind":"denied","format":4294967296"#),
        row("a number for `reason`", TAMPERED, r#""kind":"denied","reason":1"#),
        row("a text for `peaks`", TAMPERED, r#""kind":"denied","peaks":"x""#),
        row("a number in `peaks`", TAMPERED, r#""kind":"denied","peaks":[1]"#),
        row(
            "nothing for all of them",
            SOUND,
            r#""kind":"x","epoch":null,"peaks":null,"to":null,"id":null,"note":null"#,
        ),
        row("nothing for `kind`", TAMPERED, r#""kind":null"#),
        row("no kind", TAMPERED, r#""x":1"#),
        row("a call without a verdict", TAMPERED, r#""kind":"call","id":"c2""#),
        row("a call with an unknown verdict", TAMPERED, r#""kind":"call","id":"c2","decision":"maybe""#),
        row("a refused call without an id", TAMPERED, r#""kind":"call","decision":"deny""#),
        row("a record pruned behind itself", TAMPERED, r#""kind":"pruned","to":3"#),
        row("one pruned up to itself", SOUND, r#""kind":"pruned","to":2"#),
        row("nothing pruned", TAMPERED, r#""kind":"pruned""#),
        // With a key.
        row("a checkpoint", SOUND, r#""kind":"checkpoint","note":"@NOTE@""#),
        row(
            "a checkpoint that says more",
            SOUND,
            r#""kind":"checkpoint","note":"@NOTE@","format":1,"peaks":["@ROOT@"],"open_count":1"#,
        ),
        row(
            "one without peaks",
            SOUND,
            r#""kind":"checkpoint","note":"@NOTE@","format":3,"peaks":null,"open_count":7"#,
        ),
        row(
            "one of another format",
            TAMPERED,
            r#""kind":"checkpoint","note":"@NOTE@","format":2,"peaks":["@ROOT@"],"open_count":1"#,
        ),
        // Blanks and depth.
        row("a blank before a member", TAMPERED, r#" "kind":"denied""#),
        row("a blank behind a colon", TAMPERED, r#""kind": "denied""#),
        row("a blank in a list", TAMPERED, r#""kind":"denied","x":[ ]"#),
        row("a blank before the end", TAMPERED, r#""kind":"denied" "#),
        row("two objects", TAMPERED, r#""kind":"denied"},{"x":1"#),
        row("depth of 32", SOUND, &deep(31)),
        row("depth of 33", TAMPERED, &deep(32)),
        row("depth of 120", TAMPERED, &deep(119)),
        row("depth of 20,000", TAMPERED, &deep(20_000)),
    ]
}

#[test]
fn records_in_other_spellings_have_one_verdict() {
    let mut trails = Trails::new();
    let mut wanted = Vec::new();
    for (name, says, body) in rows() {
        trails.add(name, &[GENESIS, CALL], &[body, PLAIN.to_owned()], &[]);
        wanted.push(says);
    }
    let state = r#""note":"@NOTE@","format":1,"peaks":["@ROOT@"],"open_count":0"#;
    for (name, says, first) in [
        ("a trail that begins with a checkpoint", SOUND, format!(r#""kind":"checkpoint",{state}"#)),
        ("one that begins with another kind", TAMPERED, format!(r#""kind":"later",{state}"#)),
        ("one that begins with a mark of order", TAMPERED, format!("\"kind\":\"\\ufeffcheckpoint\",{state}")),
    ] {
        trails.add_pruned(name, &first);
        wanted.push(says);
    }
    let stranger = |blob: &str| format!("\u{2014} stranger {blob}\n");
    let of_a_key = stranger(&BASE64.encode([3; 68]));
    for (name, says, strangers) in [
        ("63 signatures of strangers before ours", SOUND, vec![of_a_key.clone(); 63]),
        ("64 signatures of strangers before ours", TAMPERED, vec![of_a_key; 64]),
        ("a signature of nobody", TAMPERED, vec![stranger("AAA=")]),
        ("an empty signature", TAMPERED, vec![stranger("")]),
    ] {
        trails.add(name, &[GENESIS, CALL], &[], &strangers);
        wanted.push(says);
    }
    for name in ["99999999999999999999.jsonl", "18446744073709551616.jsonl.gz"] {
        let dir = trails.add(name, &[GENESIS, CALL], &[], &[]);
        fs::write(dir.join(name), "x").unwrap();
        wanted.push(SOUND);
    }
    let dir = trails.add("a mark of order before the first line", &[GENESIS], &[], &[]);
    let text = fs::read_to_string(dir.join(SEGMENT)).unwrap();
    fs::write(dir.join(SEGMENT), format!("\u{feff}{text}")).unwrap();
    wanted.push(TAMPERED);

    let verdicts = trails.verdicts();
    let wrong: Vec<_> = (trails.names.iter().zip(&verdicts).zip(&wanted))
        .filter(|((_, (said, _)), wanted)| *said != [**wanted; 3])
        .map(|((name, (said, words)), wanted)| format!("{name}: {said:?} instead of {wanted}\n    {words}"))
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), wanted.len(), wrong.join("\n"));
}

/// Names that matter, with a value that fits each.
const MEMBERS: &[(&str, &str)] = &[
    ("format", "1"),
    ("origin", r#""box/mcp-guard/1""#),
    ("id", r#""c1""#),
    ("decision", r#""allow""#),
    ("call_seq", "1"),
    ("note", r#""@NOTE@""#),
    ("reason", r#""restart""#),
    ("open_count", "1"),
    ("peaks", r#"["@ROOT@"]"#),
    ("to", "2"),
    ("epoch", "1"),
    ("cause", r#""policy""#),
    ("text", r#""caf\u00e9 \ud83d\ude00""#),
];

/// What JSON allows, and some that only some readers take.
const VALUES: &[&str] = &[
    "null",
    "true",
    "false",
    "0",
    "1",
    "2",
    "-1",
    "-0",
    "1.0",
    "1e0",
    "0.5",
    "1E400",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775809",
    "NaN",
    "Infinity",
    "01",
    "\"\"",
    "\"1\"",
    "\"c2\"",
    "\"deny\"",
    "\"\\u0061\"",
    "\"\\u0000\"",
    "\"\\u007f\"",
    "\"\\ud800\"",
    "\"\\udc00x\"",
    "\"\\u00E9\"",
    "\"\\/\"",
    "[]",
    "[\"\"]",
    "[null]",
    "{}",
    "{\"a\":1,\"a\":1}",
    "{\"a\":{\"b\":1}}",
    "[1, 2]",
];

const KINDS: &[&str] = &[
    "call",
    "outcome",
    "checkpoint",
    "key",
    "pruned",
    "gap",
    "genesis",
    "denied",
    "c\\u0061ll",
    "\\u00e9",
    "",
];

fn body() -> impl Strategy<Value = String> {
    let value = |fits: &'static str| prop_oneof![12 => Just(fits), 1 => prop::sample::select(VALUES)];
    let member = prop::sample::select(MEMBERS).prop_flat_map(move |(name, fits)| (Just(name), value(fits)));
    let spelling =
        prop_oneof![9 => Just(""), 1 => prop::sample::select(&[" ", ",", "}", "\t", "\u{feff}", "\\"][..])];
    (
        prop::sample::select(KINDS),
        prop::collection::vec(member, 0..6),
        any::<prop::sample::Index>(),
        spelling,
        0..9,
    )
        .prop_map(|(kind, mut members, at, put, twice)| {
            // A member that is there twice is seen by all: one in nine is enough.
            if twice > 0 {
                let mut seen = Vec::new();
                members.retain(|(name, _)| {
                    !seen.contains(name) && {
                        seen.push(*name);
                        true
                    }
                });
            }
            let mut body = format!("\"kind\":\"{kind}\"");
            for (name, value) in members {
                body.extend([",\"", name, "\":", value]);
            }
            let at = at.index(body.len());
            body.insert_str(at, put);
            body
        })
}

#[test]
fn records_of_any_spelling_have_one_verdict() {
    let (mut runner, mut trails) = (TestRunner::deterministic(), Trails::new());
    for _ in 0..GENERATED {
        let body = body().new_tree(&mut runner).unwrap().current();
        trails.add(&body, &[GENESIS, CALL], std::slice::from_ref(&body), &[]);
    }
    let verdicts = trails.verdicts();
    let wrong: Vec<_> = (trails.names.iter().zip(&verdicts))
        .filter(|(_, (said, _))| said.iter().any(|one| one != &said[0]))
        .map(|(body, (said, words))| format!("{body}: {said:?}\n    {words}"))
        .collect();
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), verdicts.len(), wrong.join("\n"));
    let sound = verdicts.iter().filter(|(said, _)| said[0] == SOUND).count();
    assert!((GENERATED / 10..GENERATED / 10 * 9).contains(&sound), "{sound} are sound");
}
