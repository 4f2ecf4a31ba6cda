use proptest::prelude::*;

use super::super::owner::tests::owner;
use super::*;

const AGENTS: [&str; 3] = ["a", "b", "c"];
const IDS: [&str; 4] = ["1", "2", "3", "4"];

fn server() -> ServerName {
    ServerName::parse("crm").unwrap()
}

fn id(text: &str) -> SessionId {
    SessionId::parse(text.as_bytes()).unwrap()
}

fn new(text: &str, agent: &str) -> NewSession {
    let (server, owner) = (server(), owner(agent));
    NewSession {
        server,
        id: id(text),
        owner,
        netns: 1,
        port: 3001,
        listener: Some(7),
        version: None,
        host: None,
        kind: SessionKind::Streamable,
    }
}

fn table(idle: u64, longest: u64, per_agent: usize) -> Table {
    Table::new(&Limits {
        session_idle_seconds: idle,
        session_seconds_max: longest,
        sessions_per_agent_max: per_agent,
        ..Limits::default()
    })
}

#[test]
fn a_session_in_use_is_not_idle_and_one_that_is_over_is_of_no_use_before_the_next_sweep() {
    let mut table = table(10, 100, 8);
    let (visit, _) = table.adopt(new("1", "a"), 0).unwrap();
    let enter = |table: &mut Table, now| table.enter(&server(), &id("1"), &owner("a"), None, now);
    assert!(table.sweep(50_000).is_empty(), "a request is under way");
    drop(visit);
    // The visit's end was now, by the clock of the day.
    let ended = super::super::unix_milliseconds();
    assert!(enter(&mut table, ended + 9_999).is_err(), "too old by then");
    let gone = table.sweep(ended);
    assert_eq!(gone.len(), 1);
    assert_eq!(gone[0].reason, Reason::SessionTooOld);
    let (visit, _) = table.adopt(new("1", "a"), ended).unwrap();
    drop(visit);
    assert!(enter(&mut table, ended + 9_000).is_ok());
    let far = super::super::unix_milliseconds() + 30_000;
    let idle = Refused::Unknown(Cause::Over(Reason::SessionIdle));
    assert_eq!(enter(&mut table, far).unwrap_err(), idle);
    assert_eq!(table.sweep(far)[0].reason, Reason::SessionIdle);
    assert_eq!(enter(&mut table, far).unwrap_err(), idle);
}

#[test]
fn why_a_session_is_refused_is_known_of_the_last_that_are_over() {
    let mut table = table(10, 100, OVER_KEPT_MAX + 1);
    let why = |table: &mut Table, id: &str, agent| {
        table.enter(&server(), &self::id(id), &owner(agent), None, 0).unwrap_err()
    };
    drop(table.adopt(new("first", "a"), 0).unwrap());
    assert_eq!(why(&mut table, "first", "b"), Refused::Unknown(Cause::AnotherAgents));
    assert_eq!(why(&mut table, "other", "b"), Refused::Unknown(Cause::Unknown));
    table.end(0, |_| true);
    assert_eq!(why(&mut table, "first", "a"), Refused::Unknown(Cause::Over(Reason::SessionEnded)));
    assert_eq!(why(&mut table, "first", "b"), Refused::Unknown(Cause::AnotherAgents));
    for number in 0..OVER_KEPT_MAX {
        drop(table.adopt(new(&number.to_string(), "a"), 0).unwrap());
    }
    table.end(0, |_| true);
    assert_eq!(why(&mut table, "first", "a"), Refused::Unknown(Cause::Unknown));
    assert_eq!(why(&mut table, "0", "a"), Refused::Unknown(Cause::Over(Reason::SessionEnded)));
}

#[test]
fn a_clock_that_goes_back_ends_nothing() {
    let mut table = table(10, 100, 8);
    drop(table.adopt(new("1", "a"), 1_000_000).unwrap());
    assert!(table.sweep(0).is_empty());
    assert!(table.enter(&server(), &id("1"), &owner("a"), None, 0).is_ok());
}

