//! SPECIFICATION.md makes numbered promises; each names the tests that keep it, and those tests exist.
//!
//! The form is one list item a promise, which may go over several lines:
//!
//! ```text
//! - **P-12** The port is refused at once when no guard lives.
//!   Tests: `tests/steering.rs::a_dead_guard_leaves_the_port_closed`, `guard-user/src/kernel/pins.rs::...`
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug, PartialEq, Eq)]
struct Promise {
    number: u32,
    /// Path below the checkout, and the name of the function.
    tests: Vec<(String, String)>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package is in the checkout").to_owned()
}

fn promises(text: &str) -> Result<Vec<Promise>, String> {
    text.split("\n- **P-").skip(1).map(promise).collect()
}

fn promise(item: &str) -> Result<Promise, String> {
    let (number, rest) = item.split_once("**").ok_or_else(|| format!("no `**` after the number: {item}"))?;
    let number = number.parse().map_err(|error| format!("{number:?} is no number: {error}"))?;
    // The item ends at the first empty line.
    let rest = rest.split("\n\n").next().unwrap_or(rest);
    let (_, tests) = rest.split_once("Tests:").ok_or_else(|| format!("P-{number} names no tests"))?;
    // Between the first and second backtick, the third and fourth, and so on.
    let tests: Vec<_> =
        tests.split('`').skip(1).step_by(2).map(|name| named(number, name)).collect::<Result<_, _>>()?;
    if tests.is_empty() {
        return Err(format!("P-{number} names no tests"));
    }
    Ok(Promise { number, tests })
}

fn named(number: u32, name: &str) -> Result<(String, String), String> {
    let (file, function) =
        name.split_once("::").ok_or_else(|| format!("P-{number}: {name:?} is not `file::test`"))?;
    Ok((file.to_owned(), function.to_owned()))
}

/// Whether the text has a test function of that name: `#[test]`, `#[tokio::test]`, or one inside `proptest!`.
fn has_test(text: &str, function: &str) -> bool {
    let head = format!("fn {function}(");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let Some(at) = lines.iter().position(|line| line.trim_start_matches("async ").starts_with(&head)) else {
        return false;
    };
    // Up over attributes and comments.
    let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
    above.copied().any(|line| line.starts_with("#[") && (line.contains("test]") || line.contains("test(")))
}

#[test]
fn every_promise_names_tests_and_every_named_test_exists() {
    let text =
        fs::read_to_string(root().join("SPECIFICATION.md")).expect("SPECIFICATION.md is in the checkout");
    let promises = promises(&text).expect("SPECIFICATION.md has the form that the top of this file shows");
    assert!(!promises.is_empty(), "no promise was found");
    let mut broken = Vec::new();
    for Promise { number, tests } in &promises {
        for (file, function) in tests {
            match fs::read_to_string(root().join(file)) {
                Err(error) => broken.push(format!("P-{number}: {file}: {error}")),
                Ok(text) if !has_test(&text, function) => {
                    broken.push(format!("P-{number}: {file} has no test `{function}`"));
                }
                Ok(_) => {}
            }
        }
    }
    assert!(broken.is_empty(), "promises without their tests:\n{}", broken.join("\n"));
}

#[test]
fn every_promise_has_a_number_of_its_own() {
    let text =
        fs::read_to_string(root().join("SPECIFICATION.md")).expect("SPECIFICATION.md is in the checkout");
    let mut seen = BTreeSet::new();
    for Promise { number, .. } in promises(&text).expect("SPECIFICATION.md has the right form") {
        assert!(seen.insert(number), "P-{number} stands twice");
    }
}

#[test]
fn a_promise_without_tests_or_with_a_wrong_name_is_refused() {
    let read = |item: &str| promises(&format!("# x\n\n- **P-{item}"));
    assert_eq!(
        read("7** It holds.\n  Tests: `a.rs::b`,\n  `c.rs::d`\n\nMore text with `code`.").unwrap(),
        [Promise { number: 7, tests: vec![("a.rs".into(), "b".into()), ("c.rs".into(), "d".into())] }]
    );
    assert!(read("7** It holds.\n").unwrap_err().contains("names no tests"));
    assert!(read("7** It holds.\n  Tests: none yet\n").unwrap_err().contains("names no tests"));
    assert!(read("7** It holds.\n  Tests: `b`\n").unwrap_err().contains("is not `file::test`"));
    assert!(read("x** It holds.\n").unwrap_err().contains("is no number"));
}

