//! What a server answers: checked to be the answer, reduced to what the agent can carry, masked, and written anew.

use std::net::IpAddr;
use std::time::Duration;

use bytes::BytesMut;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::TXT;
use hickory_proto::rr::rdata::svcb::{SVCB, SvcParamKey, SvcParamValue};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use crate::mask::{CellMask, MaskPlan, Maskable};
use crate::model::MaskCounts;

use super::question::{Head, PAYLOAD};

/// How many aliases are followed.
const MAX_ALIASES: usize = 16;
/// Longest part of a text (RFC 1035, 3.3).
const MAX_STRING: usize = 255;

/// An answer to the question that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) code: ResponseCode,
    /// The rest did not fit in the datagram.
    pub(super) truncated: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
}

impl Answered {
    /// Reads a message from a server.
    ///
    /// # Errors
    /// What it is instead; a datagram that says so may be somebody else's.
    pub(super) fn read(bytes: &[u8], id: u16, query: &Query) -> Result<Self, &'static str> {
        let Ok(message) = Message::from_vec(bytes) else {
            return Err("no message");
        };
        let metadata = &message.metadata;
        if metadata.id != id || metadata.message_type != MessageType::Response {
            return Err("no answer to this question");
        }
        if metadata.op_code != OpCode::Query {
            return Err("another kind of answer");
        }
        // Who does not understand a message may answer without its question.
        let bare = message.queries.is_empty() && metadata.response_code != ResponseCode::NoError;
        if !bare && !matches!(message.queries.as_slice(), [one] if same(one, query)) {
            return Err("an answer to another question");
        }
        let code = match u16::from(metadata.response_code) {
            // Others belong to extensions that the agent does not use.
            0..=5 => metadata.response_code,
            _ => ResponseCode::ServFail,
        };
        Ok(Self {
            code,
            truncated: metadata.truncation,
            answers: carried(message.answers),
            authorities: carried(message.authorities),
            additionals: carried(message.additionals),
        })
    }

    /// How many records it has.
    pub(super) fn records(&self) -> usize {
        self.answers.len()
    }

    /// The addresses of `name`, through its aliases, and how long they may be kept.
    pub(super) fn addresses(&self, name: &Name) -> (Vec<IpAddr>, Duration) {
        let mut names = vec![name.clone()];
        let mut ttl = u32::MAX;
        for _ in 0..MAX_ALIASES {
            let next = self.answers.iter().find_map(|record| {
                let RData::CNAME(to) = &record.data else {
                    return None;
                };
                let follows = names.contains(&record.name) && !names.contains(&to.0);
                follows.then(|| (to.0.clone(), record.ttl))
            });
            let Some((next, kept)) = next else { break };
            ttl = ttl.min(kept);
            names.push(next);
        }
        let mut found = Vec::new();
        for record in self.answers.iter().filter(|r| names.contains(&r.name)) {
            if let RData::A(a) = &record.data {
                found.push(IpAddr::V4(a.0));
            } else if let RData::AAAA(aaaa) = &record.data {
                found.push(IpAddr::V6(aaaa.0));
            } else {
                continue;
            }
            ttl = ttl.min(record.ttl);
        }
        (found, Duration::from_secs(ttl.into()))
    }

    /// For the process that asked.
    pub(super) fn to(self, head: Head, tcp: bool) -> ForProcess {
        ForProcess {
            answered: self,
            head,
            tcp,
        }
    }
}

fn same(one: &Query, other: &Query) -> bool {
    (&one.name, one.query_type, one.query_class) == (&other.name, other.query_type, other.query_class)
}

/// What the agent can read and write again, without ECH. Signatures go: what they sign may have changed.
fn carried(records: Vec<Record>) -> Vec<Record> {
    let mut records = records;
    records.retain(|record| {
        let kind = matches!(
            record.data,
            RData::A(_)
                | RData::AAAA(_)
                | RData::CNAME(_)
                | RData::HTTPS(_)
                | RData::MX(_)
                | RData::NS(_)
                | RData::PTR(_)
                | RData::SOA(_)
                | RData::SRV(_)
                | RData::SVCB(_)
                | RData::TXT(_)
        );
        kind && record.dns_class == DNSClass::IN
    });
    for record in &mut records {
        if let RData::HTTPS(https) = &mut record.data {
            without_ech(&mut https.0);
        } else if let RData::SVCB(svcb) = &mut record.data {
            without_ech(svcb);
        }
    }
    records
}

