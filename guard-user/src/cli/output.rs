//! Standard output of the commands.

use std::io::{self, ErrorKind, IsTerminal, Write};

use comfy_table::{Cell, ContentArrangement, Table, presets};
use serde_json::json;

use crate::config::Problems;

/// Columns of a table where the terminal does not tell.
const WIDTH: u16 = 100;
/// Digits of a digest in a text; the whole of it is in the JSON.
const DIGEST_SHOWN: usize = 12;

/// A table that wraps its cells to stay within the terminal's width.
pub(super) fn table(header: impl IntoIterator<Item = impl Into<Cell>>) -> Table {
    let width = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).unwrap_or(WIDTH);
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_width(width)
        .set_header(header.into_iter().map(Into::into).collect::<Vec<Cell>>());
    table
}

/// The beginning of a digest, enough to tell two versions apart.
pub(super) fn short(digest: &str) -> &str {
    digest.get(..DIGEST_SHOWN).unwrap_or(digest)
}

/// A text from a trail, without what moves a terminal's cursor.
pub(super) fn plain(text: &str) -> String {
    text.escape_default().to_string()
}

/// Red on a terminal, plain elsewhere.
pub(super) fn red(text: &str) -> String {
    if io::stdout().is_terminal() { format!("\x1b[1;31m{text}\x1b[0m") } else { text.to_owned() }
}

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
