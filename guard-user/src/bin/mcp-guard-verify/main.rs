//! Verifies an audit trail offline, from a copy of its directory.
//!
//! This program shares no code with the guard, on purpose: its hashing (`sha2`), its signatures
//! (`ed25519-dalek`), its tree and its reading of lines are its own, so that a mistake in the writer does not
//! repeat itself here. It follows `docs/audit-format.md`, and is short enough to be read as a whole.
#![forbid(unsafe_code)]

mod blocks;
mod keys;
mod note;
mod proof;
mod record;
mod report;
mod spelling;
mod trail;
mod tree;

use std::io::{IsTerminal, Write, stderr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const USAGE: &str = "\
Usage: mcp-guard-verify DIR [--key FILE_OR_KEY] [--keys FILE] [--since CHECKPOINT] [--json]
       mcp-guard-verify --proof FILE --key FILE_OR_KEY [--keys FILE] [--since CHECKPOINT] [--json]

  DIR      an audit directory of mcp-guard, or a copy of it
  --key    the trail's first verifier key, or a file that holds it; kept apart from the trail it proves more
  --keys   a copy of the trail's file `keys`, which has what came after that key (default: the one in DIR; for a proof: none)
  --since  a file with an older checkpoint of the trail, copied off the host before: the trail must go on from it. Shows what no
           look at a trail alone can: that its end was cut off and signed anew, or that all of it was put back to an older state
  --proof  a file that `mcp-guard audit prove` wrote: of one record or, with --since, that the trail goes on from the checkpoint
  --json   one JSON object instead of text

Exit code: 0 sound, 1 tampered, 2 incomplete, 3 unreadable";

/// How often the progress is shown, on a terminal.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// What is to be checked.
enum Subject {
    Trail(PathBuf),
    Proof(PathBuf),
}

struct Args {
    subject: Subject,
    key: Option<String>,
    keys: Option<PathBuf>,
    since: Option<PathBuf>,
    json: bool,
}

fn main() -> ExitCode {
    let args = match parse(std::env::args().skip(1)) {
        Ok(Some(args)) => args,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(wrong) => {
            eprintln!("mcp-guard-verify: {wrong}\n\n{USAGE}");
            return ExitCode::from(trail::Verdict::Unreadable.code());
        }
    };
    // A file wins over a key that is written out; neither looks like the other.
    let key = args.key.map(|key| std::fs::read_to_string(&key).unwrap_or(key));
    let since = args.since.as_deref();
    let keys = match args.keys.as_ref().map(std::fs::read_to_string).transpose() {
        Ok(keys) => keys,
        Err(error) => {
            eprintln!("mcp-guard-verify: --keys: {error}");
            return ExitCode::from(trail::Verdict::Unreadable.code());
        }
    };
    let (text, json, verdict) = match &args.subject {
        Subject::Trail(dir) => {
            let wanted = trail::Wanted { dir, key: key.as_deref(), keys: keys.as_deref(), since };
            let report = trail::verify(&wanted, progress());
            (report::text(&report), report::json(&report), report.verdict())
        }
        Subject::Proof(file) => {
            let keys = (key.as_deref().unwrap_or_default(), keys.as_deref().unwrap_or_default());
            let proved = proof::verify(file, keys, since);
            let verdict = proved.as_ref().err().map_or(trail::Verdict::Sound, |fault| fault.verdict);
            (report::proof_text(&proved), report::proof_json(&proved), verdict)
        }
    };
    if args.json {
        println!("{json}");
    } else {
        print!("{text}");
    }
    ExitCode::from(verdict.code())
}

/// Shows on a terminal how far it is.
fn progress() -> impl FnMut(u64, u64) {
    let (is_shown, mut last) = (stderr().is_terminal(), Instant::now());
    move |done, all| {
        if !is_shown || (last.elapsed() < PROGRESS_EVERY && done < all) {
            return;
        }
        last = Instant::now();
        let percent = done.saturating_mul(100).checked_div(all).unwrap_or(100).min(100);
        let filled = usize::try_from(percent / 4).unwrap_or(0);
        let bar = if done < all {
            format!("\r{percent:3} % [{:25}]", "#".repeat(filled))
        } else {
            "\r\x1b[K".into()
        };
        // Whoever closed the terminal wants no progress.
        let _ = stderr().write_all(bar.as_bytes());
    }
}

/// `None` asks for help.
fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Args>, String> {
    let (mut dir, mut proof, mut key, mut since, mut json) = (None, None, None, None, false);
    let mut keys = None;
    while let Some(word) = words.next() {
        match word.as_str() {
            "-h" | "--help" => return Ok(None),
            "--json" => json = true,
            "--key" => key = Some(words.next().ok_or("--key needs a file or a key")?),
            "--keys" => keys = Some(PathBuf::from(words.next().ok_or("--keys needs a file")?)),
            "--since" => since = Some(words.next().ok_or("--since needs a checkpoint's file")?.into()),
            "--proof" => proof = Some(PathBuf::from(words.next().ok_or("--proof needs a file")?)),
            _ if word.starts_with('-') => return Err(format!("unknown option {word}")),
            _ if dir.is_none() => dir = Some(PathBuf::from(word)),
            _ => return Err(format!("one directory at a time, not also {word}")),
        }
    }
    let subject = match (dir, proof) {
        (Some(dir), None) => Subject::Trail(dir),
        (None, Some(proof)) if key.is_some() => Subject::Proof(proof),
        (None, Some(_)) => {
            return Err("a proof says nothing without --key, the key of the trail that it is about".into());
        }
        (Some(_), Some(_)) => return Err("a directory or a proof, not both".into()),
        (None, None) => return Err("which directory?".into()),
    };
    Ok(Some(Args { subject, key, keys, since, json }))
}
