//! A question as the process asks it: read strictly by hand, because what a lenient reader passes over could carry data.
//! Only name, type and the wish for recursion go on, in a message of the agent's own.

use std::sync::Arc;

use bytes::BytesMut;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RecordType};

use crate::model::{Action, Digest, DnsFacts, Facts, Fingerprint, Operation};
use crate::session::Request;

/// What the agent can take in one datagram (RFC 9715, 3.2; the common choice for networks without fragments).
pub(super) const PAYLOAD: u16 = 1232;
/// Longest name on the wire (RFC 1035, 2.3.4).
const MAX_WIRE: usize = 255;
/// Bits of the second word that a question may have: recursion desired, authentic data, checking disabled.
const MAY: u16 = 0x0130;
const RECURSION: u16 = 0x0100;
const RESPONSE: u16 = 0x8000;
const IN: u16 = 1;
const OPT: u16 = 41;
/// Types that ask for more than records of one name, or for none (RFC 1035, 3.2.3; RFC 1995).
const TRANSFERS: [u16; 2] = [251, 252];

/// What every answer to a question repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) id: u16,
    pub(super) opcode: u8,
    pub(super) recursion: bool,
    /// As the process wrote it; `None` where it cannot be read.
    pub(super) asked: Option<Query>,
    /// How long a datagram it takes, where it says so (EDNS, RFC 6891).
    pub(super) payload: Option<u16>,
}

/// A question that the agent understands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Question {
    pub(super) head: Head,
    /// In lower case, without the last dot; the root is empty.
    pub(super) name: String,
    pub(super) kind: RecordType,
}

/// A message that is not one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Malformed {
    /// What an answer needs; `None`: no answer is possible or due.
    pub(super) head: Option<Head>,
    pub(super) code: ResponseCode,
    pub(super) why: &'static str,
}

impl Question {
    /// Reads a message.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut input = Input(bytes);
        let none = |why| Malformed {
            head: None,
            code: ResponseCode::FormErr,
            why,
        };
        let header: Option<[u16; 6]> = input.words();
        let [id, flags, questions, answers, authorities, additionals] =
            header.ok_or_else(|| none("It is shorter than a header."))?;
        if flags & RESPONSE != 0 {
            return Err(none("It is an answer, not a question."));
        }
        let opcode = u8::try_from((flags >> 11) & 0xf).unwrap_or(0xf);
        let mut head = Head {
            id,
            opcode,
            recursion: flags & RECURSION != 0,
            asked: None,
            payload: None,
        };
        let wrong = |head: &Head, code, why| Malformed {
            head: Some(head.clone()),
            code,
            why,
        };
        if opcode != 0 {
            let why = "It is no query: notifications, updates and the like are not carried.";
            return Err(wrong(&head, ResponseCode::NotImp, why));
        }
        let form = ResponseCode::FormErr;
        if flags & !MAY != 0 {
            return Err(wrong(&head, form, "It sets bits that are those of answers."));
        }
        if (questions, answers, authorities) != (1, 0, 0) || additionals > 1 {
            return Err(wrong(&head, form, "It must hold one question and nothing else."));
        }
        let (labels, name) = input
            .name()
            .ok_or_else(|| wrong(&head, form, "Its name cannot be read."))?;
        let kind: Option<[u16; 2]> = input.words();
        let [kind, class] = kind.ok_or_else(|| wrong(&head, form, "It ends within its question."))?;
        if let Ok(mut asked) = Name::from_labels(labels) {
            asked.set_fqdn(true);
            let mut query = Query::query(asked, RecordType::from(kind));
            query.query_class = DNSClass::from(class);
            head.asked = Some(query);
        }
        if additionals == 1 {
            head.payload = Some(input.edns().map_err(|(code, why)| wrong(&head, code, why))?);
        }
        if !input.0.is_empty() {
            return Err(wrong(&head, form, "Something follows it."));
        }
        let Some(name) = name else {
            let why = "Its name has other characters than letters, digits, hyphens and underscores.";
            return Err(wrong(&head, ResponseCode::Refused, why));
        };
        if class != IN {
            return Err(wrong(&head, ResponseCode::Refused, "Its class is not IN."));
        }
        if TRANSFERS.contains(&kind) {
            return Err(wrong(&head, ResponseCode::NotImp, "It asks for a whole zone."));
        }
        let kind = RecordType::from(kind);
        Ok(Self { head, name, kind })
    }

    /// What it means. `shown` is its text as records show it.
    pub(super) fn operation(&self, target: bool, tcp: bool, shown: String) -> Operation {
        let kind = self.kind.to_string();
        let fields = [b"dns.resolve", self.name.as_bytes(), kind.as_bytes()];
        Operation {
            actions: [Action::DnsResolve].into(),
            fingerprint: Fingerprint(Digest::of_fields(&fields)),
            facts: Facts::Dns(DnsFacts {
                name: self.name.clone(),
                kind,
                target,
                tcp,
            }),
            text: shown,
            parameters: Vec::new(),
        }
    }

    /// As people write it.
    pub(super) fn text(&self) -> String {
        let name = if self.name.is_empty() { "." } else { &self.name };
        format!("{} {name}", self.kind)
    }
}

