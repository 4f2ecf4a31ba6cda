//! Rules on whole files: how long they are, and what must not stay in them.

use super::Source;

/// Longest source file, in lines.
const LINES_MAX: usize = 700;
/// Half of all source files are at most this long, in lines.
const LINES_MEDIAN_MAX: usize = 200;

/// Macros that stand for unwritten code.
const UNWRITTEN: [&str; 2] = [concat!("todo", "!("), concat!("unimplemented", "!(")];
const IGNORE: &str = concat!("#[", "ignore");

pub(super) fn lengths(sources: &[Source]) -> Vec<String> {
    let mut lengths: Vec<usize> = sources.iter().map(|source| source.text.lines().count()).collect();
    let mut found: Vec<String> = sources
        .iter()
        .zip(&lengths)
        .filter(|(_, lines)| **lines > LINES_MAX)
        .map(|(source, lines)| {
            format!("{}: {lines} lines, {LINES_MAX} at most; split it by idea", source.path.display())
        })
        .collect();
    lengths.sort_unstable();
    if let Some(&median) = lengths.get(lengths.len() / 2)
        && median > LINES_MEDIAN_MAX
    {
        found.push(format!("the median file has {median} lines, {LINES_MEDIAN_MAX} at most"));
    }
    found
}

pub(super) fn markers(sources: &[Source]) -> Vec<String> {
    let mut found = Vec::new();
    for source in sources {
        for (number, line) in (1..).zip(source.text.lines()) {
            let place = || format!("{}:{number}", source.path.display());
            if UNWRITTEN.iter().any(|word| line.contains(word)) {
                found.push(format!("{}: unwritten code", place()));
            }
            if line.trim_start().starts_with(IGNORE) && !names_an_issue(line) {
                found.push(format!(
                    "{}: an ignored test must name its issue: {IGNORE} = \"issue 12: ...\"]",
                    place()
                ));
            }
        }
    }
    found
}

fn names_an_issue(line: &str) -> bool {
    line.split("issue ").nth(1).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: String) -> Source {
        Source { path: "a.rs".into(), text }
    }

    #[test]
    fn a_file_of_701_lines_is_too_long_and_one_of_700_is_not() {
        let short = || source("x\n".repeat(3));
        assert_eq!(lengths(&[short(), short(), source("x\n".repeat(700))]), Vec::<String>::new());
        assert_eq!(
            lengths(&[short(), short(), source("x\n".repeat(701))]),
            ["a.rs: 701 lines, 700 at most; split it by idea"]
        );
        assert_eq!(lengths(&[source("x\n".repeat(201))]), ["the median file has 201 lines, 200 at most"]);
    }

    #[test]
    fn unwritten_code_and_nameless_ignores_are_found() {
        let text = format!(
            "{})\n    {IGNORE}]\n{IGNORE} = \"slow\"]\n{IGNORE} = \"issue 12: slow\"]\n",
            UNWRITTEN[0]
        );
        let found = markers(&[source(text)]);
        assert_eq!(found.len(), 3, "{found:?}");
        assert_eq!(found[0], "a.rs:1: unwritten code");
        assert!(found[1].starts_with("a.rs:2:") && found[2].starts_with("a.rs:3:"), "{found:?}");
    }
}
