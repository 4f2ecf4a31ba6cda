use proptest::prelude::*;

use super::*;
use crate::session::owner::Origin;
use crate::types::{ClientId, ProfileName};

pub(super) fn owner(agent: &str, user: u32) -> Owner {
    Owner {
        agent: AgentName::parse(agent).unwrap(),
        client: ClientId::parse("client").unwrap(),
        profile: ProfileName::parse("default").unwrap(),
        user: Some(UserName::parse(&format!("user-{user}")).unwrap()),
        from: Origin::Remote,
    }
}

pub(super) fn label(name: &str) -> LabelName {
    LabelName::parse(name).unwrap()
}

pub(super) fn limits(per_agent: usize, idle: u64) -> Limits {
    Limits { contexts_per_agent_max: per_agent, context_idle_seconds: idle, ..Limits::default() }
}

fn names(labels: &[LabelName]) -> Vec<&str> {
    labels.iter().map(LabelName::as_str).collect()
}

#[tokio::test]
async fn what_was_read_outlives_a_guard_that_is_killed_and_ends_when_it_is_cleared() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Arc::new(Contexts::open(dir.path(), &limits(8, 60)).unwrap());
    let contexts = open();
    let reading = contexts.enter(&owner("a", 1));
    contexts.raise(&reading, &label("internal")).await.unwrap();
    contexts.raise(&reading, &label("confidential")).await.unwrap();
    assert_eq!(names(&contexts.read(&contexts.enter(&owner("a", 1)))), ["internal", "confidential"]);
    assert_eq!(names(&contexts.read(&contexts.enter(&owner("a", 2)))), [""; 0], "another user");
    assert_eq!(names(&contexts.read(&contexts.enter(&owner("b", 1)))), [""; 0], "another agent");
    // Dropped as it is: nothing is written at its end.
    let contexts = open();
    let again = contexts.enter(&owner("a", 1));
    assert_eq!(names(&contexts.read(&again)), ["internal", "confidential"]);
    let over = again.until_over();
    assert_eq!(contexts.clear(|whose| whose.agent.as_str() == "a").len(), 1);
    over.await;
    assert_eq!(names(&contexts.read(&contexts.enter(&owner("a", 1)))), [""; 0]);
    // What was under way when it was cleared still counts.
    contexts.raise(&again, &label("restricted")).await.unwrap();
    assert_eq!(names(&contexts.read(&contexts.enter(&owner("a", 1)))), ["restricted"]);
    // That it was cleared is written beside what goes on.
    while !std::fs::read_to_string(dir.path().join(book::FILE)).unwrap().contains(r#""is":"over""#) {
        tokio::task::yield_now().await;
    }
    let contexts = open();
    assert_eq!(names(&contexts.read(&contexts.enter(&owner("a", 1)))), ["restricted"]);
}

#[test]
fn the_order_in_which_lines_were_written_does_not_matter() {
    let read = |id, name: &str| Line::Read { id, whose: Whose::of(&owner("a", 1)), label: label(name) };
    let over = || Line::Over { id: 1 };
    for lines in [
        vec![read(1, "internal"), over(), read(2, "restricted")],
        vec![read(1, "internal"), read(2, "restricted"), over()],
        vec![read(1, "internal"), read(2, "restricted")],
        vec![read(2, "restricted"), read(1, "internal"), over()],
    ] {
        let mut table = Table::new(&limits(8, 60));
        for line in lines {
            table.restore(line, 0);
        }
        assert_eq!(names(&table.read(&Whose::of(&owner("a", 1)))), ["restricted"]);
        assert!(table.next_id > 2);
    }
}

#[tokio::test]
async fn an_agent_has_read_the_same_wherever_its_requests_come_from() {
    let dir = tempfile::tempdir().unwrap();
    let contexts = Arc::new(Contexts::open(dir.path(), &limits(8, 60)).unwrap());
    let process = |uid, cgroup: &str| Origin::Process { uid, cgroup: cgroup.into() };
    let at = |from| contexts.enter(&Owner { from, ..owner("a", 1) });
    contexts.raise(&at(process(1, "/a")), &label("restricted")).await.unwrap();
    for from in [process(1, "/b"), process(2, "/a"), Origin::Remote, Origin::Unknown] {
        assert_eq!(names(&contexts.read(&at(from.clone()))), ["restricted"], "{from}");
    }
    let other = Owner { user: None, ..owner("a", 1) };
    assert_eq!(names(&contexts.read(&contexts.enter(&other))), [""; 0], "another user");
}

#[tokio::test]
async fn nothing_goes_on_of_which_nobody_would_know_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let contexts = Arc::new(Contexts::open(dir.path(), &limits(8, 60)).unwrap());
    let reading = contexts.enter(&owner("a", 1));
    contexts.book.lock().unwrap().break_for_tests();
    let refused = contexts.raise(&reading, &label("internal")).await;
    assert!(refused.is_err());
    assert_eq!(names(&contexts.read(&reading)), ["internal"], "it counts all the same");
    assert!(contexts.raise(&reading, &label("internal")).await.is_err(), "nor does the next one");
    let torn = dir.path().join(book::FILE);
    std::fs::write(&torn, "{\"is\":\"format\",\"format\":1}\n{\"is\":\"read\"\n{\"is\":\"over\",\"id\":1}\n")
        .unwrap();
    let error = Contexts::open(dir.path(), &limits(8, 60)).err().unwrap().to_string();
    assert!(error.contains("nobody can tell who has read what"), "{error}");
    std::fs::write(&torn, "{\"is\":\"format\",\"format\":1}\n{\"is\":\"rea").unwrap();
    assert!(Contexts::open(dir.path(), &limits(8, 60)).is_ok(), "a last line that was torn off");
}

