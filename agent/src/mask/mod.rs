//! Finding sensitive data and replacing it, keeping its shape.

mod classes;
mod detect;
mod key;
mod masked;
mod plan;
mod replace;
#[cfg(test)]
mod tests;
mod validate;

pub use classes::{Classes, ClassesError, Strategy};
pub use key::{KeyError, MaskKey};
pub use masked::{Maskable, Masked, NoData};
pub use plan::{CellMask, MaskEngine, MaskPlan};
