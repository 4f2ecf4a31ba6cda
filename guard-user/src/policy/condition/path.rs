//! Paths of files, and what stands below which directory.

use std::collections::HashSet;

/// A longer path is none on Linux (`PATH_MAX`), and each part of it is looked for.
const PATH_BYTES_MAX: usize = 4096;

/// Directories and files that a rule names; what is below one is meant too.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::policy) struct Directories(HashSet<Box<str>>);

impl Directories {
    /// The entry that is none, and why.
    pub(in crate::policy) fn new<'t>(
        entries: impl Iterator<Item = &'t str>,
    ) -> Result<Self, (usize, &'static str)> {
        let paths =
            entries.enumerate().map(|(index, entry)| plain(entry).map(Box::from).map_err(|why| (index, why)));
        paths.collect::<Result<_, _>>().map(Self)
    }

    /// Whether `path` is listed or below what is. Of a path in another form nobody knows where it leads.
    pub(super) fn has(&self, path: &str) -> Result<bool, &'static str> {
        let path = plain(path)?;
        let above = path.match_indices('/').filter_map(|(end, _)| path.get(..end));
        Ok(self.0.contains(path)
            || self.0.contains("")
            || above.into_iter().any(|above| self.0.contains(above)))
    }
}

/// An absolute path in its one plain form, without the `/` at its end: that of `/` is empty.
fn plain(path: &str) -> Result<&str, &'static str> {
    if !path.starts_with('/') {
        return Err("is not an absolute path");
    }
    if path.len() > PATH_BYTES_MAX {
        return Err("is longer than a path can be");
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    let Some(below) = path.strip_prefix('/') else { return Ok(path) };
    // Some servers take a name's part after `;` off.
    if below.split(['/', ';']).any(|part| matches!(part, "." | "..")) {
        return Err("has a `.` or `..` in it");
    }
    let segments_are_plain = below.split('/').all(|segment| !segment.is_empty());
    // A second path after these would hide in the first one.
    let is_one = below.rsplit_once('/').is_none_or(|(above, _)| {
        above.split('/').all(|segment| !segment.ends_with([',', ';', ':', ' ', '"', '\'']))
    });
    // Patterns and shells make other paths of the second kind.
    let is_other = |c: char| matches!(c, '\\' | '%' | '*' | '?' | '[' | ']' | '{' | '}' | '$' | '`' | '|');
    let is_clear = |c: char| !c.is_control() && !is_other(c) && !is_lookalike(c);
    if !segments_are_plain || !is_one || !path.chars().all(is_clear) {
        return Err("is not a plain path such as /srv/data/a.txt");
    }
    Ok(path)
}

/// What some take for a `/`, a `\` or a `.`, or do not see.
fn is_lookalike(c: char) -> bool {
    matches!(c,
        '\u{2024}'..='\u{2026}' | '\u{2044}' | '\u{2215}' | '\u{2216}' | '\u{29f5}' | '\u{29f8}' | '\u{fe52}' | '\u{fe68}'
        | '\u{ff0e}' | '\u{ff0f}' | '\u{ff3c}' | '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_takes_in_whole_segments_below_it() {
        let directories = Directories::new(["/srv/data", "/var/log/", "/etc/hosts"].into_iter()).unwrap();
        for below in [
            "/srv/data",
            "/srv/data/",
            "/srv/data/a",
            "/srv/data/a/b.txt",
            "/var/log/x",
            "/etc/hosts",
            "/srv/data/..a",
        ] {
            assert_eq!(directories.has(below), Ok(true), "{below}");
        }
        for beside in
            ["/srv/database", "/srv", "/", "/srv/dat", "/etc/hosts2", "/data", "/Srv/data", "/x/srv/data"]
        {
            assert_eq!(directories.has(beside), Ok(false), "{beside}");
        }
        let all = Directories::new(["/"].into_iter()).unwrap();
        assert_eq!((all.has("/"), all.has("/a/b")), (Ok(true), Ok(true)));
    }

    #[test]
    fn a_path_that_may_lead_elsewhere_is_nowhere() {
        let directories = Directories::new(["/srv/data"].into_iter()).unwrap();
        for unclear in [
            "",
            "srv/data",
            "./srv/data",
            "~/srv/data",
            "/srv/data/../../etc/passwd",
            "/srv/data/..",
            "/srv/data/../",
            "/srv/data/./a",
            "/srv/data//a",
            "//srv/data",
            "/srv/data//",
            "/srv/data\\..\\a",
            "/srv/data/%2e%2e/etc",
            "/srv/data/a%2fb",
            "/srv/data/100%",
            "/srv/data/a\0",
            "/srv/data/a\n/etc/passwd",
            "/srv/data/..;/etc",
            "/srv/data/..;x/etc",
            "/srv/data/a;/../etc",
            "/srv/data/a,/etc/passwd",
            "/srv/data/a, /etc/passwd",
            "/srv/data/a:/etc/passwd",
            "/srv/data/a /etc/passwd",
            "/srv/data/\u{ff0e}\u{ff0e}/etc",
            "/srv/data/\u{2025}/etc",
            "/srv/data/a\u{2215}..\u{2215}etc",
            "/srv/data/.\u{200b}./etc",
            "/srv/data/.?/etc",
            "/srv/data/{.,}./etc",
            "/srv/data/*",
            "/srv/data/[.]./etc",
            "/srv/data/$HOME",
            "/srv/data/`id`",
            "/srv/data/a|b",
            &format!("/srv/data/{}", "a/".repeat(PATH_BYTES_MAX / 2)),
            "file:///srv/data/a",
            "C:\\srv\\data",
        ] {
            assert!(directories.has(unclear).is_err(), "{unclear:?}: {:?}", directories.has(unclear));
        }
    }

    #[test]
    fn an_entry_that_is_no_plain_path_is_told() {
        for bad in ["", "srv", "/srv/../etc", "/a//b", "/a/%20", "*"] {
            assert_eq!(Directories::new(["/x", bad].into_iter()).unwrap_err().0, 1, "{bad}");
        }
    }
}
