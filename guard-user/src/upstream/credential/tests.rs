use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use super::*;

/// A folder of its own with one credential in it.
struct Place {
    dir: tempfile::TempDir,
    server: Server,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = Self { server: server(&dir.path().join("secret"), ""), dir };
        place.write("first");
        place
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("secret")
    }

    fn write(&self, text: &str) {
        let beside = self.dir.path().join("beside");
        fs::write(&beside, text).unwrap();
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).unwrap();
        fs::rename(&beside, self.path()).unwrap();
    }

    fn open(&self) -> Result<Credentials, Problems> {
        Credentials::open_in(std::slice::from_ref(&self.server), None)
    }
}

fn server(file: &Path, more: &str) -> Server {
    let text = format!(r#"{{"name": "crm", "port": 1, "credential": {{"file": {file:?}{more}}}}}"#);
    serde_json::from_str(&text).unwrap()
}

fn shown(credentials: &Credentials) -> Option<String> {
    let shown = credentials.of(&ServerName::parse("crm").unwrap()).ok()??;
    Some(String::from_utf8(shown.value.as_bytes().to_vec()).unwrap())
}

/// Waits until the file stands still and was read.
fn until(credentials: &Credentials, expected: Option<&str>) {
    let begun = Instant::now();
    while shown(credentials).as_deref() != expected {
        assert!(begun.elapsed() < LATEST * 3, "{:?} is not {expected:?}", shown(credentials));
        std::thread::sleep(QUIET / 10);
    }
}

#[test]
fn what_is_in_the_file_is_shown_and_followed() {
    let place = Place::new();
    let credentials = place.open().unwrap();
    assert_eq!(shown(&credentials).as_deref(), Some("Bearer first"));
    assert_eq!(credentials.of(&ServerName::parse("other").unwrap()).unwrap().map(|_| ()), None);
    place.write("second\n");
    assert!(["Bearer first", "Bearer second"].contains(&shown(&credentials).unwrap().as_str()));
    until(&credentials, Some("Bearer second"));
}

#[test]
fn a_file_that_is_gone_or_bad_ends_its_use_and_is_taken_up_again() {
    let place = Place::new();
    let credentials = place.open().unwrap();
    fs::remove_file(place.path()).unwrap();
    assert_eq!(shown(&credentials), None, "at once");
    let problem = credentials.status().remove(0).problem.unwrap().to_string();
    assert!(problem.contains("cannot be read"), "{problem}");
    place.write("second");
    until(&credentials, Some("Bearer second"));
    place.write("two\nlines");
    until(&credentials, None);
    place.write("third");
    until(&credentials, Some("Bearer third"));
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o644)).unwrap();
    until(&credentials, None);
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o600)).unwrap();
    until(&credentials, Some("Bearer third"));
    fs::remove_file(place.path()).unwrap();
    fs::create_dir(place.path()).unwrap();
    until(&credentials, None);
}

#[test]
fn a_file_that_is_being_written_is_not_read() {
    use std::io::Write as _;
    let place = Place::new();
    let credentials = place.open().unwrap();
    std::thread::sleep(QUIET);
    let mut file = fs::OpenOptions::new().write(true).truncate(true).open(place.path()).unwrap();
    let mut written = Instant::now();
    for part in ["sec", "ond-", "secret\n"] {
        let seen = shown(&credentials);
        // Unless this thread stood still for so long that it was no longer being written.
        if written.elapsed() < QUIET {
            assert_eq!(seen.as_deref(), Some("Bearer first"));
        }
        written = Instant::now();
        file.write_all(part.as_bytes()).unwrap();
        std::thread::sleep(QUIET / 4);
    }
    drop(file);
    until(&credentials, Some("Bearer second-secret"));
}

#[test]
fn mistakes_at_the_start_name_the_file_and_what_to_do() {
    let place = Place::new();
    fs::set_permissions(place.path(), fs::Permissions::from_mode(0o640)).unwrap();
    std::os::unix::fs::chown(place.path(), None, Some(65_534)).ok();
    let told = place.open().map(|_| ()).unwrap_err().to_string();
    assert!(
        told.contains("others than its owner may read this file") && told.contains("chmod 600"),
        "{told}"
    );
    let missing = server(&place.dir.path().join("none"), "");
    let told = Credentials::open_in(&[missing], None).map(|_| ()).unwrap_err().to_string();
    assert!(told.contains("/none: the credential cannot be read"), "{told}");
    let text = r#"{"name": "crm", "port": 1, "credential": {"systemd": "secret", "header": "X-Key", "scheme": "Key"}}"#;
    let handed: Server = serde_json::from_str(text).unwrap();
    let servers = std::slice::from_ref(&handed);
    let told = Credentials::open_in(servers, None).map(|_| ()).unwrap_err().to_string();
    assert!(told.contains("LoadCredential=secret:"), "{told}");
    place.write("first");
    let credentials = Credentials::open_in(servers, Some(place.dir.path())).unwrap();
    assert_eq!(shown(&credentials).as_deref(), Some("Key first"));
}

#[test]
fn nothing_that_is_printed_shows_the_secret() {
    let place = Place::new();
    place.write("hunter2");
    let credentials = place.open().unwrap();
    let shown = credentials.of(&ServerName::parse("crm").unwrap()).unwrap().unwrap();
    let printed = format!("{credentials:?} {shown:?} {:?}", credentials.status());
    assert!(!printed.contains("hunter2"), "{printed}");
}

#[test]
fn a_file_is_due_when_it_stands_still_by_either_clock_and_after_a_while_in_any_case() {
    let place = Place::new();
    let identity = Identity::at(&place.path()).unwrap();
    let (now, changed) = (Instant::now(), identity.changed());
    let first = Changing::after(None, &identity, now);
    assert!(!first.is_due(now, changed + QUIET / 2));
    assert!(first.is_due(now, changed + QUIET), "by the host's clock");
    // The host's clock was set back.
    let before = changed - Duration::from_secs(3600);
    assert!(!first.is_due(now + QUIET / 2, before));
    assert!(first.is_due(now + QUIET, before));
    place.write("other");
    let other = Identity::at(&place.path()).unwrap();
    let later = Changing::after(Some(&first), &other, now + LATEST / 2);
    assert_eq!((later.seen, later.since), (now + LATEST / 2, now));
    assert!(!later.is_due(now + LATEST / 2, before));
    assert!(
        Changing::after(Some(&later), &identity, now + LATEST).is_due(now + LATEST, before),
        "it never stands still"
    );
}
