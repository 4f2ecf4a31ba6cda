//! What the audit trail costs: calls and records per second, CPU per record, beside the bare cost of fdatasync on
//! the same directory in the same run. Figures are only worth something from an optimised build.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Parser;
use guard_tests::audit::call;
use mcp_guard::audit::{AuditLog, Options, Outcome, Retention, Verdict, verify};
use mcp_guard::config::Durability;
use mcp_guard::types::DecisionId;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike;

#[derive(Parser)]
struct Args {
    /// Where to write; the disk matters.
    dir: PathBuf,
    #[arg(long, default_value_t = 3)]
    seconds: u64,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    println!("{:<22} p50 {:?}", "bare fdatasync, 700 B", bare_sync(&args.dir)?);
    for durability in [Durability::Durable, Durability::Os] {
        for callers in [1, 8, 64] {
            cell(&args, durability, callers).await?;
        }
    }
    Ok(())
}

fn bare_sync(dir: &Path) -> anyhow::Result<Duration> {
    let path = dir.join("bare");
    let mut file = OpenOptions::new().create(true).append(true).open(&path)?;
    let mut times = Vec::new();
    for _ in 0..200 {
        file.write_all(&[b'x'; 700])?;
        let start = Instant::now();
        file.sync_data()?;
        times.push(start.elapsed());
    }
    std::fs::remove_file(path)?;
    times.sort();
    Ok(times[times.len() / 2])
}

async fn cell(args: &Args, durability: Durability, callers: u64) -> anyhow::Result<()> {
    let dir = tempfile::tempdir_in(&args.dir)?;
    let log = AuditLog::open(Options {
        dir: dir.path().to_owned(),
        host: "bench".into(),
        durability,
        wait: Duration::from_secs(30),
        calls_in_flight_max: 4096,
        calls_in_flight_per_agent_max: 4096,
        retention: Retention::default(),
    })?;
    let end = Instant::now() + Duration::from_secs(args.seconds);
    let cpu = cpu_micros()?;
    let tasks: Vec<_> = (0..callers)
        .map(|caller| {
            let log = log.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                while Instant::now() < end {
                    let mut id = [0; 16];
                    id[..8].copy_from_slice(&caller.to_be_bytes());
                    id[8..].copy_from_slice(&times.len().to_be_bytes());
                    let start = Instant::now();
                    let permit = log.intend(&call(DecisionId(id))).await?;
                    times.push(start.elapsed());
                    permit.conclude(&Outcome::abandoned());
                }
                anyhow::Ok(times)
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await??);
    }
    log.close().await;
    let cpu = cpu_micros()? - cpu;
    times.sort();
    let calls = u64::try_from(times.len())?;
    let start = Instant::now();
    let report = verify(dir.path(), None, None);
    let verified = start.elapsed();
    anyhow::ensure!(report.verdict == Verdict::Sound, "{:?}", report.fault);
    let bytes = std::fs::metadata(dir.path().join("00000000000000000000.jsonl"))?.len();
    println!(
        "{durability:?} {callers:>3} callers    {:>7} calls/s {:>7} records/s  wait p50 {:>9.1?} p99 {:>9.1?}  {:>5.1} us CPU/record  {} B/record  verify {} records/s",
        calls / args.seconds,
        report.records / args.seconds,
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        // Precision is not at stake in a figure with one decimal.
        f64::from(u32::try_from(cpu)?) / f64::from(u32::try_from(report.records)?),
        bytes / report.records,
        u128::from(report.records) * 1_000_000 / verified.as_micros().max(1),
    );
    Ok(())
}

fn cpu_micros() -> anyhow::Result<i64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    Ok(usage.user_time().num_microseconds() + usage.system_time().num_microseconds())
}
