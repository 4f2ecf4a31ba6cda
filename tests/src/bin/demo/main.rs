//! The demo's story: an ordinary MCP server, the guard, three agents, and everything that must not pass.
//!
//! `cargo xtask demo` builds this and becomes it. Each line that it prints is something that just happened; if it was
//! not what the story says, the demo ends with an error that names the step. All of it happens in a network namespace
//! and under names of its own, beside whatever runs on this host.

mod agent;
mod bypass;
mod home;
mod interrupt;
mod screen;
mod stage;
mod stay;
mod story;
mod trail;
mod typescript;

use std::process::ExitCode;

use anyhow::ensure;
use clap::Parser;

use screen::Screen;

/// Ctrl-C, as shells report it.
const INTERRUPTED: u8 = 130;

/// Runs the demo
#[derive(Debug, Parser)]
#[command(name = "cargo xtask demo", max_term_width = 100)]
struct Options {
    /// Run in this host's own network, leave everything running at the end and print what clients need
    #[arg(long)]
    stay: bool,
    /// The sample server's port
    #[arg(long, value_name = "PORT", default_value_t = 3001)]
    port: u16,
}

fn main() -> ExitCode {
    if let Some(code) = bypass::child_main() {
        return code;
    }
    let options = Options::parse();
    let screen = Screen::new();
    match run(&options, &screen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) if interrupt::came() => {
            screen.end(false, "Interrupted. Everything that the demo started is gone again.");
            ExitCode::from(INTERRUPTED)
        }
        Err(error) => {
            screen.end(false, "The demo did not go as its story says. What it started is gone again.");
            eprintln!("demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options, screen: &Screen) -> anyhow::Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "the guard loads kernel programs, and the demo makes users and networks of its own: run it as root"
    );
    if options.stay {
        home::check_free(options.port)?;
    } else {
        home::leave()?;
    }
    interrupt::catch()?;
    story::tell(options, screen)
}
