//! The trail's key is replaced again and again; who steals today's cannot write yesterday anew.

mod written;

use std::fs;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use ed25519_dalek::{Signer, SigningKey};
use mcp_guard::audit::{self, Claim, Retention, VerifierKey, prove};
use written::verifier::{note, proof, trail, tree};
use written::{CHECKPOINT, SEGMENT, Trail, VERIFIER_KEY, script};

const KEYS: &str = "keys";
/// Where the 32 bytes of the key stand in its PKCS#8 (RFC 8410).
const SEED_AT: usize = 16;

/// Exit codes of all three verifiers, which must agree.
fn code(trail: &Trail, since: Option<&Path>) -> i32 {
    let dir = trail.dir.path();
    let wanted = trail::Wanted { dir, key: None, keys: None, since };
    let theirs = trail::verify(&wanted, |_, _| {});
    let ours = audit::verify(dir, None, since);
    let codes = (i32::from(theirs.verdict().code()), ours.verdict as i32, script(dir, since));
    assert!(codes.0 == codes.1 && codes.1 == codes.2, "{codes:?}\n{:?}\n{:?}", theirs.fault, ours.fault);
    codes.0
}

/// A trail with the records of three keys, ten or more each.
async fn three_keys() -> Trail {
    let trail = Trail { dir: tempfile::tempdir().unwrap() };
    for _ in 0..2 {
        trail.append(3).await;
        trail.hand_over().await;
    }
    trail.append(3).await;
    assert_eq!(trail.hand_overs().len(), 2);
    trail
}

/// Whoever has the files of a host and the key of today.
struct Thief {
    name: String,
    key: SigningKey,
}

impl Thief {
    fn on(trail: &Trail) -> Self {
        let der = fs::read(trail.path("key")).unwrap();
        let seed = der[SEED_AT..SEED_AT + 32].try_into().unwrap();
        let text = fs::read_to_string(trail.path(VERIFIER_KEY)).unwrap();
        Self { name: text.split('+').next().unwrap().to_owned(), key: SigningKey::from_bytes(&seed) }
    }

    fn id(&self) -> [u8; 4] {
        use sha2::{Digest, Sha256};
        let public = self.key.verifying_key().to_bytes();
        let hash = Sha256::new().chain_update(&self.name).chain_update([b'\n', 1]).chain_update(public);
        hash.finalize()[..4].try_into().unwrap()
    }

    fn verifier_key(&self) -> String {
        let public = self.key.verifying_key().to_bytes();
        format!("{}+{}+{}", self.name, note::hex(&self.id()), BASE64.encode([&[1], &public[..]].concat()))
    }

    fn note(&self, size: usize, root: [u8; 32], more: &str) -> String {
        let text = format!("{}\n{size}\n{}\n{more}", self.name, BASE64.encode(root));
        let signature = self.key.sign(text.as_bytes()).to_bytes();
        format!("{text}\n\u{2014} {} {}\n", self.name, BASE64.encode([&self.id()[..], &signature].concat()))
    }

