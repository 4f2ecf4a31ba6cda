//! A small emulated machine: another kernel, and an initial file system with the programs that run on it.

mod cpio;
mod files;
mod image;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

pub(crate) use files::pack;
pub(crate) use image::Image;

use crate::command::Tool;
use crate::machine;

const QEMU: &str = "qemu-system-x86_64";
/// Lines before this one are the firmware's and the kernel's.
const FIRST: &str = "SMOKE on ";
/// The whole of the guard and its maps fit in there twice.
const MEMORY_MIB: u32 = 1024;

/// Installs what is missing to run such a machine.
pub(crate) fn install_tools() -> anyhow::Result<()> {
    const ADVICE: &str = "The machine needs qemu-system-x86_64 and a busybox that is linked statically.";
    if std::env::consts::ARCH != "x86_64" {
        bail!("the guard's programs here are for {}, and the machine is an x86_64", std::env::consts::ARCH);
    }
    for (program, package) in [(QEMU, "qemu-system-x86"), ("busybox", "busybox-static")] {
        if machine::find_program(program).is_some() {
            continue;
        }
        if !machine::is_debian() {
            bail!("there is no {program} here.\n  {ADVICE} Install it.");
        }
        println!("apt-get install {package}");
        machine::apt_install(package, ADVICE)?;
    }
    Ok(())
}

/// Where the last machine's serial line was written.
pub(crate) fn log() -> PathBuf {
    image::home().join("serial.log")
}

/// Starts the machine, shows what its programs say, and returns the last line that is theirs. The machine ends by itself or
/// when `patience` is over.
pub(crate) fn run(image: &Image, files: &Path, patience: Duration) -> anyhow::Result<Option<String>> {
    // Without KVM: it is often missing where this runs, and emulation gives the same answer everywhere.
    let mut tool = Tool::new(QEMU)
        .args(["-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", &MEMORY_MIB.to_string()])
        .args(["-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot"])
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .arg_path("-kernel", &image.kernel)
        .arg_path("-initrd", files);
    let mut child = tool
        .raw()
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("`{tool}` could not be started"))?;
    let serial = child.stdout.take().context("qemu has no output")?;
    let (tell, heard) = mpsc::channel();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(serial);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            if tell.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                return;
            }
            line.clear();
        }
    });
    let mut log = File::create(log()).with_context(|| format!("writing {}", log().display()))?;
    let end = Instant::now() + patience;
    let mut shown: Option<String> = None;
    let is_over = loop {
        match heard.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                writeln!(log, "{line}")?;
                let begins = line.starts_with(FIRST);
                if begins || (shown.is_some() && is_said(&line)) {
                    println!("   {line}");
                    shown = Some(line);
                }
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => break false,
            Err(mpsc::RecvTimeoutError::Timeout) => break true,
        }
    };
    if is_over {
        child.kill().context("ending qemu")?;
    }
    child.wait().context("waiting for qemu")?;
    if is_over {
        bail!("the machine did not end within {patience:?}; its serial line is in {}", self::log().display());
    }
    Ok(shown)
}

/// Words of a program, not of the kernel, which begins with its clock.
fn is_said(line: &str) -> bool {
    !line.is_empty() && !line.starts_with('[')
}
