//! A guard under traffic, of which is known what reached the server and what the trail has a record of.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::daemon::{Credential, Daemon};
use crate::https::{Https, Request};
use crate::process::eventually;
use crate::scene::{Scene, call, done_for};

/// Where a refusal says what it is.
const DECISION: &str = "mcp-guard/decision";
/// The least that the configuration takes.
const SEGMENT_BYTES: u64 = 1024 * 1024;
/// Arguments of a call that has a long record.
const ARGUMENTS: usize = 64;
/// No request waits longer for its answer: far more than `audit_wait_milliseconds`.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);
/// Within so long after a fault is over, calls go on again.
pub const RECOVERY_LIMIT: Duration = Duration::from_secs(10);

/// What became of a call that the policy allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    Done,
    /// Refused, with HTTP status and the word.
    Refused(u16, String),
    /// The connection ended.
    Gone(String),
}

/// See the module.
#[derive(Debug)]
pub struct Rig {
    pub daemon: Daemon,
    pub credential: Credential,
    pub https: Https,
    /// Ids of the calls that reached the server.
    reached: Arc<Mutex<BTreeSet<u64>>>,
    /// That reached the server.
    bytes: Arc<AtomicU64>,
    /// Ids of the allowed calls in the trail, also in what was pruned since.
    recorded: BTreeSet<u64>,
    next: u64,
}

impl Rig {
    /// In the network of the calling thread, with files of the trail that are as small as may be.
    pub fn new(prepare: impl FnOnce(&mut Daemon) -> anyhow::Result<()>) -> anyhow::Result<Self> {
        let scene = Scene::with(&json!({}), |daemon| {
            daemon.config.audit.segment_bytes = SEGMENT_BYTES;
            prepare(daemon)
        })?;
        let Scene { daemon, puppet, credential, https } = scene;
        let reached = Arc::new(Mutex::new(BTreeSet::new()));
        let (theirs, bytes) = (Arc::clone(&reached), puppet.bytes());
        puppet.answer_each(move |message| {
            let id = message["id"].as_u64().unwrap_or_default();
            theirs.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
            done_for(message)
        });
        Ok(Self { daemon, credential, https, reached, bytes, recorded: BTreeSet::new(), next: 1 })
    }

    /// Where the trail is.
    pub fn trail(&self) -> PathBuf {
        self.daemon.config.audit_dir()
    }

    /// A call that the policy allows. An error if it gets no answer in time.
    pub fn call(&mut self) -> anyhow::Result<Said> {
        self.next += 1;
        let request = Request::post(&call(self.next, "open")).by(&self.credential);
        let Ok(mut line) = self.https.line() else { return Ok(Said::Gone("no connection".into())) };
        line.wait_at_most(ANSWER_LIMIT)?;
        let started = Instant::now();
        let answer = line.send(&request.bytes()).map_err(Into::into).and_then(|()| line.answer());
        ensure!(started.elapsed() < ANSWER_LIMIT, "a call had no answer within {ANSWER_LIMIT:?}");
        Ok(match answer {
            Ok(answer) => {
                if let Some(word) = refusal(&answer.json()) {
                    return Ok(Said::Refused(answer.status, word));
                }
                ensure!(answer.json()["result"]["isError"] == false, "neither done nor refused: {answer:?}");
                Said::Done
            }
            Err(error) => Said::Gone(error.to_string()),
        })
    }

    /// A call that the policy refuses, with a record of some kilobytes. What it is told does not matter here.
    pub fn long_refusal(&mut self) {
        self.next += 1;
        let mut message = call(self.next, "closed");
        let arguments = (0..ARGUMENTS).map(|at| (format!("argument-{at}"), Value::from(at)));
        message["params"]["arguments"] = arguments.collect::<serde_json::Map<_, _>>().into();
        // The guard may be dying.
        let _ = self.https.ask(&Request::post(&message).by(&self.credential));
    }