    /// Puts `lines` in the trail's place, with good links and signatures from the first one that is not as it was; those of hand-overs too, if
    /// `signs_keys`.
    fn reseal(&self, trail: &Trail, lines: &[String], genuine: &[String], signs_keys: bool) {
        let (mut prev, mut all, mut tree) = ([0; 32], Vec::new(), tree::Tree::default());
        let (mut keys, mut is_as_it_was) = (String::new(), true);
        for (seq, line) in lines.iter().enumerate() {
            is_as_it_was &= genuine.get(seq) == Some(line);
            let is_key = line.contains(r#""kind":"key""#);
            let mut line = line.clone();
            if !is_as_it_was {
                let rest = line.find(r#"","time":"#).unwrap();
                line = format!(r#"{{"seq":{seq},"prev":"{}{}"#, note::hex(&prev), &line[rest..]);
                if line.contains(r#""kind":"checkpoint""#) || (is_key && signs_keys) {
                    let more = if is_key { format!("{}\n", self.verifier_key()) } else { String::new() };
                    let note = serde_json::to_string(&self.note(seq, tree.root(), &more)).unwrap();
                    let start = line.find(r#""note":"#).unwrap() + 7;
                    let end = start + 1 + line[start + 1..].find('"').unwrap() + 1;
                    line.replace_range(start..end, &note.replace('\u{2014}', "\\u2014"));
                }
            }
            prev = tree::leaf(line.as_bytes());
            tree.add(prev);
            if is_key {
                keys = format!("{keys}{line}\n");
            }
            all.push(line + "\n");
        }
        trail.put(SEGMENT, all.concat().as_bytes());
        trail.put(KEYS, keys.as_bytes());
        trail.put(CHECKPOINT, self.note(lines.len(), tree.root(), "").as_bytes());
    }
}

fn lines(trail: &Trail) -> Vec<String> {
    trail.lines().into_iter().map(|line| String::from_utf8(line).unwrap().trim_end().to_owned()).collect()
}

/// Another agent, in the first record of a call from `from` on.
fn rewritten(lines: &[String], from: usize) -> Vec<String> {
    let mut lines = lines.to_vec();
    let call = lines[from..].iter_mut().find(|line| line.contains(r#""kind":"call""#)).unwrap();
    *call = call.replace("support-agent", "nobody-at-all");
    lines
}

#[tokio::test]
async fn a_trail_with_several_keys_is_sound_and_its_proofs_are() {
    let trail = three_keys().await;
    assert_eq!(code(&trail, None), 0);
    let report = trail::verify(
        &trail::Wanted { dir: trail.dir.path(), key: None, keys: None, since: None },
        |_, _| {},
    );
    assert_eq!((report.keys, audit::verify(trail.dir.path(), None, None).keys), (2, 2));

    let text = fs::read_to_string(trail.path(VERIFIER_KEY)).unwrap();
    let file = trail.path("proof");
    let made = prove(trail.dir.path(), &VerifierKey::parse(&text).unwrap(), Claim::Record(2)).unwrap();
    fs::write(&file, made).unwrap();
    let keys = fs::read_to_string(trail.path(KEYS)).unwrap();
    assert!(proof::verify(&file, (&text, &keys), None).is_ok());
    let fault = proof::verify(&file, (&text, ""), None).unwrap_err();
    assert!(fault.reason.contains("--keys"), "{}", fault.reason);
}

#[tokio::test]
async fn a_thief_of_todays_key_cannot_write_yesterday_anew() {
    let trail = three_keys().await;
    let (lines, thief) = (lines(&trail), Thief::on(&trail));
    let hand_overs = trail.hand_overs();
    let before = fs::read(trail.path(CHECKPOINT)).unwrap();
    let kept = trail.dir.path().join("kept");
    fs::write(&kept, &before).unwrap();
    let genuine = [SEGMENT, KEYS, CHECKPOINT].map(|name| (name, fs::read(trail.path(name)).unwrap()));
    let without = |which: &[usize]| -> Vec<String> {
        lines
            .iter()
            .enumerate()
            .filter(|(seq, _)| !which.contains(seq))
            .map(|(_, line)| line.clone())
            .collect()
    };

    // What the key of today has signed alone it can sign anew: a checkpoint that is kept elsewhere tells.
    thief.reseal(&trail, &rewritten(&lines, hand_overs[1]), &lines, false);
    assert_eq!(code(&trail, None), 0, "the forging below is good, too");
    assert_eq!(code(&trail, Some(&kept)), 1);

    let forgeries = [
        ("a record of the second key", rewritten(&lines, hand_overs[0]), false),
        ("the same, and the last hand-over signed by itself", rewritten(&lines, hand_overs[0]), true),
        ("a record of the first key", rewritten(&lines, 1), false),
        ("the last epoch's beginning dropped", without(&hand_overs[1..]), false),
        ("the second epoch's beginning dropped", without(&hand_overs[..1]), false),
        ("all of them dropped", without(&hand_overs), false),
        ("cut off in the second epoch and sealed with the newer key", lines[..hand_overs[1]].to_vec(), false),
        ("cut off in the first epoch and sealed with the newer key", lines[..hand_overs[0]].to_vec(), false),
        ("the same, with hand-overs of its own", rewritten(&lines, 1), true),
    ];
    for (what, forged, signs) in forgeries {
        thief.reseal(&trail, &forged, &lines, signs);
        assert_eq!(code(&trail, None), 1, "{what}");
    }
    for (name, bytes) in &genuine {
        trail.put(name, bytes);
    }
    assert_eq!(code(&trail, Some(&kept)), 0);
}

#[tokio::test]
async fn a_changed_file_of_keys_is_noticed_and_a_missing_one_named() {
    let trail = three_keys().await;
    let whole = fs::read_to_string(trail.path(KEYS)).unwrap();
    let lines: Vec<_> = whole.split_inclusive('\n').collect();
    for (what, text, expected) in [
        ("the last left out", lines[0].to_owned(), 1),
        ("the first left out", lines[1].to_owned(), 1),
        ("empty", String::new(), 1),
        ("swapped", [lines[1], lines[0]].concat(), 1),
        ("repeated", [lines[0], lines[0], lines[1]].concat(), 1),
        ("cut", whole[..whole.len() - 1].to_owned(), 1),
        ("another time", whole.replacen("\"time\":\"2", "\"time\":\"3", 1), 1),
    ] {
        trail.put(KEYS, text.as_bytes());
        assert_eq!(code(&trail, None), expected, "{what}");
    }
    fs::remove_file(trail.path(KEYS)).unwrap();
    let report = audit::verify(trail.dir.path(), None, None);
    assert_eq!(report.verdict as i32, 2, "{:?}", report.fault);
    assert!(report.fault.unwrap().reason.contains("keys"));
}

/// The end is cut off, with an older checkpoint that is genuine; what is left elsewhere tells.
#[tokio::test]
async fn a_trail_put_back_to_an_older_key_is_told_by_its_file_of_keys_and_by_any_later_checkpoint() {
    let trail = Trail { dir: tempfile::tempdir().unwrap() };
    trail.append(3).await;
    let old = [SEGMENT, KEYS, CHECKPOINT].map(|name| (name, fs::read(trail.path(name)).unwrap()));
    trail.hand_over().await;
    trail.append(1).await;
    let kept = trail.dir.path().join("kept");
    fs::copy(trail.path(CHECKPOINT), &kept).unwrap();
    for (name, bytes) in old.iter().filter(|(name, _)| *name != KEYS) {
        trail.put(name, bytes);
    }
    assert_eq!(code(&trail, None), 2, "the file of keys has one more");
    trail.put(KEYS, &old[1].1);
    assert_eq!(code(&trail, None), 0, "nothing in the directory tells");
    assert_eq!(audit::verify(trail.dir.path(), None, Some(&kept)).verdict as i32, 2);
    assert!(trail.try_open(Retention::default()).is_err(), "its key is gone, and no guard goes on");
}
