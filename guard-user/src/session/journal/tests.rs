use std::path::PathBuf;
use std::sync::mpsc::channel;

use super::super::owner::tests::owner;
use super::super::unix_milliseconds;
use super::file::FILE;
use super::*;
use crate::config::Limits;

fn new(id: &str) -> NewSession {
    let (server, id) = (ServerName::parse("crm").unwrap(), SessionId::parse(id.as_bytes()).unwrap());
    let (version, host, kind) = (Some("2025-11-25".into()), None, SessionKind::Streamable);
    NewSession { server, id, owner: owner("a"), netns: 1, port: 3001, listener: Some(7), version, host, kind }
}

fn empty() -> (Table, Tasks) {
    (Table::new(&Limits::default()), Tasks::default())
}

fn open(dir: &Path) -> io::Result<(Journal, Table, Tasks)> {
    let (mut table, mut tasks) = empty();
    Ok((Journal::open(dir, &mut table, &mut tasks)?, table, tasks))
}

fn known(table: &Table) -> Vec<String> {
    let mut ids: Vec<_> = table.each().map(|(new, ..)| new.id.as_str().to_owned()).collect();
    ids.sort();
    ids
}

/// What another guard would find now.
fn found(dir: &Path) -> Vec<String> {
    let (mut table, mut tasks) = empty();
    load(dir, &mut table, &mut tasks).unwrap();
    known(&table)
}

fn wait(written: Option<Written>) {
    written.unwrap().blocking_recv().unwrap();
}

/// A journal whose thread does nothing before it is told.
fn waiting(dir: &Path) -> (Journal, std::sync::mpsc::Sender<()>, PathBuf) {
    let (go, gone) = channel();
    let mut book = Book::new(dir);
    book.rewrite([]);
    let journal = Journal::run(move |jobs, shared| {
        gone.recv().unwrap();
        write(&jobs, &shared, book)
    });
    (journal.unwrap(), go, dir.join(FILE))
}

#[test]
fn what_was_written_is_there_again_and_a_torn_end_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let now = unix_milliseconds();
    {
        let (mut journal, ..) = open(dir.path()).unwrap();
        journal.opened(&new("1"), now);
        journal.opened(&new("2"), now);
        journal.ended(&new("1").server, &new("1").id);
        let made = Made { owner: owner("a"), tool: "report".into(), decision: "d".into() };
        journal.task(&new("1").server, "t", &made, now);
        journal.opened(&new("3"), now);
    }
    let file = dir.path().join(FILE);
    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() - 5]).unwrap();
    let (_, table, tasks) = open(dir.path()).unwrap();
    assert_eq!((known(&table), tasks.len()), (vec!["2".to_owned()], 1));
    // The torn line is gone, so that what is appended stands on a line of its own.
    let (mut journal, ..) = open(dir.path()).unwrap();
    journal.opened(&new("4"), now);
    drop(journal);
    assert_eq!(known(&open(dir.path()).unwrap().1), ["2", "4"]);
}

/// When it was used last is not written down.
#[test]
fn a_session_that_was_opened_long_ago_is_not_idle_after_a_start() {
    let dir = tempfile::tempdir().unwrap();
    let now = unix_milliseconds();
    let idle = Limits::default().session_idle_seconds * 1000;
    let (mut journal, ..) = open(dir.path()).unwrap();
    journal.opened(&new("1"), now - 2 * idle);
    drop(journal);
    let (_, mut table, _) = open(dir.path()).unwrap();
    assert!(table.sweep(now + idle / 2).is_empty());
    assert_eq!(table.sweep(now + 2 * idle).len(), 1);
}

#[test]
fn a_file_that_cannot_be_understood_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(FILE), "{}\n{}\n").unwrap();
    assert!(open(dir.path()).is_err());
}

