//! Which velocity windows counted the calls of a trail, for a guard that starts.

use std::borrow::Cow;
use std::io;
use std::path::Path;

use serde::Deserialize;

use super::reread::{Since, reread};
use crate::types::AgentName;
use crate::velocity::Recounted;

#[derive(Deserialize)]
struct Line<'a> {
    kind: &'a str,
    #[serde(borrow)]
    agent: Option<Cow<'a, str>>,
    counted: Option<Recounted>,
}

/// Hands each record of `dir` that was counted to `each`, in the order of the trail. Returns how many records it looked at.
pub fn counted(dir: &Path, since: Since, mut each: impl FnMut(&AgentName, &Recounted)) -> io::Result<u64> {
    reread(dir, since, r#""counted":"#, |bytes| {
        let line: Line<'_> = serde_json::from_slice(bytes)?;
        if let ("call", Some(agent), Some(counted)) = (line.kind, &line.agent, &line.counted)
            && let Ok(agent) = AgentName::parse(agent)
        {
            each(&agent, counted);
        }
        Ok(())
    })
}
