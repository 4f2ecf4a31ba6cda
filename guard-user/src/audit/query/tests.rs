//! What the index leaves out must be what a look at every line would leave out.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::Value;

use super::block::{BLOCK_BYTES, Block, ENCODED_BYTES};
use super::follow::FOLLOWED_CALLS_MAX;
use super::*;

const AGENTS: [&str; 4] = ["support-agent", "lookup-agent", "agent-of-r\u{e4}tsel", "rare-agent"];
const INTENTS: [&str; 4] =
    ["financial.refund.process", "financial.refund.read", "financial.ledger.read", "comms.email.send"];
const DECISIONS: [&str; 3] = ["allow", "deny", "hold"];

/// A trail in the form of the guard's, so far as a query goes.
struct Written {
    dir: tempfile::TempDir,
    next: u64,
}

impl Written {
    fn new() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), next: 0 }
    }

    fn segment(&self, first: u64) -> PathBuf {
        self.dir.path().join(format!("{first:020}.jsonl"))
    }

    /// Calls with their outcomes a few records later, in the segment whose first record is `first`.
    fn add(&mut self, first: u64, calls: u64) {
        let mut file = fs::OpenOptions::new().create(true).append(true).open(self.segment(first)).unwrap();
        let filling = "x".repeat(700);
        let mut lines = Vec::new();
        for number in 0..calls {
            let (seq, pick) = (self.next, usize::try_from(self.next).unwrap());
            let agent = if pick.is_multiple_of(5003) { AGENTS[3] } else { AGENTS[pick % 3] };
            let decision = DECISIONS[pick / 7 % 3];
            let line = serde_json::json!({
                "seq": seq, "prev": "", "time": time(seq), "kind": "call", "id": format!("{seq:032x}"), "agent": agent,
                "server": "crm", "intent": INTENTS[pick / 3 % 4], "decision": decision, "session": format!("{:016x}", seq / 40),
                "target": {"kind": "tool", "name": format!("tool_{}", pick % 11)}, "risk": {"score": pick % 101},
                "text": filling,
            });
            lines.push(line);
            self.next += 1;
            if decision == "allow" && number % 2 == 0 {
                let outcome = serde_json::json!({
                    "seq": self.next, "prev": "", "time": time(self.next), "kind": "outcome", "id": format!("{seq:032x}"),
                });
                lines.push(outcome);
                self.next += 1;
            }
        }
        for line in lines {
            let mut bytes = super::super::text::encode(&line).unwrap();
            bytes.push(b'\n');
            file.write_all(&bytes).unwrap();
        }
    }

    /// One more record, in the first segment.
    fn append(&mut self, record: &Value) {
        let mut whole = serde_json::json!({"seq": self.next, "prev": "", "time": time(self.next)});
        whole.as_object_mut().unwrap().extend(record.as_object().unwrap().clone());
        self.next += 1;
        let mut bytes = super::super::text::encode(&whole).unwrap();
        bytes.push(b'\n');
        let mut file = fs::OpenOptions::new().create(true).append(true).open(self.segment(0)).unwrap();
        file.write_all(&bytes).unwrap();
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    fn records(&self) -> Vec<(Value, String)> {
        let files = fs::read_dir(self.path()).unwrap().map(|entry| entry.unwrap().path());
        let files = files.filter(|path| path.extension().is_some_and(|ending| ending == "jsonl"));
        let text: String = files.map(|path| fs::read_to_string(path).unwrap()).collect();
        text.lines().map(|line| (serde_json::from_str(line).unwrap(), line.to_lowercase())).collect()
    }

    /// The numbers of the records that fit, as somebody would find them who reads every line.
    fn naive(query: &Query, records: &[(Value, String)]) -> BTreeSet<u64> {
        let is_wanted = |record: &Value, line: &str| {
            let field = |name: &str| record[name].as_str();
            let is =
                |wanted: &Option<String>, found: Option<&str>| wanted.is_none() || wanted.as_deref() == found;
            let moment: Timestamp = field("time").unwrap().parse().unwrap();
            is(&query.agent, field("agent"))
                && is(&query.decision, field("decision"))
                && is(&query.tool, record["target"]["name"].as_str())
                && query.session.as_ref().is_none_or(|wanted| {
                    field("session").is_some_and(|found| found.starts_with(wanted.as_str()))
                })
                && query
                    .intent
                    .as_ref()
                    .is_none_or(|wanted| field("intent").is_some_and(|found| wanted.matches(found)))
                && query.min_risk.is_none_or(|least| {
                    record["risk"]["score"].as_u64().is_some_and(|score| score >= least.into())
                })
                && query.from.is_none_or(|from| moment >= from)
                && query.to.is_none_or(|to| moment < to)
                && query.text.as_ref().is_none_or(|text| line.contains(&text.to_lowercase()))
        };
        let wanted = records.iter().filter(|(record, line)| is_wanted(record, line));
        wanted.map(|(record, _)| record["seq"].as_u64().unwrap()).collect()
    }

    fn found(&self, query: &Query, order: Order) -> Vec<Found> {
        let index = Index::open(self.path(), |_, _| {}).unwrap();
        let mut all = Vec::new();
        search(&index, query, (order, Outcomes::Shown), |found| {
            all.push(found);
            ControlFlow::Continue(())
        })
        .unwrap();
        all
    }

    fn index_file(&self, first: u64) -> PathBuf {
        self.path().join("index").join(format!("{first:020}.blocks"))
    }
}