#[test]
fn a_context_is_idle_only_without_requests() {
    let mut table = Table::new(&limits(8, 60));
    let now = since_boot();
    let reading = table.enter(Whose::of(&owner("a", 1)), now);
    table.raise(&reading, &label("internal"), now);
    assert!(table.sweep(now + 3_600_000).is_empty(), "a request is under way");
    drop(reading);
    assert!(table.sweep(since_boot() + 59_000).is_empty());
    let later = since_boot() + 61_000;
    assert_eq!(table.sweep(later).len(), 1);
    assert!(table.contexts.is_empty() && table.by_agent.is_empty());
}

#[test]
fn no_step_of_the_wall_clock_makes_a_context_old() {
    let dir = tempfile::tempdir().unwrap();
    let contexts = Arc::new(Contexts::open(dir.path(), &limits(8, 60)).unwrap());
    let before = since_boot();
    drop(contexts.enter(&owner("a", 1)));
    let used_at = contexts.table().contexts[&Whose::of(&owner("a", 1))].presence.used_at(0);
    assert!((before..=since_boot()).contains(&used_at), "it goes by the time since the boot: {used_at}");
    // Tables show the time of day.
    let shown = contexts.list()[0].used_at;
    assert!(wall_milliseconds().abs_diff(shown) < 60_000, "{shown}");
}

#[test]
fn many_contexts_that_end_at_once_wait_for_the_disk_once_and_the_next_guard_knows_of_none() {
    let dir = tempfile::tempdir().unwrap();
    let contexts = Arc::new(Contexts::open(dir.path(), &limits(100, 60)).unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    for user in 0..50 {
        let reading = contexts.enter(&owner("a", user));
        runtime.block_on(contexts.raise(&reading, &label("internal"))).unwrap();
    }
    let syncs = || contexts.book.lock().unwrap().syncs;
    let before = syncs();
    // Without a runtime it is written here.
    assert_eq!(contexts.clear(|_| true).len(), 50);
    assert_eq!(syncs() - before, 1);
    drop(contexts);
    assert!(Contexts::open(dir.path(), &limits(100, 60)).unwrap().list().is_empty());
}

#[test]
fn those_for_whom_there_is_no_room_share_what_they_read_and_nobody_forgets_it() {
    let mut table = Table::new(&limits(2, 60));
    let now = wall_milliseconds();
    let enter = |table: &mut Table, user| table.enter(Whose::of(&owner("a", user)), now);
    let _one = enter(&mut table, 1);
    let two = enter(&mut table, 2);
    let third = enter(&mut table, 3);
    table.raise(&third, &label("restricted"), now);
    for user in 1..6 {
        let reading = enter(&mut table, user);
        assert_eq!(names(&table.read(&reading.whose)), ["restricted"], "{user}");
    }
    assert_eq!(table.contexts.len(), 3);
    // With room again the third one is not a new one.
    drop(two);
    table.clear(|whose| whose.is_of(&owner("a", 2)) && !whose.is_shared);
    let again = enter(&mut table, 3);
    assert_eq!(names(&table.read(&again.whose)), ["restricted"]);
    assert!(!table.enter(Whose::of(&owner("b", 1)), now).whose.is_shared, "other agents have their own room");
}

proptest! {
    #[test]
    fn a_mark_never_falls_within_a_context(
        steps in proptest::collection::vec((0..3_u32, 0..4_usize, 0..6_u8), 1..80)
    ) {
        const LABELS: [&str; 4] = ["public", "internal", "confidential", "restricted"];
        let dir = tempfile::tempdir().unwrap();
        let mut contexts = Contexts::open(dir.path(), &limits(2, 600)).unwrap();
        let mut model: HashMap<u32, Vec<usize>> = HashMap::new();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for (user, read, what) in steps {
            match what {
                0 => {
                    // A guard that was killed.
                    drop(contexts);
                    contexts = Contexts::open(dir.path(), &limits(2, 600)).unwrap();
                }
                1 => {
                    contexts.sweep();
                }
                _ => {
                    let shared = Arc::new(contexts);
                    let reading = shared.enter(&owner("a", user));
                    runtime.block_on(shared.raise(&reading, &label(LABELS[read]))).unwrap();
                    model.entry(user).or_default().push(read);
                    drop(reading);
                    contexts = Arc::into_inner(shared).unwrap();
                }
            }
            for (user, read) in &model {
                let reading = contexts.enter(&owner("a", *user));
                let labels = contexts.read(&reading);
                prop_assert!(read.iter().all(|read| labels.contains(&label(LABELS[*read]))), "{user}: {labels:?}");
            }
        }
    }
}
