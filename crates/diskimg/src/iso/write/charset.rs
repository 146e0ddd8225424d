//! Character sets of file names.

use encoding_rs::{Encoding, UTF_8, WINDOWS_1252};
use std::borrow::Cow;
use std::fmt;

/// A character set of file names. All contain ASCII.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Charset(Kind);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Known(&'static Encoding),
    /// One of [`CODE_PAGES`].
    CodePage(usize),
}

/// Code pages of DOS that the Encoding Standard, and thus `encoding_rs`, does not contain: name and
/// the characters from 0x80.
const CODE_PAGES: [(&str, &str); 2] = [
    (
        "cp437",
        "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒáíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐\
         └┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}",
    ),
    (
        "cp850",
        "ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜø£Ø×ƒáíóúñÑªº¿®¬½¼¡«»░▒▓│┤ÁÂÀ©╣║╗╝¢¥┐\
         └┴┬├─┼ãÃ╚╔╩╦╠═╬¤ðÐÊËÈıÍÎÏ┘┌█▄¦Ì▀ÓßÔÒõÕµþÞÚÛÙýÝ¯´\u{ad}±‗¾¶§÷¸°¨·¹³²■\u{a0}",
    ),
];

impl Charset {
    /// UTF-8.
    pub const UTF_8: Self = Self(Kind::Known(UTF_8));

    /// Returns the character set with this name, in any case: the labels of the Encoding Standard,
    /// such as "utf-8", "iso-8859-1" (which is read as windows-1252) and "shift_jis"; "cp437" and
    /// "cp850"; and "default", which is ISO 8859-1 as in mkisofs. Returns `None` for an unknown
    /// name, and for character sets that do not contain ASCII, such as UTF-16.
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.trim().to_ascii_lowercase();
        let digits = name.strip_prefix("cp").or_else(|| name.strip_prefix("ibm"));
        let page = digits.map(|digits| format!("cp{digits}"));
        let page = CODE_PAGES.iter().position(|(known, _)| Some(*known) == page.as_deref());
        if let Some(page) = page {
            return Some(Self(Kind::CodePage(page)));
        }
        let encoding = match name.as_str() {
            "default" => Some(WINDOWS_1252),
            label => Encoding::for_label(label.as_bytes()),
        };
        encoding.filter(|encoding| encoding.is_ascii_compatible()).map(|it| Self(Kind::Known(it)))
    }

    /// Returns the name of the character set.
    pub fn name(self) -> &'static str {
        match self.0 {
            Kind::Known(encoding) => encoding.name(),
            Kind::CodePage(page) => CODE_PAGES[page].0,
        }
    }

    /// Decodes a name. Bytes that are not valid become U+FFFD.
    pub(super) fn decode(self, name: &[u8]) -> Cow<'_, str> {
        match self.0 {
            Kind::Known(encoding) => encoding.decode_without_bom_handling(name).0,
            Kind::CodePage(page) => {
                let high = CODE_PAGES[page].1.chars();
                let character = |&byte: &u8| match byte.checked_sub(0x80) {
                    Some(at) => high.clone().nth(at.into()).unwrap_or('\u{fffd}'),
                    None => char::from(byte),
                };
                Cow::Owned(name.iter().map(character).collect())
            }
        }
    }

    /// Encodes one character. Returns `None` if the character set does not contain it.
    fn encode(self, c: char, out: &mut Vec<u8>) -> Option<()> {
        match self.0 {
            Kind::Known(encoding) => {
                let mut text = [0; 4];
                let (bytes, _, unmappable) = encoding.encode(c.encode_utf8(&mut text));
                out.extend_from_slice((!unmappable).then_some(&*bytes)?);
            }
            Kind::CodePage(_) if c.is_ascii() => out.push(u8::try_from(c).ok()?),
            Kind::CodePage(page) => {
                let at = CODE_PAGES[page].1.chars().position(|known| known == c)?;
                out.push(u8::try_from(at + 0x80).ok()?);
            }
        }
        Some(())
    }

    /// Converts a name to another character set. Characters that it does not contain, and bytes
    /// that are not valid, become `_`.
    pub(super) fn convert(self, name: &[u8], to: Self) -> Cow<'_, [u8]> {
        if self == to || name.is_ascii() {
            return Cow::Borrowed(name);
        }
        let mut out = Vec::with_capacity(name.len());
        for c in self.decode(name).chars() {
            if c == '\u{fffd}' || to.encode(c, &mut out).is_none() {
                out.push(b'_');
            }
        }
        Cow::Owned(out)
    }
}

impl Default for Charset {
    fn default() -> Self {
        Self::UTF_8
    }
}

impl fmt::Debug for Charset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Charset").field(&self.name()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_converted_between_character_sets() {
        let set = |name: &str| Charset::from_name(name).unwrap_or_else(|| panic!("{name}"));
        for (from, bytes, text) in [
            ("cp437", &b"\x81ber\xff"[..], "über\u{a0}"),
            ("IBM850", b"\x9b\xf5", "ø§"),
            ("iso8859-1", b"\xfcber", "über"),
            ("default", b"\xfcber", "über"),
            ("koi8-r", b"\xc4\xc1", "да"),
            ("sjis", b"\x93\xfa\x96{", "日本"),
            ("UTF8", "日本".as_bytes(), "日本"),
        ] {
            assert_eq!(set(from).decode(bytes), text, "{from}");
            assert_eq!(set(from).convert(bytes, Charset::UTF_8), text.as_bytes(), "{from}");
            assert_eq!(Charset::UTF_8.convert(text.as_bytes(), set(from)), bytes, "{from}");
        }
        assert_eq!(Charset::UTF_8.convert("日a".as_bytes(), set("cp437")), &b"_a"[..]);
        assert_eq!(Charset::UTF_8.convert(b"\xff", set("cp850")), &b"_"[..]);
    }

    #[test]
    fn character_sets_without_ascii_are_unknown() {
        for name in ["utf-16", "iso-2022-jp", "nope", "", "cp10"] {
            assert_eq!(Charset::from_name(name), None, "{name}");
        }
    }

    #[test]
    fn code_pages_are_complete() {
        for (name, characters) in CODE_PAGES {
            assert_eq!(characters.chars().count(), 128, "{name}");
        }
    }
}
