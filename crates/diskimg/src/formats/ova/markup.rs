//! A descriptor's text: its characters, and how much markup there may be before
//! a parser sees it.

use crate::error::{Error, Result};
use crate::open::limits::Limits;
use crate::storage::number::to_u64;
use encoding_rs::{Encoding, UTF_8};

const STRUCTURE: &str = "OVF descriptor";

/// True if `head` begins a text of markup, in UTF-8 or in UTF-16 with its mark.
pub(super) fn looks_like_it(head: &[u8]) -> bool {
    match Encoding::for_bom(head) {
        Some((encoding, _)) if encoding != UTF_8 => true,
        Some((_, mark)) => head[mark..].trim_ascii_start().starts_with(b"<"),
        None => head.trim_ascii_start().starts_with(b"<"),
    }
}

/// The text in the encoding that its mark or its XML declaration names, UTF-8
/// otherwise; without zeros that fill it up.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if it is not in that encoding,
/// [`Unsupported`](crate::ErrorKind::Unsupported) if that is unknown.
pub(super) fn decode(bytes: &[u8]) -> Result<String> {
    let encoding = match Encoding::for_bom(bytes) {
        Some((encoding, _)) => encoding,
        None => declared(bytes)?,
    };
    let (text, _, broken) = encoding.decode(bytes);
    if broken {
        let message = format!("it is not {}", encoding.name());
        return Err(Error::corrupt(STRUCTURE, message));
    }
    Ok(text.trim_end_matches('\0').to_owned())
}

/// The encoding in `<?xml version="1.0" encoding="…"?>`.
fn declared(bytes: &[u8]) -> Result<&'static Encoding> {
    let Some(rest) = bytes.trim_ascii_start().strip_prefix(b"<?xml") else { return Ok(UTF_8) };
    let rest = String::from_utf8_lossy(&rest[..rest.len().min(256)]).into_owned();
    let declaration = rest.split("?>").next().unwrap_or_default();
    let Some((_, value)) = declaration.split_once("encoding") else { return Ok(UTF_8) };
    let value = value.trim_start_matches(|c: char| c == '=' || c.is_whitespace());
    let label = value.split(['"', '\'']).nth(1).unwrap_or_default();
    Encoding::for_label(label.as_bytes()).ok_or_else(|| {
        Error::unsupported(format!("the encoding '{label}'")).in_structure(STRUCTURE)
    })
}

/// Sees that a parser is not led to do too much; real descriptors have a dozen of either. It looks
/// for an attribute that is there twice, which takes the square of their number. Namespaces add up
/// with depth, and each name is looked for among them.
///
/// # Errors
/// [`Limit`](crate::ErrorKind::Limit) for a tag of too many attributes, or too
/// many namespaces.
pub(super) fn require_modest(text: &str, limits: &Limits) -> Result<()> {
    let most = limits.ovf_attributes;
    let over = |found: String| {
        Err(Error::over_limit("ovf_attributes", found, most).in_structure(STRUCTURE))
    };
    let namespaces = to_u64(text.matches("xmlns").count());
    if namespaces > most {
        return over(format!("{namespaces} declarations of namespaces"));
    }
    // No value holds a '<': so each starts something new.
    match text.split('<').map(attributes).find(|&attributes| attributes > most) {
        Some(attributes) => over(format!("a tag of {attributes} attributes")),
        None => Ok(()),
    }
}

/// Quoted values up to the '>' that ends the tag.
fn attributes(tag: &str) -> u64 {
    let mut quote = None;
    let mut count = 0;
    for byte in tag.bytes() {
        match (quote, byte) {
            (None, b'>') => break,
            (None, b'"' | b'\'') => {
                quote = Some(byte);
                count += 1;
            }
            (Some(open), byte) if byte == open => quote = None,
            _ => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn a_text_is_read_in_the_encoding_that_it_names() {
        let utf16 = |bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
            "\u{feff}<é>".encode_utf16().flat_map(bytes).collect()
        };
        for bytes in [
            "<é>".as_bytes().to_vec(),
            "\u{feff}<é>\0\0".as_bytes().to_vec(),
            utf16(u16::to_le_bytes),
            utf16(u16::to_be_bytes),
        ] {
            assert!(looks_like_it(&bytes));
            assert_eq!(decode(&bytes).expect("known"), "<é>");
        }
        let latin = b"<?xml version='1.0' encoding = 'ISO-8859-1'?><\xe9>";
        assert!(decode(latin).expect("known").ends_with("<é>"));
        let unknown = decode(b"<?xml encoding='x-none'?>").expect_err("unknown");
        assert_eq!(unknown.kind(), ErrorKind::Unsupported);
        assert_eq!(decode(b"<\xe9>").expect_err("no UTF-8").kind(), ErrorKind::Corrupt);
        for other in [&b""[..], b"x.ovf", b"\x1f\x8b"] {
            assert!(!looks_like_it(other));
        }
    }

    #[test]
    fn attributes_and_namespaces_are_counted_before_they_are_parsed() {
        let limits = Limits::default();
        let most = limits.ovf_attributes as usize;
        let tag = |count| format!("<a x='>' {}/>", "b=\"\" ".repeat(count - 1));
        require_modest(&tag(most), &limits).expect("as many as there may be");
        for text in [
            tag(most + 1),
            format!("<!-- it's --><x>isn't</x>{}", tag(most + 1)),
            "<a xmlns='u'>".repeat(most + 1),
        ] {
            let error = require_modest(&text, &limits).expect_err("too many");
            assert_eq!(error.exceeded(), Some("ovf_attributes"));
        }
    }
}
