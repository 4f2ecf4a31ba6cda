//! Standard output of the commands.

use std::io::{self, ErrorKind, IsTerminal, Write};

use comfy_table::{Cell, ContentArrangement, Table, presets};
use serde_json::json;

use crate::config::Problems;

/// Digits of a digest in a text; the whole of it is in the JSON.
const DIGEST_SHOWN: usize = 12;

/// A table that wraps its cells to stay within the terminal's width. For a file or a program, a row is a line.
pub(super) fn table(header: impl IntoIterator<Item = impl Into<Cell>>) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.into_iter().map(Into::into).collect::<Vec<Cell>>());
    if let Some(width) = width() {
        table.set_content_arrangement(ContentArrangement::Dynamic).set_width(width);
    }
    table
}

/// Of the terminal; none: a row is a line, however long.
pub(super) fn width() -> Option<u16> {
    let told = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok());
    // A pipe or a file has no size.
    let width = told.or_else(|| Some(rustix::termios::tcgetwinsize(io::stdout()).ok()?.ws_col));
    width.filter(|width| *width > 0)
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

/// Tells something beside the result, on standard error. Whoever closed that wants to hear of nothing.
pub(super) fn warn(text: &str) {
    let _ = writeln!(io::stderr(), "mcp-guard: {text}");
}

/// Tells why a command failed: on standard error, or as JSON where its result would have been.
pub(super) fn print_error(error: &anyhow::Error, json: bool) {
    if !json {
        return warn(&format!("{error:#}"));
    }
    let mut object = json!({ "error": format!("{error:#}") });
    if let Some(problems) = error.downcast_ref::<Problems>() {
        object["problems"] = json!(problems);
    }
    if let Err(unwritten) = print(&object.to_string()) {
        eprintln!("mcp-guard: {error:#} ({unwritten})");
    }
}
