//! HTML that cannot forget to escape: markup is ours and static, text goes through [`Html::text`].

use std::fmt::{Display, Write as _};

/// A page, or a part of one.
#[derive(Default)]
pub(super) struct Html(String);

impl Html {
    /// Appends markup of our own. Being static it holds nothing that came from a file.
    pub(super) fn raw(&mut self, markup: &'static str) -> &mut Self {
        self.0.push_str(markup);
        self
    }

    /// Appends text, escaped for content and for quoted attributes.
    pub(super) fn text(&mut self, text: impl Display) -> &mut Self {
        for char in text.to_string().chars() {
            match char {
                '&' => self.0.push_str("&amp;"),
                '<' => self.0.push_str("&lt;"),
                '>' => self.0.push_str("&gt;"),
                '"' => self.0.push_str("&quot;"),
                '\'' => self.0.push_str("&#39;"),
                '\n' | '\t' => self.0.push(char),
                // Shown by its picture: a page may not hold the characters themselves.
                '\0'..='\x1f' => self.0.extend(char::from_u32(0x2400 + u32::from(char))),
                '\x7f' => self.0.push('\u{2421}'),
                '\u{80}'..='\u{9f}' | '\u{fffe}' | '\u{ffff}' => self.0.push('\u{fffd}'),
                _ => self.0.push(char),
            }
        }
        self
    }

    /// Appends a number of our own computing.
    pub(super) fn number(&mut self, number: f64) -> &mut Self {
        // A tenth of a unit of the picture is finer than a screen shows.
        let tenths = (10.0 * number).round() / 10.0;
        // Writing to a string does not fail.
        let _ = write!(self.0, "{}", if tenths == 0.0 { 0.0 } else { tenths });
        self
    }

    /// Appends an element without attributes but a class, holding text.
    pub(super) fn element(
        &mut self,
        tag: &'static str,
        class: &'static str,
        text: impl Display,
    ) -> &mut Self {
        self.raw("<").raw(tag);
        if !class.is_empty() {
            self.raw(" class=\"").raw(class).raw("\"");
        }
        self.raw(">").text(text).raw("</").raw(tag).raw(">")
    }

    /// Appends JSON as the content of a data `script`: escaped so that it cannot end the element.
    pub(super) fn json(&mut self, value: &serde_json::Value) -> &mut Self {
        for char in value.to_string().chars() {
            match char {
                '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                    let _ = write!(self.0, "\\u{:04x}", u32::from(char));
                }
                _ => self.0.push(char),
            }
        }
        self
    }

    /// The text so far.
    pub(super) fn finish(self) -> String {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_becomes_markup() {
        let mut html = Html::default();
        html.element("p", "x", "</script><b a='1' b=\"2\">&amp;\0\x1b\r\n\u{85}🦅");
        assert_eq!(
            html.finish(),
            "<p class=\"x\">&lt;/script&gt;&lt;b a=&#39;1&#39; b=&quot;2&quot;&gt;&amp;amp;␀␛␍\n\u{fffd}🦅</p>"
        );
        let mut html = Html::default();
        html.json(&serde_json::json!(["</script><!--", "\u{2028}"]));
        let text = html.finish();
        assert!(!text.contains('<') && !text.contains('\u{2028}'), "{text}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).expect("JSON"),
            serde_json::json!(["</script><!--", "\u{2028}"])
        );
    }

    #[test]
    fn numbers_are_short() {
        let mut html = Html::default();
        html.number(1.0).raw(" ").number(-0.01).raw(" ").number(12.345);
        assert_eq!(html.finish(), "1 0 12.3");
    }
}
