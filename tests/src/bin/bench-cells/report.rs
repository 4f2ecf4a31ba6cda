//! The figures as a table for people and as JSON.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use crate::cells::streams;
use crate::connect::{self, CELLS};
use crate::machine::Machine;
use crate::rounds::{Measured, Plan};
use crate::velocity;

/// What is shown of each cell: its name, its unit's heading and its decimals.
const FIGURES: [(&str, &str, usize); 8] = [
    ("calls_per_s", "calls/s", 0),
    ("p50_us", "p50 µs", 0),
    ("p99_us", "p99 µs", 0),
    ("cpu_s_per_100k", "CPU s/100k", 2),
    ("rss_mib", "RSS MiB", 1),
    ("rss_peak_mib", "peak MiB", 1),
    ("open_p50_us", "open p50 µs", 0),
    ("open_p99_us", "open p99 µs", 0),
];

const BASELINE: &str = "nginx";
const DIRECT: &str = "direct";

pub(crate) struct Report {
    pub(crate) plan: Plan,
    pub(crate) before: Machine,
    pub(crate) load_after: String,
    pub(crate) measured: Vec<Measured>,
    pub(crate) connections: connect::Measured,
    pub(crate) streams: Vec<streams::Measured>,
    pub(crate) velocity: Vec<velocity::Measured>,
}

/// The middle and the extremes of some values.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

impl Spread {
    fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (low, high) = (sorted.get((sorted.len() - 1) / 2)?, sorted.get(sorted.len() / 2)?);
        Some(Self { median: f64::midpoint(*low, *high), min, max })
    }

    fn text(self, decimals: usize) -> String {
        let Self { median, min, max } = self;
        format!("{median:.decimals$} ({min:.decimals$}–{max:.decimals$})")
    }

    fn json(self) -> Value {
        json!({ "median": self.median, "min": self.min, "max": self.max })
    }
}

impl Report {
    pub(crate) fn text(&self) -> String {
        let Plan { seconds, runs, connections, rate } = self.plan;
        let mut text = format!("{}, at the end {}\n", self.before.text(), self.load_after);
        text += &self.of_velocity();
        text += &self.of_connections();
        text += &self.of_streams();
        if self.measured.is_empty() {
            return text;
        }
        let _ = writeln!(
            text,
            "{runs} rounds; in each every cell: closed loop {seconds} s on {connections} connections, open loop \
             {seconds} s at {rate} calls/s.\nMedian (least–most). 0 errors. CPU and memory are the proxy's alone.\n"
        );
        let mut rows = vec![vec!["cell".to_owned()]];
        rows[0].extend(FIGURES.map(|(_, heading, _)| heading.to_owned()));
        for cell in &self.measured {
            let mut row = vec![cell.cell.to_owned()];
            row.extend(FIGURES.map(|(name, _, decimals)| {
                spread(cell, name).map_or("-".to_owned(), |spread| spread.text(decimals))
            }));
            rows.push(row);
        }
        text += &table(&rows);
        for (cell, name, ratio) in self.ratios() {
            let _ = write!(text, "\n{cell} / {BASELINE}, {name}: {}", ratio.text(2));
        }
        for (cell, added, sync) in self.added() {
            let _ = write!(
                text,
                "\n{cell} adds to a call, open p50: {} µs; `fdatasync` alone on its disk: {} µs",
                added.text(0),
                sync.text(0)
            );
        }
        text.push('\n');
        text
    }

    /// The cost of a velocity check.
    fn of_velocity(&self) -> String {
        if self.velocity.is_empty() {
            return String::new();
        }
        let mut rows = vec![["check", "p50 ns", "p99 ns", "bytes a key"].map(str::to_owned).to_vec()];
        for velocity::Measured { what, p50_ns, p99_ns, bytes_per_key } in &self.velocity {
            rows.push(vec![
                (*what).to_owned(),
                p50_ns.to_string(),
                p99_ns.to_string(),
                format!("{bytes_per_key:.0}"),
            ]);
        }
        format!("Among a million live keys with three calls each.\n\n{}\n", table(&rows))
    }

    /// The cost of a stream.
    fn of_streams(&self) -> String {
        if self.streams.is_empty() {
            return String::new();
        }
        let mut rows =
            vec![["streams", "RSS KiB each, idle", "p50 µs", "p99 µs", "events"].map(str::to_owned).to_vec()];
        for streams::Measured { cell, rss_kib, p50_us, p99_us, events } in &self.streams {
            let rss = rss_kib.map_or("-".to_owned(), |rss| format!("{rss:.1}"));
            rows.push(vec![
                (*cell).to_owned(),
                rss,
                format!("{p50_us:.0}"),
                format!("{p99_us:.0}"),
                events.to_string(),
            ]);
        }
        format!(
            "Event streams at once; then each with one event a second, from the server's write to the client's read.\n\n{}\n",
            table(&rows)
        )
    }

