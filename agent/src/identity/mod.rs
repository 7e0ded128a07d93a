//! From a process to the person or service behind it: tokens of several issuers, and when they end.

mod binding;

pub use binding::Binding;
