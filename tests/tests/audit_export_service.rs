//! An export that runs for months: what its collector wants of it, how it ends, and what its exit codes say.

use std::fs::{self, File, Permissions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{ChildStderr, Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use guard_tests::ca::TestCa;
use guard_tests::process::{Process, eventually};
use guard_tests::receivers::{Collector, Posted, syslog};
use guard_tests::scene::{PORT, apart, call};
use guard_tests::tenants::{Tenants, on};
use guard_tests::unit::Unit;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(30);
/// No answer that a test waits for takes as long, and no wait of an export that is not cut short is shorter.
const SOON: Duration = Duration::from_secs(20);

fn export(tenants: &Tenants, words: &[&str]) -> Output {
    tenants.daemon.output("audit export", words).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// A guard with some signed records.
fn traffic() -> Tenants {
    let tenants = Tenants::new(&json!({})).unwrap();
    tenants.open(&tenants.alice, "one").unwrap();
    served(&tenants, 5);
    tenants
}

/// Calls that are answered, and signed.
fn served(tenants: &Tenants, count: usize) {
    for _ in 0..count {
        tenants.served(&on("one", &call(2, "open"), &tenants.alice), &json!({"content": []})).unwrap();
    }
    let written = tenants.daemon.ledger().unwrap().records.len();
    let all_signed = eventually(PATIENCE, || {
        let exported = export(tenants, &["--format", "json"]);
        Ok((exported.stdout.lines().count() >= written).then_some(()))
    });
    all_signed.unwrap().expect("all is signed");
}

fn lag(tenants: &Tenants, format: &str, cursor: &str) -> u64 {
    let output = export(tenants, &["--format", format, "--cursor", cursor, "--lag", "--json"]);
    let lag: Value = serde_json::from_slice(&output.stdout).unwrap();
    lag["lag"].as_u64().unwrap()
}

fn path(tenants: &Tenants, name: &str) -> String {
    tenants.daemon.dir().join(name).display().to_string()
}

fn in_order(records: &[Value]) {
    let numbers: Vec<u64> = records.iter().map(|record| record["seq"].as_u64().unwrap()).collect();
    assert!(numbers.len() > 10, "{numbers:?}");
    assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>());
}

/// An export that follows, and what it says.
struct Follower {
    process: Process,
    says: BufReader<ChildStderr>,
}

impl Follower {
    fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Process::spawn(None, command).unwrap();
        let says = BufReader::new(process.errors().unwrap());
        Self { process, says }
    }

    fn of(tenants: &Tenants, words: &[&str]) -> Self {
        let mut command = tenants.daemon.command("audit export");
        command.args(words).arg("--follow");
        Self::start(command)
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).unwrap();
        line
    }

    /// Asks it to end; returns its exit code.
    fn end(mut self, signal: Signal) -> Option<i32> {
        self.process.signal(signal).unwrap();
        self.process.wait_for_end(SOON).unwrap().code()
    }
}

/// Takes connections and ends them at once, as a proxy whose server is away, until it is told otherwise; then it hands on what comes.
fn fickle() -> (String, Arc<AtomicBool>, mpsc::Receiver<Vec<u8>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = format!("tcp://{}", listener.local_addr().unwrap());
    let (is_back, (send, came)) = (Arc::new(AtomicBool::new(false)), mpsc::channel());
    let stays = Arc::clone(&is_back);
    thread::spawn(move || {
        for mut tcp in listener.incoming().map_while(Result::ok) {
            let mut bytes = vec![0; 1 << 16];
            while stays.load(Ordering::Relaxed) {
                match tcp.read(&mut bytes) {
                    Ok(count) if count > 0 => send.send(bytes[..count].to_vec()).unwrap(),
                    _ => break,
                }
            }
        }
    });
    (to, is_back, came)
}

#[test]
fn who_takes_connections_and_ends_them_has_taken_nothing() {
    apart(|| {
        let tenants = traffic();
        let (to, is_back, came) = fickle();
        let cursor = path(&tenants, "siem.cursor");
        let mut follower = Follower::of(&tenants, &["--format", "json", "--to", &to, "--cursor", &cursor]);
        // One batch after the other finds the last connection ended.
        for _ in 0..3 {
            served(&tenants, 3);
            let line = follower.line();
            assert!(line.contains("next attempt in"), "{line}");
        }
        assert!(!fs::exists(&cursor).unwrap(), "nothing has arrived");
        is_back.store(true, Ordering::Relaxed);
        let arrived = eventually(PATIENCE, || {
            Ok((fs::exists(&cursor)? && lag(&tenants, "json", &cursor) == 0).then_some(()))
        });
        arrived.unwrap().expect("all arrives");
        assert_eq!(follower.end(Signal::TERM), Some(0));
        let all = String::from_utf8(came.try_iter().flatten().collect()).unwrap();
        for record in 0..20 {
            assert!(all.contains(&format!("{{\"seq\":{record},")), "record {record} did not arrive");
        }
    });
}

