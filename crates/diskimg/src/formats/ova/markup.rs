//! The text of a descriptor: its encoding, limits on its markup, enforced before parsing, and the
//! parser.

use crate::error::{Error, Result};
use crate::open::limits::Limits;
use crate::storage::number::to_u64;
use encoding_rs::{Encoding, UTF_8};
use roxmltree::{Document, ParsingOptions};
use std::collections::HashSet;

/// How errors call a descriptor.
pub(super) const STRUCTURE: &str = "OVF descriptor";

/// Beginning of the namespace that a prefix gets which the document does not declare; the prefix
/// follows.
pub(super) const UNDECLARED: &str = "undeclared:";

/// Maximum number of prefixes that are declared afterwards. The parser looks up each name in all
/// namespaces.
const MAX_UNDECLARED: usize = 16;

/// True if `head` looks like the beginning of an XML document, in UTF-8 or in UTF-16 with a byte
/// order mark.
pub(super) fn looks_like_xml(head: &[u8]) -> bool {
    match Encoding::for_bom(head) {
        Some((encoding, _)) if encoding != UTF_8 => true,
        Some((_, mark)) => head[mark..].trim_ascii_start().starts_with(b"<"),
        None => head.trim_ascii_start().starts_with(b"<"),
    }
}

/// Decodes the text and removes trailing zero bytes. The encoding is that of the byte order mark or
/// of the XML declaration, otherwise UTF-8.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if the text is not valid in its encoding,
/// [`Unsupported`](crate::ErrorKind::Unsupported) if the encoding is unknown.
pub(super) fn decode(bytes: &[u8]) -> Result<String> {
    let encoding = encoding_of(bytes)?;
    let (text, _, malformed) = encoding.decode(bytes);
    if malformed {
        let message = format!("it is not valid {}", encoding.name());
        return Err(Error::corrupt(STRUCTURE, message));
    }
    Ok(text.trim_end_matches('\0').to_owned())
}

/// Returns the encoding of the byte order mark, of the XML declaration, or UTF-8.
///
/// # Errors
/// [`Unsupported`](crate::ErrorKind::Unsupported) if the encoding is unknown.
pub(super) fn encoding_of(bytes: &[u8]) -> Result<&'static Encoding> {
    match Encoding::for_bom(bytes) {
        Some((encoding, _)) => Ok(encoding),
        None => declared(bytes),
    }
}

/// Returns the encoding in `<?xml version="1.0" encoding="…"?>`, or UTF-8.
fn declared(bytes: &[u8]) -> Result<&'static Encoding> {
    let Some(rest) = bytes.trim_ascii_start().strip_prefix(b"<?xml") else { return Ok(UTF_8) };
    let len = rest.windows(2).position(|end| end == b"?>").unwrap_or(rest.len());
    let declaration = String::from_utf8_lossy(&rest[..len]);
    let Some((_, value)) = declaration.split_once("encoding") else { return Ok(UTF_8) };
    let value = value.trim_start_matches(|c: char| c == '=' || c.is_whitespace());
    let label = value.split(['"', '\'']).nth(1).unwrap_or_default();
    Encoding::for_label(label.as_bytes()).ok_or_else(|| {
        Error::unsupported(format!("unknown encoding '{label}'")).in_structure(STRUCTURE)
    })
}

/// Limits the number of attributes per tag and of namespaces, to bound the parsing time. Real
/// descriptors have about a dozen of either. The parser's check for duplicate attributes takes
/// quadratic time, and it looks up each name in all namespaces in scope, whose number grows with
/// depth.
///
/// # Errors
/// [`Limit`](crate::ErrorKind::Limit) for too many attributes of a tag, or too many namespaces.
pub(super) fn require_bounded_markup(text: &str, limits: &Limits) -> Result<()> {
    let max = limits.ovf_attributes;
    let over_limit = |found: String| {
        Err(Error::over_limit("ovf_attributes", found, max).in_structure(STRUCTURE))
    };
    let namespaces = to_u64(text.matches("xmlns").count());
    if namespaces > max {
        return over_limit(format!("{namespaces} namespace declarations"));
    }
    // Attribute values cannot contain '<', so no tag is split. Comments and CDATA are counted, too.
    match text.split('<').map(count_attributes).find(|&attributes| attributes > max) {
        Some(attributes) => over_limit(format!("a tag with {attributes} attributes")),
        None => Ok(()),
    }
}

