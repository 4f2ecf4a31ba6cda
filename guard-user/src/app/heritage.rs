//! Listeners that outlive a guard: where a new one finds them, and where an ending one leaves them.

use std::fs;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::Value;

use crate::admin::{self, ClientError};
use crate::config::Config;
use crate::kernel::{self, Handover, Manifest};
use crate::service::{Inherited, Manager};

/// The names under which the service manager keeps listeners, before their number.
const NAME: &str = "mcp-guard-";
/// Listeners that are kept at most.
const KEPT_MAX: usize = 512;
/// How long the guard before may take to end once it has handed on.
const GONE: Duration = Duration::from_secs(20);

/// The listeners of the guard before. Empty: there are none, and the ports refuse until this guard serves. Before a
/// running guard is asked, everything is tried that could keep this one from going on in its place.
pub(super) async fn find(
    config: &Arc<Config>,
    take_over: bool,
    inherited: Vec<Inherited>,
) -> anyhow::Result<Handover> {
    let kept = kept(&config.runtime_dir, inherited);
    if !take_over {
        return Ok(kept);
    }
    if UnixStream::connect(config.admin_socket()).is_ok() {
        let config = Arc::clone(config);
        let rehearsed =
            tokio::task::spawn_blocking(move || kernel::rehearse(&config, &running(&config))).await?;
        rehearsed
            .context("this guard could not go on, so the running one was not asked and serves as before")?;
    }
    let (socket, pins) = (config.admin_socket(), config.kernel.bpffs.join(&config.kernel.pins));
    let drain = Duration::from_secs(config.limits.drain_seconds);
    let asked = move || match admin::take_over(&socket, drain) {
        Ok(handover) => {
            gone(&pins);
            Ok(handover)
        }
        Err(error @ ClientError::NotRunning { .. }) => {
            tracing::info!("{error}: nothing to take over, an ordinary start");
            Ok(kept)
        }
        Err(error) => Err(error),
    };
    let handover = tokio::task::spawn_blocking(asked).await?;
    handover.context("the running guard did not hand over; `mcp-guard status` tells whether it still serves")
}

/// What the guard that runs says of itself; nothing, if it does not answer.
fn running(config: &Config) -> kernel::Running {
    let Ok(status) = admin::ask(&config.admin_socket(), &admin::Ask::Status { prove: false }) else {
        return kernel::Running::default();
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let namespaces = status.pointer("/kernel/namespaces").and_then(Value::as_array);
    let pinned = namespaces.into_iter().flatten().flat_map(|there| {
        let ports = there["ports"].as_object().into_iter().flatten();
        ports.flat_map(move |(port, known)| {
            let listeners = known["pinned"].as_array().into_iter().flatten();
            listeners.map(move |listener| (text(&there["servers"][port]), text(&listener["cgroup"])))
        })
    });
    let pid = status["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
    kernel::Running { pid, pinned: pinned.collect() }
}

/// Waits until the process before has let go of the pins: it does when it ends, a moment after it said so.
fn gone(pins: &Path) {
    let end = Instant::now() + GONE;
    let is_free = || fs::File::open(pins).is_ok_and(|dir| dir.try_lock().is_ok());
    while Instant::now() < end && !is_free() {
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn manifest(runtime_dir: &Path) -> PathBuf {
    runtime_dir.join("handover.json")
}

/// What the service manager kept, if this guard's predecessor left it in order.
fn kept(runtime_dir: &Path, mut inherited: Vec<Inherited>) -> Handover {
    let path = manifest(runtime_dir);
    let read = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Vec<Manifest>>(&bytes).ok());
    // It stands for one start only.
    let _absent = fs::remove_file(&path);
    inherited.retain(|one| {
        let is_ours = is_ours(&one.name);
        if !is_ours {
            tracing::warn!(
                name = one.name,
                "the service manager passed a descriptor that is not the guard's; it is closed"
            );
        }
        is_ours
    });
    if read.is_none() && !inherited.is_empty() {
        tracing::warn!(
            listeners = inherited.len(),
            "the service manager kept listeners, and {} does not say whose; they are closed, and this is an ordinary start",
            path.display()
        );
        return Handover::default();
    }
    Handover::new(read.unwrap_or_default(), inherited.into_iter().map(|one| one.fd))
}

fn is_ours(name: &str) -> bool {
    name.strip_prefix(NAME).is_some_and(|number| number.parse::<usize>().is_ok())
}

/// Leaves the listeners with the service manager, which drops them unless it starts this service again.
pub(super) fn leave(manager: &Manager, runtime_dir: &Path, handover: Handover) -> anyhow::Result<()> {
    if !manager.is_there() {
        return Ok(());
    }
    let (manifests, fds) = handover.into_parts();
    if fds.len() > KEPT_MAX {
        tracing::warn!(
            listeners = fds.len(),
            "too many for the service manager to keep; the ports refuse until the next start"
        );
        return Ok(());
    }
    let path = manifest(runtime_dir);
    fs::write(&path, serde_json::to_vec(&manifests)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    for (number, fd) in fds.iter().enumerate() {
        manager
            .store(&format!("{NAME}{number}"), &[fd.as_fd()])
            .context("the service manager takes no listener")?;
    }
    Ok(())
}

/// The listeners are this guard's now. Kept any longer, they would let clients wait for a guard that crashed.
pub(super) fn forget(manager: &Manager, names: &[String]) {
    for name in names {
        if let Err(error) = manager.forget(name) {
            tracing::warn!(%error, name, "the service manager keeps a listener: after a crash clients would wait instead of being refused");
        }
    }
}