#[test]
fn a_collector_gets_the_fields_of_a_file_that_nobody_else_may_read_or_write() {
    apart(|| {
        let (tenants, ca) = (traffic(), TestCa::new().unwrap());
        let (secret, clear) =
            (Collector::new(Some(&ca), |_posted| (200, "")), Collector::new(None, |_posted| (200, "")));
        let (https, http) =
            (format!("https://{}/v1/logs?a=b", secret.address), format!("http://{}/v1/logs", clear.address));
        let (ca_file, file) = (ca.ca().display().to_string(), path(&tenants, "headers"));
        let write = |text: &str, mode| {
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, Permissions::from_mode(mode)).unwrap();
        };
        let words = |to| ["--format", "otlp", "--to", to, "--header-file", &file];
        let trusted = [&words(&https)[..], &["--ca-file", &ca_file]].concat();
        let good = "# of the collector\nAuthorization: Bearer hush:hush\nX-Scope-OrgID: mcp\n";
        for (text, mode, why) in [
            (good, 0o640, "others than its owner may read this file"),
            (good, 0o602, "others than its owner may write this file"),
            ("Authorization Bearer hush\n", 0o600, "headers:1: there is no colon"),
            ("A: hush\nContent-Length: 7\n", 0o600, "headers:2: the export sets content-length itself"),
        ] {
            write(text, mode);
            let output = export(&tenants, &trusted);
            assert_eq!(output.status.code(), Some(1), "{}", said(&output));
            assert!(said(&output).contains(why) && !said(&output).contains("hush"), "{}", said(&output));
            let output = export(&tenants, &[&trusted[..], &["--json"]].concat());
            let told: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(told["problems"][0]["file"], file, "{told}");
        }
        write(good, 0o600);
        // In clear it goes nowhere but to this host, by its address.
        for to in ["http://localhost:9/", "http://192.0.2.1/", "http://[2001:db8::1]/", "tls://127.0.0.1:9"] {
            let output = export(&tenants, &words(to));
            assert_eq!(output.status.code(), Some(2), "{to}: {}", said(&output));
            assert!(said(&output).contains("--header-file"), "{}", said(&output));
        }
        assert_eq!(export(&tenants, &["--format", "otlp", "--header-file", &file]).status.code(), Some(2));
        assert!(secret.posted().is_empty() && clear.posted().is_empty());

        for (collector, words, target) in
            [(&secret, &trusted[..], "/v1/logs?a=b"), (&clear, &words(&http)[..], "/v1/logs")]
        {
            let output = export(&tenants, words);
            assert!(output.status.success(), "{}", said(&output));
            in_order(&collector.taken());
            for posted in collector.posted().iter() {
                let head = posted.head.to_ascii_lowercase();
                for field in [
                    &format!("post {target} http/1.1"),
                    "authorization: bearer hush:hush",
                    "x-scope-orgid: mcp",
                    "content-type: application/json",
                    &format!("host: {}", collector.address),
                ] {
                    assert_eq!(head.lines().filter(|line| *line == field).count(), 1, "{field}: {head}");
                }
            }
        }
        // A file that is changed while an export runs counts from then on.
        let cursor = path(&tenants, "cursor");
        let before = secret.posted().len();
        let follower = Follower::of(&tenants, &[&trusted[..], &["--cursor", &cursor]].concat());
        let heard = |text: &str| {
            eventually(PATIENCE, || {
                Ok(secret.posted().last().is_some_and(|it| it.head.contains(text)).then_some(()))
            })
        };
        eventually(PATIENCE, || Ok((secret.posted().len() > before).then_some(()))).unwrap().unwrap();
        write("Authorization: Bearer another\n", 0o600);
        served(&tenants, 1);
        heard("Bearer another").unwrap().expect("the new one is sent");
        assert_eq!(follower.end(Signal::TERM), Some(0));
    });
}

