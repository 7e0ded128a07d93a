//! The composition root: builds every room, starts, waits, drains; the only place that wires.

mod denials;
mod descriptors;
pub mod doctor;
pub mod environment;
pub mod govern;
#[cfg(test)]
mod govern_tests;
mod health;
mod metrics;
mod reload;
mod rooms;
mod rules;
pub mod run;
mod serve;
pub mod service;
pub mod uninstall;
#[cfg(test)]
mod uninstall_tests;
pub mod untaint;
pub mod user;

pub use rooms::rotate_authority;
pub use run::{RunError, RunSpec, run};
