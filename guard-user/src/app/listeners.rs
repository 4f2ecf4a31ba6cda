//! Listeners in watched cgroups: each step about one is recorded before it counts.

use std::sync::Arc;

use serde_json::{Value, json};

use super::App;
use crate::admin::Choice;
use crate::audit::Event;
use crate::config::Server;
use crate::config::decisions::{Decision, Verdict};
use crate::kernel::Closed;

/// Digits of a container's id that name it in `guard.yaml`.
const CONTAINER_DIGITS: usize = 12;

/// Records each listener that was closed for want of a decision.
pub(super) async fn record(app: Arc<App>) {
    let Some(mut news) = app.kernel.listener_news() else { return };
    while let Some(closed) = news.recv().await {
        let state = serde_json::to_value(closed.state).unwrap_or_default();
        let state = state.as_str().unwrap_or_default();
        tracing::warn!(
            port = closed.port,
            pid = closed.pid,
            cgroup = closed.cgroup,
            state,
            "a new listener is closed"
        );
        if let Err(error) = app.pipeline.audit.note(&event(&closed, state, None, None)).await {
            tracing::error!(port = closed.port, %error, "no record of a new listener; it stays closed");
        }
    }
}

impl App {
    /// Does with the closed listeners what an operator, who is this user, chose.
    pub(super) async fn decide(&self, choice: Choice, uid: u32) -> Result<Value, String> {
        let chosen: Vec<Closed> =
            self.kernel.closed().into_iter().filter(|closed| is_meant(closed, &choice)).collect();
        if chosen.is_empty() {
            return Err("no closed listener fits; `mcp-guard servers list` shows them".into());
        }
        if choice.name.is_some() && chosen.len() > 1 {
            return Err(format!(
                "{} listeners fit, and a name is for one; write NAMESPACE/PORT",
                chosen.len()
            ));
        }
        let mut done = Vec::new();
        for closed in chosen {
            let server = match &choice.name {
                Some(name) => Some(self.entry(&closed, name)?),
                None => None,
            };
            let (verdict, word) = match (&server, choice.approve) {
                (Some(_), _) => (Verdict::Guarded, "guarded"),
                (None, true) => (Verdict::Open, "approved"),
                (None, false) => (Verdict::Refused, "refused"),
            };
            let name = server.as_ref().map(|server| server.name.as_str());
            // Nothing opens without its record.
            let noted = self.pipeline.audit.note(&event(&closed, word, name, Some(uid))).await;
            noted.map_err(|error| format!("nothing was done, since it cannot be recorded: {error}"))?;
            let port = std::num::NonZeroU16::new(closed.port).ok_or("a listener without a port")?;
            let at = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
            let decision = Decision { cgroup: closed.cgroup.clone(), port, verdict, server, at };
            let (kernel, target) = (self.kernel.clone(), closed.clone());
            let carried_out = tokio::task::spawn_blocking(move || kernel.decide(&target, decision)).await;
            carried_out.map_err(|error| error.to_string())?.map_err(|error| format!("{error:#}"))?;
            done.push(
                json!({ "netns": closed.netns, "port": closed.port, "cgroup": closed.cgroup, "state": word }),
            );
        }
        Ok(json!({ "done": done }))
    }

    /// The entry of a listener that becomes a protected server.
    fn entry(&self, closed: &Closed, name: &str) -> Result<Server, String> {
        if self.config.servers.iter().any(|server| server.name.as_str() == name) {
            return Err(format!("another server is called {name}"));
        }
        let mut entry = json!({ "name": name, "port": closed.port });
        if !closed.is_own {
            let last = |text: &str| text.rsplit('/').next().unwrap_or_default().to_owned();
            entry["in"] = match (&closed.container, &closed.unit) {
                (Some(id), _) => {
                    json!({ "container": last(id).chars().take(CONTAINER_DIGITS).collect::<String>() })
                }
                (None, Some(unit)) => json!({ "unit": last(unit) }),
                (None, None) => json!({ "pid": closed.pid }),
            };
        }
        serde_json::from_value(entry).map_err(|error| error.to_string())
    }
}

fn is_meant(closed: &Closed, choice: &Choice) -> bool {
    if let Some(cgroup) = &choice.all_of {
        let cgroup = format!("/{}", cgroup.trim_matches('/'));
        return closed.cgroup == cgroup || closed.cgroup.starts_with(&format!("{cgroup}/"));
    }
    let is_there = match choice.netns {
        Some(cookie) => closed.netns == cookie,
        None => closed.is_own,
    };
    is_there && choice.port == Some(closed.port)
}

fn event<'a>(closed: &'a Closed, state: &'a str, server: Option<&'a str>, by_uid: Option<u32>) -> Event<'a> {
    Event::Listener {
        state,
        netns: closed.netns,
        address: closed.address,
        pid: closed.pid,
        uid: closed.uid,
        comm: &closed.comm,
        cgroup: &closed.cgroup,
        server,
        by_uid,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::State;

    fn closed(cgroup: &str, netns: u64, port: u16) -> Closed {
        Closed {
            netns,
            is_own: netns == 1,
            port,
            address: ([127, 0, 0, 1], port).into(),
            pid: 7,
            uid: 0,
            comm: "x".into(),
            cgroup: cgroup.into(),
            unit: None,
            container: None,
            state: State::Pending,
        }
    }

    #[test]
    fn a_choice_means_one_port_of_one_namespace_or_all_of_a_cgroup() {
        let choice = |netns, port, all_of: Option<&str>| Choice {
            approve: true,
            netns,
            port,
            all_of: all_of.map(str::to_owned),
            name: None,
        };
        let own = closed("/a.slice/b.service", 1, 3005);
        assert!(is_meant(&own, &choice(None, Some(3005), None)));
        assert!(is_meant(&own, &choice(Some(1), Some(3005), None)));
        assert!(
            !is_meant(&own, &choice(Some(2), Some(3005), None))
                && !is_meant(&own, &choice(None, Some(1), None))
        );
        assert!(
            !is_meant(&closed("/a", 2, 3005), &choice(None, Some(3005), None)),
            "the own namespace is meant"
        );
        for (all_of, is) in
            [("/a.slice", true), ("a.slice/b.service/", true), ("/a", false), ("/a.slice/b", false)]
        {
            assert_eq!(is_meant(&own, &choice(None, None, Some(all_of))), is, "{all_of}");
        }
        assert!(!is_meant(&own, &choice(None, None, None)));
    }
}
