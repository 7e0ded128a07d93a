//! Finding sensitive data and replacing it, keeping its shape.
//!
//! `scan` walks a text once and asks `detect` only at places where a value can begin; `replace` writes what stands in a
//! value's place, `alias` a word that can be found again; `plan` is what one principal may see; `blocks` looks at 64 bytes at a time; `stream` is the same walk over text that arrives in pieces.

#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::as_conversions))]

mod alias;
mod blocks;
mod classes;
mod detect;
mod engine;
mod key;
mod masked;
mod plan;
mod replace;
mod scan;
mod stream;
#[cfg(test)]
mod tests;
mod view;

pub use alias::{LONGEST_ALIAS, alias};
pub(crate) use blocks::{BLOCK, between_marks, block, which};
pub use classes::{Classes, ClassesError, Strategy};
pub use engine::MaskEngine;
pub use key::{KeyError, MaskKey};
pub use masked::{Maskable, Masked, NoData};
pub use plan::{CellMask, MaskPlan, Span};
pub use stream::StreamMask;