/// A question on its way to a server: the agent's own message.
#[derive(Debug, Clone)]
pub(super) struct Asking {
    pub(super) operation: Arc<Operation>,
    /// What the answer must be to.
    pub(super) query: Query,
    pub(super) id: u16,
    bytes: Vec<u8>,
}

impl Asking {
    /// `None` where the system has no random numbers, or the library cannot write the message.
    pub(super) fn new(question: &Question, operation: Operation) -> Option<Self> {
        let mut id = [0; 2];
        aws_lc_rs::rand::fill(&mut id).ok()?;
        let id = u16::from_be_bytes(id);
        let mut query = question.head.asked.clone()?;
        query.name = query.name.to_lowercase();
        let mut message = Message::new(id, MessageType::Query, OpCode::Query);
        message.metadata.recursion_desired = question.head.recursion;
        message.add_query(query.clone());
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        message.set_edns(edns);
        let bytes = message.to_vec().ok()?;
        Some(Self {
            operation: Arc::new(operation),
            query,
            id,
            bytes,
        })
    }
}

impl Request for Asking {
    fn operation(&self) -> &Arc<Operation> {
        &self.operation
    }

    fn encode(self, out: &mut BytesMut) {
        out.extend_from_slice(&self.bytes);
    }
}

/// What is left to read.
struct Input<'a>(&'a [u8]);

/// The labels of a name, and the name in lower case where it has usual characters only.
type ReadName<'a> = (Vec<&'a [u8]>, Option<String>);

impl<'a> Input<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn words<const N: usize>(&mut self) -> Option<[u16; N]> {
        let mut words = [0; N];
        for word in &mut words {
            *word = u16::from_be_bytes(self.array()?);
        }
        Some(words)
    }

    /// A name without compression: in a question there is nothing to point at.
    fn name(&mut self) -> Option<ReadName<'a>> {
        let (mut labels, mut wire) = (Vec::new(), 1);
        loop {
            let [length] = self.array()?;
            let length = usize::from(length);
            match length {
                0 => break,
                1..=63 => {}
                _ => return None,
            }
            wire += length + 1;
            let (label, rest) = self.0.split_at_checked(length)?;
            if wire > MAX_WIRE {
                return None;
            }
            self.0 = rest;
            labels.push(label);
        }
        let usual = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let name = labels.iter().all(|label| label.iter().all(usual)).then(|| {
            let texts = labels
                .iter()
                .map(|l| String::from_utf8_lossy(l).to_ascii_lowercase());
            texts.collect::<Vec<_>>().join(".")
        });
        Some((labels, name))
    }

    /// The OPT record, which must be the last thing; what it holds stays here. How long a datagram the process takes.
    fn edns(&mut self) -> Result<u16, (ResponseCode, &'static str)> {
        let form = |why| (ResponseCode::FormErr, why);
        let cut = || form("It ends within its last record.");
        let [root] = self.array().ok_or_else(cut)?;
        let words: Option<[u16; 5]> = self.words();
        let [kind, payload, high, _flags, length] = words.ok_or_else(cut)?;
        if (root, kind) != (0, OPT) {
            return Err(form("Beside the question there may only be an OPT record."));
        }
        if high != 0 {
            return Err((ResponseCode::BADVERS, "Its version of EDNS is not 0."));
        }
        let mut options = Input(self.0.get(..usize::from(length)).ok_or_else(cut)?);
        self.0 = self.0.get(usize::from(length)..).unwrap_or_default();
        while !options.0.is_empty() {
            let head: Option<[u16; 2]> = options.words();
            let [_code, length] = head.ok_or_else(cut)?;
            options.0 = options.0.get(usize::from(length)..).ok_or_else(cut)?;
        }
        Ok(payload.max(512))
    }
}