#[test]
fn a_file_of_a_newer_format_is_an_error_and_an_older_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join(FILE);
    let (mut journal, ..) = open(dir.path()).unwrap();
    journal.opened(&new("1"), unix_milliseconds());
    drop(journal);
    let text = fs::read_to_string(&file).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    assert!(first.starts_with(r#"{"is":"format","format":2,"#), "{first}");
    for before in [rest.to_owned(), text.replace(r#""format":2"#, r#""format":1"#)] {
        fs::write(&file, before).unwrap();
        assert_eq!(found(dir.path()), ["1"]);
    }
    fs::write(&file, text.replace(r#""format":2"#, r#""format":3"#)).unwrap();
    let error = open(dir.path()).err().unwrap().to_string();
    assert!(error.contains("format 3") && error.contains("remove it"), "{error}");
}

/// A disk without room keeps no guard from taking over.
#[test]
fn a_file_that_cannot_be_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, ..) = open(dir.path()).unwrap();
    journal.opened(&new("1"), unix_milliseconds());
    drop(journal);
    let way = dir.path().join("sessions.next");
    fs::create_dir(&way).unwrap();
    let (mut journal, mut table, tasks) = open(dir.path()).unwrap();
    assert_eq!(known(&table), ["1"]);
    wait(journal.opened(&new("2"), 0));
    assert_eq!(found(dir.path()), ["1"], "not written, and not waited for");
    drop(table.adopt(new("2"), 0).unwrap());
    fs::remove_dir(way).unwrap();
    journal.keep_up(&table, &tasks, 0);
    wait(journal.opened(&new("3"), 0));
    assert_eq!(found(dir.path()), ["1", "2", "3"]);
}

#[test]
fn a_disk_that_goes_on_refusing_is_asked_less_and_less_often() {
    let dir = tempfile::tempdir().unwrap();
    let way = dir.path().join("sessions.next");
    let (mut journal, table, tasks) = open(dir.path()).unwrap();
    fs::create_dir(&way).unwrap();
    let refused = |journal: &Journal| journal.shared.is_behind.store(true, Ordering::Relaxed);
    refused(&journal);
    let mut tries = Vec::new();
    for second in 0..30 {
        let before = journal.again_at;
        journal.keep_up(&table, &tasks, second * 1000);
        if journal.again_at > before {
            tries.push(second);
            // The thread says so, too, when it comes to it.
            refused(&journal);
        }
    }
    assert_eq!(tries, [0, 1, 3, 7, 15, 23]);
    // Once it can be written, the next trouble begins anew.
    fs::remove_dir(way).unwrap();
    journal.keep_up(&table, &tasks, 31_000);
    wait(journal.opened(&new("1"), 0));
    assert_eq!(found(dir.path()), ["1"]);
    journal.shared.is_behind.store(false, Ordering::Relaxed);
    journal.keep_up(&table, &tasks, 39_000);
    refused(&journal);
    journal.keep_up(&table, &tasks, 39_000);
    assert_eq!(journal.again_at, 40_000);
}

#[test]
fn lines_of_no_use_do_not_pile_up() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, table, tasks) = open(dir.path()).unwrap();
    let before = fs::metadata(dir.path().join(FILE)).unwrap().len();
    for _ in 0..=SPARE_LINES_MAX {
        let last = journal.opened(&new("1"), 0);
        journal.ended(&new("1").server, &new("1").id);
        // A disk that keeps up.
        if journal.lines % 1000 == 0 {
            wait(last);
        }
    }
    journal.keep_up(&table, &tasks, 0);
    drop(journal);
    assert_eq!(fs::metadata(dir.path().join(FILE)).unwrap().len(), before);
}

#[test]
fn who_opens_a_session_is_told_when_it_is_written_and_nobody_else_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, go, _) = waiting(dir.path());
    let mut written = journal.opened(&new("1"), 0).unwrap();
    let (table, tasks) = empty();
    journal.ended(&new("2").server, &new("2").id);
    journal.keep_up(&table, &tasks, 0);
    assert!(written.try_recv().is_err() && found(dir.path()).is_empty());
    go.send(()).unwrap();
    written.blocking_recv().unwrap();
    assert_eq!(found(dir.path()), ["1"]);
}

#[test]
fn lines_beyond_what_may_wait_empty_the_file_until_it_is_written_anew() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, go, file) = waiting(dir.path());
    let (mut table, tasks) = empty();
    drop(table.adopt(new("kept"), 0).unwrap());
    let first = journal.opened(&new("kept"), 0);
    for _ in 1..LINES_WAITING_MAX {
        journal.ended(&new("1").server, &new("1").id);
    }
    assert!(journal.opened(&new("2"), 0).is_none(), "no room");
    journal.keep_up(&table, &tasks, 0);
    assert!(journal.lost > journal.made_up, "no room for that either");
    go.send(()).unwrap();
    wait(first);
    assert_eq!(fs::metadata(&file).unwrap().len(), 0);
    let mut now = 0;
    let written = loop {
        now += RETRY_MILLISECONDS_MAX;
        journal.keep_up(&table, &tasks, now);
        if let Some(written) = journal.opened(&new("3"), 0) {
            break written;
        }
    };
    wait(Some(written));
    assert_eq!(found(dir.path()), ["3", "kept"]);
}

#[test]
fn many_that_end_at_once_are_one_new_file() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, mut table, tasks) = open(dir.path()).unwrap();
    for number in 0..=LINES_WAITING_MAX {
        let one = NewSession { server: ServerName::parse(&format!("s{number}")).unwrap(), ..new("1") };
        drop(table.adopt(one, 0).unwrap());
    }
    journal.rewrite(&table, &tasks);
    let (ended, _) = table.end(0, |_| true);
    journal.all_ended((&ended, &[]), &table, &tasks);
    assert_eq!(journal.lost, 0);
    wait(journal.opened(&new("2"), 0));
    assert_eq!(found(dir.path()), ["2"]);
}

/// Its id may be somebody else's by then.
#[test]
fn an_end_that_cannot_be_written_leaves_nothing_in_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let (mut journal, table, tasks) = open(dir.path()).unwrap();
    wait(journal.opened(&new("1"), 0));
    // In the way of the next file.
    fs::create_dir(dir.path().join("sessions.next")).unwrap();
    journal.rewrite(&table, &tasks);
    wait(journal.opened(&new("2"), 0));
    journal.shared.is_behind.store(false, Ordering::Relaxed);
    drop(journal);
    assert_eq!(found(dir.path()), ["1", "2"], "the old file goes on");
    let mut book = Book::new(dir.path());
    book.append(&Line::Ended { server: new("1").server, id: new("1").id });
    assert_eq!(found(dir.path()), Vec::<String>::new());
}
