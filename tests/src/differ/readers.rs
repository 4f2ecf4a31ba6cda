//! Programs that read the same bytes: one process each for all cases.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;

use anyhow::{Context, ensure};

use crate::peers;

/// What is to be read.
#[derive(Debug, Clone)]
pub enum Case {
    /// A client's message
    Json(Vec<u8>),
    /// A server's message
    Reply(Vec<u8>),
    /// An event stream, in the chunks in which it comes.
    Stream(Vec<Vec<u8>>),
}

impl Case {
    fn frame(&self) -> Vec<u8> {
        match self {
            Self::Json(bytes) => framed(b'j', bytes),
            Self::Reply(bytes) => framed(b'r', bytes),
            Self::Stream(chunks) => {
                let chunks: Vec<_> =
                    chunks.iter().flat_map(|chunk| [length(chunk).to_vec(), chunk.clone()]).collect();
                framed(b's', &chunks.concat())
            }
        }
    }

    /// As a test prints it.
    pub fn escaped(&self) -> String {
        match self {
            Self::Json(bytes) | Self::Reply(bytes) => bytes.escape_ascii().to_string(),
            Self::Stream(chunks) => {
                let chunks: Vec<_> = chunks.iter().map(|chunk| chunk.escape_ascii().to_string()).collect();
                chunks.join(" | ")
            }
        }
    }
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).expect("cases are small").to_le_bytes()
}

fn framed(kind: u8, bytes: &[u8]) -> Vec<u8> {
    [&[kind][..], &length(bytes), bytes].concat()
}

/// A program that reads. Dropping it ends it.
#[derive(Debug)]
pub struct Reader {
    pub name: &'static str,
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Reader {
    /// Node.js: `JSON.parse`, and the event parser of the TypeScript SDK.
    pub fn node() -> anyhow::Result<Self> {
        Self::start("Node.js", peers::script("read.mjs")?)
    }

    /// Python: `json` (the standard library, and the SDK's HTTP library), `pydantic`, or `lines`.
    pub fn python(name: &'static str) -> anyhow::Result<Self> {
        let mut command = peers::script("read.py")?;
        command.arg(name);
        Self::start(name, command)
    }

    fn start(name: &'static str, mut command: Command) -> anyhow::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("{name} does not start"))?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("no output")?);
        Ok(Self { name, child, input, output })
    }

    /// A line for each case.
    pub fn read(&mut self, cases: &[&Case]) -> anyhow::Result<Vec<String>> {
        let mut input = self.input.take().context("no input")?;
        let (written, lines) = thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for case in cases {
                    input.write_all(&case.frame())?;
                }
                input.write_all(&framed(b'f', b""))?;
                input.flush()
            });
            let lines: Result<Vec<_>, _> = self.output.by_ref().lines().take(cases.len()).collect();
            (writer.join().expect("no panic"), lines)
        });
        self.input = Some(input);
        written.with_context(|| format!("{} takes no more", self.name))?;
        let lines = lines?;
        ensure!(
            lines.len() == cases.len(),
            "{} ended after {} of {} cases",
            self.name,
            lines.len(),
            cases.len()
        );
        Ok(lines)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.input = None;
        // An error says that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