#[test]
fn what_its_client_has_ended_its_owner_alone_can_name_and_the_server_can_give_out_again() {
    let mut table = table(10, 100, 2);
    let (visit, _) = table.adopt(new("1", "a"), 0).unwrap();
    let forget = |table: &mut Table| table.forget(&server(), &id("1"), &visit, Gone::Ended);
    assert!(forget(&mut table) && !forget(&mut table));
    assert_eq!(table.list(1).len(), 1, "until the request is over by which it was ended");
    drop(visit);
    let enter = |table: &mut Table, agent| table.enter(&server(), &id("1"), &owner(agent), None, 1).is_ok();
    assert!(enter(&mut table, "a") && !enter(&mut table, "b"));
    assert_eq!((table.len(), table.list(1).len(), table.has(&server(), &id("1"))), (0, 0, false));
    // It makes room before any that is open.
    drop(table.adopt(new("2", "a"), 1).unwrap());
    assert!(table.adopt(new("3", "a"), 2).unwrap().1.is_none());
    drop(table.adopt(new("1", "b"), 3).unwrap());
    assert!(enter(&mut table, "b") && !enter(&mut table, "a"));
}

/// Servers say 404 of other things, too.
#[test]
fn what_its_server_has_denied_is_still_ended_there_and_may_come_back() {
    let is_over = |visit: &Visit| {
        let mut over = std::pin::pin!(visit.until_over());
        over.as_mut().poll(&mut std::task::Context::from_waker(std::task::Waker::noop())).is_ready()
    };
    let mut table = table(10, 100, 2);
    let (visit, _) = table.adopt(new("1", "a"), 0).unwrap();
    assert!(table.forget(&server(), &id("1"), &visit, Gone::Denied) && visit.is_denied());
    assert_eq!((table.len(), is_over(&visit)), (0, false));
    let listed = table.list(0).pop().map(|seen| (seen.state, seen.requests));
    assert_eq!(listed, Some((Standing::Denied, 1)), "something of it is under way");
    assert!(table.revive(&server(), &id("1"), &visit).is_some() && !visit.is_denied());
    assert_eq!(table.len(), 1);
    // Time, room and an operator end it at its server, and its streams here.
    for (reason, way) in [(Reason::SessionTooOld, 0), (Reason::SessionsTooMany, 1), (Reason::SessionEnded, 2)]
    {
        let mut table = self::table(10, 100, 2);
        let (visit, _) = table.adopt(new("1", "a"), 0).unwrap();
        drop(table.adopt(new("2", "a"), 0).unwrap());
        table.forget(&server(), &id("1"), &visit, Gone::Denied);
        let ended = match way {
            0 => table.sweep(100_000),
            1 => table.adopt(new("3", "a"), 0).unwrap().1.into_iter().collect(),
            _ => table.end(0, |_| true).0,
        };
        assert!(ended.iter().any(|gone| gone.id == id("1") && gone.reason == reason), "{reason:?}");
        assert!(is_over(&visit), "{reason:?}");
    }
    // What its client has ended can only be ended.
    let mut table = self::table(10, 100, 2);
    let (visit, _) = table.adopt(new("1", "a"), 0).unwrap();
    table.forget(&server(), &id("1"), &visit, Gone::Ended);
    assert!(
        !table.forget(&server(), &id("1"), &visit, Gone::Denied)
            && table.revive(&server(), &id("1"), &visit).is_none()
    );
    assert_eq!(table.list(0)[0].state, Standing::Ended);
    assert_eq!(table.end(0, |_| true).1, 1);
    assert!(table.sweep(100_000).is_empty() && is_over(&visit));
}

#[test]
fn a_stream_that_ends_takes_no_other_session_along() {
    let mut table = table(10, 100, 2);
    let (before, _) = table.adopt(new("1", "a"), 0).unwrap();
    table.forget(&server(), &id("1"), &before, Gone::Denied);
    let (visit, _) = table.adopt(new("1", "b"), 0).unwrap();
    table.remove_visited(&server(), &id("1"), &before);
    assert_eq!(table.len(), 1);
    table.remove_visited(&server(), &id("1"), &visit);
    assert_eq!(table.len(), 0);
}

