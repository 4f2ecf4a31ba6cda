//! Links between the documents of the checkout lead somewhere.

use std::path::Path;

use super::Source;

pub(super) fn check(root: &Path, documents: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for document in documents {
        let dir = root.join(&document.path);
        let dir = dir.parent().unwrap_or(root);
        for (number, line) in (1..).zip(document.text.lines()) {
            for link in links(line) {
                if !dir.join(link).exists() {
                    found.push(format!("{}:{number}: no such file: {link}", document.path.display()));
                }
            }
        }
    }
    found
}

/// The files that a line links to, without the places in them. Other sites are not visited.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| {
        let target = rest.split(')').next()?;
        let file = target.split('#').next()?;
        (!file.is_empty() && !file.contains(':')).then_some(file)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_to_files_are_found_and_others_are_left_alone() {
        let line = "[a](b.md) [c](docs/d.md#part) [e](#f) [g](https://example.org/h) text (i)";
        assert_eq!(links(line).collect::<Vec<_>>(), ["b.md", "docs/d.md"]);
    }

    #[test]
    fn a_link_to_nowhere_is_named_with_its_line() {
        let document = Source { path: "docs/a.md".into(), text: "x\n[b](../no-such-file.md)\n".into() };
        assert_eq!(check(Path::new("/"), &[document]), ["docs/a.md:2: no such file: ../no-such-file.md"]);
    }
}
