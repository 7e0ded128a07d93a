//! PostgreSQL's messages one by one, for what no driver would send (manual, "Message Formats").

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Result, bail, ensure};

/// A session by bare messages.
pub struct Wire {
    stream: TcpStream,
    /// Process number and key for cancelling.
    pub cancel: Vec<u8>,
    /// Settings that the server reported.
    pub reports: Vec<(String, String)>,
}

/// One message: its type and its body.
pub type Message = (u8, Vec<u8>);

impl Wire {
    /// Opens a session without TLS and without a password.
    ///
    /// # Errors
    /// The server's error message.
    pub fn connect(port: u16, parameters: &[(&str, &str)]) -> Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(20)))?;
        let mut body = 196_608_u32.to_be_bytes().to_vec();
        for (name, value) in parameters {
            body.extend(text(name));
            body.extend(text(value));
        }
        body.push(0);
        let mut wire = Self {
            stream,
            cancel: Vec::new(),
            reports: Vec::new(),
        };
        wire.send(&prefixed(&body))?;
        for (kind, body) in wire.until_ready()? {
            match kind {
                b'K' => wire.cancel = body,
                b'S' => {
                    let mut words = body
                        .split(|b| *b == 0)
                        .map(|w| String::from_utf8_lossy(w).into_owned());
                    wire.reports.extend(words.next().zip(words.next()));
                }
                b'E' => bail!("{}", shown(&body)),
                _ => {}
            }
        }
        Ok(wire)
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// The socket's.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.stream.write_all(bytes)?)
    }

    /// The next message; an error where the peer has closed.
    ///
    /// # Errors
    /// The socket's.
    pub fn message(&mut self) -> Result<Message> {
        let mut header = [0; 5];
        self.stream.read_exact(&mut header)?;
        let [kind, a, b, c, d] = header;
        let length = usize::try_from(u32::from_be_bytes([a, b, c, d]))?;
        ensure!(length >= 4, "a message of length {length}");
        let mut body = vec![0; length - 4];
        self.stream.read_exact(&mut body)?;
        Ok((kind, body))
    }

    /// Messages up to the next `ReadyForQuery`, or to the end of the connection.
    ///
    /// # Errors
    /// The socket's, where nothing came at all.
    pub fn until_ready(&mut self) -> Result<Vec<Message>> {
        let mut messages = vec![self.message()?];
        while messages.last().is_some_and(|(kind, _)| *kind != b'Z') {
            match self.message() {
                Ok(message) => messages.push(message),
                Err(_closed) => break,
            }
        }
        Ok(messages)
    }

    /// Sends bytes and shows what comes until `count` times ready: types, rows, tags and errors.
    ///
    /// # Errors
    /// The socket's.
    pub fn ask(&mut self, bytes: &[u8], count: usize) -> Result<String> {
        self.send(bytes)?;
        let mut out = String::new();
        for _ in 0..count {
            for (kind, body) in self.until_ready()? {
                match kind {
                    b'D' => out.push_str(&format!("D[{}]", row(&body))),
                    b'C' => out.push_str(&format!("C[{}]", shown(&body))),
                    b'd' => out.push_str(&format!("d[{}]", String::from_utf8_lossy(&body).trim_end())),
                    b'E' | b'N' => out.push_str(&format!("{}[{}]", char::from(kind), shown(&body))),
                    b'Z' => out.push_str(&format!("Z{} ", shown(&body))),
                    other => out.push(char::from(other)),
                }
            }
        }
        Ok(out)
    }

    /// A simple query, shown as by [`Wire::ask`].
    ///
    /// # Errors
    /// The socket's.
    pub fn query(&mut self, sql: &str) -> Result<String> {
        self.ask(&query(sql), 1)
    }
}

fn row(body: &[u8]) -> String {
    let mut rest = body.get(2..).unwrap_or_default();
    let mut cells = Vec::new();
    while let Some((length, tail)) = rest.split_first_chunk::<4>() {
        let length = i32::from_be_bytes(*length);
        let Ok(length) = usize::try_from(length) else {
            cells.push("NULL".to_owned());
            rest = tail;
            continue;
        };
        let (cell, tail) = tail.split_at_checked(length).unwrap_or((tail, &[]));
        cells.push(String::from_utf8_lossy(cell).into_owned());
        rest = tail;
    }
    cells.join("|")
}

fn shown(body: &[u8]) -> String {
    let parts: Vec<_> = body
        .split(|b| *b == 0)
        .filter(|part| !part.is_empty())
        .map(String::from_utf8_lossy)
        .collect();
    parts.join(" ")
}

fn text(text: &str) -> Vec<u8> {
    [text.as_bytes(), &[0]].concat()
}

fn prefixed(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap_or(u32::MAX);
    [&length.to_be_bytes(), body].concat()
}

/// A message of any type.
#[must_use]
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[kind], prefixed(body).as_slice()].concat()
}

/// `Query`.
#[must_use]
pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &text(sql))
}

/// `Parse`, all parameter types left to the server.
#[must_use]
pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', &[text(name), text(sql), vec![0, 0]].concat())
}

/// `Bind` with text parameters; results in text, or in binary.
#[must_use]
pub fn bind(portal: &str, statement: &str, values: &[&str], binary: bool) -> Vec<u8> {
    let mut body = [text(portal), text(statement), vec![0, 0]].concat();
    body.extend(u16::try_from(values.len()).unwrap_or(0).to_be_bytes());
    for value in values {
        body.extend(u32::try_from(value.len()).unwrap_or(0).to_be_bytes());
        body.extend(value.as_bytes());
    }
    body.extend([0, 1, 0, u8::from(binary)]);
    message(b'B', &body)
}

/// `Describe` of a statement (`S`) or a portal (`P`).
#[must_use]
pub fn describe(what: u8, name: &str) -> Vec<u8> {
    message(b'D', &[vec![what], text(name)].concat())
}

/// `Close` of a statement (`S`) or a portal (`P`).
#[must_use]
pub fn close(what: u8, name: &str) -> Vec<u8> {
    message(b'C', &[vec![what], text(name)].concat())
}

/// `Execute`; `rows` 0 is all.
#[must_use]
pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message(b'E', &[text(portal), rows.to_be_bytes().to_vec()].concat())
}

/// `Sync`.
#[must_use]
pub fn sync() -> Vec<u8> {
    message(b'S', &[])
}
