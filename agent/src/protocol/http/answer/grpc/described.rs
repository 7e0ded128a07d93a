//! Messages of gRPC masked by their schema: texts are texts, and a message within is one. Bytes can be anything and are
//! read both ways, like fields that the schema does not have, and like a message that is not as it says.

use prost_reflect::{Kind, MessageDescriptor};

use super::{Field, MAX_DEPTH, Reading, is_message, put_varint};

impl Reading<'_> {
    /// A message, masked; `None` where the bytes are no message from end to end.
    pub(super) fn described(
        &mut self,
        mut bytes: &[u8],
        of: &MessageDescriptor,
        depth: usize,
    ) -> Option<Vec<u8>> {
        if depth > MAX_DEPTH || !is_message(bytes) {
            return None;
        }
        let within = any(of, bytes);
        let mut out = Vec::with_capacity(bytes.len());
        while !bytes.is_empty() {
            let field = Field::read(bytes)?;
            let (head, rest) = bytes.split_at_checked(field.head)?;
            let (content, rest) = rest.split_at_checked(field.length)?;
            bytes = rest;
            if !field.delimited {
                out.extend_from_slice(head);
                out.extend_from_slice(content);
                continue;
            }
            let known = of.get_field(field.number);
            let is_list = known
                .as_ref()
                .is_some_and(prost_reflect::FieldDescriptor::is_list);
            let masked = match known.map(|known| known.kind()) {
                Some(Kind::String) => self.as_text(content.to_vec(), true),
                Some(Kind::Message(of)) => self.within(content, &of, depth),
                Some(Kind::Bytes) => match &within {
                    Some(of) => self.within(content, of, depth),
                    None => self.guessed(content, depth),
                },
                Some(
                    Kind::Double
                    | Kind::Float
                    | Kind::Int32
                    | Kind::Int64
                    | Kind::Uint32
                    | Kind::Uint64
                    | Kind::Sint32
                    | Kind::Sint64
                    | Kind::Fixed32
                    | Kind::Fixed64
                    | Kind::Sfixed32
                    | Kind::Sfixed64
                    | Kind::Bool
                    | Kind::Enum(_),
                )
                | None => match is_list {
                    // Several numbers in one.
                    true => content.to_vec(),
                    false => self.guessed(content, depth),
                },
            };
            if masked == content {
                out.extend_from_slice(head);
            } else {
                out.extend_from_slice(head.get(..field.tag)?);
                put_varint(&mut out, u64::try_from(masked.len()).ok()?);
            }
            out.extend_from_slice(&masked);
        }
        Some(out)
    }

    fn within(&mut self, content: &[u8], of: &MessageDescriptor, depth: usize) -> Vec<u8> {
        match self.described(content, of, depth + 1) {
            Some(masked) => masked,
            None => self.guessed(content, depth),
        }
    }
}

/// What a `google.protobuf.Any` has in it, where the schema has that too. The last field of that number counts.
fn any(of: &MessageDescriptor, mut bytes: &[u8]) -> Option<MessageDescriptor> {
    if of.full_name() != "google.protobuf.Any" {
        return None;
    }
    let mut name = None;
    while !bytes.is_empty() {
        let field = Field::read(bytes)?;
        let (_head, rest) = bytes.split_at_checked(field.head)?;
        let (content, rest) = rest.split_at_checked(field.length)?;
        bytes = rest;
        if field.number == 1 && field.delimited {
            name = std::str::from_utf8(content).ok()?.rsplit('/').next();
        }
    }
    of.parent_pool().get_message_by_name(name?)
}
