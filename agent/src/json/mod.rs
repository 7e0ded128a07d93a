//! JSON as two readers must agree on it, and what policies read of it.
//!
//! `strict` refuses what parsers are known to read in different ways; `facts` makes typed facts of a value.

mod facts;
mod strict;

pub use facts::{TooMuch, facts, fold};
pub use strict::{JsonError, canonical, parse};