/// A record a second, with the clock set back by an hour at every thousandth.
fn time(seq: u64) -> String {
    let seconds = i64::try_from(seq).unwrap() - i64::from(seq.is_multiple_of(1000)) * 3600;
    let moment = Timestamp::from_second(1_795_000_000 + seconds).unwrap();
    moment.strftime("%Y-%m-%dT%H:%M:%S.000000Z").to_string()
}

const PATTERNS: [&str; 5] =
    ["financial.*", "financial.refund.*", "financial.refund.process", "comms.email.read", "*"];

fn queries() -> impl Strategy<Value = Query> {
    let some = |texts: &'static [&'static str]| {
        prop::option::weighted(0.3, prop::sample::select(texts).prop_map(str::to_owned))
    };
    let intent = prop::sample::select(&PATTERNS[..]).prop_map(|text| IntentPattern::parse(text).unwrap());
    let moment =
        || (0_i64..30_000).prop_map(|seconds| Timestamp::from_second(1_795_000_000 + seconds).unwrap());
    let session = (0_u64..700, 12_usize..=16)
        .prop_map(|(session, digits)| format!("{session:016x}")[..digits].to_owned());
    (
        (some(&AGENTS), some(&DECISIONS), some(&["tool_3", "tool_10", "tool_99"])),
        (
            prop::option::weighted(0.3, intent),
            prop::option::weighted(0.1, session),
            prop::option::weighted(0.2, 0_u8..=101),
        ),
        (prop::option::weighted(0.3, moment()), prop::option::weighted(0.3, moment())),
        some(&["SUPPORT-agent", "\\u00e4tsel", "nowhere"]),
    )
        .prop_map(|((agent, decision, tool), (intent, session, min_risk), (from, to), text)| Query {
            agent,
            tool,
            intent,
            decision,
            session,
            min_risk,
            from,
            to,
            text,
            ..Query::default()
        })
}

#[test]
fn queries_find_what_reading_every_line_finds() {
    let mut written = Written::new();
    written.add(0, 6_000);
    let second = written.next;
    written.add(second, 3_000);
    let records = written.records();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(32));
    runner
        .run(&queries(), |query| {
            let expected: Vec<u64> = Written::naive(&query, &records).into_iter().collect();
            let oldest: Vec<u64> =
                written.found(&query, Order::Oldest).iter().map(|found| found.seq).collect();
            prop_assert_eq!(&oldest, &expected);
            let mut newest: Vec<u64> =
                written.found(&query, Order::Newest).iter().map(|found| found.seq).collect();
            newest.reverse();
            prop_assert_eq!(newest, expected);
            Ok(())
        })
        .unwrap();
}