#[test]
fn a_function_that_is_no_test_keeps_no_promise() {
    assert!(has_test("    #[test]\n    fn a() {}\n", "a"));
    assert!(has_test("#[tokio::test(flavor = \"multi_thread\")]\nasync fn a() {}\n", "a"));
    assert!(!has_test("#[test]\nfn b() {}\n\nfn a() {}\n", "a"));
    assert!(!has_test("#[test]\nfn ab() {}\n", "a"));
}

/// The rows of a table in a page of `docs`, cell by cell, from behind the row of hyphens.
fn table(page: &str, head: &str) -> Vec<Vec<String>> {
    let text = fs::read_to_string(root().join("docs").join(page)).expect("the page is in the checkout");
    let (_, rows) = text.split_once(head).unwrap_or_else(|| panic!("{page} has no table {head:?}"));
    let rows = rows.trim_start().lines().skip(1).take_while(|line| line.starts_with('|'));
    let cell = |cell: &str| cell.trim().replace('`', "");
    rows.map(|row| row.trim_matches('|').split('|').map(cell).collect()).collect()
}

/// As people write it: `4,096`, and `64 KiB` for whole numbers of these.
fn written(name: &str, value: u64) -> String {
    let units = [("GiB", 30), ("MiB", 20), ("KiB", 10)];
    let unit = units.into_iter().find(|(_, bits)| name.contains("bytes") && value.is_multiple_of(1 << bits));
    let (number, unit) =
        unit.map_or((value, String::new()), |(unit, bits)| (value >> bits, format!(" {unit}")));
    let digits = number.to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped + &unit
}

/// What the tests say, as far as it is text: all of the whole-program tests, and the modules `tests` of the program.
fn test_texts(dir: &Path, is_test: bool, told: &mut String) {
    for entry in fs::read_dir(dir).expect("the directory can be read") {
        let path = entry.expect("the entry can be read").path();
        let is_test = is_test || path.file_stem().is_some_and(|stem| stem == "tests");
        if path.is_dir() {
            test_texts(&path, is_test, told);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("the file can be read");
            let part = if is_test {
                Some(text.as_str())
            } else {
                text.split_once("\nmod tests {").map(|(_, tests)| tests)
            };
            told.push_str(part.unwrap_or_default());
        }
    }
}

#[test]
fn every_limit_is_documented_with_its_default_and_named_by_a_test() {
    let limits = serde_json::to_value(mcp_guard::config::Limits::default()).expect("limits are data");
    let limits = limits.as_object().expect("limits have names");
    let expected: Vec<_> = limits
        .iter()
        .map(|(name, value)| (name.clone(), written(name, value.as_u64().expect("each is a whole number"))))
        .collect();
    let rows = table("limits.md", "| limit | default | what it bounds |");
    let mut told: Vec<_> = rows.iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    told.sort();
    let mut sorted = expected.clone();
    sorted.sort();
    assert_eq!(told, sorted, "docs/limits.md has each limit of config/limits.rs, once, with its default");

    let mut texts = String::new();
    test_texts(&root().join("tests/tests"), true, &mut texts);
    test_texts(&root().join("guard-user/src"), false, &mut texts);
    let is_word = |name: &str| {
        let is_part =
            |byte: Option<&u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric() || *byte == b'_');
        texts.match_indices(name).any(|(at, _)| {
            let bytes = texts.as_bytes();
            !is_part(at.checked_sub(1).and_then(|before| bytes.get(before)))
                && !is_part(bytes.get(at + name.len()))
        })
    };
    let untested: Vec<_> = expected.iter().filter(|(name, _)| !is_word(name)).collect();
    assert!(untested.is_empty(), "no test names {untested:?}");
}

#[test]
fn every_documented_constant_is_what_the_code_says() {
    for row in table("limits.md", "| what | file | constant | beyond it |") {
        let text = fs::read_to_string(root().join("guard-user/src").join(&row[1]));
        let text = text.unwrap_or_else(|error| panic!("{}: {error}", row[1]));
        assert!(
            text.contains(&format!("const {};", row[2])),
            "docs/limits.md: {} has no `{}`",
            row[1],
            row[2]
        );
    }
}
