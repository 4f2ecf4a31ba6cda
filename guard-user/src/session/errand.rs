//! Requests that the guard makes of a server in its own name, each because of a session.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderMap;
use tokio::sync::mpsc;

use super::{Ended, Owner, Reason, unix_milliseconds};
use crate::config::Limits;
use crate::kernel::Door;
use crate::types::ServerName;

/// Sessions of one server that may wait to be closed there.
const CLOSES_MAX: usize = 16_384;
/// Refused requests of one server that may wait to be answered.
const REFUSALS_MAX: usize = 256;

/// What is to be done.
#[derive(Debug)]
pub struct Errand {
    pub server: ServerName,
    pub door: Door,
    /// On whose behalf.
    pub owner: Owner,
    pub what: What,
}

#[derive(Debug)]
pub enum What {
    /// Tell the server that its session is over.
    Close { head: HeaderMap, reason: Reason },
    /// Answer a server's request, which the policy refuses, in the client's place.
    Refuse {
        /// Of the request in whose answer it came.
        head: HeaderMap,
        /// Where its client would post the answer; none: the server's endpoint.
        path: Option<String>,
        /// The JSON text of its id.
        id: String,
        method: String,
    },
}

/// Where errands are left. Each server has lines of its own, so that a slow one delays no other, and sessions to close do not
/// stand behind requests to refuse. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Errands(Arc<BTreeMap<ServerName, Desk>>);

/// One server's.
#[derive(Debug)]
struct Desk {
    closes: mpsc::Sender<Errand>,
    refusals: mpsc::Sender<Errand>,
    refusals_per_second_max: u64,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Refusals in this second since 1970.
    second: u64,
    refusals: u64,
    left_out: LeftOut,
}

/// What a server was not told.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LeftOut {
    pub closes: u64,
    pub refusals: u64,
}

/// The other end of one server's lines, each for one task.
pub type ToDo = [mpsc::Receiver<Errand>; 2];

impl Errands {
    pub fn new<'a>(servers: impl IntoIterator<Item = &'a ServerName>, limits: &Limits) -> (Self, Vec<ToDo>) {
        let refusals_per_second_max = limits.server_refusals_per_second_max;
        let desks = servers.into_iter().map(|server| {
            let (closes, to_close) = mpsc::channel(CLOSES_MAX);
            let (refusals, to_refuse) = mpsc::channel(REFUSALS_MAX);
            let desk = Desk { closes, refusals, refusals_per_second_max, counts: Mutex::default() };
            ((server.clone(), desk), [to_close, to_refuse])
        });
        let (desks, to_do): (BTreeMap<_, _>, _) = desks.unzip();
        (Self(Arc::new(desks)), to_do)
    }

    pub fn leave(&self, errand: Errand) {
        self.leave_at(errand, unix_milliseconds() / 1000);
    }

    fn leave_at(&self, errand: Errand, second: u64) {
        // A session of a server that guard.yaml has no more.
        let Some(desk) = self.0.get(&errand.server) else { return };
        let mut counts = desk.counts.lock().unwrap_or_else(PoisonError::into_inner);
        match errand.what {
            What::Close { .. } => counts.left_out.closes += u64::from(desk.closes.try_send(errand).is_err()),
            What::Refuse { .. } => {
                if counts.second != second {
                    (counts.second, counts.refusals) = (second, 0);
                }
                counts.refusals += 1;
                let is_done =
                    counts.refusals <= desk.refusals_per_second_max && desk.refusals.try_send(errand).is_ok();
                counts.left_out.refusals += u64::from(!is_done);
            }
        }
    }

    /// What servers were not told since the last time that this was asked.
    pub fn left_out(&self) -> Vec<(&ServerName, LeftOut)> {
        let of = |desk: &Desk| {
            std::mem::take(&mut desk.counts.lock().unwrap_or_else(PoisonError::into_inner).left_out)
        };
        let all = self.0.iter().map(|(server, desk)| (server, of(desk)));
        all.filter(|(_, left_out)| *left_out != LeftOut::default()).collect()
    }
}

impl From<Ended> for Errand {
    fn from(ended: Ended) -> Self {
        let head = ended.head();
        let Ended { server, owner, door, reason, .. } = ended;
        Self { server, door, owner, what: What::Close { head, reason } }
    }
}

#[cfg(test)]
mod tests {
    use super::super::owner::tests::owner;
    use super::*;

    fn server(name: &str) -> ServerName {
        ServerName::parse(name).unwrap()
    }

    fn errand(name: &str, closes: bool) -> Errand {
        let head = HeaderMap::new();
        let what = if closes {
            What::Close { head, reason: Reason::SessionIdle }
        } else {
            What::Refuse { head, path: None, id: "1".into(), method: "roots/list".into() }
        };
        Errand { server: server(name), door: Door { netns: 1, port: 3001 }, owner: owner("a"), what }
    }

    fn desks(refusals: u64) -> (Errands, Vec<ToDo>) {
        let limits = Limits { server_refusals_per_second_max: refusals, ..Limits::default() };
        Errands::new([&server("crm"), &server("mail")], &limits)
    }

    #[test]
    fn one_servers_requests_delay_neither_its_sessions_nor_another_server() {
        let (errands, mut to_do) = desks(u64::MAX);
        for _ in 0..=REFUSALS_MAX {
            errands.leave_at(errand("crm", false), 1);
        }
        errands.leave_at(errand("crm", true), 1);
        errands.leave_at(errand("mail", false), 1);
        let mut waiting = |server: usize, line: usize| to_do[server][line].try_recv().is_ok();
        assert!(waiting(0, 0) && waiting(1, 1) && !waiting(1, 0));
        assert_eq!(errands.left_out(), [(&server("crm"), LeftOut { closes: 0, refusals: 1 })]);
        assert!(errands.left_out().is_empty());
        for _ in 0..=CLOSES_MAX {
            errands.leave_at(errand("mail", true), 1);
        }
        assert_eq!(errands.left_out(), [(&server("mail"), LeftOut { closes: 1, refusals: 0 })]);
    }

    #[test]
    fn so_many_requests_of_one_server_are_refused_in_a_second() {
        let (errands, _to_do) = desks(2);
        for (second, left_out) in [(7, 0), (7, 0), (7, 1), (8, 0), (8, 0), (8, 1)] {
            errands.leave_at(errand("crm", false), second);
            let told: u64 = errands.left_out().iter().map(|(_, left_out)| left_out.refusals).sum();
            assert_eq!(told, left_out, "{second}");
        }
    }
}
