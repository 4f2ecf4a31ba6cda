//! The kernel writes a part of what it is given and then no more: no simulation, but a limit on the size of a file.

use std::fs;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::process::Command;

use guard_tests::differ::Random;
use guard_tests::faults;
use guard_tests::faults::rig::{RECOVERY_LIMIT, Rig, Said, packed};
use guard_tests::faults::saved::copies;
use guard_tests::process::eventually;
use guard_tests::scene::{ADDRESS, apart};

use super::{LEFT_BYTES, UNAVAILABLE};

/// Records of which a part is written.
const SHORT_WRITES: usize = 4;
/// No record of a call is shorter.
const RECORD_BYTES_MIN: usize = 400;
/// Far more than a new file of the trail has after some calls, and far less than a full one has when it is packed.
const PACKED_BYTES_PART: u64 = 64 * 1024;

/// What the first start of a trail may write of one file: a part of the key of digests, of its own key, of its first record.
const FIRST_BYTES: [u64; 3] = [10, 70, 200];

/// Whoever it starts gets an error for a file that is too large, and no signal.
fn ignoring(command: &Command) -> Command {
    let mut shell = Command::new("sh");
    shell.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""]).arg(command.get_program());
    shell.args(command.get_args());
    shell
}

#[test]
fn a_record_that_is_written_in_part_is_refused_and_leaves_nothing() {
    let mut random = Random::new(faults::seed());
    apart(|| {
        let mut rig = Rig::new(|_daemon| Ok(())).unwrap();
        rig.daemon.stop().unwrap();
        rig.daemon.start_through(|command| ignoring(&command)).unwrap();
        for written in (0..SHORT_WRITES).map(|_| random.below(RECORD_BYTES_MIN)).chain([0, 1]) {
            // Outcomes are written by then.
            rig.settle().unwrap();
            let (reached, length) = (rig.reached(), fs::metadata(rig.current().unwrap().1).unwrap().len());
            rig.limit_file_bytes(Some(length + u64::try_from(written).unwrap())).unwrap();
            let said = rig.call().unwrap();
            assert!(matches!(&said, Said::Refused(_, word) if word == UNAVAILABLE), "{written}: {said:?}");
            assert_eq!(rig.reached(), reached, "{written}");
            rig.limit_file_bytes(None).unwrap();
            rig.recovers().unwrap();
            // `status` says it only until the next file is begun, a second later; the log is too large a file itself.
            let ledger = rig.daemon.ledger().unwrap();
            let gap = ledger.of_kind("gap").last().unwrap();
            assert!(gap["cause"].as_str().unwrap().contains("File too large"), "{gap}");
            rig.is_sound().unwrap();
            rig.compare().unwrap();
        }
    });
}

#[test]
fn a_file_that_is_packed_in_part_stays_as_it_was_and_is_packed_later() {
    apart(|| {
        let mut rig = Rig::new(|_daemon| Ok(())).unwrap();
        rig.daemon.stop().unwrap();
        rig.daemon.start_through(|command| ignoring(&command)).unwrap();
        rig.fill(LEFT_BYTES).unwrap();
        rig.settle().unwrap();
        let full = rig.current().unwrap().1;
        let next = packed(&full).with_extension("gz.next");
        rig.limit_file_bytes(Some(PACKED_BYTES_PART)).unwrap();
        // It is too large already: the trail goes on in a new file, and it is packed.
        let said = rig.call().unwrap();
        assert!(matches!(&said, Said::Refused(_, word) if word == UNAVAILABLE), "{said:?}");
        rig.recovers().unwrap();
        let told = eventually(RECOVERY_LIMIT, || {
            Ok(rig
                .daemon
                .log()?
                .lines()
                .any(|line| line.contains("File too large") && line.contains(full.to_str().unwrap_or("?")))
                .then_some(()))
        });
        assert!(told.unwrap().is_some(), "{}", rig.daemon.log().unwrap());
        assert_eq!(rig.call().unwrap(), Said::Done, "it holds up no call");
        assert!(full.exists() && !packed(&full).exists());
        rig.is_sound().unwrap();
        rig.compare().unwrap();
        rig.limit_file_bytes(None).unwrap();
        // With the next full one.
        rig.fill(LEFT_BYTES).unwrap();
        let is_packed = eventually(RECOVERY_LIMIT, || {
            rig.long_refusal();
            Ok((packed(&full).exists() && !full.exists()).then_some(()))
        });
        assert!(is_packed.unwrap().is_some(), "it is not packed: {}", rig.daemon.log().unwrap());
        assert!(!next.exists());
        rig.is_sound().unwrap();
        rig.compare().unwrap();
    });
}

/// A start that may write so many bytes of a file, but for its log. What it says.
fn refused(rig: &mut Rig, bytes: u64) -> String {
    let log = rig.daemon.log_file();
    let limited = |command: Command| {
        let mut shell = Command::new("bash");
        let script = "trap '' XFSZ; log=$0; bytes=$1; shift; exec > >(exec cat >> \"$log\") 2>&1; exec prlimit --fsize=$bytes:$bytes \"$@\"";
        shell.args(["-c", script]).arg(&log).arg(bytes.to_string()).arg(command.get_program());
        shell.args(command.get_args());
        shell
    };
    fs::write(&log, "").unwrap();
    rig.daemon.start_through(limited).expect_err("it cannot start");
    let port = TcpStream::connect(ADDRESS).map_err(|error| error.kind());
    assert_eq!(port.err(), Some(ErrorKind::ConnectionRefused), "{bytes}");
    // What passes it on may be a moment late.
    let said = eventually(RECOVERY_LIMIT, || {
        Ok(Some(rig.daemon.log()?).filter(|log| log.contains("File too large")))
    });
    let said = said.unwrap().unwrap_or_else(|| panic!("{bytes}: {:?}", rig.daemon.log()));
    assert!(said.contains(&rig.trail().display().to_string()), "{bytes}: {said}");
    said
}

#[test]
fn a_start_that_writes_a_part_of_a_file_is_none_and_the_next_one_goes_on() {
    apart(|| {
        let mut rig = Rig::new(|_daemon| Ok(())).unwrap();
        assert_eq!(rig.call().unwrap(), Said::Done);
        rig.look().unwrap();
        rig.daemon.kill().unwrap();
        // What it sets aside.
        let (_, last) = rig.current().unwrap();
        let torn = b"{\"seq\":1,\"prev\":\"0000000000000000000000000000000000000000";
        fs::write(&last, [fs::read(&last).unwrap(), torn.to_vec()].concat()).unwrap();
        let said = refused(&mut rig, 20);
        assert!(said.contains(&last.display().to_string()), "{said}");
        rig.daemon.start().unwrap();
        rig.recovers().unwrap();
        let aside = fs::read_dir(rig.trail()).unwrap().map(|entry| entry.unwrap().path());
        let aside: Vec<_> = aside.filter(|path| path.to_string_lossy().contains("/torn-")).collect();
        assert_eq!(aside.iter().map(|path| fs::read(path).unwrap()).collect::<Vec<_>>(), [torn.to_vec()]);
        rig.is_sound().unwrap();
        rig.compare().unwrap();
        // What a trail begins with.
        rig.daemon.kill().unwrap();
        rig.daemon.config.audit.dir = Some(rig.daemon.dir().join("another"));
        for copy in copies(&rig) {
            fs::remove_file(copy).unwrap();
        }
        for bytes in FIRST_BYTES {
            println!("{bytes}: {}", refused(&mut rig, bytes));
        }
        rig.daemon.start().unwrap();
        rig.recovers().unwrap();
        rig.is_sound().unwrap();
    });
}
