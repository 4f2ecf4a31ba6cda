//! Where an export goes.

use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, bail};

use super::otlp::Collector;
use super::stream::Stream;
use crate::tls::{Peer, client_config};

/// Why lines did not arrive.
#[derive(Debug, thiserror::Error)]
pub(super) enum Undelivered {
    /// They may if they are sent again.
    #[error("{0}")]
    Later(String),
    /// They will not.
    #[error("{0}")]
    Never(String),
}

/// Where an export is to go.
pub(super) enum Receiver {
    Output,
    Syslog { host: String, port: u16, is_secret: bool },
    Otlp(Box<url::Url>),
}

/// The same, with what it takes to go there.
pub(super) enum Sink {
    Output,
    Syslog(Stream),
    Otlp(Collector),
}

impl Receiver {
    /// `None`: standard output.
    pub(super) fn parse(to: Option<&str>) -> anyhow::Result<Self> {
        let Some(to) = to else { return Ok(Self::Output) };
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
            Self::Output => false,
            Self::Syslog { is_secret, .. } => *is_secret,
            Self::Otlp(url) => url.scheme() == "https",
        }
    }

    pub(super) fn open(self, ca_file: Option<&Path>) -> anyhow::Result<Sink> {
        let config = |is_secret: bool| {
            let config = || client_config(ca_file, Peer::RECEIVER).map_err(anyhow::Error::msg);
            is_secret.then(config).transpose()
        };
        Ok(match self {
            Self::Output => Sink::Output,
            Self::Syslog { host, port, is_secret } => {
                Sink::Syslog(Stream::new(&host, port, config(is_secret)?))
            }
            Self::Otlp(url) => Sink::Otlp(Collector::new((*url).clone(), config(url.scheme() == "https")?)?),
        })
    }
}

impl Sink {
    /// Whether the other side is still there, as far as that shows.
    pub(super) fn is_open(&mut self) -> bool {
        match self {
            Self::Output => kept().is_ok(),
            Self::Syslog(stream) => stream.is_open(),
            Self::Otlp(_) => true,
        }
    }

    /// Ends it. What was given has arrived then, as far as that can be known.
    pub(super) fn finish(&mut self) -> Result<(), Undelivered> {
        match self {
            Self::Output => kept().map_err(|error| Undelivered::Never(format!("standard output: {error}"))),
            Self::Syslog(stream) => stream.finish(),
            Self::Otlp(_) => Ok(()),
        }
    }

    /// Gives all of `lines`, in order.
    pub(super) fn send(&mut self, lines: &[String]) -> Result<(), Undelivered> {
        match self {
            Self::Output => {
                let mut text = lines.join("\n");
                text.push('\n');
                let mut out = io::stdout().lock();
                let written = out.write_all(text.as_bytes()).and_then(|()| out.flush());
                written.map_err(|error| Undelivered::Never(format!("standard output: {error}")))
            }
            Self::Syslog(stream) => stream.send(lines),
            Self::Otlp(collector) => lines.iter().try_for_each(|request| collector.send(request)),
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
