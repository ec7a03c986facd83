//! What a row says: the few fields that matter, without building the rest of its JSON.

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::fmt;

/// What a row says.
#[derive(Debug, Default)]
pub(crate) struct Row {
    content: Field,
    text: Field,
    path: Field,
    repo_name: Field,
    license: Field,
}

/// A row that is one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct RowDocument {
    /// The name of the document.
    pub(crate) path: String,
    pub(crate) text: String,
    /// The license it has by its own word.
    pub(crate) license: Option<String>,
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
    /// A row whose fields are known.
    pub(super) fn of(
        text: String,
        path: Option<String>,
        repo_name: Option<String>,
        license: Option<String>,
    ) -> Row {
        let field = |value: Option<String>| value.map_or(Field::Missing, Field::Text);
        let [path, repo_name, license] = [path, repo_name, license].map(field);
        Row { content: Field::Text(text), text: Field::Missing, path, repo_name, license }
    }

    /// Bytes of its text.
    pub(crate) fn num_bytes(&self) -> usize {
        match &self.content {
            Field::Text(text) => text.len(),
            _ => 0,
        }
    }

    /// Parses a line. With `text_field`, that field is the text; else `content`, then `text`.
    pub(crate) fn parse(line: &[u8], text_field: Option<&str>) -> Result<Row, String> {
        let mut parser = serde_json::Deserializer::from_slice(line);
        let row = RowSeed { text_field }.deserialize(&mut parser).map_err(|e| e.to_string())?;
        parser.end().map_err(|e| e.to_string())?;
        Ok(row)
    }

    /// The document, with the name `fallback` where the row has none.
    pub(crate) fn into_document(
        self,
        text_field: Option<&str>,
        fallback: String,
    ) -> Result<RowDocument, String> {
        let path = match (self.repo_name, self.path) {
            (Field::Text(repo), Field::Text(path)) => format!("{repo}/{path}"),
            (_, Field::Text(path)) => path,
            _ => fallback,
        };
        let license = match self.license {
            Field::Text(license) => Some(license),
            _ => None,
        };
        let field = text_field.unwrap_or("content");
        match (self.content, self.text) {
            (Field::Text(text), _) | (Field::Missing, Field::Text(text)) => {
                Ok(RowDocument { path, text, license })
            }
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
                ("license", _) => &mut row.license,
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
        let row = Row::parse(line.as_bytes(), field)?.into_document(field, "f:1".into())?;
        Ok((row.path, row.text))
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
        let license = |line: &str| {
            let row = Row::parse(line.as_bytes(), None).and_then(|row| row.into_document(None, "f:1".into()));
            row.expect("a row").license
        };
        assert_eq!(license(r#"{"license":"mit","text":"t"}"#).as_deref(), Some("mit"));
        assert_eq!(license(r#"{"license":["mit"],"text":"t"}"#), None);
        assert_eq!(document(r#"{"text":"a","text":"b"}"#, None), ok("f:1", "b"), "the last of a name counts");
        let nested = format!(r#"{{"a":{}{},"text":"t"}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert_eq!(document(&nested, None), ok("f:1", "t"), "what is passed over needs no stack");
        let nested = format!(r#"{{"text":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
        assert!(document(&nested, None).is_err());
    }
}
