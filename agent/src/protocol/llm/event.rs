//! One server-sent event, taken apart: its data, and its other lines as they are.

/// An event.
#[derive(Debug, Clone)]
pub(in crate::protocol) struct Event {
    /// Lines that are no data, each with its end; not the empty line.
    pub(in crate::protocol) other: Vec<u8>,
    /// The data of all its lines, joined.
    pub(in crate::protocol) data: Vec<u8>,
    /// How its lines end.
    end: &'static str,
}

impl Event {
    /// `None` where it has no data: comments, blank lines.
    pub(in crate::protocol) fn read(event: &[u8]) -> Option<Self> {
        let text = String::from_utf8_lossy(event);
        let end = match (text.contains("\r\n"), text.contains('\r')) {
            (true, _) => "\r\n",
            (false, true) => "\r",
            (false, false) => "\n",
        };
        let (mut other, mut data, mut any) = (Vec::new(), Vec::new(), false);
        for line in text.replace("\r\n", "\n").split(['\r', '\n']) {
            if let Some(value) = line.strip_prefix("data:") {
                if any {
                    data.push(b'\n');
                }
                any = true;
                data.extend_from_slice(value.strip_prefix(' ').unwrap_or(value).as_bytes());
            } else if !line.is_empty() && line != "data" {
                other.extend_from_slice(line.as_bytes());
                other.extend_from_slice(end.as_bytes());
            }
        }
        any.then_some(Self { other, data, end })
    }

    /// The event with other data, of one line.
    pub(in crate::protocol) fn with(&self, other: &[u8], data: &[u8]) -> Vec<u8> {
        let end = self.end.as_bytes();
        [other, b"data: ", data, end, end].concat()
    }
}