#[test]
fn no_export_goes_to_a_port_that_the_guard_protects() {
    apart(|| {
        let tenants = traffic();
        let to = format!("http://127.0.0.1:{PORT}/v1/logs");
        let output = export(&tenants, &["--format", "otlp", "--to", &to]);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        let why = "is the port of a protected server, which must not be the receiver";
        assert!(said(&output).contains(why), "{}", said(&output));
    });
}

#[test]
fn what_is_too_large_for_a_collector_comes_in_parts_and_one_record_that_is_is_named() {
    apart(|| {
        let tenants = traffic();
        let most = |bytes| move |posted: &Posted| (if posted.bytes > bytes { 413 } else { 200 }, "");
        let cursor = path(&tenants, "cursor");
        let small = Collector::new(None, most(8 * 1024));
        let to = format!("http://{}/v1/logs", small.address);
        let output = export(&tenants, &["--format", "otlp", "--to", &to, "--cursor", &cursor]);
        assert!(output.status.success(), "{}", said(&output));
        in_order(&small.taken());
        assert!(small.posted().iter().any(|it| it.status == 413), "it was too large");
        assert!(lag(&tenants, "otlp", &cursor) < 5);
        // It is not asked again for what it found too large.
        let refused: Vec<_> =
            small.posted().iter().filter(|it| it.status == 413).map(|it| it.bytes).collect();
        assert!(refused.is_sorted_by(|one, next| next < one), "{refused:?}");

        let tiny = Collector::new(None, most(16));
        let cursor = path(&tenants, "cursor-of-tiny");
        let to = format!("http://{}/v1/logs", tiny.address);
        let words = ["--format", "otlp", "--to", &to, "--cursor", &cursor];
        // Another attempt brings nothing: it gives up also where it follows.
        for words in [&words[..], &[&words[..], &["--follow"]].concat()] {
            let output = export(&tenants, words);
            assert_eq!(output.status.code(), Some(2), "{}", said(&output));
            assert!(said(&output).contains("record 0 alone is too large for it (413"), "{}", said(&output));
        }
        assert!(tiny.taken().is_empty() && !fs::exists(&cursor).unwrap());
    });
}

#[test]
fn a_collector_that_is_busy_is_asked_again_when_it_said_and_gets_nothing_twice() {
    apart(|| {
        let tenants = traffic();
        let (mut asked, mut again) = (0, None);
        let (send, times) = mpsc::channel();
        let collector = Collector::new(None, move |posted| {
            asked += 1;
            match asked {
                // The first half of what is too large is taken, then it is busy: only the rest comes again.
                1 => (413, ""),
                2 => (200, ""),
                // So it is in the next batch, with all of the one before taken.
                3 | 5 => {
                    again = Some((Instant::now(), posted.records.clone()));
                    (429, if asked == 3 { "retry-after: 3\r\n" } else { "" })
                }
                _ => {
                    if let Some((at, records)) = again.take() {
                        send.send((at.elapsed(), records == posted.records)).unwrap();
                    }
                    (200, "")
                }
            }
        });
        let cursor = path(&tenants, "cursor");
        let to = format!("http://{}/v1/logs", collector.address);
        let mut follower = Follower::of(&tenants, &["--format", "otlp", "--to", &to, "--cursor", &cursor]);
        let line = follower.line();
        assert!(line.contains("it answered 429; next attempt in 3 s"), "{line}");
        let (waited, is_the_same) = times.recv_timeout(PATIENCE).unwrap();
        assert!(waited >= Duration::from_millis(2900) && is_the_same, "{waited:?}");
        // What comes behind the first batch makes another.
        served(&tenants, 1);
        let (_, is_the_same) = times.recv_timeout(PATIENCE).unwrap();
        assert!(is_the_same, "nothing of the batch before");
        assert_eq!(follower.end(Signal::TERM), Some(0));
        in_order(&collector.taken());
    });
}