/// A server that was started again has given its id to somebody else meanwhile.
#[test]
fn a_late_answer_says_nothing_of_the_session_that_has_its_id_by_now() {
    let mut table = table(10, 100, 2);
    let (before, _) = table.adopt(new("1", "a"), 0).unwrap();
    let by = table.listener(&server(), &id("1")).unwrap();
    assert!(table.end_restarted(&server(), &id("1"), by));
    let (visit, _) = table.adopt(new("1", "b"), 0).unwrap();
    for gone in [Gone::Denied, Gone::Ended] {
        assert!(!table.forget(&server(), &id("1"), &before, gone));
        assert!(table.has(&server(), &id("1")) && !visit.is_denied());
    }
    assert!(table.forget(&server(), &id("1"), &visit, Gone::Denied));
    assert!(table.revive(&server(), &id("1"), &before).is_none() && visit.is_denied());
}

/// Its server gives out its id again.
#[test]
fn a_session_of_a_server_that_was_started_again_is_over_and_another_is_not() {
    let mut table = table(10, 100, 2);
    let (visit, _) = table.adopt(new("1", "a"), 0).unwrap();
    let by = table.listener(&server(), &id("1")).unwrap();
    assert!(!table.end_restarted(&server(), &id("1"), (by.0, 8)), "another listener");
    assert!(table.adopt(new("1", "b"), 0).is_err());
    assert!(table.end_restarted(&server(), &id("1"), by));
    assert_eq!(
        Some(Cause::Over(Reason::ServerRestarted)),
        match table.enter(&server(), &id("1"), &owner("a"), None, 0) {
            Err(Refused::Unknown(cause)) => Some(cause),
            _ => None,
        }
    );
    drop(visit);
    drop(table.adopt(new("1", "b"), 0).unwrap());
    assert!(table.enter(&server(), &id("1"), &owner("a"), None, 0).is_err());
}

#[derive(Debug, Clone)]
enum Step {
    Adopt(usize, usize),
    Enter(usize, usize),
    Forget(usize),
    Sweep,
}

fn step() -> impl Strategy<Value = Step> {
    let (id, agent) = (0..IDS.len(), 0..AGENTS.len());
    prop_oneof![
        (id.clone(), agent.clone()).prop_map(|(id, agent)| Step::Adopt(id, agent)),
        (id.clone(), agent).prop_map(|(id, agent)| Step::Enter(id, agent)),
        id.prop_map(Step::Forget),
        Just(Step::Sweep),
    ]
}

proptest! {
    /// Whatever happens, a session is open for the agent that a model of the table has for it, and for no other; and no
    /// agent has more than it may have.
    #[test]
    fn a_session_is_never_another_agents(steps in prop::collection::vec(step(), 0..60)) {
        let mut table = table(1_000_000_000, 10_000_000_000, 2);
        let mut model: HashMap<usize, usize> = HashMap::new();
        let now = super::super::unix_milliseconds();
        for step in steps {
            match step {
                Step::Adopt(at, agent) => match table.adopt(new(IDS[at], AGENTS[agent]), now) {
                    Ok((_, ended)) => {
                        prop_assert!(model.get(&at).is_none_or(|owner| *owner == agent));
                        if let Some(gone) = ended {
                            prop_assert_eq!(&gone.owner, &owner(AGENTS[agent]), "its own make room");
                            let gone = IDS.iter().position(|text| id(text) == gone.id).unwrap();
                            prop_assert_eq!(model.remove(&gone), Some(agent));
                        }
                        model.insert(at, agent);
                    }
                    Err(refused) => {
                        prop_assert_eq!(refused, Refused::Taken);
                        prop_assert!(model.get(&at).is_some_and(|owner| *owner != agent));
                    }
                },
                Step::Enter(at, agent) => {
                    let entered = table.enter(&server(), &id(IDS[at]), &owner(AGENTS[agent]), None, now);
                    prop_assert_eq!(entered.is_ok(), model.get(&at) == Some(&agent));
                }
                Step::Forget(at) => {
                    prop_assert_eq!(table.remove(&server(), &id(IDS[at])), model.remove(&at).is_some());
                }
                Step::Sweep => prop_assert!(table.sweep(now).is_empty()),
            }
            prop_assert_eq!(table.len(), model.len());
            for agent in 0..AGENTS.len() {
                prop_assert!(model.values().filter(|owner| **owner == agent).count() <= 2);
            }
        }
    }
}
