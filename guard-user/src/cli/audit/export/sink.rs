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

pub(super) enum Sink {
    Output,
    Syslog(Stream),
    Otlp(Collector),
}

impl Sink {
    /// `None`: standard output.
    pub(super) fn parse(to: Option<&str>, ca_file: Option<&Path>) -> anyhow::Result<Self> {
        let Some(to) = to else { return Ok(Self::Output) };
        let url = url::Url::parse(to).with_context(|| format!("--to {to}"))?;
        let host = url.host_str().with_context(|| format!("--to {to}: it names no host"))?;
        if !url.username().is_empty() || url.password().is_some() {
            bail!("--to takes no user and no password");
        }
        let is_secret = matches!(url.scheme(), "tls" | "https");
        let tls = is_secret
            .then(|| client_config(ca_file, Peer::RECEIVER).map_err(anyhow::Error::msg))
            .transpose()?;
        match url.scheme() {
            "tcp" | "tls" => {
                let port = url.port().with_context(|| {
                    format!("--to {to}: name the port, usually 6514 with tls and 514 with tcp")
                })?;
                Ok(Self::Syslog(Stream::new(host, port, tls)))
            }
            "http" | "https" => Ok(Self::Otlp(Collector::new(url.clone(), tls)?)),
            other => bail!("--to {to}: {other:?} is none of tls, tcp, https, http"),
        }
    }

    pub(super) fn is_syslog(&self) -> bool {
        matches!(self, Self::Syslog(_))
    }

    pub(super) fn is_http(&self) -> bool {
        matches!(self, Self::Otlp(_))
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
