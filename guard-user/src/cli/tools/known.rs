//! What is known of servers' tools: asked of the running guard, or read from its files.

use anyhow::bail;
use serde_json::Value;

use crate::admin::{self, Ask, ClientError};
use crate::config::Config;
use crate::tools;

/// The servers, each with its tools. Of one server only, if it is named.
pub(super) fn known(
    config: &Config,
    server: Option<&str>,
    with_definitions: bool,
) -> anyhow::Result<Vec<Value>> {
    let ask = Ask::Tools { server: server.map(str::to_owned), with_definitions };
    match admin::ask(&config.admin_socket(), &ask) {
        Ok(mut answer) => match answer["servers"].take() {
            Value::Array(servers) => Ok(servers),
            _ => bail!("the guard's answer names no servers"),
        },
        Err(ClientError::NotRunning { .. }) => stopped(config, server, with_definitions),
        Err(error) => Err(error.into()),
    }
}

fn stopped(config: &Config, server: Option<&str>, with_definitions: bool) -> anyhow::Result<Vec<Value>> {
    let mut names: Vec<_> = config.servers.iter().map(|server| &server.name).collect();
    names.retain(|name| server.is_none_or(|server| name.as_str() == server));
    if let (Some(server), true) = (server, names.is_empty()) {
        bail!("guard.yaml has no server {server}");
    }
    names.sort_unstable();
    names
        .into_iter()
        .map(|name| {
            let pins = tools::load(&config.state_dir, name, config.limits.tool_pins_bytes_max)?;
            Ok(tools::told(name, &pins, with_definitions))
        })
        .collect()
}

/// The tools of a server's entry.
pub(super) fn tools(server: &Value) -> &[Value] {
    server["tools"].as_array().map_or(&[][..], Vec::as_slice)
}