/// Answers each request with 200 and never ends the answer; tells of each.
fn endless() -> (String, mpsc::Receiver<usize>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (to, (send, asked)) = (format!("http://{}/", listener.local_addr().unwrap()), mpsc::channel());
    thread::spawn(move || {
        let mut open = Vec::new();
        for tcp in listener.incoming().map_while(Result::ok) {
            let mut from = BufReader::new(tcp);
            let mut length = 0;
            for line in from.by_ref().lines().map_while(Result::ok).take_while(|line| !line.is_empty()) {
                if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
            }
            from.read_exact(&mut vec![0; length]).unwrap();
            from.get_mut().write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{").unwrap();
            open.push(from);
            send.send(length).unwrap();
        }
    });
    (to, asked)
}

#[test]
fn a_collector_that_does_not_end_its_answer_has_taken_what_it_answered_for() {
    apart(|| {
        let tenants = traffic();
        let ((to, asked), cursor) = (endless(), path(&tenants, "cursor"));
        let output = export(&tenants, &["--format", "otlp", "--to", &to, "--cursor", &cursor]);
        assert!(output.status.success(), "{}", said(&output));
        let requests: Vec<usize> = asked.try_iter().collect();
        assert_eq!(requests.len(), 1, "nothing comes twice: {requests:?}");
        let cursor: Value = serde_json::from_slice(&fs::read(&cursor).unwrap()).unwrap();
        assert!(cursor["records"].as_u64().unwrap() > 10, "{cursor}");
    });
}

#[test]
fn an_export_that_follows_ends_in_order_when_it_is_asked_to() {
    apart(|| {
        let (tenants, ca) = (traffic(), TestCa::new().unwrap());
        // All was sent: the receiver has read it, and the cursor says so.
        let (address, messages) = syslog(&ca, None);
        let (to, ca_file, cursor) =
            (format!("tls://{address}"), ca.ca().display().to_string(), path(&tenants, "siem"));
        let words = ["--format", "json", "--to", &to, "--ca-file", &ca_file, "--cursor", &cursor];
        let follower = Follower::of(&tenants, &words);
        messages.recv_timeout(PATIENCE).unwrap();
        assert_eq!(follower.end(Signal::TERM), Some(0));
        let first = 1 + messages.try_iter().count() as u64;
        let records = tenants.daemon.ledger().unwrap().records.len() as u64;
        assert!(records - lag(&tenants, "json", &cursor) <= first, "the cursor is not ahead");
        served(&tenants, 1);
        assert!(export(&tenants, &words).status.success());
        let next = messages.recv_timeout(PATIENCE).unwrap();
        let (_, next) = next.split_once("] ").unwrap();
        let next: Value = serde_json::from_str(next).unwrap();
        assert_eq!(next["seq"], first, "nothing twice, nothing left out");

        // It waits for its next attempt: what had arrived is behind the cursor.
        let mut asked = 0;
        let collector = Collector::new(None, move |_posted| {
            asked += 1;
            if asked == 1 { (200, "") } else { (503, "retry-after: 86400\r\n") }
        });
        let (to, cursor) = (format!("http://{}/v1/logs", collector.address), path(&tenants, "otlp"));
        let mut follower = Follower::of(&tenants, &["--format", "otlp", "--to", &to, "--cursor", &cursor]);
        eventually(PATIENCE, || Ok((!collector.taken().is_empty()).then_some(()))).unwrap().unwrap();
        served(&tenants, 1);
        let line = follower.line();
        assert!(line.contains("it answered 503; next attempt in 60 s"), "{line}");
        assert_eq!(follower.end(Signal::INT), Some(0));
        let cursor: Value = serde_json::from_slice(&fs::read(&cursor).unwrap()).unwrap();
        assert_eq!(cursor["records"], collector.taken().len(), "behind what has arrived");

        // Without --follow, a signal does what it always does, and so does a second one with it.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = format!("http://{}/v1/logs", silent.local_addr().unwrap());
        for signals in [&[Signal::TERM][..], &[Signal::TERM, Signal::INT]] {
            let mut command = tenants.daemon.command("audit export");
            command.args(["--format", "otlp", "--to", &to]);
            if signals.len() > 1 {
                command.arg("--follow");
            }
            let mut child = command.stderr(Stdio::null()).spawn().unwrap();
            let _asked = silent.accept().unwrap();
            for signal in signals {
                kill_process(Pid::from_child(&child), *signal).unwrap();
                // The first one is heard by then: signals of two kinds that wait come in no order.
                thread::sleep(Duration::from_millis(300));
            }
            let ended = eventually(SOON, || Ok(child.try_wait()?)).unwrap().expect("it ends at once");
            assert_eq!(ended.code(), None, "{signals:?}: {ended}");
        }
    });
}

#[test]
fn the_exit_code_tells_wrong_use_from_another_trail_and_from_what_may_go_the_next_time() {
    apart(|| {
        let tenants = traffic();
        let dir = tenants.daemon.dir();
        let cursor = path(&tenants, "cursor");
        let words = ["--format", "json", "--cursor", &cursor];
        assert!(export(&tenants, &words).status.success());
        let good = fs::read_to_string(&cursor).unwrap();

        let code = |words: &[&str], why: &str| {
            let output = export(&tenants, words);
            assert!(said(&output).contains(why), "{words:?}: {}", said(&output));
            output.status.code()
        };
        assert_eq!(code(&["--format", "csv", "--cursor", &cursor], "of another --format"), Some(2));
        fs::write(&cursor, "{}").unwrap();
        assert_eq!(code(&words, "not a cursor of"), Some(2));
        let mut other: Value = serde_json::from_str(&good).unwrap();
        other["key"] = json!("another+key");
        fs::write(&cursor, other.to_string()).unwrap();
        for words in [&words[..], &[&words[..], &["--lag"]].concat()] {
            assert_eq!(code(words, "somebody has put another in its place"), Some(3));
        }
        fs::write(&cursor, &good).unwrap();
        let exposed = dir.join("exposed");
        fs::create_dir(&exposed).unwrap();
        fs::set_permissions(&exposed, Permissions::from_mode(0o777)).unwrap();
        let there = exposed.join("cursor").display().to_string();
        assert_eq!(code(&["--format", "json", "--cursor", &there], "could have the cursor"), Some(2));

        let lock = File::options().write(true).open(format!("{cursor}.lock")).unwrap();
        lock.lock().unwrap();
        assert_eq!(code(&words, "another export uses this cursor"), Some(1));
        drop(lock);
        let none = path(&tenants, "none/cursor");
        assert_eq!(code(&["--format", "json", "--cursor", &none], "No such file"), Some(1));
        assert_eq!(code(&["--format", "json", "--dir", &none], "cannot read"), Some(1));
        assert_eq!(code(&words, ""), Some(0));

        // A record that is no text any more was changed; it is no fault of the disk.
        let copy = dir.join("copy");
        fs::create_dir(&copy).unwrap();
        for entry in fs::read_dir(tenants.daemon.config.audit_dir()).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let mut bytes = fs::read(&path).unwrap();
                if path.extension().is_some_and(|it| it == "jsonl") {
                    bytes[300] = 0xff;
                }
                fs::write(copy.join(path.file_name().unwrap()), bytes).unwrap();
            }
        }
        let copy = copy.display().to_string();
        assert_eq!(code(&["--format", "json", "--dir", &copy], "was changed"), Some(3));
    });
}

