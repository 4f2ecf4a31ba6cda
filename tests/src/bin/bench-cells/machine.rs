//! What the figures depend on besides the programs.

use std::fs;
use std::path::Path;
use std::process::Command;

use guard_tests::process::program;
use serde_json::{Value, json};

/// The machine at the start of a run.
#[derive(Debug)]
pub(crate) struct Machine {
    cores: usize,
    processor: String,
    kernel: String,
    nginx: String,
    profile: &'static str,
    load: String,
    date: String,
}

impl Machine {
    pub(crate) fn now() -> anyhow::Result<Self> {
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let processor = processor.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        Ok(Self {
            cores: std::thread::available_parallelism()?.get(),
            processor: processor.map_or("unknown", |(_, model)| model).to_owned(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?.trim().to_owned(),
            nginx: nginx_version(),
            profile: profile(),
            load: load(),
            date: first_line(Command::new("date").args(["-u", "+%Y-%m-%d %H:%M UTC"])),
        })
    }

    pub(crate) fn text(&self) -> String {
        let Self { cores, processor, kernel, nginx, profile, load, date } = self;
        format!(
            "{date}; {cores} cores ({processor}), Linux {kernel}; {nginx}; mcp-guard {}, {profile} build; \
             load average at the start {load}",
            env!("CARGO_PKG_VERSION")
        )
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "date": self.date,
            "cores": self.cores,
            "processor": self.processor,
            "kernel": self.kernel,
            "nginx": self.nginx,
            "guard": env!("CARGO_PKG_VERSION"),
            "profile": self.profile,
            "load_average": self.load,
        })
    }
}

/// How the measured programs were built, by the folder that they are in.
fn profile() -> &'static str {
    let guard = program("mcp-guard").unwrap_or_default();
    let folder = guard.parent().and_then(Path::file_name).unwrap_or_default();
    if folder == "release" { "release" } else { "debug (figures mean nothing)" }
}

/// The load averages over 1, 5 and 15 minutes.
pub(crate) fn load() -> String {
    let all = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    all.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

fn nginx_version() -> String {
    let line = first_line(Command::new("nginx").arg("-v"));
    line.strip_prefix("nginx version: ").unwrap_or("no nginx").to_owned()
}

fn first_line(command: &mut Command) -> String {
    let Ok(output) = command.output() else { return String::new() };
    let said = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned()
}
