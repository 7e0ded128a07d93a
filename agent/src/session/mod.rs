//! The enforcement point: every operation is judged, consented to and recorded here, and only then can be forwarded.

mod authorize;
mod content;
mod datagram;
mod downstream;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod messages;
mod open;
mod prospects;
mod speech;
mod tickets;
mod upload;
mod upstream;
mod usage;

pub use authorize::{Judged, Neutral, NeutralReason, Pass, Patience, Permit, Request, none_to_mask};
pub use content::{Ended, Recording, Unkeepable};
pub use datagram::{Datagram, Reply};
pub use downstream::{Downstream, RefusalWords};
pub use messages::{Answer, AnswerBody, Kept, Meanwhile, Message, Outgoing, Part, Permitted, Piece};
pub use open::{Rooms, Session};
pub use prospects::Prospects;
pub use speech::AgentSpeech;
pub use tickets::Standing;
pub use upload::{Stopped, Upload};
pub use upstream::{InFlight, Upstream};
pub use usage::{Ledger, LedgerError, Spender, Spending};
