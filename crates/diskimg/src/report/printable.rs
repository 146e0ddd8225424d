//! Escaping of untrusted text for terminals.

use std::borrow::Cow;

/// Returns `text` with control characters escaped as `\u{…}`.
///
/// Names in an image may contain control characters that manipulate a terminal. Characters that
/// change the writing direction are escaped as well: after U+202E, `gpj.exe` is displayed as
/// `exe.jpg`.
pub fn printable(text: &str) -> Cow<'_, str> {
    // Fast path: nearly all text is printable ASCII.
    let plain = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    if plain || !text.chars().any(is_control) {
        return text.into();
    }
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match is_control(c) {
            true => escaped.extend(c.escape_unicode()),
            false => escaped.push(c),
        }
    }
    escaped.into()
}

/// Returns true for control characters and characters with the Unicode property `Bidi_Control`
/// (UAX #9, section 2).
fn is_control(c: char) -> bool {
    let bidi = ['\u{61c}', '\u{200e}', '\u{200f}'].contains(&c)
        || ('\u{202a}'..='\u{202e}').contains(&c)
        || ('\u{2066}'..='\u{2069}').contains(&c);
    bidi || c.is_control()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_and_bidirectional_controls_are_escaped() {
        for c in ['\0', '\n', '\u{1b}', '\u{7f}', '\u{9b}', '\u{61c}', '\u{200f}', '\u{202a}']
            .into_iter()
            .chain(['\u{202e}', '\u{2066}', '\u{2069}'])
        {
            assert_eq!(printable(&format!("a{c}b")), format!("a\\u{{{:x}}}b", u32::from(c)));
        }
        for text in ["a b", "größe", "图像", "שלום", "👩\u{200d}💻"] {
            assert!(matches!(printable(text), Cow::Borrowed(same) if same == text));
        }
    }
}
