//! Packs, as they stand in files of their own and as policy files bind them.

use std::collections::HashSet;
use std::path::Path;

use super::{At, File, Intent};
use crate::config::problem::Problems;
use crate::config::reader::Reader;
use crate::config::yaml::{self, Node};
use crate::types::ServerName;

/// A pack that a policy file binds to a server.
#[derive(Debug)]
pub(in crate::policy) struct PackUse {
    pub pack: At<String>,
    pub server: At<ServerName>,
}

/// A pack's file. Its matchers name no server.
#[derive(Debug)]
pub(in crate::policy) struct PackFile {
    pub name: At<String>,
    pub about: String,
    pub intents: Vec<Intent>,
}

/// In place of the server, which only who binds the pack knows.
const NO_SERVER: &str = "pack";

/// Reads the text of a pack; its name must be that of its file.
pub(in crate::policy) fn read_pack(file: &Path, text: &str) -> (Option<PackFile>, Problems) {
    let node = match yaml::nodes(file, text) {
        Ok(node) => node,
        Err(problem) => return (None, problem.into()),
    };
    let mut reader = File {
        reader: Reader::new(file),
        path: file.into(),
        crowded: HashSet::new(),
        no_server: ServerName::parse(NO_SERVER).ok(),
    };
    let pack = reader.pack(&node);
    (pack, reader.reader.finish())
}

impl File<'_> {
    fn pack(&mut self, node: &Node) -> Option<PackFile> {
        const KEYS: [&str; 3] = ["pack", "about", "intents"];
        let entries = self.reader.entries(node, "a pack")?;
        for (key, name, _) in entries.iter().filter(|(_, name, _)| !KEYS.contains(name)) {
            let hint = "a pack has `pack` (its name), `about` and `intents`; rules stand in policy files";
            self.reader.problem(key, format!("unknown key {name:?} in a pack"), Some(hint.into()));
        }
        let find = |wanted: &str| entries.iter().find(|(_, name, _)| *name == wanted).map(|(.., node)| *node);
        let name = if let Some(node) = find("pack") {
            let name = self.reader.text(node, "pack")?;
            let stem = self.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if name != stem {
                let hint = Some(format!("write `pack: {stem}`, or rename the file"));
                self.reader.problem(
                    node,
                    format!("the pack {name:?} stands in a file of another name"),
                    hint,
                );
            }
            self.at(node, name.to_owned())
        } else {
            self.reader.problem(node, "a pack has no \"pack\"", Some("add `pack:`, its name".into()));
            return None;
        };
        let about = find("about").and_then(|node| self.reader.text(node, "about")).unwrap_or_default();
        let Some(intents) = find("intents") else {
            self.reader.problem(node, "a pack has no \"intents\"", Some("add `intents:`".into()));
            return None;
        };
        let intents = self.reader.entries(intents, "intents")?;
        let intents = intents.into_iter().filter_map(|(key, name, node)| self.intent(key, name, node));
        let intents = intents.collect();
        Some(PackFile { name, about: about.to_owned(), intents })
    }

    /// `{pack: filesystem, server: files}`
    pub(super) fn pack_use(&mut self, node: &Node) -> Option<PackUse> {
        let fields = self.reader.fields(node, "a pack", &["pack", "server"])?;
        let pack = fields.required("pack", &mut self.reader);
        let pack = pack.and_then(|node| {
            let name = self.reader.text(node, "pack")?.to_owned();
            Some(self.at(node, name))
        });
        let server = fields.required("server", &mut self.reader);
        let server = server.and_then(|node| {
            let name = self.reader.name(node, "server", ServerName::parse)?;
            Some(self.at(node, name))
        });
        Some(PackUse { pack: pack?, server: server? })
    }
}
