//! Which system calls are to fail, and how.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use crate::differ::Random;

/// Calls that change nothing: no disk is too full for them.
const READS: [&str; 3] = ["read", "pread64", "getdents64"];
/// The reads of one part are much alike: no more of them fail.
const READS_MOST: usize = 24;

/// Whose system calls they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    Writer,
    Checkpoint,
    Archive,
    /// Whoever removes old files.
    Prune,
    /// Whoever copies the checkpoint to other places.
    Copies,
    /// A guard that starts where one was killed in the middle of a line.
    Start,
    /// A guard that starts where one was killed when it had begun a file.
    Begun,
    /// A guard that starts where the time of a key is over, and hands over to another.
    HandOver,
    /// A guard that starts where an operator gives up what copies of the checkpoint cover.
    GivenUp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    Eio,
    Enospc,
    /// A file system that takes no writes any more, as after an error of the disk below.
    Erofs,
    Kill,
}

/// The `nth` call of this name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Site {
    pub part: Part,
    pub call: String,
    pub nth: usize,
    pub fault: Fault,
}

impl Part {
    pub const ALL: [Self; 9] = [
        Self::Writer,
        Self::Checkpoint,
        Self::Archive,
        Self::Prune,
        Self::Copies,
        Self::Start,
        Self::Begun,
        Self::GivenUp,
        Self::HandOver,
    ];

    pub fn starts(self) -> bool {
        matches!(self, Self::Start | Self::Begun | Self::HandOver | Self::GivenUp)
    }
}

impl Fault {
    const ALL: [Self; 4] = [Self::Eio, Self::Enospc, Self::Erofs, Self::Kill];

    fn words(self) -> &'static str {
        match self {
            Self::Eio => "error=EIO",
            Self::Enospc => "error=ENOSPC",
            Self::Erofs => "error=EROFS",
            Self::Kill => "signal=KILL",
        }
    }

    fn is_met_by(self, call: &str) -> bool {
        matches!(self, Self::Eio | Self::Kill) || !READS.contains(&call)
    }
}

impl fmt::Display for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {} {} {:?}", self.part, self.call, self.nth, self.fault)
    }
}

impl Site {
    pub fn injection(&self) -> String {
        format!("{}:{}:when={}", self.call, self.fault.words(), self.nth)
    }
}

/// All of them, but of reads some, of every part and fault in turn.
pub fn shuffled(sites: &BTreeMap<(Part, String), usize>, random: &mut Random) -> Vec<Site> {
    let mut groups: BTreeMap<(Fault, Part, bool), Vec<Site>> = BTreeMap::new();
    for ((part, call), count) in sites {
        let is_read = READS.contains(&call.as_str());
        for fault in Fault::ALL.into_iter().filter(|fault| fault.is_met_by(call)) {
            let group = groups.entry((fault, *part, is_read)).or_default();
            group.extend((1..=*count).map(|nth| Site { part: *part, call: call.clone(), nth, fault }));
        }
    }
    for ((.., is_read), group) in &mut groups {
        while *is_read && group.len() > READS_MOST {
            let one = random.below(group.len());
            group.swap_remove(one);
        }
    }
    let mut groups: Vec<_> = groups.into_values().collect();
    let mut all = Vec::new();
    while !groups.is_empty() {
        for at in 0..groups.len() {
            // Which one is next.
            let other = at + random.below(groups.len() - at);
            groups.swap(at, other);
            let one = random.below(groups[at].len());
            all.push(groups[at].swap_remove(one));
        }
        groups.retain(|group| !group.is_empty());
    }
    all
}

/// The name of the file that was struck, without its number.
pub fn place(line: &str, dir: &Path) -> String {
    let dir = dir.display().to_string();
    let Some((_, rest)) = line.rsplit_once(&dir) else { return "?".into() };
    let name = rest.split(['>', '"']).next().unwrap_or_default().trim_start_matches('/');
    let name = name.replace(|c: char| c.is_ascii_digit(), "");
    if name.is_empty() { "the directory".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_fails_once_in_each_way_and_reads_some_times() {
        let counts = [((Part::Writer, "write".to_owned()), 5), ((Part::Start, "read".to_owned()), 40)];
        let all = shuffled(&counts.into(), &mut Random::new(7));
        let writes = all.iter().filter(|site| site.call == "write").count();
        assert_eq!((writes, all.len() - writes), (5 * Fault::ALL.len(), 2 * READS_MOST));
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
        assert!(all[..6].iter().any(|site| site.part == Part::Start), "in turn");
    }
}
