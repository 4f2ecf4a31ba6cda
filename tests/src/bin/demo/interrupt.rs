//! Ctrl-C, SIGTERM and SIGHUP: the story ends at its next step, and everything is cleaned up on the way out.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

static CAME: AtomicBool = AtomicBool::new(false);
const POLL: Duration = Duration::from_millis(50);

/// From here on these signals do not end this process.
pub(crate) fn catch() -> anyhow::Result<()> {
    let (send, ready) = mpsc::channel();
    thread::spawn(move || listen(&send));
    ready.recv().context("the thread for signals ended")?.context("cannot catch signals")
}

/// Says through `ready` whether signals are caught, then waits for them, for ever.
fn listen(ready: &mpsc::Sender<io::Result<()>>) {
    let caught = Builder::new_current_thread().enable_all().build().and_then(|runtime| {
        let inside = runtime.enter();
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let signals = kinds.into_iter().map(signal).collect::<io::Result<Vec<_>>>()?;
        drop(inside);
        Ok((runtime, signals))
    });
    let (runtime, signals) = match caught {
        Ok(caught) => caught,
        Err(error) => {
            // The one who asked waits for this.
            let _ = ready.send(Err(error));
            return;
        }
    };
    let _ = ready.send(Ok(()));
    runtime.block_on(async {
        let mut all = JoinSet::new();
        for mut signal in signals {
            all.spawn(async move {
                while signal.recv().await.is_some() {
                    CAME.store(true, Ordering::SeqCst);
                }
            });
        }
        all.join_all().await;
    });
}

pub(crate) fn came() -> bool {
    CAME.load(Ordering::SeqCst)
}

/// An error once a signal came.
pub(crate) fn check() -> anyhow::Result<()> {
    if came() {
        bail!("interrupted");
    }
    Ok(())
}

/// Returns when a signal comes.
pub(crate) fn wait() {
    while !came() {
        thread::sleep(POLL);
    }
}
