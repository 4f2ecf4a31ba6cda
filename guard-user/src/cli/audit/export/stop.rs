//! The signals that ask an export to end.

use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use nix::sys::signal::{SigSet, Signal};

/// Whether somebody has asked it to end.
pub(super) struct Stop(Option<Receiver<()>>);

impl Stop {
    /// Signals do what they always do.
    pub(super) fn never() -> Self {
        Self(None)
    }

    /// From here on SIGTERM and SIGINT ask, and no longer end the program. A second one ends it at once. To be called before there are
    /// other threads: they hold these signals back, too.
    pub(super) fn on_signals() -> anyhow::Result<Self> {
        let mut signals = SigSet::empty();
        signals.add(Signal::SIGTERM);
        signals.add(Signal::SIGINT);
        signals.thread_block().context("cannot hold signals back")?;
        let (word, asked) = channel();
        let wait = move || {
            while signals.wait().is_err() {}
            // A closed channel is the word: it can be heard any number of times.
            drop(word);
            // Somebody must let the second one in.
            let _ = signals.thread_unblock();
            loop {
                thread::park();
            }
        };
        thread::Builder::new().name("signals".into()).spawn(wait).context("cannot wait for signals")?;
        Ok(Self(Some(asked)))
    }

    pub(super) fn is_asked(&self) -> bool {
        self.0.as_ref().is_some_and(|asked| asked.try_recv() == Err(TryRecvError::Disconnected))
    }

    /// Waits for `time`, or until somebody asks; returns whether somebody did.
    pub(super) fn within(&self, time: Duration) -> bool {
        let Some(asked) = &self.0 else {
            thread::sleep(time);
            return false;
        };
        asked.recv_timeout(time) == Err(RecvTimeoutError::Disconnected)
    }
}
