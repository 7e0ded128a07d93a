//! What messages of gRPC mean, where a target's `descriptor_set` says so: a serialized `google.protobuf.FileDescriptorSet`,
//! as `protoc --descriptor_set_out=FILE --include_imports` writes it.
//!
//! A request is a call where its path names a method, whatever its media type says: some servers look at the path alone.
//! What cannot be read as the method has it, to the last field, is refused: policies would not see it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use hyper::header::HeaderMap;
use prost_reflect::{
    DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage, SerializeOptions, Value,
};
use serde_json::Value as Json;

use crate::mask::{MaskPlan, Maskable};
use crate::model::{Document, MaskCounts};
use crate::session::Outgoing;

use super::answer::{described, messages};
use super::call::essence;
use super::screen::Head;

/// Messages within one another that are followed.
const MAX_DEPTH: usize = 64;
/// The message that has another in it.
const ANY: &str = "google.protobuf.Any";

/// Why there are no descriptors.
#[derive(Debug, thiserror::Error)]
#[error("the descriptor_set {path} cannot be used: {why}")]
pub struct DescriptorsError {
    path: PathBuf,
    why: String,
}

/// The methods of a target, by path.
#[derive(Debug)]
pub struct Descriptors(HashMap<String, Method>);

/// A method.
#[derive(Debug, Clone)]
struct Method {
    takes: MessageDescriptor,
    gives: MessageDescriptor,
    /// Whether it takes any number of messages, and not one.
    takes_many: bool,
}

impl Descriptors {
    /// Reads a file.
    ///
    /// # Errors
    /// Where it cannot be read, is no set of descriptors, lacks what it imports, or describes no method.
    pub fn read(path: &Path) -> Result<Self, DescriptorsError> {
        let read = crate::files::read(path).map_err(|error| error.to_string());
        read.and_then(|bytes| Self::parse(&bytes))
            .map_err(|why| DescriptorsError {
                path: path.to_owned(),
                why,
            })
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let pool = DescriptorPool::decode(bytes).map_err(|error| {
            format!("{error}: write it with protoc --descriptor_set_out=FILE --include_imports")
        })?;
        let mut methods = HashMap::new();
        for service in pool.services() {
            for method in service.methods() {
                let path = format!("/{}/{}", service.full_name(), method.name());
                let method = Method {
                    takes: method.input(),
                    gives: method.output(),
                    takes_many: method.is_client_streaming(),
                };
                methods.insert(path, method);
            }
        }
        match methods.is_empty() {
            true => Err("it describes no method of a service".into()),
            false => Ok(Self(methods)),
        }
    }

    /// What a request is; `None`: no call of gRPC.
    ///
    /// # Errors
    /// Why a call is not understood.
    pub(super) fn call(&self, head: &Head, body: &Outgoing) -> Result<Option<Described>, String> {
        let kind = essence(&head.headers);
        let path = head.target.path();
        let known = self.0.get(path).or_else(|| self.0.get(&head.path));
        let Some(method) = known else {
            return match kind.starts_with("application/grpc") {
                true => Err(format!("The target's descriptor_set has no method {path}.")),
                false => Ok(None),
            };
        };
        let Outgoing::Whole(body) = body else {
            return Err(format!(
                "{path} is a method, and its messages are not sent unread."
            ));
        };
        match kind.as_str() {
            "application/grpc" | "application/grpc+proto" => {}
            // What has no message says nothing, and JSON is read as that: no server takes it for messages.
            _ if body.is_empty() || crate::json::parse(body).is_ok() => return Ok(None),
            other => {
                return Err(format!(
                    "{path} is a method, and {other:?} is no media type of its messages (application/grpc)."
                ));
            }
        }
        method.read(&head.headers, body).map(Some)
    }
}

impl Method {
    fn read(&self, headers: &HeaderMap, body: &[u8]) -> Result<Described, String> {
        let messages = messages(headers, body)
            .map_err(|why| format!("The messages of the call cannot be read: {why}."))?;
        if !self.takes_many && messages.len() != 1 {
            return Err(format!(
                "The method takes one message, and {} came.",
                messages.len()
            ));
        }
        let mut values = Vec::with_capacity(messages.len());
        for message in &messages {
            let name = self.takes.full_name();
            let wrong = |why: String| {
                format!("A message of the call is no {name} as the target's descriptor_set has it: {why}.")
            };
            let message = decoded(&self.takes, message).map_err(wrong)?;
            if let Some(field) = undescribed(&message, 0) {
                return Err(wrong(format!("{field} is not in it")));
            }
            values.push(json(&message).map_err(wrong)?);
        }
        let value = match self.takes_many {
            true => Json::Array(values),
            false => values.pop().unwrap_or_default(),
        };
        Ok(Described {
            method: self.clone(),
            input: crate::json::facts(&value).ok(),
            messages,
        })
    }
}

