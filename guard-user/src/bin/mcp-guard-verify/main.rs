//! Verifies an audit trail offline, from a copy of its directory.
//!
//! This program shares no code with the guard, on purpose: its hashing (`sha2`), its signatures
//! (`ed25519-dalek`), its tree and its reading of lines are its own, so that a mistake in the writer does not
//! repeat itself here. It follows `docs/audit-format.md`, and is short enough to be read as a whole.
#![forbid(unsafe_code)]

mod note;
mod report;
mod trail;
mod tree;

use std::path::PathBuf;
use std::process::ExitCode;

const USAGE: &str = "\
Usage: mcp-guard-verify DIR [--key FILE_OR_KEY] [--json]

  DIR     an audit directory of mcp-guard, or a copy of it
  --key   the trail's verifier key, or a file that holds it; kept apart from the trail it proves more
  --json  one JSON object instead of text

Exit code: 0 sound, 1 tampered, 2 incomplete, 3 unreadable";

struct Args {
    dir: PathBuf,
    key: Option<String>,
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
    let report = trail::verify(&args.dir, key.as_deref());
    if args.json {
        println!("{}", report::json(&report));
    } else {
        print!("{}", report::text(&report));
    }
    ExitCode::from(report.verdict().code())
}

/// `None` asks for help.
fn parse(mut words: impl Iterator<Item = String>) -> Result<Option<Args>, String> {
    let (mut dir, mut key, mut json) = (None, None, false);
    while let Some(word) = words.next() {
        match word.as_str() {
            "-h" | "--help" => return Ok(None),
            "--json" => json = true,
            "--key" => key = Some(words.next().ok_or("--key needs a file or a key")?),
            _ if word.starts_with('-') => return Err(format!("unknown option {word}")),
            _ if dir.is_none() => dir = Some(PathBuf::from(word)),
            _ => return Err(format!("one directory at a time, not also {word}")),
        }
    }
    Ok(Some(Args { dir: dir.ok_or("which directory?")?, key, json }))
}
