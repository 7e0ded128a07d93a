//! The composition root: builds every room, starts, waits, drains; the only place that wires.

pub mod agent_user;
pub mod deed;
mod denials;
mod descriptors;
pub mod doctor;
pub mod environment;
pub mod govern;
#[cfg(test)]
mod govern_tests;
mod health;
mod metrics;
mod proxy;
mod reload;
mod rooms;
mod rules;
pub mod run;
mod serve;
pub mod service;
mod traces;
pub mod uninstall;
#[cfg(test)]
mod uninstall_tests;
pub mod untaint;
pub mod user;

pub use proxy::{Doors, open_doors, proxy};
pub use rooms::rotate_authority;
pub use run::{PROXY, RunError, RunSpec, run, start_proxy};
