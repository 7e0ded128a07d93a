//! Finding sensitive data and replacing it, keeping its shape.

mod masked;
mod plan;

pub use masked::{Maskable, Masked, NoData};
pub use plan::{CellMask, MaskEngine, MaskPlan};
