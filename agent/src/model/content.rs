//! What is recorded of requests and answers themselves, at the level `full`.

use super::id::Digest;

/// Which part of an operation a piece of content belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContentPart {
    /// What the target gets beside the statement or the head: the body of a request.
    Request,
    /// What stands before an answer: its status and fields, the names of columns.
    AnswerHead,
    /// What the process is shown: a body, rows.
    Answer,
    /// A message of a target in a WebSocket.
    Message,
}

impl ContentPart {
    /// The name in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::AnswerHead => "answer.head",
            Self::Answer => "answer",
            Self::Message => "answer.message",
        }
    }

    /// Whether it goes to the target.
    #[must_use]
    pub const fn goes_up(self) -> bool {
        match self {
            Self::Request => true,
            Self::AnswerHead | Self::Answer | Self::Message => false,
        }
    }
}

/// A piece of a part, masked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Of what.
    pub part: ContentPart,
    /// How many bytes of the part came before it.
    pub at: u64,
    /// The piece.
    pub form: ContentForm,
}

/// A piece of content, or what is said in its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContentForm {
    /// Text.
    Text(String),
    /// Bytes that are no text, of a format that detectors read.
    Bytes(Vec<u8>),
    /// A first line, and fields.
    Fields(String, Vec<String>),
    /// What comes behind the pieces is not kept; the last that is recorded of a part.
    Rest {
        /// Why not.
        why: Unkept,
        /// Length of the whole part, in bytes.
        whole: u64,
        /// The digest of what is not kept, where nobody looked into it.
        digest: Option<Digest>,
    },
}

impl ContentForm {
    /// How many bytes of the part it is.
    #[must_use]
    pub fn size(&self) -> usize {
        match self {
            Self::Text(text) => text.len(),
            Self::Bytes(bytes) => bytes.len(),
            Self::Fields(..) | Self::Rest { .. } => 0,
        }
    }
}

/// Why content is not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unkept {
    /// It is longer than is recorded of one part.
    Limit,
    /// No detector reads it: what it holds may be sensitive.
    Unread,
    /// What a policy reveals could stand in it in pieces, so that nothing would be found in any.
    Revealed,
    /// The disk of the log is nearly full.
    Disk,
    /// It is sent before anybody has read it.
    Upload,
}

impl Unkept {
    /// In words, for records.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Limit => "longer than recording_limit",
            Self::Unread => "no detector reads it",
            Self::Revealed => "a policy reveals what could stand in it in pieces",
            Self::Disk => "the disk of the log is nearly full",
            Self::Upload => "it is not read before it is sent; the outcome has its digest",
        }
    }
}
