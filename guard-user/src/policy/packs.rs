//! Packs: what the tools of well-known servers mean, ready to be bound to a server of one's own. A pack grants nothing: it says what
//! calls mean, and how risky they are.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::compile::{clause_in_words, source_in_words};
use super::file::{self, At, Document, Intent, PackFile};
use super::load;
use super::target::{Key, Pattern};
use crate::config::problem::{Problem, Problems, suggest};

/// Where packs of one's own are looked for, below the policy directory.
pub const PACKS_DIR: &str = "packs";

/// Those that come with the guard.
const SHIPPED: [(&str, &str); 4] = [
    ("code-hosting", include_str!("../../../policies/packs/code-hosting.yaml")),
    ("database", include_str!("../../../policies/packs/database.yaml")),
    ("filesystem", include_str!("../../../policies/packs/filesystem.yaml")),
    ("saas-ops", include_str!("../../../policies/packs/saas-ops.yaml")),
];

/// A pack, for those who look at it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Pack {
    pub name: String,
    pub about: String,
    /// It comes with the guard.
    pub shipped: bool,
    pub meanings: Vec<Meaning>,
}

/// What a pack says of one target.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Meaning {
    pub intent: String,
    /// `tool`, `prompt` and so on.
    pub kind: &'static str,
    pub name: String,
    /// Conditions under which a call means this.
    pub when: Vec<String>,
    /// `None`: nobody has said.
    pub class: Option<&'static str>,
    /// Points in place of the class's.
    pub base: Option<u8>,
    /// Such as `above_amount: 100 adds 20`.
    pub adds: Vec<String>,
    /// Such as `amount: number of amount`.
    pub facts: Vec<String>,
}

/// What is known by name: the text, and whose it is.
struct Known<'t> {
    texts: BTreeMap<String, (PathBuf, &'t str, bool)>,
}

/// Every pack that a policy in `policy_dir` may use, by name; `None`: those that come with the guard.
pub fn all(policy_dir: Option<&Path>) -> Result<Vec<Pack>, Problems> {
    let own = policy_dir.map_or_else(|| Ok(Vec::new()), own)?;
    let (known, mut problems) = Known::of(&own);
    let mut packs = Vec::new();
    for (path, text, shipped) in known.texts.values() {
        let (read, found) = file::read_pack(path, text);
        problems.append(found);
        packs.extend(read.map(|read| Pack {
            name: read.name.value.clone(),
            about: read.about.clone(),
            shipped: *shipped,
            meanings: read.intents.iter().flat_map(meanings).collect(),
        }));
    }
    problems.or(packs)
}

/// The texts of packs beside the policy files; none if there is no such directory.
pub(super) fn own(policy_dir: &Path) -> Result<Vec<(PathBuf, String)>, Problems> {
    let dir = policy_dir.join(PACKS_DIR);
    if dir.exists() { load::files_in(&dir) } else { Ok(Vec::new()) }
}

/// Puts the intents of the packs that `document` uses into it. Returns what was used, by name, for the digest.
pub(super) fn bind<'t>(
    document: &mut Document,
    own: &'t [(PathBuf, String)],
) -> (BTreeMap<String, &'t str>, Problems) {
    let (known, mut problems) = Known::of(own);
    let mut read: HashMap<String, PackFile> = HashMap::new();
    // Also one that nobody uses has no mistakes.
    for (name, (path, text, _)) in &known.texts {
        let (pack, found) = file::read_pack(path, text);
        problems.append(found);
        read.extend(pack.map(|pack| (name.clone(), pack)));
    }
    let mut used = BTreeMap::new();
    let mut bound = HashSet::new();
    for one in std::mem::take(&mut document.packs) {
        let name = &one.pack.value;
        let Some((_, text, _)) = known.texts.get(name) else {
            let names = known.texts.keys().map(String::as_str);
            let hint = suggest(name, names);
            problems.push(one.pack.place.problem(format!("there is no pack {name:?}"), hint));
            continue;
        };
        if !bound.insert((name.clone(), one.server.value.clone())) {
            let what = format!("the pack {name} is bound to {} twice", one.server.value);
            problems.push(one.pack.place.problem(what, Some("keep one of the two".into())));
            continue;
        }
        used.insert(name.clone(), *text);
        for intent in read.get(name).map(|pack| &pack.intents[..]).unwrap_or_default() {
            let matchers = intent.matchers.iter().map(|matcher| {
                let server = At { value: one.server.value.clone(), place: one.server.place.clone() };
                file::Matcher { server, ..matcher.clone() }
            });
            match document.intents.iter_mut().find(|own| own.name.value == intent.name.value) {
                Some(own) => own.matchers.extend(matchers),
                None => {
                    document.intents.push(Intent { name: intent.name.clone(), matchers: matchers.collect() });
                }
            }
        }
    }
    (used, problems)
}

impl<'t> Known<'t> {
    fn of(own: &'t [(PathBuf, String)]) -> (Self, Problems) {
        let mut problems = Problems::default();
        let shipped = SHIPPED
            .iter()
            .map(|(name, text)| ((*name).to_owned(), (PathBuf::from(format!("{name}.yaml")), *text, true)));
        let mut texts: BTreeMap<_, _> = shipped.collect();
        for (path, text) in own {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            if texts.get(&name).is_some_and(|(.., shipped)| *shipped) {
                let hint = "call yours something else; a policy file names it under `packs`";
                let problem = Problem::of_file(path, format!("a pack {name:?} comes with the guard"));
                problems.push(problem.with_hint(hint));
                continue;
            }
            texts.insert(name, (path.clone(), text, false));
        }
        (Self { texts }, problems)
    }
}

fn meanings(intent: &Intent) -> Vec<Meaning> {
    let each = intent.matchers.iter().map(|matcher| {
        let words = |clauses: &[At<file::Clause>]| -> Vec<String> {
            clauses.iter().map(|clause| clause_in_words(&clause.value, matcher)).collect()
        };
        let adds = matcher.risk.additions.iter();
        let (kind, name) = named(&matcher.key);
        Meaning {
            intent: intent.name.value.to_string(),
            kind,
            name,
            when: words(&matcher.when),
            class: matcher.class.map(crate::risk::Class::as_str),
            base: matcher.risk.base,
            adds: adds.map(|add| format!("{} adds {}", words(&add.when).join(", "), add.points)).collect(),
            facts: matcher
                .facts
                .iter()
                .map(|(fact, source)| format!("{fact}: {}", source_in_words(source)))
                .collect(),
        }
    });
    each.collect()
}

fn named(key: &Key) -> (&'static str, String) {
    let pattern = |pattern: &Pattern| match pattern {
        Pattern::Exact(text) => text.to_string(),
        Pattern::Prefix(text) => format!("{text}*"),
    };
    match key {
        Key::Tool(name) => ("tool", name.to_string()),
        Key::Prompt(name) => ("prompt", name.to_string()),
        Key::Resource(resource) => ("resource", pattern(resource)),
        Key::Method(method) => ("method", pattern(method)),
        Key::ServerRequest(method) => ("server_request", pattern(method)),
    }
}

#[cfg(test)]
mod tests;
