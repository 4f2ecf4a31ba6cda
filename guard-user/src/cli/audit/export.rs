//! `mcp-guard audit export`

mod otlp;
mod sink;
mod stream;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use serde_json::json;

use super::prove::key_beside;
use super::{Place, read_key};
use crate::audit::{Batch, Cursor, Export, FeedError, Format};
use crate::cli::output;
use sink::{Receiver, Sink, Undelivered};

/// Exit code where the trail is not what was signed, or not the one that was exported before.
pub(in crate::cli) const NOT_THE_SAME: u8 = 3;
/// Exit code of words that do not go together, as of those that nobody knows.
const WRONG_USE: u8 = 2;
/// Between two looks for new records.
const FOLLOW_EVERY: Duration = Duration::from_millis(500);
/// Between two attempts to deliver, at first and at most.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);

/// Give the records to a SIEM, a collector or a spreadsheet
///
/// Each record that a signed checkpoint covers is given at least once, in order: the cursor moves on when what was before it has arrived. The
/// guard takes no notice; run it beside the guard, for instance as a service of its own with --follow. What is exported is checked against the
/// signatures, and against what was exported before. Exit code: 1 not all could be delivered, 2 wrong use, 3 the trail was changed or put back.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What the records become
    #[arg(long, value_enum)]
    format: Format,
    /// Put each line into a syslog message (RFC 5424). So does --to tcp:// and tls://
    #[arg(long)]
    syslog: bool,
    /// Where to: `tls://HOST:PORT` (syslog, RFC 5425), `tcp://HOST:PORT` (syslog), `https://HOST/v1/logs` or `http://...` (OTLP) [default:
    /// standard output]
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// The certificates that vouch for the other side, in PEM [default: those of the host]
    #[arg(long, value_name = "FILE", requires = "to")]
    ca_file: Option<PathBuf>,
    /// Remembers in this file how far it came, and goes on from there
    #[arg(long, value_name = "FILE")]
    cursor: Option<PathBuf>,
    /// Go on with new records as they come, until interrupted. What cannot be delivered is tried again
    #[arg(long)]
    follow: bool,
    /// Export nothing: say how many records are waiting behind the cursor
    #[arg(long, requires = "cursor", conflicts_with_all = ["follow", "to"])]
    lag: bool,
    /// The trail's verifier key, or a file that holds it [default: the one beside the trail]
    #[arg(long, value_name = "FILE_OR_KEY")]
    key: Option<String>,
    #[command(flatten)]
    pub(super) place: Place,
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let to = match receiver(args) {
        Ok(to) => to,
        Err(error) => {
            output::print_error(&error, args.place.json);
            return Ok(ExitCode::from(WRONG_USE));
        }
    };
    match export(args, to) {
        Err(error) if error.downcast_ref::<FeedError>().is_some_and(FeedError::is_of_the_trail) => {
            output::print_error(&error, args.place.json);
            Ok(ExitCode::from(NOT_THE_SAME))
        }
        ended => ended,
    }
}

/// Where it goes, if that takes the format.
fn receiver(args: &Args) -> anyhow::Result<Receiver> {
    let to = Receiver::parse(args.to.as_deref())?;
    if args.ca_file.is_some() && !to.is_secret() {
        bail!("--ca-file says who speaks for a receiver with TLS, and --to names none (tls://, https://)");
    }
    let is_syslog = args.syslog || to.is_syslog();
    match args.format {
        Format::Otlp if is_syslog => {
            bail!("--format otlp goes to standard output or to an http(s) URL, not into syslog messages")
        }
        Format::Csv if is_syslog => bail!("--format csv goes to standard output, not into syslog messages"),
        Format::Otlp => Ok(to),
        _ if matches!(to, Receiver::Otlp(_)) => bail!("only --format otlp goes to an http(s) URL"),
        _ => Ok(to),
    }
}

fn export(args: &Args, to: Receiver) -> anyhow::Result<ExitCode> {
    let dir = args.place.dir()?;
    let key = match &args.key {
        Some(key) => read_key(key)?,
        None => key_beside(&dir)?,
    };
    let is_syslog = args.syslog || to.is_syslog();
    let mut sink = to.open(args.ca_file.as_deref())?;
    let lock = if args.lag { None } else { args.cursor.as_deref().map(Cursor::lock).transpose()? };
    let cursor = args.cursor.as_deref().map(|path| Cursor::read(path, &key, args.format));
    let cursor = cursor.transpose()?.flatten();
    let mut export = Export::open(&dir, &key, cursor, (args.format, is_syslog))?;
    if args.lag {
        let lag = export.lag()?;
        let oldest = if lag > 0 { export.oldest(&dir)? } else { None };
        let text = match oldest {
            _ if args.place.json => json!({ "lag": lag, "oldest": oldest }).to_string(),
            Some(oldest) => format!("{lag} records, the oldest from {oldest:.0}"),
            None => format!("{lag} records"),
        };
        output::print(&text)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(header) = export.header() {
        sink.send(&[header])?;
    }
    // Sent, and not known to have arrived.
    let mut sent: Option<Batch> = None;
    let write = |batch: Option<Batch>| match (batch, &args.cursor) {
        (Some(batch), Some(path)) => batch.cursor.write(path),
        _ => Ok(()),
    };
    loop {
        match export.batch()? {
            Some(batch) => {
                // What the other side takes after this shows that it is still there.
                deliver(args, &mut sink, sent.as_ref(), &batch)?;
                write(sent.replace(batch))?;
            }
            None if args.follow => {
                std::thread::sleep(FOLLOW_EVERY);
                if sink.is_open() {
                    write(sent.take())?;
                }
            }
            None => break,
        }
    }
    sink.finish().map_err(|error| anyhow::anyhow!("{error}; what was sent last may not have arrived"))?;
    write(sent)?;
    drop(lock);
    Ok(ExitCode::SUCCESS)
}

/// Returns when the other side has taken all of it. After an error nobody knows what became of what was sent `before`, so it is sent again.
fn deliver(args: &Args, sink: &mut Sink, before: Option<&Batch>, batch: &Batch) -> anyhow::Result<()> {
    let mut wait = RETRY_FIRST;
    let mut again = None;
    loop {
        let lines = again.iter().flat_map(|before: &&Batch| &before.lines).chain(&batch.lines);
        match sink.send(&lines.cloned().collect::<Vec<_>>()) {
            Ok(()) => return Ok(()),
            Err(Undelivered::Later(error)) if args.follow => {
                again = before;
                output::warn(&format!("{error}; next attempt in {} s", wait.as_secs()));
                std::thread::sleep(wait);
                wait = (wait * 2).min(RETRY_MOST);
            }
            Err(error) => {
                let kept =
                    if args.cursor.is_some() { "; the cursor stands behind what arrived before" } else { "" };
                let advice = match error {
                    Undelivered::Later(_) => "; --follow tries again",
                    Undelivered::Never(_) => "",
                };
                bail!("{error}{advice}{kept}")
            }
        }
    }
}
