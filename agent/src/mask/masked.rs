//! The proof that content went through a mask plan.

use crate::model::MaskCounts;

use super::plan::MaskPlan;

/// Why content can carry no data of the target.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoData {
    /// Protocol state: ready, complete, no data, portal suspended.
    ProtocolState,
    /// Names and types of columns or parameters.
    Description,
    /// A server setting that the protocol reports.
    ServerSetting,
    /// A connection that a policy lets through without inspection.
    Uninspected,
    /// A format that no detector reads (an image, an archive); the record says so.
    Binary,
}

/// Content that may be shown to the process: a plan was applied to it, or it can carry no data.
#[derive(Debug)]
#[must_use = "masked content is there to be answered"]
pub struct Masked<T> {
    content: T,
}

impl<T> Masked<T> {
    /// Content that can carry no data, and why.
    pub fn without_data(content: T, _why: NoData) -> Self {
        Self { content }
    }

    pub(in crate::mask) fn by_plan(content: T) -> Self {
        Self { content }
    }

    /// The content as the process is shown it, for the records of it (`session::content`).
    pub(crate) const fn content(&self) -> &T {
        &self.content
    }

    /// The content, for the one writer in `session::downstream`.
    pub(crate) fn into_content(self) -> T {
        self.content
    }
}

impl<T: AsRef<[u8]>> Masked<T> {
    /// Its length in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.content.as_ref().len()
    }
}

impl<T, E> Masked<Result<T, E>> {
    /// Takes the error out: it is the agent's own.
    ///
    /// # Errors
    /// The one inside.
    pub fn transpose(self) -> Result<Masked<T>, E> {
        self.content.map(|content| Masked { content })
    }
}

/// Content of a protocol that a plan can be applied to: the protocol walks its frames and hands each value to the plan.
pub trait Maskable {
    /// The masked form, ready to be written.
    type Output;

    /// Walks the content. Total: what cannot be understood is redacted or left out, never passed on.
    fn mask(self, plan: &MaskPlan, counts: &mut MaskCounts) -> Self::Output;
}