#[test]
fn who_follows_sees_each_record_once_and_the_outcomes_of_what_was_shown() {
    let mut written = Written::new();
    written.add(0, 100);
    let query = Query { decision: Some("allow".into()), ..Query::default() };
    let look = |follower: &mut Follower, written: &Written, query: &Query| -> Vec<(u64, Value)> {
        let found = follower.look(&Index::open(written.path(), |_, _| {}).unwrap(), query).unwrap();
        found.into_iter().map(|found| (found.seq, serde_json::from_str(&found.line).unwrap())).collect()
    };
    let mut follower = Follower::from(0);
    let first = look(&mut follower, &written, &query);
    assert!(first.is_sorted_by(|a, b| a.0 < b.0) && look(&mut follower, &written, &query).is_empty());
    let kinds = |found: &[(u64, Value)], kind: &str| {
        found.iter().filter(|(_, record)| record["kind"] == kind).count()
    };
    assert!(kinds(&first, "call") > kinds(&first, "outcome") && kinds(&first, "outcome") > 0);
    // What was open then ends now, and nobody asked for the others.
    let open = first.iter().rev().find(|(_, call)| {
        call["kind"] == "call"
            && !first.iter().any(|(_, other)| other["kind"] == "outcome" && other["id"] == call["id"])
    });
    let (_, open) = open.unwrap();
    let refused = written.records().into_iter().find(|(record, _)| record["decision"] == "deny").unwrap().0;
    for id in [&refused["id"], &open["id"]] {
        written.append(&serde_json::json!({"kind": "outcome", "id": id}));
    }
    let then = look(&mut follower, &written, &query);
    assert_eq!(then.len(), 1);
    assert_eq!((&then[0].1["kind"], &then[0].1["id"]), (&"outcome".into(), &open["id"]));
    assert!(look(&mut follower, &written, &query).is_empty());
    // What fits and is an outcome besides is shown once.
    let all = look(&mut Follower::from(0), &written, &Query::default());
    assert_eq!(all.len(), written.records().len());
    assert!(look(&mut Follower::from(written.next), &written, &Query::default()).is_empty());
}

#[test]
fn who_follows_a_pruned_trail_sees_each_record_once() {
    let mut written = Written::new();
    written.add(0, 100);
    let first = written.next;
    written.add(first, 40);
    fs::remove_file(written.segment(0)).unwrap();
    let open = |written: &Written| Index::open(written.path(), |_, _| {}).unwrap();
    assert_eq!(open(&written).next(), written.next);
    let mut follower = Follower::from(open(&written).next());
    assert!(follower.look(&open(&written), &Query::default()).unwrap().is_empty());
    let before = written.next;
    written.add(first, 10);
    let seen: Vec<u64> =
        follower.look(&open(&written), &Query::default()).unwrap().iter().map(|found| found.seq).collect();
    assert_eq!(seen, (before..written.next).collect::<Vec<_>>());
    assert!(follower.look(&open(&written), &Query::default()).unwrap().is_empty());
}

#[test]
fn who_follows_waits_for_the_outcomes_of_the_newest_calls() {
    let mut written = Written::new();
    let calls = u64::try_from(FOLLOWED_CALLS_MAX).unwrap() + 1;
    let call = |id: u64| serde_json::json!({"kind": "call", "id": format!("{id:032x}"), "decision": "allow"});
    (0..calls).for_each(|id| written.append(&call(id)));
    let (mut follower, query) = (Follower::from(0), Query { kind: Some("call".into()), ..Query::default() });
    let mut look =
        |written: &Written| follower.look(&Index::open(written.path(), |_, _| {}).unwrap(), &query).unwrap();
    assert_eq!(look(&written).len(), FOLLOWED_CALLS_MAX + 1);
    for id in [0, 1, calls - 1] {
        written.append(&serde_json::json!({"kind": "outcome", "id": format!("{id:032x}")}));
    }
    let seen: Vec<u64> = look(&written).iter().map(|found| found.seq).collect();
    assert_eq!(seen, [calls + 1, calls + 2], "the oldest call's is left out");
}

