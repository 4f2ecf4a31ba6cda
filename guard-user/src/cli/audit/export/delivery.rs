//! Gives the batches of a trail to where they go, and moves the cursor behind what has arrived.

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;

use super::sink::{Sink, Undelivered};
use super::stop::Stop;
use crate::audit::{Batch, Export};
use crate::cli::output;

/// Between two looks for new records.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);
/// Between two attempts to deliver, at first and at most.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);

pub(super) struct Delivery<'a> {
    pub sink: Sink,
    pub cursor: Option<&'a Path>,
    /// Goes on with new records, and does not give up.
    pub follow: bool,
    pub stop: Stop,
}

/// What became of a batch.
enum Given {
    Taken,
    /// Somebody asked it to end meanwhile. Nobody knows what became of what was sent last.
    Stopped,
}

impl Delivery<'_> {
    /// All that is signed, or until somebody asks it to end.
    pub(super) fn run(mut self, export: &mut Export) -> anyhow::Result<()> {
        if let Some(header) = export.header() {
            self.sink.send(&mut VecDeque::from([header]))?;
        }
        // Sent, and not known to have arrived.
        let mut sent: Option<Batch> = None;
        while !self.stop.is_asked() {
            match export.batch()? {
                Some(batch) => match self.give(sent.as_ref(), &batch)? {
                    Given::Taken if self.sink.has_receipts() => self.write(Some(batch))?,
                    // What the other side takes after this shows that it is still there.
                    Given::Taken => self.write(sent.replace(batch))?,
                    Given::Stopped => sent = None,
                },
                None if self.follow => {
                    if !self.stop.within(FOLLOW_EVERY) && self.sink.is_open() {
                        self.write(sent.take())?;
                    }
                }
                None => break,
            }
        }
        match self.sink.finish() {
            Ok(()) => self.write(sent),
            Err(error) => {
                let words = format!("{error}; what was sent last may not have arrived");
                if !self.stop.is_asked() {
                    bail!(words)
                }
                // The next export sends it again.
                output::warn(&words);
                Ok(())
            }
        }
    }

    fn write(&self, arrived: Option<Batch>) -> anyhow::Result<()> {
        if let (Some(batch), Some(path)) = (arrived, self.cursor) {
            batch.cursor.write(path)?;
        }
        Ok(())
    }

    /// Returns when the other side has taken all of it. After an error nobody knows what became of what was sent `before`, so it is sent again,
    /// and the other side has to stay for it.
    fn give(&mut self, before: Option<&Batch>, batch: &Batch) -> anyhow::Result<Given> {
        let mut lines: VecDeque<String> = batch.lines.iter().cloned().collect();
        let mut wait = RETRY_FIRST;
        let mut owed: Option<&Batch> = None;
        loop {
            let sent = owed.map_or(Ok(()), |owed| self.give_again(owed));
            let error = match sent.and_then(|()| self.sink.send(&mut lines)) {
                Ok(()) => return Ok(Given::Taken),
                Err(error) => error,
            };
            owed = before;
            let kept =
                if self.cursor.is_some() { "; the cursor stands behind what arrived before" } else { "" };
            let after = match error {
                Undelivered::Later { after, .. } if self.follow => after,
                Undelivered::Later { .. } => bail!("{error}; --follow tries again{kept}"),
                Undelivered::Never(_) => bail!("{error}{kept}"),
                Undelivered::TooLarge(why) => {
                    return Err(Undelivered::TooLarge(format!("{why}{kept}")).into());
                }
            };
            let pause = after.map_or(wait, |after| after.clamp(RETRY_FIRST, RETRY_MOST));
            if self.stop.is_asked() {
                output::warn(&format!("{error}; it is not tried again, since this export is to end{kept}"));
                return Ok(Given::Stopped);
            }
            output::warn(&format!("{error}; next attempt in {} s", pause.as_secs()));
            if self.stop.within(pause) {
                return Ok(Given::Stopped);
            }
            wait = (wait * 2).min(RETRY_MOST);
        }
    }

    /// A connection that is taken and ended at once, as by a proxy whose server is away, has taken nothing.
    fn give_again(&mut self, batch: &Batch) -> Result<(), Undelivered> {
        self.sink.send(&mut batch.lines.iter().cloned().collect())?;
        if self.stop.within(FOLLOW_EVERY) || !self.sink.is_open() {
            return Err(Undelivered::later("the other side did not stay for what was sent again".into()));
        }
        Ok(())
    }
}
