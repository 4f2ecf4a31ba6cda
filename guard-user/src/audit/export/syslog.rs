//! The envelope of RFC 5424, and the framing of RFC 5425 and RFC 6587 for streams.

use jiff::Timestamp;

use super::entry::Entry;
use super::escape::plain;

/// Facility 13, log audit.
const FACILITY: u8 = 13;
/// Longest HOSTNAME, and sequenceId at which the RFC has it begin again.
const HOST_BYTES_MAX: usize = 255;
const SEQUENCE_MAX: u64 = 2_147_483_647;

/// `message`, which is printable ASCII without `<`, as one syslog message: a receiver that cuts it finds no beginning of another one in it.
pub(super) fn line(entry: &Entry<'_>, host: &str, message: &str) -> String {
    let time = Timestamp::from_millisecond(entry.millis).unwrap_or_default();
    let host: String = host.chars().filter(char::is_ascii_graphic).take(HOST_BYTES_MAX).collect();
    let host = if host.is_empty() { "-" } else { &host };
    let id: String = plain(entry.kind).chars().filter(char::is_ascii_graphic).take(32).collect();
    format!(
        r#"<{}>1 {time:.3} {host} mcp-guard - {id} [meta sequenceId="{}"][origin software="mcp-guard" swVersion="{}"] {message}"#,
        FACILITY * 8 + entry.severity().syslog(),
        entry.seq % SEQUENCE_MAX + 1,
        env!("CARGO_PKG_VERSION"),
    )
}

/// With its length in front, as a stream needs it: no text can begin a message of its own.
pub fn frame(message: &str) -> String {
    format!("{} {message}", message.len())
}
