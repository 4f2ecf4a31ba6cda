//! `mcp-guard audit export`

mod delivery;
mod headers;
mod otlp;
mod sink;
mod stop;
mod stream;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::bail;
use serde_json::json;

use super::prove::key_beside;
use super::{Place, read_key};
use crate::audit::{Cursor, CursorError, Export, FeedError, Format};
use crate::cli::output;
use delivery::Delivery;
use sink::{Receiver, Trust, Undelivered};
use stop::Stop;

/// Exit code where the trail is not what was signed, or not the one that was exported before.
pub(in crate::cli) const NOT_THE_SAME: u8 = 3;
/// Exit code of words that do not go together, as of those that nobody knows.
const WRONG_USE: u8 = 2;

/// Give the records to a SIEM, a collector or a spreadsheet
///
/// Each record that a signed checkpoint covers is given at least once, in order: the cursor moves on when what was before it has arrived. The
/// guard takes no notice; run it beside the guard, for instance as a service of its own with --follow. What is exported is checked against the
/// signatures, and against what was exported before. With --follow, SIGTERM and SIGINT end it in order (exit code 0). Exit code: 1 not all
/// could be delivered, or a file cannot be used; 2 wrong use, such as a cursor of something else, or a record that is too
/// large for the collector; 3 the trail was changed, damaged, put back or replaced.
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
    /// Fields for the collector, such as `Authorization: Bearer ...`, one a line. Only its owner may read the file
    #[arg(long, value_name = "FILE", requires = "to")]
    header_file: Option<PathBuf>,
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
    let ended = export(args, to);
    let Some((error, code)) = ended.as_ref().err().and_then(|error| Some((error, code(error)?))) else {
        return ended;
    };
    output::print_error(error, args.place.json);
    Ok(ExitCode::from(code))
}

/// The exit code of an error that is of no delivery and no disk. Another attempt would end with it, too.
fn code(error: &anyhow::Error) -> Option<u8> {
    let (feed, cursor) = (error.downcast_ref::<FeedError>(), error.downcast_ref::<CursorError>());
    if feed.is_some_and(FeedError::is_of_the_trail) || cursor.is_some_and(CursorError::is_of_the_trail) {
        return Some(NOT_THE_SAME);
    }
    let is_too_large = matches!(error.downcast_ref(), Some(Undelivered::TooLarge(_)));
    (is_too_large || cursor.is_some_and(CursorError::is_wrong_use)).then_some(WRONG_USE)
}

/// Where it goes, if that takes the format.
fn receiver(args: &Args) -> anyhow::Result<Receiver> {
    let to = Receiver::parse(args.to.as_deref(), args.format.line_end())?;
    if args.ca_file.is_some() && !to.is_secret() {
        bail!("--ca-file says who speaks for a receiver with TLS, and --to names none (tls://, https://)");
    }
    if args.header_file.is_some() {
        if !matches!(to, Receiver::Otlp(_)) {
            bail!("--header-file has fields for a collector, and --to names none (https://, http://)");
        }
        if !to.keeps_secrets() {
            bail!(
                "--header-file would be sent in clear: --to needs https://, or the address of a collector on this host \
                 (http://127.0.0.1, http://[::1])"
            );
        }
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
    let stop = if args.follow { Stop::on_signals()? } else { Stop::never() };
    // Without a guard.yaml that can be read, this host protects nothing that is known here.
    let protected = args.place.config.load().map(|config| config.server_ports()).unwrap_or_default();
    let (ca_file, header_file) = (args.ca_file.as_deref(), args.header_file.as_deref());
    let sink = to.open(&Trust { ca_file, header_file, protected })?;
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
    let follow = args.follow;
    Delivery { sink, cursor: args.cursor.as_deref(), follow, stop }.run(&mut export)?;
    drop(lock);
    Ok(ExitCode::SUCCESS)
}
