//! Text out of images, on its way to a terminal.

use std::borrow::Cow;

/// The text with control characters as `\u{…}`: names out of an image are its
/// author's, and neither a terminal nor the reader's eye must obey them. Those
/// that turn the direction of writing are among them: behind U+202E,
/// `gpj.exe` reads as a picture.
pub fn printable(text: &str) -> Cow<'_, str> {
    // Nearly every text is ASCII, which is told faster.
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

/// Control characters and Unicode's `Bidi_Control` (UAX #9, 2).
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
    fn what_a_terminal_or_an_eye_would_obey_is_escaped() {
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
