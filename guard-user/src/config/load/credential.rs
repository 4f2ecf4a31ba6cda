//! What the types of a server's `credential` leave open.

use super::Step::{Item, Key};
use super::{Places, Problems};
use crate::config::Server;

pub(super) fn check((server, index): (&Server, usize), places: &Places<'_>, problems: &mut Problems) {
    let Some(credential) = &server.credential else { return };
    let at = |key| [Key("servers"), Item(index), Key("credential"), Key(key)];
    let mut add = |key, what: String, hint: &str| {
        problems.push(places.problem(&at(key), what).with_hint(hint));
    };
    match credential.header_name() {
        None => add(
            "header",
            format!("the header {:?} cannot hold a credential", credential.header),
            "write Authorization, or a name of the server's own such as X-API-Key",
        ),
        Some(header) if server.forward_authorization && header == http::header::AUTHORIZATION => add(
            "header",
            "forward_authorization passes the agent's Authorization on, and the credential would take its place"
                .into(),
            "remove one of the two",
        ),
        Some(_) => {}
    }
    if let Some(scheme) = &credential.scheme {
        let is_token =
            !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~+/".contains(&b));
        if !is_token {
            let hint = "write one word, such as Bearer, and the secret alone into the file";
            add("scheme", format!("the scheme {scheme:?} is not one word"), hint);
        }
    }
    if credential.file.is_some() == credential.systemd.is_some() {
        add(
            "file",
            "a credential is in a file, or systemd has it: one of the two".into(),
            "write `file: /etc/mcp-guard/NAME.credential`, or `systemd: NAME`",
        );
    }
    if !credential.has_plain_name() {
        let what =
            format!("{:?} is no name of a credential", credential.systemd.as_deref().unwrap_or_default());
        add("systemd", what, "write what stands before the `:` in LoadCredential=");
    }
}
