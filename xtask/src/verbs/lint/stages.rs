//! The one-way flow of a call: a stage of `guard-user` imports only what stands before it.

use std::path::{Component, Path};

use super::Source;

/// In the order of a call's way. Each imports only what stands to its left.
const ORDER: [&str; 27] = [
    "types",
    "config",
    "privilege",
    "service",
    "attendance",
    "kernel",
    "discover",
    "accept",
    "tls",
    "outbound",
    "http",
    "rpc",
    "identity",
    "connection",
    "risk",
    "inspect",
    "policy",
    "rules",
    "velocity",
    "session",
    "tools",
    "audit",
    "upstream",
    "refusal",
    "respond",
    "case",
    "pipeline",
];

/// These put the stages together, so they may import any; no stage imports them.
const FREE: [&str; 7] = ["admin", "app", "bin", "cli", "lib", "main", "telemetry"];

/// One line for each import against the flow.
pub(super) fn check(sources: &[Source]) -> Vec<String> {
    sources.iter().flat_map(check_file).collect()
}

fn check_file(source: &Source) -> Vec<String> {
    let Some(modules) = source.path.strip_prefix("guard-user/src").ok().map(modules) else {
        return Vec::new();
    };
    let Some(own) = modules.first() else { return Vec::new() };
    if FREE.contains(&own.as_str()) || modules.last().is_some_and(|last| last == "tests") {
        return Vec::new();
    }
    let place = source.path.display();
    let Some(rank) = ORDER.iter().position(|stage| stage == own) else {
        return vec![format!(
            "{place}: `{own}` has no place in the flow; give it one in xtask's lint/stages.rs"
        )];
    };
    imports(&source.text, modules.len())
        .into_iter()
        .filter_map(|(line, import)| {
            let later = ORDER.iter().position(|stage| *stage == import).is_some_and(|other| other > rank);
            let why = if later {
                format!("stands after `{own}` ({})", ORDER.join(" → "))
            } else if FREE.contains(&import.as_str()) {
                "puts the stages together, so no stage may know it".into()
            } else {
                return None;
            };
            Some(format!("{place}:{line}: `{own}` imports `{import}`, which {why}"))
        })
        .collect()
}

/// The module path of a file below `src`: `http/body.rs` is `[http, body]`, `http/mod.rs` is `[http]`.
fn modules(path: &Path) -> Vec<String> {
    path.with_extension("")
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) if name != "mod" => Some(name.to_string_lossy().into_owned()),
            _ => None,
        })
        .collect()
}

/// Each top-level module that the text names by a path from the crate's root, with its line. Unit tests at the end
/// of a file may use anything.
fn imports(text: &str, depth: usize) -> Vec<(usize, String)> {
    let code = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or(text);
    let code: String = code
        .lines()
        .map(|line| if line.trim_start().starts_with("//") { "\n".into() } else { format!("{line}\n") })
        .collect();
    let code = code.replace(&"super::".repeat(depth), "crate::");
    let mut found = Vec::new();
    for (at, root) in code.match_indices("crate::") {
        if code[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_') {
            continue;
        }
        let line = code[..at].matches('\n').count() + 1;
        found.extend(heads(&code[at + root.len()..]).into_iter().map(|name| (line, name)));
    }
    found
}

/// The first names of what follows `crate::`: one, or those of a `{group}`.
fn heads(rest: &str) -> Vec<String> {
    let Some(group) = rest.strip_prefix('{') else { return vec![identifier(rest)] };
    let mut depth = 0;
    let mut names = vec![identifier(group)];
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(identifier(&group[at + 1..])),
            _ => {}
        }
    }
    names
}

fn identifier(text: &str) -> String {
    text.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        check(&[Source { path: path.into(), text: text.into() }])
    }

    #[test]
    fn a_stage_may_import_what_stands_before_it() {
        let text = "use crate::types::AgentName;\nuse crate::{config::Limits, rpc::{Json, Target}};\n";
        assert_eq!(found("guard-user/src/policy/decide.rs", text), Vec::<String>::new());
    }

    #[test]
    fn an_import_of_a_later_stage_is_named_with_its_line() {
        let found = found("guard-user/src/http/mod.rs", "//! x\nuse crate::audit::Permit;\n");
        assert_eq!(found.len(), 1);
        assert!(
            found[0].starts_with("guard-user/src/http/mod.rs:2: `http` imports `audit`, which stands after")
        );
    }

    #[test]
    fn groups_plain_paths_and_super_do_not_hide_an_import() {
        for text in [
            "use crate::{\n    types::A,\n    upstream,\n};\n",
            "use crate::{config::{A, B}, upstream::C};\n",
            "fn f() { crate::upstream::dial() }\n",
            "use super::super::upstream::dial;\n",
            "use crate::pipeline::Stage;\n",
        ] {
            assert_eq!(found("guard-user/src/tls/acceptor.rs", text).len(), 1, "{text}");
        }
    }

    #[test]
    fn comments_tests_and_the_composing_modules_are_free() {
        assert!(found("guard-user/src/tls/mod.rs", "//! see crate::audit\n// crate::audit\n").is_empty());
        let with_tests = "fn f() {}\n\n#[cfg(test)]\nmod tests {\n    use crate::audit::Permit;\n}\n";
        assert!(found("guard-user/src/tls/mod.rs", with_tests).is_empty());
        assert!(found("guard-user/src/tls/tests.rs", "use crate::audit::Permit;").is_empty());
        assert!(found("guard-user/src/pipeline.rs", "use crate::audit::Permit;").is_empty());
        assert!(found("guard-user/src/bin/x/main.rs", "use crate::audit::Permit;").is_empty());
        assert!(found("xtask/src/main.rs", "use crate::audit::Permit;").is_empty());
    }

    #[test]
    fn a_new_top_level_module_must_be_given_its_place() {
        assert!(
            found("guard-user/src/helpers.rs", "").concat().contains("`helpers` has no place in the flow")
        );
    }
}
