//! The property list, which has the tables in base 64.
//!
//! ```text
//!   plist / dict / resource-fork: dict / blkx: array / dict / Name, CFName: string
//!                                                             Data: data
//! ```

use super::table::Tables;
use super::trailer::Trailer;
use crate::error::{Error, Result};
use crate::storage::source::Source;
use base64::engine::general_purpose::STANDARD;
use base64::read::DecoderReader;
use roxmltree::{Document, Node, ParsingOptions};
use std::io::{self, Read};

/// How messages call it.
pub(super) const PLIST: &str = "DMG property list";

/// Maximum number of elements and texts. Real lists have some hundred, and twenty for a table.
const MAX_NODES: u32 = 200_000;

/// Maximum number of '<' and '=', for each of which the parser reserves memory.
const MAX_MARKUP: usize = 500_000;

/// Maximum number of attributes of a tag, and of namespaces. Real lists have one attribute. The
/// parser's time grows with the square of either.
const MAX_ATTRIBUTES: usize = 64;

/// Reads the tables of a property list.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if it or a table is not valid,
/// [`Limit`](crate::ErrorKind::Limit), [`Io`](crate::ErrorKind::Io).
pub(super) fn read(source: &dyn Source, trailer: &Trailer, max: u64) -> Result<Tables> {
    let (at, len) = trailer.plist;
    let mut bytes = super::read(source, at, len, max, PLIST)?;
    remove_doctype(&mut bytes);
    let corrupt = |message: String| Error::corrupt(PLIST, message).at(at);
    let text = std::str::from_utf8(&bytes).map_err(|_| corrupt("it is not UTF-8".into()))?;
    let text = text.trim_start_matches('\u{feff}').trim_end_matches('\0');
    require_bounded_markup(text).map_err(corrupt)?;
    let options = ParsingOptions { nodes_limit: MAX_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options).map_err(|e| match e {
        roxmltree::Error::NodesLimitReached => {
            Error::limit(format!("{PLIST}: more than {MAX_NODES} elements and texts")).at(at)
        }
        e => corrupt(e.to_string()),
    })?;
    let list = document.root_element();
    let blkx = list
        .children()
        .find(|node| node.has_tag_name("dict"))
        .and_then(|dict| value(dict, "resource-fork"))
        .and_then(|fork| value(fork, "blkx"))
        .filter(|blkx| blkx.has_tag_name("array"))
        .ok_or_else(|| corrupt("it has no block tables ('blkx')".into()))?;
    let mut tables = Tables::new(max);
    for dict in blkx.children().filter(|node| node.has_tag_name("dict")) {
        let string = |key| value(dict, key).and_then(|node| node.text()).unwrap_or_default();
        let name = [string("Name"), string("CFName")].into_iter().find(|name| !name.is_empty());
        let data = value(dict, "Data").filter(|node| node.has_tag_name("data"));
        let data = data.and_then(|node| node.text()).unwrap_or_default();
        let decoded = DecoderReader::new(WithoutSpace(data.as_bytes()), &STANDARD);
        // The decoder reads ahead only a little.
        tables.add(name.unwrap_or_default(), decoded, trailer).map_err(|e| e.at(at))?;
    }
    Ok(tables)
}

/// Returns the value of a key of a dictionary.
fn value<'a, 'i>(dict: Node<'a, 'i>, key: &str) -> Option<Node<'a, 'i>> {
    let is_key = |node: &Node<'_, '_>| node.has_tag_name("key") && node.text() == Some(key);
    dict.children().find(is_key)?.next_sibling_element()
}

/// Overwrites the document type declaration by spaces. The parser would refuse it, because with a
/// subset of its own (`[…]`), which no real list has, it could define entities; such a one is left.
fn remove_doctype(bytes: &mut [u8]) {
    /// Bytes in which the declaration starts, after the XML declaration.
    const PROLOG: usize = 4096;
    const START: &[u8] = b"<!DOCTYPE";
    let prolog = &bytes[..bytes.len().min(PROLOG)];
    let Some(start) = prolog.windows(START.len()).position(|at| at == START) else { return };
    let is_end = |&&byte: &&u8| matches!(byte, b'>' | b'[');
    let Some(len) = prolog[start..].iter().position(|byte| is_end(&byte)) else { return };
    if prolog[start + len] == b'>' {
        bytes[start..=start + len].fill(b' ');
    }
}

/// Refuses text whose markup would take the parser long, or much memory.
fn require_bounded_markup(text: &str) -> Result<(), String> {
    if text.matches(['<', '=']).count() > MAX_MARKUP {
        return Err("it has too many tags and attributes".into());
    }
    if text.matches("xmlns").count() > MAX_ATTRIBUTES {
        return Err("it has too many namespaces".into());
    }
    // Attribute values cannot contain '<', so no tag is split. They can contain '>', so the text
    // after a tag is counted as well: base 64 has at most two '='.
    let attributes = |part: &str| part.matches('=').count();
    match text.split('<').map(attributes).any(|count| count > MAX_ATTRIBUTES) {
        true => Err("a tag has too many attributes".into()),
        false => Ok(()),
    }
}

/// Text without white space.
struct WithoutSpace<'a>(&'a [u8]);

impl Read for WithoutSpace<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut written = 0;
        while written < buf.len()
            && let [first, rest @ ..] = self.0
        {
            self.0 = rest;
            if !first.is_ascii_whitespace() {
                buf[written] = *first;
                written += 1;
            }
        }
        Ok(written)
    }
}