/// A call that was read.
#[derive(Debug)]
pub(super) struct Described {
    method: Method,
    /// Its values: those of the one message by their names in the schema, or a list of messages.
    pub(super) input: Option<Document>,
    messages: Vec<Bytes>,
}

impl Described {
    /// What the messages of its answer are.
    pub(super) fn gives(&self) -> MessageDescriptor {
        self.method.gives.clone()
    }

    /// What stands in records for its messages: JSON, masked as far as it takes the message to do so.
    pub(super) fn text(&self, plan: &MaskPlan) -> Bytes {
        let Method {
            takes, takes_many, ..
        } = &self.method;
        let all = self.messages.iter().map(|message| line(takes, message, plan));
        let all = all.collect::<Vec<_>>().join(&b",\n"[..]);
        match takes_many {
            true => [b"[", all.as_slice(), b"]"].concat().into(),
            false => all.into(),
        }
    }
}

fn decoded(of: &MessageDescriptor, message: &[u8]) -> Result<DynamicMessage, String> {
    DynamicMessage::decode(of.clone(), message).map_err(|error| error.to_string())
}

/// The canonical JSON of a message (Protocol Buffers, "ProtoJSON Format"), with the names of the schema, numbers as numbers, and
/// fields that are as they are without having been set.
fn json(message: &DynamicMessage) -> Result<Json, String> {
    let options = SerializeOptions::new()
        .use_proto_field_name(true)
        .stringify_64_bit_integers(false)
        .skip_default_fields(false);
    let mut text = Vec::new();
    let mut out = serde_json::Serializer::new(&mut text);
    message
        .serialize_with_options(&mut out, &options)
        .map_err(|error| error.to_string())?;
    crate::json::parse(&text).map_err(|error| error.to_string())
}

/// A field that the schema does not have, at any depth; in words.
fn undescribed(message: &DynamicMessage, depth: usize) -> Option<String> {
    let of = message.descriptor();
    if depth > MAX_DEPTH {
        return Some(format!("what lies so deep in {}", of.full_name()));
    }
    if let Some(field) = message.unknown_fields().next() {
        return Some(format!("field {} of {}", field.number(), of.full_name()));
    }
    if of.full_name() == ANY {
        let (of, content) = inner(message)?;
        return match decoded(&of, &content) {
            Ok(inner) => undescribed(&inner, depth + 1),
            Err(_never_told) => Some(format!("the content of {ANY}")),
        };
    }
    message
        .fields()
        .find_map(|(_field, value)| undescribed_in(value, depth))
}

fn undescribed_in(value: &Value, depth: usize) -> Option<String> {
    match value {
        Value::Message(message) => undescribed(message, depth + 1),
        Value::List(items) => items.iter().find_map(|item| undescribed_in(item, depth)),
        Value::Map(entries) => entries.values().find_map(|item| undescribed_in(item, depth)),
        Value::Bool(_)
        | Value::I32(_)
        | Value::I64(_)
        | Value::U32(_)
        | Value::U64(_)
        | Value::F32(_)
        | Value::F64(_)
        | Value::String(_)
        | Value::Bytes(_)
        | Value::EnumNumber(_) => None,
    }
}

/// What is in an `Any`; `None` where the schema does not have it.
fn inner(any: &DynamicMessage) -> Option<(MessageDescriptor, Bytes)> {
    let text = any.get_field_by_number(1)?;
    let content = any.get_field_by_number(2)?;
    let name = text.as_str()?.rsplit('/').next()?;
    let of = any.descriptor().parent_pool().get_message_by_name(name)?;
    Some((of, content.as_bytes()?.clone()))
}

/// A message as JSON for records. Bytes in it are masked before base64 hides them.
fn line(of: &MessageDescriptor, message: &[u8], plan: &MaskPlan) -> Vec<u8> {
    let (masked, _seen) = described(message, of, plan, &mut MaskCounts::default());
    let value = decoded(of, &masked).and_then(|message| {
        let mut value = json(&message)?;
        if let (Some(field), Json::Object(members)) = (undescribed(&message, 0), &mut value) {
            members.insert("(not in descriptor_set)".into(), field.into());
        }
        Ok(value)
    });
    let value = value.unwrap_or_else(|_why| format!("({} bytes)", masked.len()).into());
    value.to_string().into_bytes()
}

