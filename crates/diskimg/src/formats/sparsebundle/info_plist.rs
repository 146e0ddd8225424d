//! `Info.plist`: the size of the disk, and that of its bands.
//!
//! ```text
//!   plist
//!     dict
//!       band-size                     integer: bytes of a band
//!       bundle-backingstore-version   integer: 1
//!       diskimage-bundle-type         string: com.apple.diskimage.sparsebundle
//!       size                          integer: bytes of the disk
//! ```
//!
//! Other keys are ignored.

use crate::error::{Error, ErrorKind, Result};
use crate::formats::small_xml::{require_bounded, shortened};
use crate::open::limits::Limits;
use crate::storage::number::to_usize;
use crate::storage::source::Source;
use roxmltree::{Document, Node, ParsingOptions};
use std::borrow::Cow;

/// How messages call the property list.
pub(super) const STRUCTURE: &str = "sparse bundle property list";

/// The type of a bundle.
const BUNDLE_TYPE: &str = "com.apple.diskimage.sparsebundle";

/// The only known version.
const VERSION: u64 = 1;

/// The unit of the sizes.
const SECTOR: u64 = 512;

/// Maximum number of elements and texts. Those that macOS writes have about 30.
const MAX_NODES: u32 = 10_000;

/// Maximum number of attributes of a tag, and of namespaces. The parser's time grows with the
/// square of either.
const MAX_ATTRIBUTES: usize = 16;

/// A valid property list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct InfoPlist {
    /// Size of the disk in bytes: a multiple of 512.
    pub(super) size: u64,
    /// Size of a band in bytes: a multiple of 512.
    pub(super) band_bytes: u64,
}

/// Returns true if `head` is the beginning of the property list of a bundle.
pub(super) fn looks_like_one(head: &[u8]) -> bool {
    let head = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(head).trim_ascii_start();
    let has = |text: &str| head.windows(text.len()).any(|window| window == text.as_bytes());
    head.starts_with(b"<") && has("<plist") && has(BUNDLE_TYPE)
}

impl InfoPlist {
    /// Reads the property list that is stored in `source`.
    ///
    /// # Errors
    /// [`Limit`](ErrorKind::Limit) if it is too large, [`Io`](ErrorKind::Io) if it cannot be read;
    /// otherwise as [`parse`](Self::parse).
    pub(super) fn read(source: &dyn Source, limits: &Limits) -> Result<Self> {
        let (len, max) = (source.len(), limits.descriptor_bytes);
        if len > max {
            let error = Error::over_limit("descriptor_bytes", format!("{len} bytes"), max);
            return Err(error.in_structure(STRUCTURE).at(0));
        }
        let mut bytes = vec![0; to_usize(len)];
        source
            .read_exact_at(&mut bytes, 0)
            .map_err(|e| Error::io("cannot read it", e).in_structure(STRUCTURE).at(0))?;
        Self::parse(&bytes).map_err(|e| e.in_structure(STRUCTURE))
    }

    /// Parses and validates a property list.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) if it is not well-formed or lacks something,
    /// [`Unsupported`](ErrorKind::Unsupported) for other types and versions,
    /// [`Limit`](ErrorKind::Limit) if it is too complex.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self> {
        if bytes.starts_with(b"bplist") {
            return Err(Error::unsupported("a binary property list")
                .hint("convert it with plutil -convert xml1"));
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let text = std::str::from_utf8(bytes).map_err(|_| corrupt("it is not valid UTF-8"))?;
        let text = without_doctype(text.trim_end_matches('\0'))?;
        require_bounded(&text, MAX_ATTRIBUTES)?;
        let options = ParsingOptions { nodes_limit: MAX_NODES, ..ParsingOptions::default() };
        let document = Document::parse_with_options(&text, options).map_err(|e| match e {
            roxmltree::Error::NodesLimitReached => {
                Error::limit(format!("more than {MAX_NODES} elements and texts"))
            }
            e => corrupt(e.to_string()),
        })?;
        let root = document.root_element();
        let dictionary = root.first_element_child().filter(|node| node.has_tag_name("dict"));
        let dictionary = dictionary.filter(|_| root.has_tag_name("plist"));
        let dictionary = dictionary.ok_or_else(|| corrupt("it has no dictionary"))?;
        let found = |key| value(dictionary, key);
        let bundle_type = text_of(found("diskimage-bundle-type")?, "string")?;
        if bundle_type != BUNDLE_TYPE {
            let message = format!("a bundle of the type '{}'", shortened(bundle_type));
            return Err(Error::unsupported(message));
        }
        let version = integer(found("bundle-backingstore-version")?)?;
        if version != VERSION {
            let message = format!("version {version} of the format; only {VERSION} is known");
            return Err(Error::unsupported(message));
        }
        let bytes = |key: &'static str, least: u64| {
            let bytes = integer(found(key)?)?;
            let is_valid = (least..=i64::MAX.cast_unsigned()).contains(&bytes);
            match is_valid && bytes.is_multiple_of(SECTOR) {
                true => Ok(bytes),
                false => Err(corrupt(format!("{key} is {bytes}: not whole sectors, or too large"))),
            }
        };
        Ok(Self { size: bytes("size", 0)?, band_bytes: bytes("band-size", SECTOR)? })
    }

    /// Returns the number of bands of the disk.
    pub(super) fn bands(&self) -> u64 {
        self.size.div_ceil(self.band_bytes)
    }
}

