//! What the kernel programs report: new listeners, and words for the log.

use std::sync::Weak;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use guard_common::{Listening, Port};

use super::guard::Inner;
use super::sys;

/// How long a wait for the programs' words lasts at most, so that its task ends with the guard.
const WAIT: Duration = Duration::from_millis(500);
/// Lines per second that the programs may write to the log: a client that is refused can make one per connection.
const LINES_PER_SECOND_MAX: u64 = 20;

/// The ring buffer of new listeners.
pub(super) type Events = RingBuf<MapData>;

/// Size of [`Listening`].
const LISTENING_BYTES: usize = size_of::<Listening>();

/// Where somebody began to listen, and which process, as [`Listening`] has it.
pub(super) fn listener(event: &[u8]) -> Option<(Port, u32)> {
    let event: &[u8; LISTENING_BYTES] = event.try_into().ok()?;
    let word = |at: usize| event.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let netns = u64::from_ne_bytes(event.get(..8)?.try_into().ok()?);
    Some((Port::new(netns, u16::try_from(word(32)?).ok()?), word(36)?))
}

/// Starts to copy the words of the programs to the log. Ends with the guard's last handle.
pub(super) fn spawn_log(bpf: &mut Ebpf, inner: Weak<Inner>) -> anyhow::Result<()> {
    let logger = EbpfLogger::init_with_logger(bpf, Lines::new(inner.clone()))
        .context("cannot read the programs' log")?;
    let mut logger = sys::wait_for(logger).context("cannot wait for the programs' log")?;
    tokio::spawn(async move {
        while inner.strong_count() > 0 {
            // The wait has an end so that the task ends.
            let ready = tokio::time::timeout(WAIT, logger.readable_mut()).await;
            if let Ok(Ok(mut ready)) = ready {
                ready.get_inner_mut().flush();
                ready.clear_ready();
            }
        }
    });
    Ok(())
}

/// Gives log records of the programs to `tracing`, up to a rate.
struct Lines {
    inner: Weak<Inner>,
    start: Instant,
    second: AtomicU64,
    written: AtomicU64,
}

impl Lines {
    fn new(inner: Weak<Inner>) -> Self {
        Self { inner, start: Instant::now(), second: AtomicU64::new(0), written: AtomicU64::new(0) }
    }

    /// Whether one more line may be written `now` (time since start), and how many were left out in the last second.
    fn admit(&self, now: Duration) -> (bool, u64) {
        let mut left_out = 0;
        if self.second.swap(now.as_secs(), Ordering::Relaxed) != now.as_secs() {
            left_out = self.written.swap(0, Ordering::Relaxed).saturating_sub(LINES_PER_SECOND_MAX);
        }
        (self.written.fetch_add(1, Ordering::Relaxed) < LINES_PER_SECOND_MAX, left_out)
    }
}

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let is_warning = record.level() == log::Level::Warn;
        if is_warning && self.inner.upgrade().is_some_and(|inner| inner.expected.take(Instant::now())) {
            tracing::debug!(target: "kernel", "the guard's own proof: {}", record.args());
            return;
        }
        let (admitted, left_out) = self.admit(self.start.elapsed());
        if left_out > 0 {
            tracing::warn!(target: "kernel", left_out, "lines of the kernel programs were left out");
        }
        if admitted {
            match record.level() {
                log::Level::Error => tracing::error!(target: "kernel", "{}", record.args()),
                log::Level::Warn => tracing::warn!(target: "kernel", "{}", record.args()),
                log::Level::Info => tracing::info!(target: "kernel", "{}", record.args()),
                log::Level::Debug | log::Level::Trace => {
                    tracing::debug!(target: "kernel", "{}", record.args());
                }
            }
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_above_the_rate_are_counted_and_told_in_the_next_second() {
        let lines = Lines::new(Weak::new());
        let at = Duration::from_secs(1);
        let admitted = (0..50).filter(|_| lines.admit(at).0).count();
        assert_eq!(admitted as u64, LINES_PER_SECOND_MAX);
        assert_eq!(lines.admit(Duration::from_secs(2)), (true, 30));
    }
}
