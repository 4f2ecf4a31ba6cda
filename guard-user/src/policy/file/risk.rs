//! The `risk` section, as it stands in a policy file.

use std::sync::Arc;

use super::condition::OF_TIME;
use super::{At, Clause, File};
use crate::config::yaml::Node;
use crate::policy::condition::Times;
use crate::risk::{Growth, Model};

/// How calls are scored.
#[derive(Debug, Clone)]
pub(in crate::policy) struct Risk {
    pub model: Model,
    pub working_hours: Option<Arc<Times>>,
}

/// Hours for which a definition counts as changed lately.
const CHANGED_HOURS_MAX: u64 = 31 * 24;

impl File<'_> {
    pub(super) fn risk(&mut self, node: &Node) -> Option<At<Risk>> {
        let keys = [
            "class",
            "new_tool",
            "used_today",
            "refused_lately",
            "off_hours",
            "changed_tool",
            "working_hours",
        ];
        let fields = self.reader.fields(node, "the risk section", &keys)?;
        let mut model = Model::default();
        if let Some(node) = fields.optional("class") {
            self.classes(node, &mut model);
        }
        for (key, points) in [("new_tool", &mut model.new_tool), ("off_hours", &mut model.off_hours)] {
            if let Some(node) = fields.optional(key) {
                *points = self.points(node, key).unwrap_or(*points);
            }
        }
        for (key, growth) in
            [("used_today", &mut model.used_today), ("refused_lately", &mut model.refused_lately)]
        {
            if let Some(node) = fields.optional(key) {
                self.growth(node, growth);
            }
        }
        if let Some(node) = fields.optional("changed_tool") {
            self.changed(node, &mut model);
        }
        let working_hours = fields.optional("working_hours").and_then(|node| self.working_hours(node));
        if working_hours.is_none()
            && let Some(node) = fields.optional("off_hours")
            && fields.optional("working_hours").is_none()
        {
            let hint = "add `working_hours: {time_of_day: {from: \"08:00\", to: \"18:00\"}, zone: UTC}`";
            self.reader.problem(
                node,
                "off_hours counts for nothing without working_hours",
                Some(hint.into()),
            );
        }
        Some(self.at(node, Risk { model, working_hours }))
    }

    fn classes(&mut self, node: &Node, model: &mut Model) {
        let Some(fields) =
            self.reader.fields(node, "points of classes", &["read", "write", "unknown", "destructive"])
        else {
            return;
        };
        for (key, points) in [
            ("read", &mut model.read),
            ("write", &mut model.write),
            ("unknown", &mut model.unknown),
            ("destructive", &mut model.destructive),
        ] {
            if let Some(node) = fields.optional(key) {
                *points = self.points(node, key).unwrap_or(*points);
            }
        }
        let Model { read, write, unknown, destructive, .. } = *model;
        if !(read <= write && write <= unknown && unknown <= destructive) {
            let what = format!(
                "the classes have {read}, {write}, {unknown} and {destructive} points; none may have less than the one before"
            );
            let hint = "read, write, unknown and destructive stand in the order of risk; those that are not there have their defaults";
            self.reader.problem(node, what, Some(hint.into()));
        }
    }

    fn growth(&mut self, node: &Node, growth: &mut Growth) {
        let Some(fields) = self.reader.fields(node, "a growth", &["per_doubling", "max"]) else { return };
        for (key, points) in [("per_doubling", &mut growth.per_doubling), ("max", &mut growth.max)] {
            if let Some(node) = fields.optional(key) {
                *points = self.points(node, key).unwrap_or(*points);
            }
        }
    }

    fn changed(&mut self, node: &Node, model: &mut Model) {
        let Some(fields) = self.reader.fields(node, "changed_tool", &["points", "hours"]) else { return };
        if let Some(node) = fields.optional("points") {
            model.changed_tool = self.points(node, "points").unwrap_or(model.changed_tool);
        }
        if let Some(node) = fields.optional("hours") {
            let hours = self.reader.count(node, "hours", CHANGED_HOURS_MAX);
            let hours = hours.and_then(|hours| u16::try_from(hours).ok());
            model.changed_hours = hours.unwrap_or(model.changed_hours);
        }
    }

    fn working_hours(&mut self, node: &Node) -> Option<Arc<Times>> {
        self.reader.fields(node, "working_hours", &OF_TIME)?;
        let entries = self.reader.entries(node, "working_hours")?;
        let find = |name: &str| entries.iter().find(|(_, key, _)| *key == name).copied();
        let times = self.times(OF_TIME.map(find))?;
        if let Clause::Times(times) = times.value { Some(times) } else { None }
    }
}
