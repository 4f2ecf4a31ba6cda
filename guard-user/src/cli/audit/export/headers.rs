//! The fields that a collector wants to see, such as its API key: from a file, so that no list of processes shows them.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use http::{HeaderMap, HeaderName, HeaderValue};
use zeroize::Zeroizing;

use crate::config::{Problem, Problems, others_may_write, read_bounded};

/// Longest file.
const FILE_BYTES_MAX: usize = 16 * 1024;
/// Fields in it.
const FIELDS_MAX: usize = 32;

/// Fields that say how a request travels or what is in it. The exporter alone knows.
const OWN: [&str; 16] = [
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
];

/// The fields in `file`, a `Name: value` a line; `#` begins a comment. Refused if anybody but its owner may read it, or anybody but root and
/// this user may write it. No problem shows a value, nor what may be one.
pub(super) fn read(file: &Path) -> Result<HeaderMap, Problems> {
    let unreadable = |error: std::io::Error| {
        let what = format!("--header-file cannot be read: {error}");
        Problem::of_file(file, what).with_hint("paths count from the working directory")
    };
    let metadata = fs::metadata(file).map_err(unreadable)?;
    let exposed = |what: String, mend: &str| {
        Problem::of_file(file, what).with_hint(format!("run `{mend} {}`", file.display()))
    };
    if let Some((who, mend)) = others_may_write(&metadata) {
        return Err(
            exposed(format!("{who} may write this file, and so say as whom records are sent"), mend).into()
        );
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        let what = "others than its owner may read this file, and so send as this host";
        return Err(exposed(what.into(), "chmod 600").into());
    }
    let text = Zeroizing::new(read_bounded(file, FILE_BYTES_MAX).map_err(unreadable)?);
    let Ok(text) = std::str::from_utf8(&text) else {
        return Err(Problem::of_file(file, "it is not UTF-8").into());
    };
    parse(file, text)
}

fn parse(file: &Path, text: &str) -> Result<HeaderMap, Problems> {
    let (mut fields, mut problems) = (HeaderMap::new(), Problems::default());
    // By name, the line that had it first.
    let mut lines: BTreeMap<String, u64> = BTreeMap::new();
    for (number, line) in (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty()) {
        if line.starts_with('#') {
            continue;
        }
        match field(line) {
            Ok((name, _)) if lines.contains_key(name.as_str()) => {
                let first = lines.get(name.as_str()).copied().unwrap_or_default();
                problems.push(at(file, number, format!("it has the name of line {first} again")));
            }
            Ok((name, value)) => {
                lines.insert(name.as_str().to_owned(), number);
                fields.insert(name, value);
            }
            Err(Wrong { what, hint }) => {
                problems.push(Problem { hint: hint.map(str::to_owned), ..at(file, number, what) });
            }
        }
    }
    if fields.len() > FIELDS_MAX {
        problems.push(Problem::of_file(
            file,
            format!("it has {} fields; {FIELDS_MAX} are the most", fields.len()),
        ));
    }
    if fields.is_empty() && problems.is_empty() {
        let problem = Problem::of_file(file, "there is no field in it");
        problems.push(problem.with_hint(FORM));
    }
    problems.or(fields)
}

const FORM: &str = "each line is `Name: value`, such as `Authorization: Bearer ...`";

/// What is wrong with a line, without its text.
struct Wrong {
    what: String,
    hint: Option<&'static str>,
}

fn field(line: &str) -> Result<(HeaderName, HeaderValue), Wrong> {
    let wrong = |what: &str, hint| Wrong { what: what.to_owned(), hint };
    let (name, value) =
        line.split_once(':').ok_or_else(|| wrong("there is no colon behind a name", Some(FORM)))?;
    let name: HeaderName = name
        .parse()
        .map_err(|_no_name| wrong("what is before the colon is no name of a field", Some(FORM)))?;
    if let Some(own) = OWN.iter().find(|own| name == **own) {
        return Err(wrong(&format!("the export sets {own} itself, or needs none"), Some("remove this line")));
    }
    let value = value.trim_matches([' ', '\t']);
    if value.is_empty() {
        return Err(wrong("there is nothing behind the colon", Some(FORM)));
    }
    // `HeaderValue` takes more, which every receiver reads in its own way.
    let fit = HeaderValue::from_str(value).ok().filter(|_| value.is_ascii());
    let mut value = fit.ok_or_else(|| {
        wrong("the value has characters that a field cannot have", Some("printable ASCII goes"))
    })?;
    value.set_sensitive(true);
    Ok((name, value))
}

