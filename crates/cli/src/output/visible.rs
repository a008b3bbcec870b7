//! Control characters made visible, and colours of our own.
//!
//! Prompts, names and answers come from files and from servers; printed as they are, they could move the cursor, clear the screen or turn text round.
//! Everything that is printed for people goes through [`visible`]. The colours that the program itself gives carry a number in their escape
//! sequences that nobody outside of the process knows, so that they can be told from those in a text.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;

use console::{Color, Style, StyledObject};

/// What begins the escape sequences of our own styles, before their codes: groups of four digits, as terminal libraries read them.
static MARK: LazyLock<String> = LazyLock::new(|| {
    let random = RandomState::new();
    let group = |number: u64| format!("{:04};", random.hash_one(number) % 10_000);
    SEQUENCE.to_owned() + &(0..5).map(group).collect::<String>()
});
/// How an escape sequence of colours begins.
const SEQUENCE: &str = "\u{1b}[";
/// What ends a style.
const RESET: &str = "\u{1b}[0m";

/// As [`console::style`], marked as our own.
pub(crate) fn style<D: Display>(value: D) -> Styled<D> {
    Styled { value, style: Style::new() }
}

/// A value in colours.
pub(crate) struct Styled<D> {
    value: D,
    style: Style,
}

macro_rules! styles {
    ($($name:ident),*) => {
        $(pub(crate) fn $name(mut self) -> Self {
            self.style = self.style.$name();
            self
        })*
    };
}

impl<D: Display> Styled<D> {
    styles!(bold, dim, cyan, green, red, yellow, strikethrough, for_stderr);

    pub(crate) fn fg(mut self, colour: Color) -> Self {
        self.style = self.style.fg(colour);
        self
    }
}

impl<D: Display> Display for Styled<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = visible(&self.value.to_string()).into_owned();
        let styled: StyledObject<&str> = self.style.apply_to(&inner);
        // Whatever escapes are in it now are those of the style.
        f.write_str(&mark(&styled.to_string(), &inner))
    }
}

/// Marks the sequences around `inner` in `styled`.
fn mark(styled: &str, inner: &str) -> String {
    let before = styled.strip_suffix(RESET).and_then(|rest| rest.strip_suffix(inner));
    match before {
        Some(before) => format!("{}{inner}{}", before.replace(SEQUENCE, &MARK), RESET.replace(SEQUENCE, &MARK)),
        None => inner.to_owned(),
    }
}

/// `text` with every control character written out (`\u{1b}`), but for line breaks, tabs and the sequences of our own [`style`]s.
pub(crate) fn visible(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_control) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let length = if rest.starts_with(MARK.as_str()) { MARK.len() } else { c.len_utf8() };
        let (part, behind) = rest.split_at(length);
        match is_control(c) && length == c.len_utf8() {
            true => out.extend(c.escape_default()),
            false => out.push_str(part),
        }
        rest = behind;
    }
    Cow::Owned(out)
}

/// `text` as it is written to a terminal: [`visible`], with our own sequences as terminals read them.
pub(crate) fn for_terminal(text: &str) -> String {
    visible(text).replace(MARK.as_str(), SEQUENCE)
}

/// JSON in which no string holds a control character as it is: the JSON means the same.
pub(crate) fn escaped_json(json: &str) -> Cow<'_, str> {
    if !json.chars().any(is_control) {
        return Cow::Borrowed(json);
    }
    let escaped = json.chars().map(|c| if is_control(c) { format!("\\u{:04x}", u32::from(c)) } else { c.to_string() });
    Cow::Owned(escaped.collect())
}

/// Control characters, and those that change the direction in which text is read. None of them lies beyond `\u{ffff}`.
fn is_control(c: char) -> bool {
    match c {
        '\n' | '\t' => false,
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => true,
        c => c.is_control(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_of_a_text_are_written_out() {
        let text = "a\u{1b}[31mb\u{9b}2Jc\r\u{7}\u{7f}\u{202e}d\u{2066}\n\tZürich 東京";
        assert_eq!(visible(text), "a\\u{1b}[31mb\\u{9b}2Jc\\r\\u{7}\\u{7f}\\u{202e}d\\u{2066}\n\tZürich 東京");
        assert_eq!(for_terminal(text), visible(text));
        assert!(matches!(visible("plain\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn our_own_colours_reach_the_terminal_and_nobody_else_s() {
        let red = Styled { value: "a\u{1b}[32mb", style: Style::new().force_styling(true).red() }.to_string();
        let line = format!("{red} \u{1b}[32mc \u{1b}[0;32md");
        assert_eq!(visible(&visible(&line)), visible(&line), "twice is as once");
        assert_eq!(for_terminal(&line), "\u{1b}[31ma\\u{1b}[32mb\u{1b}[0m \\u{1b}[32mc \\u{1b}[0;32md");
        assert_eq!(console::measure_text_width(&red), "a\\u{1b}[32mb".len(), "tables measure what is seen");
    }

    #[test]
    fn json_means_the_same_with_control_characters_escaped() {
        let value = serde_json::json!({"a": "x\u{1b}[31m\u{9b}\u{202e}\u{7f}y\n"});
        let json = serde_json::to_string_pretty(&value).unwrap();
        let escaped = escaped_json(&json);
        assert!(escaped.chars().all(|c| !is_control(c)), "{escaped}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&escaped).unwrap(), value);
    }
}