/// Without the key for Encrypted Client Hello (RFC 9460, 14.3.2: key 5), whose name the agent could not read.
fn without_ech(svcb: &mut SVCB) {
    for (_, value) in &mut svcb.svc_params {
        if let SvcParamValue::Mandatory(mandatory) = value {
            mandatory.0.retain(|key| *key != SvcParamKey::EchConfigList);
        }
    }
    svcb.svc_params.retain(|(key, value)| {
        let empty = matches!(value, SvcParamValue::Mandatory(mandatory) if mandatory.0.is_empty());
        *key != SvcParamKey::EchConfigList && !empty
    });
}

/// An answer on its way to the process.
#[derive(Debug)]
pub(super) struct ForProcess {
    answered: Answered,
    head: Head,
    tcp: bool,
}

impl Maskable for ForProcess {
    /// The message; empty where the library cannot write it.
    type Output = Vec<u8>;

    /// Texts are masked. Names and addresses are what the process asked for and connects by: they stay.
    fn mask(self, plan: &MaskPlan, counts: &mut MaskCounts) -> Vec<u8> {
        let Self {
            mut answered,
            head,
            tcp,
        } = self;
        let sections = [
            &mut answered.answers,
            &mut answered.authorities,
            &mut answered.additionals,
        ];
        for record in sections.into_iter().flatten() {
            // In the case that it was asked in.
            if let Some(asked) = head.asked.as_ref().filter(|asked| asked.name == record.name) {
                record.name = asked.name.clone();
            }
            if let RData::TXT(text) = &mut record.data {
                mask_text(text, plan, counts);
            }
        }
        let Answered {
            code,
            truncated: _,
            answers,
            authorities,
            additionals,
        } = answered;
        let mut message = reply(&head, code);
        message.add_answers(answers);
        message.add_authorities(authorities);
        message.add_additionals(additionals);
        let whole = message.to_vec().unwrap_or_default();
        let room = if tcp {
            usize::from(u16::MAX)
        } else {
            usize::from(head.payload.map_or(512, |payload| payload.min(PAYLOAD)))
        };
        if whole.len() <= room {
            return whole;
        }
        // Then the process asks again over TCP.
        message.answers.clear();
        message.authorities.clear();
        message.additionals.clear();
        message.metadata.truncation = !tcp;
        message.to_vec().unwrap_or_default()
    }
}

fn mask_text(text: &mut TXT, plan: &MaskPlan, counts: &mut MaskCounts) {
    // A value may lie across its parts.
    let joined = text.txt_data.concat();
    let mut masked = BytesMut::new();
    let masked: &[u8] = match plan.text(None, &joined, &mut masked, counts) {
        CellMask::Unchanged => return,
        CellMask::Replaced => &masked,
        CellMask::Null => b"[masked]",
    };
    *text = TXT::from_bytes(masked.chunks(MAX_STRING).collect());
}

/// An answer of the agent's to a question.
pub(super) fn reply(head: &Head, code: ResponseCode) -> Message {
    let mut message = Message::new(head.id, MessageType::Response, OpCode::from_u8(head.opcode));
    message.metadata.recursion_desired = head.recursion;
    message.metadata.recursion_available = true;
    message.metadata.response_code = code;
    if let Some(asked) = &head.asked {
        message.add_query(asked.clone());
    }
    if head.payload.is_some() {
        let mut edns = Edns::new();
        edns.set_max_payload(PAYLOAD);
        edns.set_rcode_high(code.high());
        message.set_edns(edns);
    }
    message
}

/// Whether the agent can carry answers of this type.
pub(super) fn is_carried(kind: RecordType, allowed: &[String]) -> bool {
    let name = kind.to_string();
    allowed.contains(&name)
}