#[test]
fn a_call_comes_with_its_outcome() {
    let mut written = Written::new();
    written.add(0, 100);
    let query = Query { decision: Some("allow".into()), ..Query::default() };
    let text = fs::read_to_string(written.segment(0)).unwrap();
    let outcomes: Vec<&str> = text.lines().filter(|line| line.contains(r#""kind":"outcome""#)).collect();
    let found = written.found(&query, Order::Newest);
    assert!(outcomes.len() > 10 && found.len() > outcomes.len());
    for found in found {
        let call: Value = serde_json::from_str(&found.line).unwrap();
        let outcome = outcomes.iter().find(|line| line.contains(call["id"].as_str().unwrap()));
        assert_eq!(found.outcome.as_deref(), outcome.copied());
    }
    let by_id = Query { id: Some(format!("{:032x}", 0)), ..Query::default() };
    let kinds: Vec<_> =
        written.found(&by_id, Order::Oldest).iter().map(|found| found.line.contains("\"call\"")).collect();
    assert_eq!(kinds, [true, false]);
}

#[test]
fn a_kept_index_is_used_extended_and_made_anew_when_it_does_not_fit() {
    let mut written = Written::new();
    written.add(0, 4_000);
    let all = |written: &Written| written.found(&Query::default(), Order::Oldest).len() as u64;
    assert_eq!(all(&written), written.next);
    let file = written.index_file(0);
    let kept = fs::read(&file).unwrap();
    assert!(kept.len() > 16 + ENCODED_BYTES, "full blocks are kept");

    // Told by what was read: nothing but the last block's worth.
    let mut read = 0;
    Index::open(written.path(), |done, _| read = done).unwrap();
    assert!(read < BLOCK_BYTES, "{read} bytes were read again");
    written.add(0, 2_000);
    assert_eq!(all(&written), written.next);
    assert!(fs::read(&file).unwrap().len() > kept.len(), "extended");

    // Cut, flipped and foreign files cost time, not records.
    let kept = fs::read(&file).unwrap();
    for at in [0, 15, 20, 16 + ENCODED_BYTES + 3, kept.len() - 1] {
        let mut changed = kept.clone();
        changed[at] ^= 1;
        fs::write(&file, &changed).unwrap();
        assert_eq!(all(&written), written.next, "byte {at}");
        fs::write(&file, &kept[..at]).unwrap();
        assert_eq!(all(&written), written.next, "cut at {at}");
    }
    // The segment was cut back and written on with other records.
    let segment = written.segment(0);
    let length = fs::metadata(&segment).unwrap().len();
    fs::OpenOptions::new().write(true).open(&segment).unwrap().set_len(0).unwrap();
    written.next = 500_000;
    while fs::metadata(&segment).unwrap().len() < length {
        written.add(0, 1_000);
    }
    let expected = Written::naive(&Query::default(), &written.records());
    let found: BTreeSet<_> =
        written.found(&Query::default(), Order::Oldest).iter().map(|found| found.seq).collect();
    assert_eq!(found, expected);
}

#[test]
fn a_guard_that_keeps_it_up_leaves_a_query_little_to_read() {
    let mut written = Written::new();
    written.add(0, 6_000);
    let rest = |written: &Written| {
        let mut rest = 0;
        Index::open(written.path(), |_, all| rest = all).unwrap();
        rest
    };
    // Bounded in what it reads at once: the others follow the next time.
    Index::keep_up(written.path(), BLOCK_BYTES).unwrap();
    assert_eq!(fs::read(written.index_file(0)).unwrap().len(), 16 + ENCODED_BYTES);
    Index::keep_up(written.path(), u64::MAX).unwrap();
    assert!(rest(&written) < BLOCK_BYTES);
    written.add(0, 4_000);
    let next = written.next;
    written.add(next, 4_000);
    Index::keep_up(written.path(), u64::MAX).unwrap();
    assert!(rest(&written) < 2 * BLOCK_BYTES);
    let expected = Written::naive(&Query::default(), &written.records());
    let found: BTreeSet<_> =
        written.found(&Query::default(), Order::Oldest).iter().map(|found| found.seq).collect();
    assert_eq!(found, expected);

    // What does not fit the segment is made anew.
    let file = written.index_file(0);
    let mut changed = fs::read(&file).unwrap();
    let last = changed.len() - 1;
    changed[last] ^= 1;
    fs::write(&file, &changed).unwrap();
    Index::keep_up(written.path(), u64::MAX).unwrap();
    assert!(rest(&written) < 2 * BLOCK_BYTES);
}

#[test]
fn an_index_that_others_could_have_written_is_neither_believed_nor_made() {
    let mut written = Written::new();
    written.add(0, 4_000);
    let (file, dir) = (written.index_file(0), written.path().join("index"));
    let rare = Query { agent: Some(AGENTS[3].into()), ..Query::default() };
    let expected = written.found(&rare, Order::Oldest);
    assert!(!expected.is_empty());

    // As whoever wants to hide a record would write it: in good form, and without its terms.
    let blocks: Vec<u8> = fs::read(&file).unwrap().split_off(16);
    let emptied =
        blocks.chunks(ENCODED_BYTES).flat_map(|bytes| Block::decode(bytes).unwrap().without_terms().encode());
    fs::write(&file, [&b"mcp-guard index1"[..], &emptied.collect::<Vec<_>>()].concat()).unwrap();
    assert!(written.found(&rare, Order::Oldest).is_empty(), "or this test shows nothing");
    for place in [written.path(), &dir, &file] {
        let before = fs::metadata(place).unwrap().permissions();
        fs::set_permissions(place, fs::Permissions::from_mode(before.mode() | 0o020)).unwrap();
        assert_eq!(written.found(&rare, Order::Oldest), expected, "{place:?}");
        fs::set_permissions(place, before).unwrap();
    }

    // Nothing is written through a link.
    let other = tempfile::tempdir().unwrap();
    let victim = other.path().join("victim");
    fs::write(&victim, "mine").unwrap();
    fs::remove_file(&file).unwrap();
    symlink(&victim, &file).unwrap();
    assert_eq!(written.found(&rare, Order::Oldest), expected);
    assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
    fs::remove_dir_all(&dir).unwrap();
    symlink(other.path(), &dir).unwrap();
    assert_eq!(written.found(&rare, Order::Oldest), expected);
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1);
}

#[test]
fn a_line_that_is_no_record_hides_nothing() {
    let mut written = Written::new();
    written.add(0, 10);
    fs::OpenOptions::new()
        .append(true)
        .open(written.segment(0))
        .unwrap()
        .write_all(b"not a record\n")
        .unwrap();
    written.add(0, 10);
    let query = Query { agent: Some(AGENTS[1].into()), ..Query::default() };
    let text = fs::read_to_string(written.segment(0)).unwrap();
    let expected = text.lines().filter(|line| line.contains(AGENTS[1])).count();
    assert_eq!((written.found(&query, Order::Oldest).len(), expected > 3), (expected, true));
}

proptest! {
    #[test]
    fn a_block_reads_back(lines in prop::collection::vec("[ -~]{0,60}", 0..20), flip in any::<prop::sample::Index>()) {
        let mut block = Block::at(7, 3);
        for line in &lines {
            block.add(line.as_bytes());
        }
        let mut bytes = block.encode();
        prop_assert_eq!(bytes.len(), ENCODED_BYTES);
        prop_assert_eq!(Block::decode(&bytes), Some(block));
        let at = flip.index(bytes.len());
        bytes[at] ^= 1;
        prop_assert_eq!(Block::decode(&bytes), None);
    }
}
