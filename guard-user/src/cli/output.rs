//! Standard output of the commands.

use std::io::{self, ErrorKind, Write};

use serde_json::json;

use crate::config::Problems;

/// Prints `text` and a line's end. A reader that stopped reading (`| head`) is no error.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// Tells why a command failed: on standard error, or as JSON where its result would have been.
pub(super) fn print_error(error: &anyhow::Error, json: bool) {
    if !json {
        eprintln!("mcp-guard: {error:#}");
        return;
    }
    let mut object = json!({ "error": format!("{error:#}") });
    if let Some(problems) = error.downcast_ref::<Problems>() {
        object["problems"] = json!(problems);
    }
    if let Err(unwritten) = print(&object.to_string()) {
        eprintln!("mcp-guard: {error:#} ({unwritten})");
    }
}