fn corrupt(message: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Corrupt, message)
}

/// Returns the text without its document type, which says only that it is a property list. The
/// parser accepts none.
fn without_doctype(text: &str) -> Result<Cow<'_, str>> {
    const START: &str = "<!DOCTYPE";
    let Some(start) = text.find(START) else { return Ok(text.into()) };
    let after = text[start..].find(['>', '[']).map(|len| start + len);
    match after.and_then(|end| text[end..].strip_prefix('>').map(|rest| (end, rest))) {
        Some((_, rest)) => Ok(format!("{}{rest}", &text[..start]).into()),
        None => Err(corrupt("its document type defines something of its own")),
    }
}

/// Returns the only value of a key: of two, programs may read either.
fn value<'a>(dictionary: Node<'a, 'a>, key: &'static str) -> Result<Node<'a, 'a>> {
    let is_key = |node: &Node<'_, '_>| node.has_tag_name("key") && node.text() == Some(key);
    let mut keys = dictionary.children().filter(is_key);
    match (keys.next(), keys.next()) {
        (Some(only), None) => only
            .next_sibling_element()
            .filter(|value| !value.has_tag_name("key"))
            .ok_or_else(|| corrupt(format!("the key {key} has no value"))),
        (None, _) => Err(corrupt(format!("it has no key {key}"))),
        (Some(_), Some(_)) => Err(corrupt(format!("it has the key {key} several times"))),
    }
}

/// Returns the text of a value of this type.
fn text_of<'a>(value: Node<'a, 'a>, tag: &'static str) -> Result<&'a str> {
    match value.has_tag_name(tag) {
        true => Ok(value.text().unwrap_or_default().trim()),
        false => {
            let found = value.tag_name().name();
            Err(corrupt(format!("a value is <{}>, not <{tag}>", shortened(found))))
        }
    }
}

fn integer(value: Node<'_, '_>) -> Result<u64> {
    let text = text_of(value, "integer")?;
    text.parse().map_err(|_| corrupt(format!("'{}' is not a size", shortened(text))))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As macOS writes it.
    const TEXT: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
	<key>CFBundleInfoDictionaryVersion</key>
	<string>6.0</string>
	<key>band-size</key>
	<integer>8388608</integer>
	<key>bundle-backingstore-version</key>
	<integer>1</integer>
	<key>diskimage-bundle-type</key>
	<string>com.apple.diskimage.sparsebundle</string>
	<key>size</key>
	<integer>107374182400</integer>
</dict>
</plist>
"#;

    #[test]
    fn sizes_are_read() {
        let expected = InfoPlist { size: 100 << 30, band_bytes: 8 << 20 };
        assert_eq!(InfoPlist::parse(TEXT.as_bytes()).expect("valid"), expected);
        assert!(looks_like_one(TEXT.as_bytes()));
        assert_eq!(expected.bands(), 12_800);
        let spaced = TEXT.replace("107374182400", "\n 107374182400 ").replace('\n', "\r\n");
        let marked = format!("\u{feff}{spaced}");
        assert_eq!(InfoPlist::parse(marked.as_bytes()).expect("valid"), expected);
    }

    #[test]
    fn contradictions_and_unknown_features_are_errors() {
        for (from, to, text) in [
            ("107374182400", "107374182401", "not whole sectors"),
            ("107374182400", "9223372036854775808", "too large"),
            ("107374182400", "99999999999999999999", "not a size"),
            ("107374182400", "-512", "not a size"),
            ("<integer>107374182400</integer>", "", "has no value"),
            ("<integer>107374182400</integer>", "<string>512</string>", "<string>, not <integer>"),
            ("8388608", "0", "not whole sectors"),
            ("8388608", "100", "not whole sectors"),
            ("<integer>1<", "<integer>2<", "version 2"),
            ("sparsebundle<", "other<", "of the type 'com.apple.diskimage.other'"),
            ("CFBundleInfoDictionaryVersion", "size", "the key size several times"),
            ("<key>size", "<key>Size", "no key size"),
            ("</dict>", "", "expected 'dict'"),
            ("<dict>", "<array/><dict>", "no dictionary"),
            (".dtd\">", ".dtd\" [<!ENTITY a \"b\">]>", "something of its own"),
            ("<?xml version", "bplist00", "binary property list"),
        ] {
            assert!(TEXT.contains(from), "{from}");
            let error = InfoPlist::parse(TEXT.replacen(from, to, 1).as_bytes()).expect_err(to);
            assert!(error.to_string().contains(text), "{text}: {error}");
        }
        let many = format!("<plist {}", "a='' ".repeat(17));
        let error = InfoPlist::parse(TEXT.replace("<plist", &many).as_bytes()).expect_err("many");
        assert_eq!(error.kind(), ErrorKind::Limit);
    }
}