#[test]
fn in_the_sandbox_of_its_unit_an_export_delivers_and_ends_in_order() {
    apart(|| {
        let (tenants, ca) = (traffic(), TestCa::new().unwrap());
        let collector = Collector::new(Some(&ca), |_posted| (200, ""));
        let state = tenants.daemon.dir().join("export");
        fs::create_dir(&state).unwrap();
        let (cursor, headers) = (state.join("cursor"), tenants.daemon.dir().join("headers"));
        fs::write(&headers, "Authorization: Bearer hush\n").unwrap();
        fs::set_permissions(&headers, Permissions::from_mode(0o600)).unwrap();
        let mut command = tenants.daemon.command("audit export");
        command
            .args([
                "--format",
                "otlp",
                "--follow",
                "--to",
                &format!("https://localhost:{}/", collector.address.port()),
            ])
            .args(["--ca-file".as_ref(), ca.ca().as_os_str(), "--cursor".as_ref(), cursor.as_os_str()])
            .args(["--header-file".as_ref(), headers.as_os_str()]);
        let unit = Unit::of("mcp-guard-export@.service").unwrap();
        let mut follower = Follower::start(unit.confine(&command, &state).unwrap());
        let is_there = || Ok(fs::exists(&cursor)?.then_some(()));
        let written = eventually(PATIENCE, is_there).unwrap();
        assert!(written.is_some(), "no cursor is written: {}", follower.line());
        let status = fs::read_to_string(format!("/proc/{}/status", follower.process.pid())).unwrap();
        for line in
            ["Seccomp:\t2", "NoNewPrivs:\t1", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"]
        {
            assert!(status.lines().any(|it| it == line), "{line}: {status}");
        }
        served(&tenants, 3);
        let Follower { mut process, mut says } = follower;
        let wanted = tenants.daemon.ledger().unwrap().records.len() - 5;
        eventually(PATIENCE, || Ok((collector.taken().len() >= wanted).then_some(()))).unwrap().unwrap();
        process.signal(Signal::TERM).unwrap();
        assert_eq!(process.wait_for_end(SOON).unwrap().code(), Some(0));
        in_order(&collector.taken());
        let mut told = String::new();
        says.read_line(&mut told).unwrap();
        assert_eq!(told, "", "nothing went wrong");
    });
}