/// Parses the text, which is within the limits of [`require_bounded_markup`].
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if it is not well-formed,
/// [`Limit`](crate::ErrorKind::Limit) if it has too many nodes.
pub(super) fn parse<'a>(text: &'a str, limits: &Limits) -> Result<Document<'a>> {
    try_parse(text, limits).map_err(|e| match e {
        roxmltree::Error::NodesLimitReached => {
            Error::over_limit("ovf_nodes", "too many elements and texts", limits.ovf_nodes)
                .in_structure(STRUCTURE)
        }
        e => Error::corrupt(STRUCTURE, e.to_string()),
    })
}

fn try_parse<'a>(text: &'a str, limits: &Limits) -> Result<Document<'a>, roxmltree::Error> {
    let nodes_limit = u32::try_from(limits.ovf_nodes).unwrap_or(u32::MAX);
    let options = ParsingOptions { nodes_limit, ..ParsingOptions::default() };
    Document::parse_with_options(text, options)
}

/// Declares the prefixes that are used but not declared, in the root element. Their names are then
/// in namespaces of their own, and only an element that is needed can be missing because of them.
/// The document is parsed once, however many there are; a declaration of a prefix that is also
/// declared where it is used has no effect.
pub(super) fn declare_prefixes(text: &mut String, limits: &Limits) {
    let Some(at) = end_of_root_name(text) else { return };
    if !matches!(try_parse(text, limits), Err(roxmltree::Error::UnknownNamespace(..))) {
        return;
    }
    let mut declared = HashSet::from(["xml", "xmlns"]);
    each_prefixed_name(&text[at..], &mut |prefix, name| {
        declared.extend((prefix == "xmlns").then_some(name));
    });
    let (mut declarations, mut added) = (String::new(), 0);
    for tag in text.split('<') {
        each_prefixed_name(tag, &mut |prefix, _| {
            if added < MAX_UNDECLARED && declared.insert(prefix) {
                declarations += &format!(" xmlns:{prefix}=\"{UNDECLARED}{prefix}\"");
                added += 1;
            }
        });
    }
    text.insert_str(at, &declarations);
}

/// Calls `take` with prefix and local name of each name with a prefix in a tag, which ends at the
/// first '>' outside of quotes. `tag` starts after the '<', or within the tag.
fn each_prefixed_name<'a>(tag: &'a str, take: &mut dyn FnMut(&'a str, &'a str)) {
    if tag.starts_with(['!', '?']) {
        return;
    }
    let mut quote = None;
    let mut rest = tag.strip_prefix('/').unwrap_or(tag);
    while let Some(first) = rest.chars().next() {
        let is_delimiter = |c: char| c.is_whitespace() || matches!(c, '=' | '>' | '/' | '"' | '\'');
        let after = &rest[first.len_utf8()..];
        rest = match (quote, first) {
            (None, '>') => return,
            (None, '"' | '\'') => {
                quote = Some(first);
                after
            }
            (Some(open), _) => match after_quote(rest, open) {
                Some(after) => {
                    quote = None;
                    after
                }
                None => return,
            },
            (None, first) if is_delimiter(first) => after,
            _ => {
                let end = rest.find(is_delimiter).unwrap_or(rest.len());
                if let Some((prefix, name)) = rest[..end].split_once(':')
                    && !prefix.is_empty()
                {
                    take(prefix, name);
                }
                &rest[end..]
            }
        };
    }
}

/// Returns the text after the next `quote`.
fn after_quote(text: &str, quote: char) -> Option<&str> {
    text.split_once(quote).map(|(_, after)| after)
}

