//! What the running guard knows of an agent's earlier calls, for the score that `explain` tells.

use crate::admin::{self, Ask, ClientError, Earlier};
use crate::config::Config;
use crate::policy::{Asked, What, Written};

/// Puts it into `asked`, if a guard runs here and may be asked. Otherwise tells why the score lacks it.
pub(super) fn ask(config: &Config, written: &Written, asked: &mut Asked) -> Option<String> {
    let what = written.counted_as(asked)?;
    let tool = if let What::Tool(tool) = &asked.what { Some(tool.clone()) } else { None };
    let about = Earlier { agent: asked.agent.to_string(), server: asked.server.to_string(), what, tool };
    let lacks = "so the score lacks new_tool, used_today, refused_lately and changed_tool";
    match admin::ask(&config.admin_socket(), &Ask::Known(about)) {
        Ok(mut answer) => {
            asked.known = serde_json::from_value(answer["known"].take()).ok();
            asked.known.is_none().then(|| format!("the guard's answer cannot be read, {lacks}"))
        }
        Err(ClientError::NotRunning { .. }) => Some(format!("no guard runs here, {lacks}")),
        Err(error) => Some(format!("what the agent did before is not known ({error}), {lacks}")),
    }
}
