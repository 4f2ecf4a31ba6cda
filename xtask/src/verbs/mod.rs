//! The verbs, one file each.

pub(crate) mod bench;
pub(crate) mod build;
pub(crate) mod churn;
pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod faults;
pub(crate) mod fuzz;
pub(crate) mod kernel;
pub(crate) mod lint;
pub(crate) mod load;
pub(crate) mod namespaces;
pub(crate) mod run;
pub(crate) mod status;
pub(crate) mod test;
pub(crate) mod unload;

pub(crate) mod kills;
mod residue;
mod suites;
pub(crate) mod upgrades;
