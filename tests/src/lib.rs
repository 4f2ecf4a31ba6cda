//! Fixture servers, clients and harnesses of the tests that run whole programs.

pub mod audit;
pub mod bypass;
pub mod ca;
pub mod cgroup;
pub mod client;
pub mod conformance;
pub mod corpus;
pub mod daemon;
pub mod https;
pub mod journal;
pub mod ledger;
pub mod manager;
pub mod many;
pub mod netns;
pub mod peers;
pub mod probe;
pub mod process;
pub mod puppet;
pub mod relay;
pub mod residue;
pub mod scene;
pub mod serve;
pub mod slice;
pub mod tls;
pub mod world;