fn at(file: &Path, line: u64, what: String) -> Problem {
    Problem { line: Some(line), ..Problem::of_file(file, what) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> Result<HeaderMap, String> {
        parse(Path::new("f"), text).map_err(|problems| problems.to_string())
    }

    #[test]
    fn fields_are_read_with_their_values_marked_as_secrets() {
        let fields = parsed("# of the collector\nAuthorization:  Bearer a:b \t\r\n\nX-Api-Key:k\n").unwrap();
        assert_eq!(fields.len(), 2);
        assert_eq!(fields["authorization"], "Bearer a:b");
        assert_eq!(fields["x-api-key"], "k");
        assert!(fields.values().all(HeaderValue::is_sensitive));
    }

    #[test]
    fn every_mistake_is_told_with_its_line_and_without_its_text() {
        let told = parsed("Secret\nSecret Secret: x\nhost: Secret\nA: Sécret\nB:\nC: Secret\nc: Secret\n");
        let form = FORM;
        let expected = [
            format!("f:1: there is no colon behind a name; {form}"),
            format!("f:2: what is before the colon is no name of a field; {form}"),
            "f:3: the export sets host itself, or needs none; remove this line".into(),
            "f:4: the value has characters that a field cannot have; printable ASCII goes".into(),
            format!("f:5: there is nothing behind the colon; {form}"),
            "f:7: it has the name of line 6 again".into(),
        ];
        assert_eq!(told.unwrap_err(), expected.join("\n"));
        assert_eq!(parsed("# none\n").unwrap_err(), format!("f: there is no field in it; {form}"));
    }

    #[test]
    fn fields_that_say_how_a_request_travels_are_refused_in_any_case() {
        for own in OWN {
            for name in [own.to_owned(), own.to_uppercase()] {
                assert!(parsed(&format!("{name}: x")).is_err(), "{name}");
            }
        }
    }

    #[test]
    fn a_file_has_as_many_fields_as_it_may_and_no_more() {
        let fields = |count| (0..count).fold(String::new(), |text, number| format!("{text}X-{number}: v\n"));
        assert_eq!(parsed(&fields(FIELDS_MAX)).unwrap().len(), FIELDS_MAX);
        assert_eq!(parsed(&fields(FIELDS_MAX + 1)).unwrap_err(), "f: it has 33 fields; 32 are the most");
    }

    #[test]
    fn a_file_that_others_may_read_or_write_or_that_is_too_long_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("headers");
        let place = file.display().to_string();
        fs::write(&file, "Authorization: Secret").unwrap();
        let told = |mode| {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            read(&file).map_err(|problems| problems.to_string().replace(&place, "f"))
        };
        for mode in [0o600, 0o400] {
            assert_eq!(told(mode).unwrap()["authorization"], "Secret");
        }
        for mode in [0o640, 0o604, 0o610, 0o601] {
            let said =
                "f: others than its owner may read this file, and so send as this host; run `chmod 600 f`";
            assert_eq!(told(mode).unwrap_err(), said, "{mode:o}");
        }
        for mode in [0o620, 0o602, 0o666] {
            let said = "f: others than its owner may write this file, and so say as whom records are sent; run `chmod 600 f`";
            assert_eq!(told(mode).unwrap_err(), said, "{mode:o}");
        }
        fs::write(&file, "#".repeat(FILE_BYTES_MAX + 1)).unwrap();
        assert!(told(0o600).unwrap_err().contains("it has more than 16384 bytes"));
        fs::write(&file, [0xff]).unwrap();
        assert_eq!(told(0o600).unwrap_err(), "f: it is not UTF-8");
        fs::remove_file(&file).unwrap();
        let missing = read(&file).unwrap_err().to_string();
        assert!(missing.ends_with("(os error 2); paths count from the working directory"), "{missing}");
    }

    proptest! {
        #[test]
        fn no_problem_shows_what_a_line_has(secret in "[A-Z]{8,20}", before in "[ -~]{0,10}", after in "\\PC{0,10}") {
            if let Err(told) = parsed(&format!("{before}{secret}{after}")) {
                prop_assert!(!told.contains(&secret), "{}", told);
            }
        }
    }
}
