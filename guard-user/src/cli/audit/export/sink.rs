//! Where an export goes.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};

use super::otlp::Collector;
use super::stream::Stream;
use crate::tls::{Peer, client_config};

/// Why lines did not arrive.
#[derive(Debug, thiserror::Error)]
pub(super) enum Undelivered {
    /// They may if they are sent again, where it said so after this time.
    #[error("{why}")]
    Later { why: String, after: Option<Duration> },
    /// They will not.
    #[error("{0}")]
    Never(String),
    /// Nor will what comes after it, until somebody has the other side take more.
    #[error("{0}")]
    TooLarge(String),
}

impl Undelivered {
    pub(super) fn later(why: String) -> Self {
        Self::Later { why, after: None }
    }
}

/// What the other side proves itself with, and this one.
pub(super) struct Trust<'a> {
    /// The CAs that may speak for it; none: those of this host.
    pub ca_file: Option<&'a Path>,
    pub header_file: Option<&'a Path>,
    /// Ports of servers on this host, where no collector is.
    pub protected: Vec<u16>,
}

/// Where an export is to go.
pub(super) enum Receiver {
    /// What ends a line there.
    Output(&'static str),
    Syslog {
        host: String,
        port: u16,
        is_secret: bool,
    },
    Otlp(Box<url::Url>),
}

/// The same, with what it takes to go there.
pub(super) enum Sink {
    Output(&'static str),
    Syslog(Stream),
    Otlp(Collector),
}

impl Receiver {
    /// `None`: standard output, with this end of a line.
    pub(super) fn parse(to: Option<&str>, line_end: &'static str) -> anyhow::Result<Self> {
        let Some(to) = to else { return Ok(Self::Output(line_end)) };
        let url = url::Url::parse(to).with_context(|| format!("--to {to}"))?;
        let host = url.host_str().with_context(|| format!("--to {to}: it names no host"))?;
        if !url.username().is_empty() || url.password().is_some() {
            bail!("--to takes no user and no password");
        }
        match url.scheme() {
            scheme @ ("tcp" | "tls") => {
                let port = url.port().with_context(|| {
                    format!("--to {to}: name the port, usually 6514 with tls and 514 with tcp")
                })?;
                Ok(Self::Syslog { host: host.to_owned(), port, is_secret: scheme == "tls" })
            }
            "http" | "https" => Ok(Self::Otlp(Box::new(url))),
            other => bail!("--to {to}: {other:?} is none of tls, tcp, https, http"),
        }
    }

    pub(super) fn is_syslog(&self) -> bool {
        matches!(self, Self::Syslog { .. })
    }

    pub(super) fn is_secret(&self) -> bool {
        match self {
            Self::Output(_) => false,
            Self::Syslog { is_secret, .. } => *is_secret,
            Self::Otlp(url) => url.scheme() == "https",
        }
    }

    /// Whether what is sent with the records stays between the two sides: it is encrypted, or does not leave this host.
    pub(super) fn keeps_secrets(&self) -> bool {
        let Self::Otlp(url) = self else { return false };
        let is_here = match url.host() {
            Some(url::Host::Ipv4(address)) => address.is_loopback(),
            Some(url::Host::Ipv6(address)) => address.to_canonical().is_loopback(),
            // Whoever answers for names says where this one leads.
            Some(url::Host::Domain(_)) | None => false,
        };
        is_here || self.is_secret()
    }

    pub(super) fn open(self, trust: &Trust<'_>) -> anyhow::Result<Sink> {
        Ok(match self {
            Self::Output(line_end) => Sink::Output(line_end),
            Self::Syslog { host, port, is_secret } => {
                let config = || client_config(trust.ca_file, Peer::RECEIVER).map_err(anyhow::Error::msg);
                Sink::Syslog(Stream::new(&host, port, is_secret.then(config).transpose()?))
            }
            Self::Otlp(url) => Sink::Otlp(Collector::new(*url, trust)?),
        })
    }
}

impl Sink {
    /// Whether the other side is still there, as far as that shows.
    pub(super) fn is_open(&mut self) -> bool {
        match self {
            Self::Output(_) => kept().is_ok(),
            Self::Syslog(stream) => stream.is_open(),
            Self::Otlp(_) => true,
        }
    }

    /// Whether what it took has arrived.
    pub(super) fn has_receipts(&self) -> bool {
        matches!(self, Self::Otlp(_))
    }

    /// Ends it. What was given has arrived then, as far as that can be known.
    pub(super) fn finish(&mut self) -> Result<(), Undelivered> {
        match self {
            Self::Output(_) => {
                kept().map_err(|error| Undelivered::Never(format!("standard output: {error}")))
            }
            Self::Syslog(stream) => stream.finish(),
            Self::Otlp(_) => Ok(()),
        }
    }

    /// Gives all of `lines`, in order. After an error those are left that are to be given again.
    pub(super) fn send(&mut self, lines: &mut VecDeque<String>) -> Result<(), Undelivered> {
        match self {
            Self::Output(line_end) => {
                let text: String = lines.drain(..).map(|line| line + *line_end).collect();
                let mut out = io::stdout().lock();
                let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
                written.map_err(|error| Undelivered::Never(format!("standard output: {error}")))
            }
            Self::Syslog(stream) => stream.send(lines),
            Self::Otlp(collector) => collector.send(lines),
        }
    }
}

/// Has what went into a file kept there. A pipe or a terminal keeps nothing.
fn kept() -> io::Result<()> {
    match rustix::fs::fdatasync(io::stdout()) {
        Err(rustix::io::Errno::INVAL | rustix::io::Errno::ROFS) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
