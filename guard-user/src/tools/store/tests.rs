//! The pins of a running guard.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;

use super::*;
use crate::tools::pins::By;

struct Fixture {
    dir: tempfile::TempDir,
    server: ServerName,
    tools: Tools,
}

fn config(dir: &Path) -> Config {
    serde_json::from_value(json!({"servers": [{"name": "a", "port": 1}], "state_dir": dir})).unwrap()
}

fn fixture() -> Fixture {
    limited(&json!({}))
}

fn limited(limits: &serde_json::Value) -> Fixture {
    let dir = tempfile::tempdir().unwrap();
    let mut config = config(dir.path());
    config.limits = serde_json::from_value(limits.clone()).unwrap();
    let tools = Tools::open(&config).unwrap();
    Fixture { server: ServerName::parse("a").unwrap(), tools, dir }
}

impl Fixture {
    /// What is held of a list of (name, description).
    fn look(&self, tools: &[(&str, &str)]) -> io::Result<Arc<[String]>> {
        let list = json!(
            tools.iter().map(|(name, text)| json!({"name": name, "description": text})).collect::<Vec<_>>()
        );
        let list = list.to_string();
        let entries: Vec<&RawValue> = serde_json::from_str(&list).unwrap();
        self.tools.look(&self.server, &list, tools.iter().map(|(name, _)| *name).zip(entries))
    }

    fn held(&self, tool: &str) -> Option<&'static str> {
        self.tools.held(&self.server, tool).map(|held| held.reason())
    }
}

#[test]
fn a_list_that_is_known_is_judged_as_before_and_not_read_again() {
    let here = fixture();
    assert!(here.look(&[("t", "one")]).unwrap().is_empty());
    assert!(here.look(&[("t", "one")]).unwrap().is_empty());
    assert_eq!(*here.look(&[("t", "two")]).unwrap(), ["t"]);
    assert_eq!(here.held("t"), Some("tool_changed"));
    // Known from before, and yet it brings the tool back.
    assert!(here.look(&[("t", "one")]).unwrap().is_empty());
    assert_eq!(here.held("t"), None);
    let kept = &here.tools.servers[&here.server];
    let pages = lock(&kept.pages).len();
    assert!(here.look(&[("t", "one")]).unwrap().is_empty());
    assert_eq!((lock(&kept.pages).len(), pages), (2, 2));
    for other in 0..200 {
        here.look(&[("t", &other.to_string())]).unwrap();
    }
    assert_eq!(lock(&kept.pages).len(), PAGES_MAX);
}

#[test]
fn a_list_whose_tools_cannot_be_written_does_not_go_on() {
    let here = fixture();
    // A file where the directory should be; root may write whatever the permissions say.
    std::fs::write(here.dir.path().join("tools"), "").unwrap();
    assert!(here.look(&[("t", "one")]).is_err());
    assert!(here.look(&[("t", "one")]).is_err(), "not because it is known by now either");
    std::fs::remove_file(here.dir.path().join("tools")).unwrap();
    assert!(here.look(&[("t", "one")]).unwrap().is_empty());
    let again = Tools::open(&config(here.dir.path())).unwrap();
    assert_eq!(again.pins(&here.server), here.tools.pins(&here.server));
    let file = std::fs::metadata(here.dir.path().join("tools/a.json")).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
}

#[test]
fn an_approval_is_of_what_was_seen_and_outlives_the_guard() {
    let here = fixture();
    here.look(&[("t", "one")]).unwrap();
    here.look(&[("t", "two")]).unwrap();
    let mut seen = here.tools.pins(&here.server).unwrap();
    seen.approve("t", None, 7, "now").unwrap();
    let pin = seen.tool("t").unwrap().pinned.clone().unwrap();
    assert_eq!(pin.by, By::Operator { uid: 7 });
    // Behind the operator's back.
    here.look(&[("t", "three")]).unwrap();
    here.tools.adopt(&here.server, "t", pin.clone()).unwrap();
    assert_eq!(here.held("t"), Some("tool_changed"));
    assert!(here.look(&[("t", "two")]).unwrap().is_empty());
    assert_eq!(here.held("t"), None);
    here.tools.save().unwrap();
    let again = Tools::open(&config(here.dir.path())).unwrap();
    assert_eq!(again.held(&here.server, "t"), None);
    assert_eq!(again.pins(&here.server).unwrap().tool("t").unwrap().pinned.as_ref(), Some(&pin));
}

#[test]
fn so_many_records_follow_each_other_and_the_next_one_counts_the_rest() {
    let start = Instant::now();
    let mut room = Room { left: RECORDS_MAX, since: start, unrecorded: 0 };
    let admitted = (0..1000).filter(|_| room.admits(start)).count();
    assert_eq!(admitted, RECORDS_MAX as usize);
    let later = |seconds| start + std::time::Duration::from_secs(seconds);
    assert!(room.admits(later(RECORD_EVERY_SECONDS)) && !room.admits(later(RECORD_EVERY_SECONDS)));
    assert_eq!((0..1000).filter(|_| room.admits(later(1_000_000))).count(), RECORDS_MAX as usize);

    let here = fixture();
    let mut news = here.tools.news().unwrap();
    here.look(&[("t", "one"), ("u", "u")]).unwrap();
    for round in 0..500 {
        here.look(&[("t", &round.to_string())]).unwrap();
    }
    let mut told = 0;
    while news.try_recv().is_ok() {
        told += 1;
    }
    assert!(told <= 2 + RECORDS_MAX, "{told}");
    lock(&here.tools.servers[&here.server].room).left = 1;
    here.look(&[("t", "last")]).unwrap();
    assert_eq!(news.try_recv().unwrap().unrecorded, 500 - u64::from(told - 2));
}

#[test]
fn what_no_list_shows_for_want_of_room_is_not_called_either() {
    let long = "n".repeat(NAME_BYTES_MAX + 1);
    let here = fixture();
    assert_eq!(*here.look(&[("t", "one"), (&long, "two")]).unwrap(), [&*long]);
    assert_eq!((here.held("t"), here.held("other"), here.held(&long)), (None, None, Some("tool_not_pinned")));

    // Of the bytes, the first two take so many that a third has no room, though the limit is not reached.
    let here = limited(&json!({"tool_definition_bytes_max": 500, "tool_pins_bytes_max": 1000}));
    let text = "x".repeat(350);
    assert!(here.look(&[("a", &text), ("b", &text)]).unwrap().is_empty());
    assert_eq!(*here.look(&[("c", &text)]).unwrap(), ["c"]);
    assert_eq!((here.held("a"), here.held("c")), (None, Some("tool_not_pinned")));
    // The same with one definition that may be as long as all together.
    let here = limited(&json!({"tool_pins_bytes_max": 400}));
    assert_eq!(*here.look(&[("a", &"x".repeat(500))]).unwrap(), ["a"]);
    assert_eq!(here.held("a"), Some("tool_not_approved"));
}
