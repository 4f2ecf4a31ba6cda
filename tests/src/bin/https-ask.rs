//! A process that asks once, for tests about who asks.
//!
//! `https-ask <address> <CA file>`: sends the request that comes on its input and prints the answer's body.
//! `https-ask --hand-on <address> <CA file>`: connects, gives the connection to a child that goes on with it, and ends.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd};
use std::path::Path;
use std::process::Command;

use anyhow::{Context, bail};
use guard_tests::https::Https;
use rustix::io::{FdFlags, fcntl_setfd};

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["--hand-on", address, ca] => {
            let stream = TcpStream::connect(address.parse::<SocketAddr>()?)?;
            fcntl_setfd(&stream, FdFlags::empty())?;
            let fd = stream.as_raw_fd().to_string();
            // It reads the same input and writes to the same output.
            Command::new(std::env::current_exe()?).args(["--over", &fd, address, ca]).spawn()?;
            Ok(())
        }
        ["--over", fd, address, ca] => {
            wait_for_parents_end()?;
            // SAFETY: the parent left this descriptor open for us and named it; nothing else here owns it.
            let stream = unsafe { TcpStream::from_raw_fd(fd.parse()?) };
            ask(stream, address, ca)
        }
        [address, ca] => ask(TcpStream::connect(address.parse::<SocketAddr>()?)?, address, ca),
        other => bail!("not a command line of mine: {other:?}"),
    }
}

fn ask(stream: TcpStream, address: &str, ca: &str) -> anyhow::Result<()> {
    let mut request = Vec::new();
    std::io::stdin().read_to_end(&mut request)?;
    let mut line = Https::new(address.parse()?, Path::new(ca))?.line_over(stream)?;
    line.send(&request)?;
    let answer = line.answer().context("no answer")?;
    std::io::stdout().write_all(&answer.body)?;
    Ok(())
}

/// An orphan gets another parent.
fn wait_for_parents_end() -> anyhow::Result<()> {
    let parent = std::os::unix::process::parent_id;
    let first = parent();
    let mut waited = 0;
    while parent() == first && Path::new(&format!("/proc/{first}/exe")).exists() {
        std::thread::sleep(std::time::Duration::from_millis(5));
        waited += 1;
        if waited > 2000 {
            bail!("the parent stays");
        }
    }
    Ok(())
}
