//! Protects many network namespaces and lets go of them: `cargo xtask namespaces`.

use std::time::Duration;

use clap::Parser;
use guard_tests::many::{self, Round, Usage};

#[derive(Parser)]
struct Args {
    /// Namespaces, each with a server
    #[arg(long, default_value_t = 1000)]
    count: usize,
    /// How often they come and go
    #[arg(long, default_value_t = 2)]
    rounds: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    println!(
        "{:<6} {:>8} {:>12} {:>12}   {:<44} after",
        "round", "made s", "protected s", "released s", "while protected"
    );
    many::run(args.count, args.rounds, |number, round| {
        let Round { made, protected, released, with, after } = round;
        let [made, protected, released] = [made, protected, released].map(Duration::as_secs_f64);
        println!(
            "{:<6} {made:>8.2} {protected:>12.2} {released:>12.2}   {:<44} {}",
            number + 1,
            words(with),
            words(after)
        );
    })?;
    println!("no leak: {} namespaces came and went {} times", args.count, args.rounds);
    Ok(())
}

fn words(usage: &Usage) -> String {
    let Usage { files, memory_kib, pins, programs } = usage;
    format!("{files} files, {:.1} MiB, {programs} programs, {pins} pins", kib_to_mib(*memory_kib))
}

fn kib_to_mib(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0
}
