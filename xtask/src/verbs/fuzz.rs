//! `cargo xtask fuzz`

use std::fs::{self, File};
use std::num::{NonZeroU32, NonZeroU64};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context as _, bail};

use crate::command::{Tool, bends_a_build};
use crate::machine;

const CARGO_FUZZ_VERSION: &str = "0.13.2";
const TARGETS: [&str; 8] =
    ["framing", "message", "events", "lists", "tokens", "keysets", "certificates", "record"];
/// Longest input, in bytes. The readers' own bounds lie below it in the targets.
const INPUT_BYTES_MAX: usize = 4096;

/// Feed the guard's readers of outside bytes with made-up input
///
/// HTTP/1.1 framing, JSON-RPC messages, event streams, servers' lists, signed tokens, issuers' key sets, names of certificates and lines of the audit trail, each with what must hold for every input: the
/// same verdict however the bytes are cut, the same reading as a plain reader's. Starts from `tests/fuzz/corpus`; what is found on the
/// way stays in `target/fuzz/corpus`. Installs cargo-fuzz in `target/tools` if it is not there. The first build takes a minute or two.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this one
    #[arg(long, value_name = "NAME", value_parser = TARGETS)]
    target: Option<String>,
    /// How long each runs
    #[arg(long, value_name = "SECONDS", default_value = "60")]
    seconds: NonZeroU64,
    /// Begin from this number, for the same inputs each time; without it they differ
    #[arg(long, value_name = "NUMBER")]
    seed: Option<NonZeroU32>,
}

/// What one target came to.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    executions: u64,
    /// Edges of the code that were passed.
    coverage: u64,
    /// The input that broke a rule.
    finding: Option<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let tools = install()?;
    let place = Place { root: machine::root(), built: machine::target_dir().join("fuzz"), tools };
    println!("building the targets: a minute or two for the first time");
    place.cargo_fuzz("build").run()?;
    let mut found = false;
    println!("target       executions  coverage  result");
    for target in TARGETS.into_iter().filter(|target| args.target.as_ref().is_none_or(|only| only == target))
    {
        let outcome = place.feed(target, args)?;
        let result = outcome.finding.as_ref().map_or("nothing found".to_owned(), |input| {
            found = true;
            format!("FOUND {input}; its story is in {}", place.log(target).display())
        });
        println!("{target:10} {:>12} {:>9}  {result}", outcome.executions, outcome.coverage);
    }
    Ok(if found { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

/// The folder with cargo-fuzz in it.
fn install() -> anyhow::Result<PathBuf> {
    let tools = machine::target_dir().join("tools");
    let program = tools.join("bin/cargo-fuzz");
    let version = Tool::new(&program).args(["--version"]).read().unwrap_or_default();
    if version.ends_with(CARGO_FUZZ_VERSION) {
        return Ok(tools.join("bin"));
    }
    println!("cargo install cargo-fuzz: about a minute");
    Tool::cargo()
        .without(bends_a_build)
        .args(["install", "cargo-fuzz", "--version", CARGO_FUZZ_VERSION, "--locked", "--force", "--quiet"])
        .arg_path("--root", &tools)
        .advice("It needs the network once.")
        .run()?;
    Ok(tools.join("bin"))
}

struct Place {
    root: PathBuf,
    built: PathBuf,
    tools: PathBuf,
}

impl Place {
    fn cargo_fuzz(&self, verb: &str) -> Tool {
        let mut path = vec![self.tools.clone()];
        path.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
        // Sanitizers look for what safe code cannot do, and need a nightly compiler.
        Tool::cargo()
            .without(bends_a_build)
            .args(["fuzz", verb, "--sanitizer", "none"])
            .arg_path("--fuzz-dir", &self.root.join("tests/fuzz"))
            .arg_path("--target-dir", &self.built)
            .env("PATH", std::env::join_paths(path).unwrap_or_default())
            .dir(&self.root)
            .advice("A C++ compiler is needed: apt-get install g++")
    }

    fn log(&self, target: &str) -> PathBuf {
        self.built.join(format!("{target}.log"))
    }

    fn feed(&self, target: &str, args: &Args) -> anyhow::Result<Outcome> {
        let corpus = self.built.join("corpus").join(target);
        let found = self.built.join("found").join(target);
        for folder in [&corpus, &found] {
            fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let log = File::create(self.log(target)).context("cannot write the log")?;
        let mut tool = self
            .cargo_fuzz("run")
            .args([target])
            // New inputs go to the first.
            .args([&corpus, &self.root.join("tests/fuzz/corpus").join(target)])
            .args(["--", "-print_final_stats=1"])
            .args([format!("-max_total_time={}", args.seconds), format!("-max_len={INPUT_BYTES_MAX}")])
            .args([format!("-artifact_prefix={}/", found.display())]);
        if let Some(seed) = args.seed {
            tool = tool.args([format!("-seed={seed}")]);
        }
        tool.raw().stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let status = tool.status()?;
        let outcome = read(&fs::read_to_string(self.log(target))?);
        if !status.success() && outcome.finding.is_none() {
            bail!("`{tool}` failed ({status}); its words are in {}", self.log(target).display());
        }
        Ok(outcome)
    }
}

/// Reads libFuzzer's words.
fn read(log: &str) -> Outcome {
    let mut outcome = Outcome::default();
    for line in log.lines() {
        if let Some(count) = line.strip_prefix("stat::number_of_executed_units:") {
            outcome.executions = count.trim().parse().unwrap_or_default();
        }
        if let Some((_, rest)) = line.split_once(" cov: ") {
            let edges = rest.split(' ').next().and_then(|edges| edges.parse().ok());
            outcome.coverage = edges.unwrap_or(outcome.coverage);
        }
        if let Some((_, file)) = line.split_once("Test unit written to ") {
            outcome.finding = Some(Path::new(file.trim()).display().to_string());
        }
    }
    outcome
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_of_a_run_are_read() {
        let log = "#3\tINITED cov: 12 ft: 13\n#128\tpulse  cov: 345 ft: 678 corp: 9/1Kb\n\
                   Done 128 runs in 1 second(s)\nstat::number_of_executed_units: 128\n";
        assert_eq!(read(log), Outcome { executions: 128, coverage: 345, finding: None });
        let log = "panicked\nartifact_prefix='/x/'; Test unit written to /x/crash-1\nBase64: YQ==\n";
        assert_eq!(read(log).finding.as_deref(), Some("/x/crash-1"));
    }
}