    /// Fills the file that is written to, up to so many bytes before its end.
    pub fn fill(&mut self, left: u64) -> anyhow::Result<()> {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            let (_, path) = self.current()?;
            if fs::metadata(&path)?.len() + left >= SEGMENT_BYTES {
                return Ok(());
            }
            ensure!(Instant::now() < end, "{} does not fill", path.display());
            for _ in 0..4 {
                self.long_refusal();
            }
        }
    }

    /// The file that is written to, and its first record.
    pub fn current(&self) -> anyhow::Result<(u64, PathBuf)> {
        let path = segments(&self.trail())?.into_iter().rfind(|path| !is_packed(path)).context("no file")?;
        Ok((first_of(&path)?, path))
    }

    /// The number of the next record, or one a little less.
    pub fn size(&self) -> anyhow::Result<u64> {
        let (first, path) = self.current()?;
        Ok(first + u64::try_from(fs::read_to_string(path)?.matches('\n').count())?)
    }

    /// Reads the trail.
    pub fn look(&mut self) -> anyhow::Result<()> {
        for path in segments(&self.trail())? {
            let text = match read(&path) {
                Ok(text) => text,
                // It was packed or removed meanwhile; it was read before, or is under its other name.
                Err(_) if !path.exists() => read(&packed(&path)).unwrap_or_default(),
                Err(error) => return Err(error),
            };
            for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
                let record: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
                if record["kind"] == "call" && record["decision"] == "allow" {
                    let id = record["rpc_id"].as_str().and_then(|id| id.parse().ok());
                    self.recorded.insert(id.with_context(|| format!("no id: {record}"))?);
                }
            }
        }
        Ok(())
    }

    /// How many calls reached the server, and how many are recorded as allowed. An error if one reached the server without.
    pub fn compare(&mut self) -> anyhow::Result<(usize, usize)> {
        self.look()?;
        let reached = self.reached.lock().unwrap_or_else(PoisonError::into_inner);
        let unseen: Vec<_> = reached.difference(&self.recorded).collect();
        ensure!(unseen.is_empty(), "{unseen:?} reached the server without a record");
        Ok((reached.len(), self.recorded.len()))
    }

    /// How many bytes have reached the server, also of what is no whole request.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::SeqCst)
    }

    /// How many calls have reached the server.
    pub fn reached(&self) -> usize {
        self.reached.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// Calls until one goes through. An error if none does in time, or one is left without an answer meanwhile.
    pub fn recovers(&mut self) -> anyhow::Result<Duration> {
        let started = Instant::now();
        let mut last = None;
        while started.elapsed() < RECOVERY_LIMIT {
            match self.call()? {
                Said::Done => return Ok(started.elapsed()),
                other => last = Some(other),
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        anyhow::bail!("calls do not go on again: {last:?}")
    }

    /// Waits until nothing is written any more.
    pub fn settle(&self) -> anyhow::Result<()> {
        let length = || -> anyhow::Result<u64> { Ok(fs::metadata(self.current()?.1)?.len()) };
        let settled = eventually(RECOVERY_LIMIT, || {
            let before = length()?;
            std::thread::sleep(Duration::from_millis(120));
            Ok((length()? == before).then_some(()))
        })?;
        settled.context("the trail grows on")
    }

    /// What both verifiers say of the trail, which must be sound. A guard that runs may be in the middle of a write.
    pub fn is_sound(&self) -> anyhow::Result<()> {
        let mut said = String::new();
        let sound = eventually(Duration::from_secs(5), || {
            let offline = self.daemon.verify()?;
            let own = self.daemon.output("audit verify", &["--json"])?;
            said = format!("{} {}", offline.report, String::from_utf8_lossy(&own.stdout));
            Ok((offline.code == Some(0) && own.status.code() == Some(0)).then_some(()))
        })?;
        sound.with_context(|| format!("the trail is not sound: {said}"))
    }

    /// The guard's thread of this name.
    pub fn thread(&self, name: &str) -> anyhow::Result<u32> {
        thread(&self.daemon, name)
    }

    /// Limits the size of the files that the guard writes; `None` lifts that.
    pub fn limit_file_bytes(&self, bytes: Option<u64>) -> anyhow::Result<()> {
        let pid = self.daemon.pid().context("no guard runs")?;
        let bytes = bytes.map_or_else(|| "unlimited".to_owned(), |bytes| bytes.to_string());
        let limited = Command::new("prlimit")
            .args(["--pid", &pid.to_string(), &format!("--fsize={bytes}:unlimited")])
            .status()?;
        ensure!(limited.success(), "prlimit ended with {limited}");
        Ok(())
    }

    /// The guard, while it runs.
    pub fn pid(&self) -> anyhow::Result<u32> {
        self.daemon.pid().context("no guard runs")
    }
}

/// The thread of this name.
pub fn thread(daemon: &Daemon, name: &str) -> anyhow::Result<u32> {
    let pid = daemon.pid().context("no guard runs")?;
    for entry in fs::read_dir(format!("/proc/{pid}/task"))? {
        let entry = entry?;
        // The kernel keeps 15 bytes of a name.
        let Ok(comm) = fs::read_to_string(entry.path().join("comm")) else { continue };
        if name.starts_with(comm.trim_end()) && comm.trim_end().len() > "audit-".len() {
            return Ok(entry.file_name().to_string_lossy().parse()?);
        }
    }
    anyhow::bail!("there is no thread {name}")
}

/// The word of a refusal, in whichever form.
fn refusal(message: &Value) -> Option<String> {
    let decision =
        ["/error/data", "/result/_meta"].into_iter().find_map(|at| message.pointer(at)?.get(DECISION));
    decision.and_then(|decision| decision["reason"].as_str()).map(str::to_owned)
}

/// Whether a process has ended, or nobody has asked for its end yet.
pub fn has_ended(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with('Z') || rest.starts_with('X'))
}

/// The files of a trail, in both forms, oldest first.
pub fn segments(dir: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let plain = if is_packed(&path) { path.with_extension("") } else { path.clone() };
        if plain.extension().is_some_and(|ending| ending == "jsonl") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

pub fn is_packed(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "gz")
}

/// The name of a plain file once it is packed.
pub fn packed(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    name.into()
}

fn first_of(path: &Path) -> anyhow::Result<u64> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok(name.get(..20).context("a short name")?.parse()?)
}

fn read(path: &Path) -> anyhow::Result<String> {
    if !is_packed(path) {
        return Ok(fs::read_to_string(path)?);
    }
    let output = Command::new("gzip").arg("-dc").arg(path).output()?;
    ensure!(output.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// Waits for the end of a process that something else has killed.
pub fn wait_for_death(pid: u32, limit: Duration) -> anyhow::Result<bool> {
    Ok(eventually(limit, || Ok(has_ended(pid).then_some(())))?.is_some())
}
