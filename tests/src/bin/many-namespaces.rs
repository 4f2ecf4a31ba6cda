//! Protects many network namespaces and lets go of them: `cargo xtask namespaces`.

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
    println!("{:<6} {:>12} {:>12}   {:<34} after", "round", "protected s", "released s", "while protected");
    many::run(args.count, args.rounds, |number, round| {
        let Round { protected, released, with, after } = round;
        let (protected, released) = (protected.as_secs_f64(), released.as_secs_f64());
        println!(
            "{:<6} {protected:>12.2} {released:>12.2}   {:<34} {}",
            number + 1,
            words(with),
            words(after)
        );
    })?;
    println!("no leak: {} namespaces came and went {} times", args.count, args.rounds);
    Ok(())
}

fn words(usage: &Usage) -> String {
    format!("{} files, {:.1} MiB, {} programs", usage.files, kib_to_mib(usage.memory_kib), usage.programs)
}

fn kib_to_mib(kib: u64) -> f64 {
    f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0
}
