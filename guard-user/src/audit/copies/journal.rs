//! One message to the system journal, in its native protocol (systemd's `JOURNAL_NATIVE_PROTOCOL`): a datagram of fields.

use std::os::unix::net::UnixDatagram;

use super::{Note, Sink};

pub(super) const SOCKET: &str = "/run/systemd/journal/socket";

/// Names this kind of message: `journalctl MESSAGE_ID=...`.
const MESSAGE_ID: &str = "5f0c6e3b9a4d4c2e8f717d2b8f3a6c41";
/// Of syslog: notice.
const PRIORITY: &str = "5";

pub(super) struct Journal;

impl Sink for Journal {
    fn put(&mut self, note: &Note) -> Result<(), String> {
        let socket = UnixDatagram::unbound().map_err(|error| error.to_string())?;
        // A journal that takes nothing must not hold the thread for longer than a stop waits.
        socket.set_nonblocking(true).map_err(|error| error.to_string())?;
        socket.send_to(&message(note), SOCKET).map_err(|error| format!("{SOCKET}: {error}"))?;
        Ok(())
    }
}

fn message(note: &Note) -> Vec<u8> {
    let human = format!("audit trail {}: checkpoint of {} records", note.origin, note.size);
    let size = note.size.to_string();
    let mut message = Vec::new();
    for (name, value) in [
        ("MESSAGE", human.as_str()),
        ("MESSAGE_ID", MESSAGE_ID),
        ("PRIORITY", PRIORITY),
        ("SYSLOG_IDENTIFIER", "mcp-guard"),
        ("MCP_GUARD_CHECKPOINT", &note.text),
        ("MCP_GUARD_RECORDS", &size),
    ] {
        field(&mut message, name, value);
    }
    message
}

/// With its length, which no value can escape from.
fn field(message: &mut Vec<u8>, name: &str, value: &str) {
    message.extend_from_slice(name.as_bytes());
    message.push(b'\n');
    message.extend_from_slice(&u64::try_from(value.len()).unwrap_or(u64::MAX).to_le_bytes());
    message.extend_from_slice(value.as_bytes());
    message.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_field_of_the_message_has_its_length_and_the_note_is_as_it_was() {
        let text = "o\n7\nroot\n\n\u{2014} o c2ln\n".to_owned();
        let bytes = message(&Note::parse(text.clone()).unwrap());
        let (mut rest, mut fields) = (bytes.as_slice(), Vec::new());
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let name = String::from_utf8(rest[..end].to_vec()).unwrap();
            let length = u64::from_le_bytes(rest[end + 1..end + 9].try_into().unwrap());
            let (value, after) = rest[end + 9..].split_at(usize::try_from(length).unwrap());
            fields.push((name, String::from_utf8(value.to_vec()).unwrap()));
            assert_eq!(after[0], b'\n');
            rest = &after[1..];
        }
        assert!(rest.is_empty());
        assert!(fields.contains(&("MCP_GUARD_CHECKPOINT".into(), text)), "{fields:?}");
        assert!(fields.contains(&("MESSAGE".into(), "audit trail o: checkpoint of 7 records".into())));
    }
}