/// Returns the index of the end of the root element's name; `None` if a document type or anything
/// else precedes it that only a parser understands.
fn end_of_root_name(text: &str) -> Option<usize> {
    let mut at = 0;
    loop {
        at += text[at..].find('<')? + 1;
        let end = match &text[at..] {
            comment if comment.starts_with("!--") => "-->",
            instruction if instruction.starts_with('?') => "?>",
            other if other.starts_with('!') => return None,
            name => {
                let len = name.find(|c: char| c.is_whitespace() || matches!(c, '/' | '>'))?;
                return Some(at + len);
            }
        };
        at += text[at..].find(end)? + end.len();
    }
}

/// Counts the quoted values up to the '>' that ends the tag.
fn count_attributes(tag: &str) -> u64 {
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
    fn a_text_is_decoded_in_its_stated_encoding() {
        let utf16 = |bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
            "\u{feff}<é>".encode_utf16().flat_map(bytes).collect()
        };
        for bytes in [
            "<é>".as_bytes().to_vec(),
            "\u{feff}<é>\0\0".as_bytes().to_vec(),
            utf16(u16::to_le_bytes),
            utf16(u16::to_be_bytes),
        ] {
            assert!(looks_like_xml(&bytes));
            assert_eq!(decode(&bytes).expect("known"), "<é>");
        }
        let latin = b"<?xml version='1.0' encoding = 'ISO-8859-1'?><\xe9>";
        assert!(decode(latin).expect("known").ends_with("<é>"));
        let unknown = decode(b"<?xml encoding='x-none'?>").expect_err("unknown");
        assert_eq!(unknown.kind(), ErrorKind::Unsupported);
        let late = [&b"<?xml version='1.0'"[..], &[b' '; 300], &latin[19..]].concat();
        assert!(decode(&late).expect("known").ends_with("<é>"));
        assert_eq!(decode(b"<\xe9>").expect_err("not UTF-8").kind(), ErrorKind::Corrupt);
        for other in [&b""[..], b"x.ovf", b"\x1f\x8b"] {
            assert!(!looks_like_xml(other));
        }
    }

    #[test]
    fn the_root_element_is_found_after_comments_and_instructions() {
        for (text, root) in [
            ("<a>", Some("<a")),
            ("<?xml version='1.0'?>\n<!-- <x> --><e:b c='d'/>", Some("<e:b")),
            ("<?p <q> ?><a\n/>", Some("<a")),
            ("<!DOCTYPE a><a/>", None),
            ("<!-- <a>", None),
            ("<a", None),
            ("", None),
        ] {
            let found = end_of_root_name(text)
                .map(|end| &text[text[..end].rfind('<').expect("a tag")..end]);
            assert_eq!(found, root, "{text}");
        }
    }

    #[test]
    fn prefixes_that_are_not_declared_are_declared_in_the_root_element() {
        let declared = |text: &str| {
            let mut text = text.to_owned();
            declare_prefixes(&mut text, &Limits::default());
            text
        };
        let plain = "<a xmlns:b='u'><b:c d='e:f'/></a>";
        assert_eq!(declared(plain), plain);
        let text = "<!-- <x:y> --><a xmlns:b='u'><b:c d='> e:f' g:h='i'/><j:k>l:m</j:k></a>";
        let found = declared(text);
        // Names in comments are declared, too.
        for prefix in ["g", "j"] {
            assert!(found.contains(&format!(" xmlns:{prefix}=\"undeclared:{prefix}\"")), "{found}");
        }
        parse(&found, &Limits::default()).expect("is well-formed");
    }

    #[test]
    fn attributes_and_namespaces_are_counted_before_they_are_parsed() {
        let limits = Limits::default();
        let max = limits.ovf_attributes as usize;
        let tag = |count| format!("<a x='>' {}/>", "b=\"\" ".repeat(count - 1));
        require_bounded_markup(&tag(max), &limits).expect("at the limit");
        for text in [
            tag(max + 1),
            format!("<!-- it's --><x>isn't</x>{}", tag(max + 1)),
            "<a xmlns='u'>".repeat(max + 1),
        ] {
            let error = require_bounded_markup(&text, &limits).expect_err("too many");
            assert_eq!(error.exceeded(), Some("ovf_attributes"));
        }
    }
}
