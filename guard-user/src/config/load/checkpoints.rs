//! Where checkpoints of the trail are copied.

use std::path::Path;

use super::Step::Item;
use super::{Key, Places, Step};
use crate::config::{Config, Problem, Problems};

/// Each is asked by a thread of its own.
const WITNESSES_MAX: usize = 8;

pub(super) fn check(config: &Config, places: &Places<'_>, problems: &mut Problems) {
    let checkpoints = &config.audit.checkpoints;
    let problem = |key, what: String| -> Problem { places.problem(&at(key), what) };
    if checkpoints.every_seconds == 0 {
        let problem = problem("every_seconds", "every_seconds is 0: copies without end".into());
        problems.push(problem.with_hint("write a number from 1 on, or remove the line for the default, 60"));
    }
    let is_kept = |dir: &Path| {
        let kept = [config.audit_dir(), config.state_dir.clone(), config.runtime_dir.clone()];
        kept.iter().any(|kept| kept == dir)
    };
    if let Some(dir) = checkpoints.copy_to.as_deref().filter(|dir| is_kept(dir)) {
        let what = format!("copy_to is {}, where the guard keeps a checkpoint anyway", dir.display());
        let problem = problem("copy_to", what);
        problems.push(problem.with_hint("name a directory on another disk, or remove the line"));
    }
    witnesses(config, places, problems);
}

fn witnesses(config: &Config, places: &Places<'_>, problems: &mut Problems) {
    let witnesses = &config.audit.checkpoints.witnesses;
    if witnesses.len() > WITNESSES_MAX {
        let what = format!("there are {} witnesses, and {WITNESSES_MAX} at most are asked", witnesses.len());
        problems.push(places.problem(&at("witnesses"), what).with_hint("name those that matter to you"));
    }
    for (index, witness) in witnesses.iter().enumerate() {
        let place = |key| [Key("audit"), Key("checkpoints"), Key("witnesses"), Item(index), Key(key)];
        let same = witnesses.iter().take(index).any(|before| before.key.id() == witness.key.id());
        if same {
            let problem = places.problem(&place("key"), "another witness has this key");
            problems.push(problem.with_hint("each signs with its own; remove one of the two"));
        }
        if witness.ca_file.is_some() && !witness.url.is_secret() {
            let problem = places.problem(&place("ca_file"), "ca_file with a url that is not https");
            problems.push(problem.with_hint("write https://, or remove the line"));
        }
    }
}

fn at(key: &str) -> [Step<'_>; 3] {
    [Key("audit"), Key("checkpoints"), Key(key)]
}
