//! Reads psql scripts as psql does: where statements end, which lines are commands of its own, which are data of a copy.

/// One statement of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    /// Its text, without the semicolon.
    pub text: String,
    /// The line that it begins in.
    pub line: usize,
    /// Data that follows it in the script.
    pub data: Option<String>,
}

/// The statements of `script`, in order. psql's own commands are left out; its variables stay as they are.
#[must_use]
pub fn statements(script: &str) -> Vec<Statement> {
    let mut reader = Reader {
        rest: script,
        line: 1,
        text: String::new(),
        begins: 1,
        found: Vec::new(),
    };
    reader.read();
    reader.found
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
    text: String,
    begins: usize,
    found: Vec<Statement>,
}

impl Reader<'_> {
    fn read(&mut self) {
        let mut open = 0usize;
        while let Some(first) = self.rest.chars().next() {
            let length = self.token(first);
            match first {
                '(' => open += 1,
                ')' => open = open.saturating_sub(1),
                ';' if open == 0 && !self.in_body() => {
                    self.skip(1);
                    self.end();
                    continue;
                }
                '\\' => {
                    open = 0;
                    self.command();
                    continue;
                }
                _ => {}
            }
            self.keep(length);
        }
        self.end();
    }

    /// How long the token is that begins with `first`: what is inside one ends no statement.
    fn token(&self, first: char) -> usize {
        let rest = self.rest;
        match first {
            '\'' => quoted(rest, '\'', self.escapes()),
            '"' => quoted(rest, '"', false),
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => comment(rest),
            '$' => dollars(rest).unwrap_or(1),
            _ if first.is_alphabetic() || first == '_' => rest
                .find(|c: char| !(c.is_alphanumeric() || c == '_' || c == '$'))
                .unwrap_or(rest.len()),
            _ => first.len_utf8(),
        }
    }

    /// Whether the string that begins here has backslash escapes.
    fn escapes(&self) -> bool {
        let mut before = self.text.chars().rev();
        matches!(before.next(), Some('e' | 'E'))
            && !before.next().is_some_and(|c| c.is_alphanumeric() || c == '_')
    }

    /// Whether this is inside the `BEGIN ATOMIC … END` of a function.
    fn in_body(&self) -> bool {
        let lower = self.text.to_ascii_lowercase();
        if !lower.trim_start().starts_with("create") {
            return false;
        }
        let words = || lower.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        let begins = words()
            .zip(words().skip(1))
            .any(|pair| pair == ("begin", "atomic"));
        let count = |word: &str| words().filter(|w| *w == word).count();
        begins && count("begin") + count("case") > count("end")
    }

    fn keep(&mut self, length: usize) {
        let (head, _) = self.rest.split_at(length);
        if self.text.trim().is_empty() {
            self.begins = self.line;
        }
        self.text.push_str(head);
        self.skip(length);
    }

    fn skip(&mut self, length: usize) {
        let (head, rest) = self.rest.split_at(length);
        self.line += head.matches('\n').count();
        self.rest = rest;
    }

    /// A command of psql's own, to the end of its line: `\;` keeps statements together, `\g…` ends one.
    fn command(&mut self) {
        if self.rest.starts_with("\\;") {
            self.skip(2);
            self.text.push(';');
            return;
        }
        let end = self.rest.find('\n').unwrap_or(self.rest.len());
        let (line, _) = self.rest.split_at(end);
        let ends = line.starts_with("\\g") || line.starts_with("\\crosstabview");
        self.skip(end);
        if ends {
            self.end();
        }
    }

    fn end(&mut self) {
        let text = std::mem::take(&mut self.text);
        if bare(&text).is_empty() {
            return;
        }
        let words = bare(&text).to_ascii_lowercase();
        let copies = words.starts_with("copy") && words.contains("from stdin");
        let data = copies.then(|| self.data());
        self.found.push(Statement {
            text: text.trim().to_owned(),
            line: self.begins,
            data,
        });
    }

    /// Data up to a line `\.`.
    fn data(&mut self) -> String {
        let first = self.rest.find('\n').map_or(self.rest.len(), |at| at + 1);
        self.skip(first);
        let end = if self.rest.starts_with("\\.") {
            0
        } else {
            self.rest.find("\n\\.").map_or(self.rest.len(), |at| at + 1)
        };
        let data = self.rest.split_at(end).0.to_owned();
        self.skip(end);
        self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
        data
    }
}

/// A text without comments before its first word.
fn bare(text: &str) -> &str {
    let mut rest = text.trim();
    loop {
        let length = if rest.starts_with("--") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            comment(rest)
        } else {
            return rest;
        };
        rest = rest.split_at(length).1.trim_start();
    }
}

fn quoted(text: &str, quote: char, escapes: bool) -> usize {
    let mut characters = text.char_indices().skip(1);
    while let Some((at, c)) = characters.next() {
        if c == '\\' && escapes {
            characters.next();
        } else if c == quote {
            return at + 1;
        }
    }
    text.len()
}

/// Comments nest.
fn comment(text: &str) -> usize {
    let mut open = 0usize;
    let mut at = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let step = if rest.starts_with("/*") {
            open += 1;
            2
        } else if rest.starts_with("*/") {
            open -= 1;
            2
        } else {
            rest.chars().next().map_or(1, char::len_utf8)
        };
        rest = rest.split_at(step).1;
        at += step;
        if open == 0 {
            return at;
        }
    }
    text.len()
}

fn dollars(text: &str) -> Option<usize> {
    let (_, after) = text.split_at(1);
    let tag = after.find(|c: char| !(c.is_alphanumeric() || c == '_'))?;
    let (name, rest) = after.split_at(tag);
    if !rest.starts_with('$') || name.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let (mark, body) = text.split_at(tag + 2);
    body.find(mark)
        .map(|end| mark.len() + end + mark.len())
        .or(Some(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_where_psql_ends_them() {
        let script = "-- c;\nSELECT ';' , \"a;\" /* ; /* ; */ ; */, $$;$$, $a$ $$; $a$, e'\\';';\n\\set x 1\nSELECT 2 \\; SELECT 3 \\g\n\
             CREATE RULE r AS ON INSERT TO t DO (SELECT 1; SELECT 2);\nCOPY t FROM stdin;\n1\t;\n\\.\n\
             CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT 1; SELECT CASE WHEN true THEN 1 END; END;\nCOPY t TO stdout;\nSELECT $1\n";
        let found = statements(script);
        let texts: Vec<&str> = found.iter().map(|s| s.text.as_str()).collect();
        assert_eq!(texts.len(), 7, "{texts:?}");
        assert!(texts[0].ends_with("e'\\';'"), "{texts:?}");
        assert_eq!(texts[1], "SELECT 2 ; SELECT 3");
        assert!(texts[2].ends_with("SELECT 2)"));
        assert_eq!(found[3].data.as_deref(), Some("1\t;\n"));
        assert!(texts[4].ends_with("END"), "{texts:?}");
        assert_eq!((texts[6], found[6].line), ("SELECT $1", 11));
    }
}