    /// The cost of a connection, and its ratio to that of one without the guard.
    fn of_connections(&self) -> String {
        if self.connections.is_empty() {
            return String::new();
        }
        let Plan { seconds, runs, .. } = self.plan;
        let mut rows = vec![
            ["connection", "p50 µs", "p99 µs", "per s", "p50 / none", "per s / none"]
                .map(str::to_owned)
                .to_vec(),
        ];
        for cell in CELLS {
            let of = |figure| {
                let values = self.connections.get(cell).and_then(|figures| figures.get(figure));
                values.and_then(|values| Spread::of(values))
            };
            let ratio = |figure| Spread::of(&connect::ratios(&self.connections, cell, figure));
            let figures = [
                (of("p50_us"), 1),
                (of("p99_us"), 1),
                (of("per_s"), 0),
                (ratio("p50_us"), 2),
                (ratio("per_s"), 2),
            ];
            let words = figures
                .map(|(spread, decimals)| spread.map_or("-".to_owned(), |spread| spread.text(decimals)));
            rows.push([vec![cell.to_owned()], words.to_vec()].concat());
        }
        format!(
            "{runs} rounds of connections, one after the other, {seconds} s each. Median (least–most).\n\n{}\n",
            table(&rows)
        )
    }

    pub(crate) fn json(&self) -> Value {
        let mut cells = Map::new();
        for cell in &self.measured {
            let mut figures = Map::new();
            for (name, values) in &cell.figures {
                let mut figure = Spread::of(values).map_or(Value::Null, Spread::json);
                figure["runs"] = json!(values);
                figures.insert((*name).to_owned(), figure);
            }
            cells.insert(cell.cell.to_owned(), figures.into());
        }
        let ratios: Vec<_> = self
            .ratios()
            .into_iter()
            .map(|(cell, figure, ratio)| json!({ "cell": cell, "figure": figure, "to_nginx": ratio.json() }))
            .collect();
        let added: Vec<_> = self
            .added()
            .into_iter()
            .map(|(cell, added, sync)| json!({ "cell": cell, "open_p50_us": added.json(), "fdatasync_p50_us": sync.json() }))
            .collect();
        let Plan { seconds, runs, connections, rate } = self.plan;
        json!({
            "machine": self.before.json(),
            "streams": self.streams.iter().map(streams::Measured::json).collect::<Vec<_>>(),
            "velocity": self.velocity.iter().map(velocity::Measured::json).collect::<Vec<_>>(),
            "load_average_after": self.load_after,
            "plan": { "seconds": seconds, "runs": runs, "connections": connections, "rate": rate },
            "errors": 0,
            "cells": cells,
            "ratios": ratios,
            "added": added,
            "connections": self.connections_json(),
        })
    }

    fn connections_json(&self) -> Value {
        let of_cell = |(cell, figures): (&&str, &std::collections::BTreeMap<&str, Vec<f64>>)| {
            let mut all = Map::new();
            for (name, values) in figures {
                let mut figure = Spread::of(values).map_or(Value::Null, Spread::json);
                figure["runs"] = json!(values);
                let ratio = Spread::of(&connect::ratios(&self.connections, cell, name));
                figure["to_none"] = ratio.map_or(Value::Null, Spread::json);
                all.insert((*name).to_owned(), figure);
            }
            ((*cell).to_owned(), Value::Object(all))
        };
        Value::Object(self.connections.iter().map(of_cell).collect())
    }

    /// Microseconds that a guard adds to a call without a proxy, round by round, and that its disk takes to keep a record.
    fn added(&self) -> Vec<(&'static str, Spread, Spread)> {
        let Some(bare) = self.measured.iter().find(|cell| cell.cell == DIRECT) else { return Vec::new() };
        let values = |cell: &Measured| cell.figures.get("open_p50_us").cloned().unwrap_or_default();
        let added = |cell: &Measured| {
            let added: Vec<_> =
                values(cell).iter().zip(values(bare)).map(|(with, bare)| with - bare).collect();
            Some((cell.cell, Spread::of(&added)?, spread(cell, "fdatasync_p50_us")?))
        };
        self.measured.iter().filter_map(added).collect()
    }

    /// The guard's figures by nginx's, round by round.
    fn ratios(&self) -> Vec<(&'static str, &'static str, Spread)> {
        let Some(nginx) = self.measured.iter().find(|cell| cell.cell == BASELINE) else { return Vec::new() };
        let mut all = Vec::new();
        for cell in self.measured.iter().filter(|cell| cell.cell.starts_with("guard")) {
            for figure in ["cpu_s_per_100k", "calls_per_s", "open_p50_us"] {
                let values = |cell: &Measured| cell.figures.get(figure).cloned().unwrap_or_default();
                let ratios: Vec<_> = values(cell).iter().zip(values(nginx)).map(|(a, b)| a / b).collect();
                all.extend(Spread::of(&ratios).map(|ratio| (cell.cell, figure, ratio)));
            }
        }
        all
    }
}

fn spread(cell: &Measured, figure: &str) -> Option<Spread> {
    cell.figures.get(figure).and_then(|values| Spread::of(values))
}

fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default())
        .collect();
    let mut text = String::new();
    for row in rows {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        text += cells.join("  ").trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_spread_is_the_middle_and_the_extremes() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]).unwrap().text(1), "2.5 (1.0–4.0)");
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["µs", "b"], ["long", "c"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(table(&rows), "µs    b\nlong  c\n");
    }
}
