//! Writes audit records as fast as it can, and prints `seq id` of each call that it may forward. It is there to
//! be killed: what it printed must be in the trail.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::Parser;
use guard_tests::audit::call;
use mcp_guard::audit::{AuditLog, Options, Outcome, Pruning, Retention};
use mcp_guard::config::Durability;
use mcp_guard::types::DecisionId;

#[derive(Parser)]
struct Args {
    dir: PathBuf,
    /// Decision ids of this run start with it.
    #[arg(long)]
    run: u64,
    #[arg(long, default_value_t = 16)]
    tasks: usize,
    /// Write without fdatasync.
    #[arg(long)]
    os: bool,
    /// A segment of so many bytes is full.
    #[arg(long)]
    segment_bytes: Option<u64>,
    /// Remove the oldest segments while all have more bytes.
    #[arg(long)]
    keep_bytes: Option<u64>,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let defaults = Retention::default();
    let log = AuditLog::open(Options {
        dir: args.dir,
        host: "test".into(),
        durability: if args.os { Durability::Os } else { Durability::Durable },
        wait: Duration::from_secs(30),
        calls_in_flight_max: 1024,
        calls_in_flight_per_agent_max: 1024,
        retention: Retention {
            segment_bytes: args.segment_bytes.unwrap_or(defaults.segment_bytes),
            ..defaults
        },
    })?;
    if let Some(bytes) = args.keep_bytes {
        let log = log.clone();
        tokio::spawn(async move {
            loop {
                if let Err(error) = log.prune(Pruning { bytes: Some(bytes), ..Pruning::default() }).await {
                    eprintln!("{error}");
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        });
    }
    let next = Arc::new(AtomicU64::new(0));
    let tasks: Vec<_> = (0..args.tasks)
        .map(|_| {
            let (log, next) = (log.clone(), Arc::clone(&next));
            tokio::spawn(async move {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let mut id = [0; 16];
                    id[..8].copy_from_slice(&args.run.to_be_bytes());
                    id[8..].copy_from_slice(&number.to_be_bytes());
                    let permit = log.intend(&call(DecisionId(id))).await?;
                    // One write each: a line stands in the pipe as a whole or not at all.
                    std::io::stdout().write_all(format!("{} {}\n", permit.seq(), permit.id()).as_bytes())?;
                    permit.conclude(&Outcome::abandoned());
                }
            })
        })
        .collect();
    for task in tasks {
        let ended: anyhow::Result<()> = task.await?;
        ended?;
    }
    Ok(ExitCode::SUCCESS)
}
