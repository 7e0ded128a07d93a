//! JSON as two readers must agree on it, and what policies read of it.
//!
//! `strict` refuses what parsers are known to read in different ways; `facts` makes typed facts of a value; `splice`
//! changes some values of a text and nothing else of it.

mod facts;
mod splice;
mod strict;

pub use facts::{TooMuch, facts, fold};
pub use splice::{Kind, Scalar, replaced};
pub use strict::{JsonError, canonical, parse};
