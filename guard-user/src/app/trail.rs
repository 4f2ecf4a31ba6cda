//! The audit trail is opened, and its oldest files go by an operator's word.

use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::App;
use crate::audit::{AuditLog, OpenError, Options, Pruning, Retention, Start};
use crate::config::Config;

const NO_TRAIL: &str = "cannot open the audit trail, and without one nothing is let through";

pub(super) async fn open(config: &Config, known: &Start) -> anyhow::Result<AuditLog> {
    match try_to_open(config, known).await? {
        Err(error @ OpenError::Locked(_)) => Err(error).context(
            "a guard runs already and goes on serving, or one is being started again and again; `mcp-guard run --take-over` replaces one that serves without refusing anybody, `systemctl stop mcp-guard` ends the other",
        ),
        opened => opened.context(NO_TRAIL),
    }
}

/// `None`: another guard writes it.
pub(super) async fn open_unless_held(config: &Config, known: &Start) -> anyhow::Result<Option<AuditLog>> {
    match try_to_open(config, known).await? {
        Ok(audit) => Ok(Some(audit)),
        Err(OpenError::Locked(_)) => Ok(None),
        Err(error) => Err(error).context(NO_TRAIL),
    }
}

async fn try_to_open(config: &Config, known: &Start) -> anyhow::Result<Result<AuditLog, OpenError>> {
    let (options, known) = (audit_options(config), known.clone());
    Ok(tokio::task::spawn_blocking(move || AuditLog::open_known(options, &known)).await?)
}

pub(crate) fn audit_options(config: &Config) -> Options {
    let host = nix::unistd::gethostname().ok().and_then(|host| host.into_string().ok());
    Options {
        dir: config.audit_dir(),
        host: host.unwrap_or_default(),
        durability: config.audit.durability,
        wait: Duration::from_millis(config.limits.audit_wait_milliseconds),
        calls_in_flight_max: config.limits.calls_in_flight_max,
        calls_in_flight_per_agent_max: config.limits.calls_in_flight_per_agent_max,
        retention: Retention::from(&config.audit),
    }
}

impl App {
    /// For an operator; what `mcp-guard audit prune --json` prints.
    pub(super) async fn prune(
        &self,
        before: Option<Timestamp>,
        (uid, force): (u32, Option<String>),
    ) -> Value {
        let retention = Retention::from(&self.config.audit);
        let Some(pruning) = Pruning::by_operator(&retention, before, (uid, force)) else {
            return json!({ "error": Pruning::NOTHING_SAID });
        };
        match self.pipeline.audit.prune(pruning).await {
            Ok(pruned) => json!({ "pruned": pruned }),
            Err(error) => json!({ "error": error.to_string() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_audit_trail_has_the_limits_of_the_configuration() {
        let text = "{servers: [{name: a, port: 1}], audit: {dir: /trail, durability: os}, \
                    limits: {audit_wait_milliseconds: 123, calls_in_flight_max: 7}}";
        let config = crate::config::Overrides::default().load_text("/etc/guard.yaml".as_ref(), text).unwrap();
        let options = audit_options(&config);
        assert_eq!((options.wait, options.calls_in_flight_max), (Duration::from_millis(123), 7));
        assert_eq!((options.dir, options.durability), ("/trail".into(), crate::config::Durability::Os));
    }
}
