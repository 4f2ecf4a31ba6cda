//! Rounds: in each, every cell is measured once, so that a busy minute of the machine hits all cells alike.

use std::collections::BTreeMap;

use anyhow::Context;
use serde_json::Value;

use crate::cells::{Cell, Load};
use crate::disk;

/// Of each cell, before the first round.
const WARM_UP_SECONDS_MAX: f64 = 2.0;

#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) seconds: f64,
    pub(crate) runs: u32,
    pub(crate) connections: u32,
    pub(crate) rate: f64,
}

/// The figures of one cell, by name, with one value for each round.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) cell: &'static str,
    pub(crate) figures: BTreeMap<&'static str, Vec<f64>>,
}

impl Measured {
    fn add(&mut self, figure: &'static str, value: f64) {
        self.figures.entry(figure).or_default().push(value);
    }
}

pub(crate) fn run(plan: &Plan, cells: &[Cell]) -> anyhow::Result<Vec<Measured>> {
    let closed = Load { connections: plan.connections, seconds: plan.seconds, rate: None };
    let open = Load { rate: Some(plan.rate), ..closed };
    let mut all: Vec<_> =
        cells.iter().map(|cell| Measured { cell: cell.kind.name(), ..Measured::default() }).collect();
    for cell in cells {
        cell.answers()?;
        cell.load(Load { seconds: plan.seconds.min(WARM_UP_SECONDS_MAX), ..closed })?;
    }
    for _ in 0..plan.runs {
        for (cell, measured) in cells.iter().zip(&mut all) {
            measure_closed(cell, closed, measured)?;
        }
        for (cell, measured) in cells.iter().zip(&mut all) {
            if let Some(dir) = cell.trail() {
                let syncs = disk::syncs(&dir)?;
                measured.add("fdatasync_p50_us", percentile(&syncs, 50)?);
                measured.add("fdatasync_p99_us", percentile(&syncs, 99)?);
            }
            let report = cell.load(open)?;
            measured.add("open_p50_us", number(&report, "p50_us")?);
            measured.add("open_p99_us", number(&report, "p99_us")?);
        }
    }
    Ok(all)
}

fn measure_closed(cell: &Cell, load: Load, measured: &mut Measured) -> anyhow::Result<()> {
    let before = cell.usage()?;
    let report = cell.load(load)?;
    let after = cell.usage()?;
    measured.add("calls", number(&report, "requests")?);
    measured.add("calls_per_s", number(&report, "req_per_s")?);
    measured.add("p50_us", number(&report, "p50_us")?);
    measured.add("p99_us", number(&report, "p99_us")?);
    if let (Some(before), Some(after)) = (before, after) {
        let cpu = (after.cpu_seconds - before.cpu_seconds) / number(&report, "requests")? * 100_000.0;
        measured.add("cpu_s_per_100k", cpu);
        measured.add("rss_mib", after.rss_mib);
        measured.add("rss_peak_mib", after.rss_peak_mib);
    }
    Ok(())
}

/// Of values in ascending order.
fn percentile(sorted: &[f64], percent: usize) -> anyhow::Result<f64> {
    sorted.get(sorted.len() * percent / 100).copied().context("nothing was measured")
}

fn number(report: &Value, name: &str) -> anyhow::Result<f64> {
    report[name].as_f64().with_context(|| format!("the load generator reported no {name}: {report}"))
}
