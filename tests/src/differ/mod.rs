//! Generated messages through the guard and through other readers: what the guard accepts, all of them read alike.
//!
//! A case is known by its seed, so that a failure can be run again. The cases of one batch go to all readers at once.

pub mod project;
mod random;
pub mod readers;
mod reply;
mod request;
mod shrink;
mod spoil;
mod stream;
mod text;
mod values;

use std::collections::BTreeMap;
use std::fmt;

use anyhow::Context;

pub use random::Random;
pub use readers::{Case, Reader};

/// A POST body, made from this seed.
pub fn request(seed: u64) -> Case {
    Case::Json(request::body(&mut Random::new(seed)))
}

/// A server's message, made from this seed.
pub fn reply(seed: u64) -> Case {
    Case::Reply(reply::body(&mut Random::new(seed)))
}

/// An event stream, made from this seed.
pub fn stream(seed: u64) -> Case {
    Case::Stream(stream::chunks(&mut Random::new(seed)))
}

/// So many go to the readers at once: their lines are held until all are compared.
const BATCH: usize = 4096;

/// What accepts a case: gives what it passes on, and what it knows of that, which is the beginning of the line that every
/// reader has to give.
pub type Decision<'a> = dyn Fn(&Case) -> Option<(Case, Vec<String>)> + 'a;

/// Its name, and what was known of it.
type Accepted = (String, Case, Vec<String>);

/// A case that two read in two ways.
#[derive(Debug, Clone)]
pub struct Difference {
    pub name: String,
    pub case: Case,
    /// Who, and the line.
    pub readings: BTreeMap<&'static str, String>,
}

#[derive(Debug, Clone, Default)]
pub struct Report {
    pub cases: usize,
    pub accepted: usize,
    pub differences: Vec<Difference>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refused = self.cases - self.accepted;
        let found = self.differences.len();
        write!(
            f,
            "{} cases, {} accepted, {refused} refused, {found} differences",
            self.cases, self.accepted
        )?;
        for difference in self.differences.iter().take(10) {
            write!(f, "\n{}: {}", difference.name, difference.case.escaped())?;
            for (who, line) in &difference.readings {
                write!(f, "\n    {who:10} {line}")?;
            }
        }
        Ok(())
    }
}

/// Those who read what was accepted.
#[derive(Debug)]
pub struct Jury {
    readers: Vec<Reader>,
    /// A reader that takes no such message reads it in no other way.
    may_refuse: bool,
}

impl Jury {
    pub fn new(readers: impl IntoIterator<Item = anyhow::Result<Reader>>) -> anyhow::Result<Self> {
        Ok(Self { readers: readers.into_iter().collect::<Result<_, _>>()?, may_refuse: false })
    }

    /// Of servers' messages readers may take fewer: clients differ on what they hold for a tool's result, and all that
    /// counts here is that none takes it for something else.
    #[must_use]
    pub fn that_may_refuse(self) -> Self {
        Self { may_refuse: true, ..self }
    }

    /// Gives each case to `decide`, and what it accepts to all readers.
    pub fn hear(
        &mut self,
        cases: impl IntoIterator<Item = (String, Case)>,
        decide: &Decision<'_>,
    ) -> anyhow::Result<Report> {
        let mut report = Report::default();
        let mut accepted = Vec::new();
        for (name, case) in cases {
            report.cases += 1;
            let Some((case, known)) = decide(&case) else { continue };
            report.accepted += 1;
            accepted.push((name, case, known));
            if accepted.len() == BATCH {
                report.differences.extend(self.compare(&std::mem::take(&mut accepted))?);
            }
        }
        report.differences.extend(self.compare(&accepted)?);
        for difference in report.differences.iter_mut().take(3) {
            shrink::shrink(self, difference, decide)?;
        }
        Ok(report)
    }

    fn compare(&mut self, accepted: &[Accepted]) -> anyhow::Result<Vec<Difference>> {
        let cases: Vec<&Case> = accepted.iter().map(|(_, case, _)| case).collect();
        let lines = self.readings(&cases)?;
        let mut found = Vec::new();
        for (at, (name, case, known)) in accepted.iter().enumerate() {
            let lines = lines.iter().map(|(who, lines)| (*who, lines[at].clone()));
            let readings = lines.filter(|(_, line)| !(self.may_refuse && line == "!")).collect();
            if let Some(readings) = differ(readings, known) {
                found.push(Difference { name: name.clone(), case: case.clone(), readings });
            }
        }
        Ok(found)
    }

    /// Each reader's lines, all readers at work together.
    fn readings(&mut self, cases: &[&Case]) -> anyhow::Result<Vec<(&'static str, Vec<String>)>> {
        std::thread::scope(|scope| {
            let work: Vec<_> = self
                .readers
                .iter_mut()
                .map(|reader| (reader.name, scope.spawn(move || reader.read(cases))))
                .collect();
            work.into_iter()
                .map(|(name, work)| Ok((name, work.join().ok().context("a reader's thread broke down")??)))
                .collect()
        })
    }
}

/// The readings with what was `known`, unless all are the same.
fn differ(
    mut readings: BTreeMap<&'static str, String>,
    known: &[String],
) -> Option<BTreeMap<&'static str, String>> {
    let first = readings.values().next()?.clone();
    let is_alike =
        readings.values().all(|line| *line == first) && known.iter().all(|known| first.starts_with(known));
    if is_alike {
        return None;
    }
    for (number, known) in known.iter().enumerate() {
        readings.insert(["decision", "decision 2", "decision 3"][number.min(2)], known.clone());
    }
    Some(readings)
}
