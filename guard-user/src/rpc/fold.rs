//! Keys that another parser may take for a known one.
//!
//! Some JSON libraries match member names without regard to case (with U+017F for `s` and U+212A for `k`), or
//! ignore a NUL in them. A request with `name` and `NAME` would then name two tools: one for us, one for the server.

/// Whether `key` is none of `known`, but a careless parser would take it for one of them.
pub fn is_lookalike(key: &str, known: &[&str]) -> bool {
    !known.contains(&key) && known.iter().any(|known| folded(key).eq(folded(known)))
}

fn folded(key: &str) -> impl Iterator<Item = char> {
    key.chars().filter(|c| *c != '\0').map(|c| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_differently_written_known_key_is_a_lookalike() {
        let known = ["name", "task", "taskId"];
        for key in ["Name", "NAME", "name\0", "\0name", "ta\u{17f}k", "tas\u{212a}", "taskid", "TASKID"] {
            assert!(is_lookalike(key, &known), "{key:?}");
        }
        for key in ["name", "task", "taskId", "names", "nam", "", "ñame"] {
            assert!(!is_lookalike(key, &known), "{key:?}");
        }
    }
}
