//! Lines of a .jsonl: bounded reading, and the few fields that matter without building the rest.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;
use std::io::BufRead;

/// Longest line that is read, in bytes. A longer one is passed over without being held.
pub(crate) const MAX_LINE_BYTES: usize = 64 << 20;

/// A line of a file.
pub(crate) enum Line {
    /// Its bytes without the line break.
    Bytes(Vec<u8>),
    /// It was longer than [`MAX_LINE_BYTES`].
    TooLong,
}

/// Reads the next line, `None` at the end of the file.
pub(crate) fn read_line(input: &mut impl BufRead) -> std::io::Result<Option<Line>> {
    let mut line = Vec::new();
    let mut too_long = false;
    loop {
        let available = input.fill_buf()?;
        if available.is_empty() {
            return Ok((!line.is_empty() || too_long).then(|| finish(line, too_long)));
        }
        let end = available.iter().position(|b| *b == b'\n');
        let piece = &available[..end.unwrap_or(available.len())];
        if line.len() + piece.len() > MAX_LINE_BYTES {
            too_long = true;
            line = Vec::new();
        } else if !too_long {
            line.extend_from_slice(piece);
        }
        let used = piece.len() + usize::from(end.is_some());
        input.consume(used);
        if end.is_some() {
            return Ok(Some(finish(line, too_long)));
        }
    }
}

fn finish(mut line: Vec<u8>, too_long: bool) -> Line {
    if too_long {
        return Line::TooLong;
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Line::Bytes(line)
}

/// What a row says.
#[derive(Debug, Default)]
pub(crate) struct Row {
    content: Field,
    text: Field,
    path: Field,
    repo_name: Field,
}

/// A field of a row.
#[derive(Debug, Default)]
enum Field {
    #[default]
    Missing,
    Text(String),
    /// Something else, in words.
    Other(&'static str),
}

impl Row {
    /// Parses a line. With `text_field`, that field is the text; else `content`, then `text`.
    pub(crate) fn parse(line: &[u8], text_field: Option<&str>) -> Result<Row, String> {
        let mut parser = serde_json::Deserializer::from_slice(line);
        let row = RowSeed { text_field }.deserialize(&mut parser).map_err(|e| e.to_string())?;
        parser.end().map_err(|e| e.to_string())?;
        Ok(row)
    }

    /// The name of the document, `fallback` where the row has none, and its text.
    pub(crate) fn into_document(
        self,
        text_field: Option<&str>,
        fallback: String,
    ) -> Result<(String, String), String> {
        let path = match (self.repo_name, self.path) {
            (Field::Text(repo), Field::Text(path)) => format!("{repo}/{path}"),
            (_, Field::Text(path)) => path,
            _ => fallback,
        };
        let field = text_field.unwrap_or("content");
        match (self.content, self.text) {
            (Field::Text(text), _) | (Field::Missing, Field::Text(text)) => Ok((path, text)),
            (Field::Other(kind), _) => Err(format!("field `{field}` is {kind}, expected a string")),
            (Field::Missing, Field::Other(kind)) => Err(format!("field `text` is {kind}, expected a string")),
            (Field::Missing, Field::Missing) if text_field.is_some() => Err(format!("no field `{field}`")),
            (Field::Missing, Field::Missing) => Err("no field `content` or `text`".to_owned()),
        }
    }
}

struct RowSeed<'a> {
    text_field: Option<&'a str>,
}

impl<'de> DeserializeSeed<'de> for RowSeed<'_> {
    type Value = Row;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Row, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for RowSeed<'_> {
    type Value = Row;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
        let mut row = Row::default();
        while let Some(key) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            let slot = match (&*key, self.text_field) {
                (key, Some(field)) if key == field => &mut row.content,
                ("content", None) => &mut row.content,
                ("text", None) => &mut row.text,
                ("path", _) => &mut row.path,
                ("repo_name", _) => &mut row.repo_name,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                    continue;
                }
            };
            *slot = map.next_value_seed(FieldSeed)?;
        }
        Ok(row)
    }
}

struct FieldSeed;

impl<'de> DeserializeSeed<'de> for FieldSeed {
    type Value = Field;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Field, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for FieldSeed {
    type Value = Field;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_str<E>(self, text: &str) -> Result<Field, E> {
        Ok(Field::Text(text.to_owned()))
    }
    fn visit_string<E>(self, text: String) -> Result<Field, E> {
        Ok(Field::Text(text))
    }
    fn visit_bool<E>(self, _: bool) -> Result<Field, E> {
        Ok(Field::Other("a boolean"))
    }
    fn visit_i64<E>(self, _: i64) -> Result<Field, E> {
        Ok(Field::Other("a number"))
    }
    fn visit_u64<E>(self, _: u64) -> Result<Field, E> {
        Ok(Field::Other("a number"))
    }
    fn visit_f64<E>(self, _: f64) -> Result<Field, E> {
        Ok(Field::Other("a number"))
    }
    fn visit_unit<E>(self) -> Result<Field, E> {
        Ok(Field::Other("null"))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Field, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Field::Other("a list"))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Field, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Field::Other("an object"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(line: &str, field: Option<&str>) -> Result<(String, String), String> {
        Row::parse(line.as_bytes(), field)?.into_document(field, "f:1".into())
    }

    #[test]
    fn rows() {
        let ok = |a: &str, b: &str| Ok((a.to_owned(), b.to_owned()));
        assert_eq!(document(r#"{"content":"x\ny","n":[1,{"a":2}]}"#, None), ok("f:1", "x\ny"));
        assert_eq!(document(r#"{"text":"t","path":"p.py"}"#, None), ok("p.py", "t"));
        assert_eq!(
            document(r#"{"content":"c","text":"t","repo_name":"r","path":"p"}"#, None),
            ok("r/p", "c")
        );
        assert_eq!(document(r#"{"content":"c","code":"k"}"#, Some("code")), ok("f:1", "k"));
        for (line, field, reason) in [
            (r#"{"content":3}"#, None, "field `content` is a number, expected a string"),
            (r#"{"content":null}"#, None, "field `content` is null, expected a string"),
            (r#"{"a":"b"}"#, None, "no field `content` or `text`"),
            (r#"{"content":"b"}"#, Some("code"), "no field `code`"),
        ] {
            assert_eq!(document(line, field), Err(reason.to_owned()));
        }
        for broken in ["", "{", "[1]", "3", r#"{"content":"x"} y"#, r#"{"content":"\ud800"}"#] {
            assert!(document(broken, None).is_err(), "{broken}");
        }
    }

    #[test]
    fn lines() {
        let mut input = std::io::BufReader::with_capacity(3, &b"abcdef\r\n\nlast"[..]);
        let mut lines = Vec::new();
        while let Ok(Some(Line::Bytes(line))) = read_line(&mut input) {
            lines.push(String::from_utf8(line).unwrap());
        }
        assert_eq!(lines, ["abcdef", "", "last"]);
    }
}