/// Whole messages of an answer as they are shown, for records.
pub(super) struct Lines<'a>(pub(super) &'a MessageDescriptor, pub(super) &'a [u8]);

impl Maskable for Lines<'_> {
    type Output = Bytes;

    fn mask(self, plan: &MaskPlan, counts: &mut MaskCounts) -> Bytes {
        let Self(of, frames) = self;
        let mut out = Vec::new();
        // They were written uncompressed, and at whole messages.
        for message in messages(&HeaderMap::new(), frames).unwrap_or_default() {
            let text = line(of, &message, plan);
            out.extend_from_slice(&super::dialect::masked_json(&text, plan, counts));
            out.push(b'\n');
        }
        out.into()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hyper::Method as Verb;
    use hyper::header::{CONTENT_TYPE, HeaderValue};
    use prost_reflect::prost::Message as _;
    use prost_reflect::prost_types::field_descriptor_proto::{Label, Type};
    use prost_reflect::prost_types::{
        DescriptorProto, FieldDescriptorProto, FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto,
        ServiceDescriptorProto,
    };

    use super::super::answer::{Masker, Next};
    use super::*;
    use crate::mask::MaskEngine;

    fn field(name: &str, number: i32, kind: Type, label: Label) -> FieldDescriptorProto {
        let of = match name {
            "extra" => Some(".google.protobuf.Any"),
            "friends" => Some(".shop.Person"),
            _ => None,
        };
        FieldDescriptorProto {
            name: Some(name.into()),
            number: Some(number),
            r#type: Some(kind.into()),
            label: Some(label.into()),
            type_name: of.map(str::to_owned),
            ..FieldDescriptorProto::default()
        }
    }

    /// A service of persons, and what it imports.
    fn set() -> Vec<u8> {
        let one = Label::Optional;
        let person = DescriptorProto {
            name: Some("Person".into()),
            field: vec![
                field("mail", 1, Type::String, one),
                field("photo", 2, Type::Bytes, one),
                field("amount", 3, Type::Int64, one),
                field("friends", 4, Type::Message, Label::Repeated),
                field("scores", 5, Type::Int32, Label::Repeated),
                field("password", 6, Type::String, one),
                field("extra", 7, Type::Message, one),
            ],
            ..DescriptorProto::default()
        };
        let method = |name: &str, many: bool| MethodDescriptorProto {
            name: Some(name.into()),
            input_type: Some(".shop.Person".into()),
            output_type: Some(".shop.Person".into()),
            client_streaming: Some(many),
            ..MethodDescriptorProto::default()
        };
        let file = FileDescriptorProto {
            name: Some("shop.proto".into()),
            package: Some("shop".into()),
            dependency: vec!["google/protobuf/any.proto".into()],
            message_type: vec![person],
            service: vec![ServiceDescriptorProto {
                name: Some("People".into()),
                method: vec![method("Put", false), method("PutAll", true)],
                ..ServiceDescriptorProto::default()
            }],
            syntax: Some("proto3".into()),
            ..FileDescriptorProto::default()
        };
        let any = DescriptorPool::global()
            .get_file_by_name("google/protobuf/any.proto")
            .expect("well known");
        let set = FileDescriptorSet {
            file: vec![any.file_descriptor_proto().clone(), file],
        };
        set.encode_to_vec()
    }

    fn descriptors() -> Descriptors {
        Descriptors::parse(&set()).expect("valid")
    }

    fn person() -> MessageDescriptor {
        descriptors().0["/shop.People/Put"].takes.clone()
    }

    /// A field with its length before it.
    fn delimited(number: u8, content: &[u8]) -> Vec<u8> {
        let length = u8::try_from(content.len()).expect("short");
        assert!(length < 128);
        [&[number << 3 | 2, length], content].concat()
    }

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).expect("short");
        [&[0], length.to_be_bytes().as_slice(), message].concat()
    }

    fn plan() -> MaskPlan {
        Arc::new(MaskEngine::default()).plan(&[].into())
    }

    fn call(path: &str, kind: &'static str, body: &[u8]) -> Result<Option<Described>, String> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
        let head = Head {
            method: Verb::POST,
            actions: [].into(),
            authority: "h".parse().expect("a name"),
            target: path.parse().expect("a path"),
            path: path.to_owned(),
            query: [].into(),
            websocket: false,
            headers,
        };
        descriptors().call(&head, &Outgoing::Whole(Bytes::copy_from_slice(body)))
    }

    const GRPC: &str = "application/grpc";

    #[test]
    fn a_request_has_the_values_of_its_message_by_their_names() {
        let message = [
            delimited(1, b"ada@example.com"),
            vec![0x18, 7],
            delimited(4, &delimited(1, b"bob@example.org")),
            delimited(5, &[1, 2]),
            delimited(6, b"hunter2"),
        ]
        .concat();
        let read = call("/shop.People/Put", GRPC, &framed(&message))
            .expect("read")
            .expect("a call");
        let text = String::from_utf8(read.text(&plan()).to_vec()).expect("text");
        let input = read.input.expect("values");
        assert_eq!(input.texts["mail"], "ada@example.com");
        assert_eq!(input.numbers["amount"], 7);
        assert_eq!(input.texts["friends/0/mail"], "bob@example.org");
        assert!(input.lists["scores/*"].contains("2"));
        // What nobody set is what the target takes it for.
        assert_eq!(input.numbers["friends/0/amount"], 0);
        assert_eq!(input.texts["photo"], "");
        assert!(!input.names.contains("extra"));
        assert!(text.contains(r#""mail":"a***@e***.com""#), "{text}");
        assert!(!text.contains("ada@") && !text.contains("bob@"), "{text}");
        // Several messages are a list, also where there is one.
        let all = [framed(&message), framed(&delimited(1, b"x"))].concat();
        for (body, seen) in [(all, 2), (framed(&message), 1), (Vec::new(), 0)] {
            let read = call("/shop.People/PutAll", GRPC, &body)
                .expect("read")
                .expect("a call");
            let input = read.input.as_ref().expect("values");
            assert_eq!(
                input
                    .lists
                    .get("*/mail")
                    .map_or(0, std::collections::BTreeSet::len),
                seen
            );
            let text = read.text(&plan());
            let text: Json = serde_json::from_slice(&text).expect("JSON");
            assert_eq!(text.as_array().map(Vec::len), Some(seen));
        }
    }

    #[test]
    fn what_is_in_a_message_of_any_kind_is_seen() {
        let extra = |name: &str, content: &[u8]| {
            let any = [delimited(1, name.as_bytes()), delimited(2, content)].concat();
            framed(&delimited(7, &any))
        };
        let known = extra("type.example/shop.Person", &delimited(1, b"ada"));
        let read = call("/shop.People/Put", GRPC, &known)
            .expect("read")
            .expect("a call");
        assert_eq!(read.input.expect("values").texts["extra/mail"], "ada");
        for (body, why) in [
            (extra("type.example/shop.Other", b""), "shop.Other"),
            (
                extra("type.example/shop.Person", &[0x48, 1]),
                "field 9 of shop.Person is not in it",
            ),
        ] {
            let refused = call("/shop.People/Put", GRPC, &body).expect_err("refused");
            assert!(refused.contains(why), "{refused}");
        }
    }

    #[test]
    fn what_policies_would_not_see_is_refused() {
        let put = "/shop.People/Put";
        let good = framed(&delimited(1, b"x"));
        let twice = [good.clone(), good.clone()].concat();
        let deep = (0..120).fold(Vec::new(), |inner: Vec<u8>, _| {
            let mut out = vec![4 << 3 | 2];
            prost_reflect::prost::encode_length_delimiter(inner.len(), &mut out).expect("room");
            out.extend_from_slice(&inner);
            out
        });
        let table: [(&str, &'static str, Vec<u8>, &str); 11] = [
            (
                "/shop.People/Take",
                GRPC,
                good.clone(),
                "has no method /shop.People/Take",
            ),
            (
                "/shop.People/Take",
                "application/grpc-web",
                good.clone(),
                "has no method",
            ),
            (
                put,
                GRPC,
                framed(&[0x48, 1]),
                "field 9 of shop.Person is not in it",
            ),
            (
                put,
                GRPC,
                framed(&delimited(4, &[0x48, 1])),
                "field 9 of shop.Person is not in it",
            ),
            (put, GRPC, framed(&[0x08, 1]), "is no shop.Person"),
            (put, GRPC, framed(&delimited(1, &[0xff])), "is no shop.Person"),
            (put, GRPC, framed(&deep), "is no shop.Person"),
            (put, GRPC, twice, "takes one message, and 2 came"),
            (
                put,
                GRPC,
                good.get(..6).expect("long").to_vec(),
                "ends within a message",
            ),
            (
                put,
                GRPC,
                [&[1], good.get(1..).expect("long")].concat(),
                "compressed in a way",
            ),
            (put, "text/plain", good.clone(), "no media type of its messages"),
        ];
        for (path, kind, body, why) in table {
            let refused = call(path, kind, &body).expect_err(why);
            assert!(refused.contains(why), "{refused}");
        }
        assert!(call(put, GRPC, &good).expect("read").is_some());
        for (path, kind, body) in [
            ("/other", "text/plain", good.as_slice()),
            (put, "application/json", b"{\"mail\": \"x\"}"),
            (put, "", b""),
        ] {
            assert!(
                call(path, kind, body).expect("carried").is_none(),
                "{path} {kind}"
            );
        }
    }

    #[test]
    fn a_file_that_says_nothing_is_a_mistake() {
        let wrong = |bytes: &[u8]| Descriptors::parse(bytes).expect_err("wrong");
        assert!(wrong(b"no descriptors").contains("--include_imports"));
        assert!(wrong(b"").contains("describes no method"));
        let mut lacking = FileDescriptorSet::decode(set().as_slice()).expect("a set");
        lacking.file.remove(0);
        let lacking = wrong(&lacking.encode_to_vec());
        assert!(
            lacking.contains("any.proto") && lacking.contains("--include_imports"),
            "{lacking}"
        );
        let missing = Descriptors::read(Path::new("/nowhere/d.pb"))
            .expect_err("missing")
            .to_string();
        assert!(missing.contains("/nowhere/d.pb"), "{missing}");
    }

    /// An answer as it is masked when its bytes come in two pieces.
    fn masked(body: &[u8], cut: usize) -> (Vec<u8>, bool) {
        let plan = plan();
        let mut masker = Masker::described(false, person());
        let mut out = Vec::new();
        let (one, two) = body.split_at(cut);
        for piece in [Some(one), Some(two), None] {
            let next = plan.apply(Next(&mut masker, None, piece), &mut MaskCounts::default());
            out.extend_from_slice(&next.into_content().expect("read"));
        }
        (out, masker.is_blind())
    }

    #[test]
    fn answers_are_masked_by_field_wherever_they_are_cut() {
        let build = |mail: &str, note: &[u8], other: &[u8]| {
            let friend = [delimited(1, mail.as_bytes()), vec![0x18, 9]].concat();
            // The first letters of this text look like a field with its length.
            let like = [b"\x0a\x0f", mail.as_bytes()].concat();
            let any = [delimited(1, b"t/shop.Person"), delimited(2, &delimited(1, &like))].concat();
            [
                framed(&[delimited(1, &like), delimited(4, &friend), delimited(4, b"")].concat()),
                framed(b""),
                framed(
                    &[
                        delimited(2, note),
                        delimited(5, b"ada@example.com"),
                        delimited(7, &any),
                    ]
                    .concat(),
                ),
                framed(&delimited(9, other)),
            ]
            .concat()
        };
        let (ada, hidden) = ("ada@example.com", "a***@e***.com");
        // Bytes are read both ways, and so is what the schema does not have.
        let bytes = [delimited(1, ada.as_bytes()), delimited(1, hidden.as_bytes())];
        let body = build(ada, &bytes[0], ada.as_bytes());
        let expected = build(hidden, &bytes[1], hidden.as_bytes());
        for cut in 0..=body.len() {
            assert_eq!(masked(&body, cut), (expected.clone(), false), "{cut}");
        }
        // What is no such message is guessed at.
        let other = framed(b"got ada@example.com");
        assert_eq!(masked(&other, 3).0, framed(b"got a***@e***.com"));
        assert!(masked(&framed(&[0xff, 0xfe]), 0).1);
    }

    #[test]
    fn records_have_answers_as_json_and_say_what_is_not_described() {
        let frames = [
            framed(&delimited(1, b"ada@example.com")),
            framed(&[delimited(2, b"bob@example.org"), vec![0x48, 1]].concat()),
            framed(b"\xff"),
        ]
        .concat();
        let of = person();
        let lines = plan().apply(Lines(&of, &frames), &mut MaskCounts::default());
        let text = String::from_utf8(lines.into_content().to_vec()).expect("text");
        let lines: Vec<Json> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect("JSON"))
            .collect();
        assert_eq!(lines[0]["mail"], "a***@e***.com");
        let photo = data_encoding::BASE64.encode(b"b***@e***.org");
        assert_eq!(lines[1]["photo"], photo.as_str());
        assert_eq!(lines[1]["(not in descriptor_set)"], "field 9 of shop.Person");
        assert_eq!(lines[2], "(1 bytes)");
    }
}
