//! The rules that the text of an untrusted descriptor must keep, as strict as the strictest reader.
//!
//! ```text
//!   # comment                              any text
//!   createType="monolithicSparse"          once, quoted
//!   CID=fffffffe                           word=value, no space before '='
//!   RW 16384 SPARSE "disk.vmdk"            once, without a path
//!   ddb.adapterType = "ide"                anything after ddb
//! ```

use super::descriptor::Descriptor;
use super::extent_line::{Access, ExtentKind, ExtentLine, shortened};
use crate::error::{Error, Result};
use crate::formats::inspect::Subject;
use crate::report::inspection::{Code, Inspection, Role};
use crate::storage::number::to_usize;

/// The values of `createType` for a disk in a single file.
const CREATE_TYPES: [&str; 2] = ["monolithicSparse", "streamOptimized"];

/// The access modes that extent lines begin with.
const ACCESSES: [&str; 3] = ["RW", "RDONLY", "NOACCESS"];

/// Reads the text in `len` bytes at host offset `at`, up to the first zero byte.
pub(super) fn text_at(subject: &Subject<'_>, at: u64, len: u64) -> Result<Vec<u8>> {
    let max = subject.limits.descriptor_bytes;
    let mut bytes = vec![0; to_usize(len.min(max.saturating_add(1)))];
    super::read(&**subject.source, &mut bytes, at, "VMDK descriptor")?;
    let end = bytes.iter().position(|&b| b == 0);
    if len > max && end.is_none() {
        return Err(Error::limit(format!("it is longer than {max} bytes"))
            .in_structure("VMDK descriptor")
            .at(at));
    }
    bytes.truncate(end.unwrap_or(bytes.len()));
    Ok(bytes)
}

/// Verifies the text that begins at host offset `at`. If it is `embedded` in a sparse extent, its
/// only extent line must describe that extent.
pub(super) fn apply(text: &[u8], at: u64, embedded: bool, found: &mut Inspection) {
    let Some(text) = plain(text) else {
        let message = "the descriptor is not plain ASCII text";
        return found.add(Code::Descriptor, at, message);
    };
    let (mut create_types, mut extents) = (Vec::new(), Vec::new());
    for line in text.split('\n').map(str::trim) {
        match Line::of(line) {
            Line::Ignored => {}
            Line::Extent => extents.push(line),
            Line::Field("createtype", value) => create_types.push(value),
            // Such as `changeTrackPath`, which VMware writes to.
            Line::Field(_, value) if value.contains(['/', '\\']) => {
                let message = format!("the line '{}' contains a path", shortened(line));
                found.add(Code::Extents, at, message);
            }
            Line::Field(..) => {}
            Line::Unknown => {
                let message = format!("unknown line in the descriptor: '{}'", shortened(line));
                found.add(Code::Descriptor, at, message);
            }
        }
    }
    create_type(text, &create_types, at, found);
    match &*extents {
        [] => found.add(Code::Descriptor, at, "the descriptor lists no extents"),
        [line] => extent(line, at, embedded, found),
        lines => {
            for line in lines {
                extent(line, at, false, found);
            }
            let message = format!("the descriptor lists {} extents", lines.len());
            found.add(Code::Extents, at, message);
        }
    }
    relations(text, at, found);
}

/// A classified line.
#[derive(Debug, PartialEq, Eq)]
enum Line<'a> {
    /// Blank, a comment, or an entry of the disk database.
    Ignored,
    Extent,
    /// A key and its value. The key is `"createtype"`, or empty for any other.
    Field(&'static str, &'a str),
    Unknown,
}

impl<'a> Line<'a> {
    fn of(line: &'a str) -> Self {
        let starts =
            |word: &str| line.get(..word.len()).is_some_and(|l| l.eq_ignore_ascii_case(word));
        if line.is_empty() || line.starts_with('#') || starts("ddb") {
            return Self::Ignored;
        }
        let first = line.split(' ').next().unwrap_or_default();
        if ACCESSES.iter().any(|access| access.eq_ignore_ascii_case(first)) {
            return Self::Extent;
        }
        // A single word: some readers would take 'RW<tab>1 …=' for an extent.
        let is_word = |c: char| c.is_ascii_alphanumeric() || "._-:/".contains(c);
        match line.split_once('=') {
            Some((key, value)) if !key.is_empty() && key.chars().all(is_word) => {
                let is_type = key.eq_ignore_ascii_case("createtype");
                Self::Field(if is_type { "createtype" } else { "" }, value)
            }
            _ => Self::Unknown,
        }
    }
}

/// Returns the text if it is ASCII without control characters other than tabs and line ends. A
/// carriage return must precede a line feed: on its own it ends a line for some readers only.
fn plain(text: &[u8]) -> Option<&str> {
    let is_plain = |(i, &byte): (usize, &u8)| match byte {
        b'\n' | b'\t' | b' ' => true,
        b'\r' => text.get(i + 1).is_none_or(|&next| next == b'\n'),
        _ => byte.is_ascii_graphic(),
    };
    text.iter().enumerate().all(is_plain).then(|| std::str::from_utf8(text).ok()).flatten()
}

/// Verifies `values`, those of the `createType` fields of `text`.
fn create_type(text: &str, values: &[&str], at: u64, found: &mut Inspection) {
    let mentions = text.to_ascii_lowercase().matches("createtype").count();
    let accepted = |value: &str| {
        let bare = value.strip_prefix('"').and_then(|value| value.strip_suffix('"'));
        bare.is_some_and(|bare| CREATE_TYPES.iter().any(|known| known.eq_ignore_ascii_case(bare)))
    };
    match values {
        [value] if accepted(value) && mentions == 1 => {}
        [value] if accepted(value) => {
            found.add(Code::Descriptor, at, "the descriptor mentions createType more than once");
        }
        [value] => {
            let message = format!("createType {} is not accepted", shortened(value));
            found.add(Code::Subformat, at, message);
        }
        [] => found.add(Code::Descriptor, at, "the descriptor has no createType"),
        _ => found.add(Code::Descriptor, at, "the descriptor has several createType fields"),
    }
}

/// Verifies one extent line. `own_file`: it must describe the file that contains the descriptor.
fn extent(line: &str, at: u64, own_file: bool, found: &mut Inspection) {
    let parsed = ExtentLine::parse(line);
    let Ok(Some(extent)) = parsed else {
        let message = format!("the extent line '{}' is not valid", shortened(line));
        return found.add(Code::Descriptor, at, message);
    };
    if extent.access == Access::None {
        let message = format!("the extent line '{}' forbids reading", shortened(line));
        found.add(Code::Extents, at, message);
    }
    if line.contains(['/', '\\']) {
        let message = format!("the extent line '{}' contains a path", shortened(line));
        found.add(Code::Extents, at, message);
    }
    if own_file && extent.kind != ExtentKind::Sparse {
        let message =
            format!("the extent line '{}' does not describe this sparse extent", shortened(line));
        found.add(Code::Extents, at, message);
    }
    let other = !own_file || extent.kind != ExtentKind::Sparse || line.contains(['/', '\\']);
    if let Some(name) = extent.name.filter(|name| other && !name.is_empty()) {
        found.add_reference(Role::Extent, &name, None);
    }
}

/// Reports references to a parent image, and encryption.
fn relations(text: &str, at: u64, found: &mut Inspection) {
    let descriptor = match Descriptor::parse(text.as_bytes()) {
        Ok(descriptor) => descriptor,
        Err(error) if error.to_string().contains("is encrypted") => {
            found.encrypted = true;
            return found.add(Code::Encrypted, at, "the disk is encrypted");
        }
        // Opening the image reports this error.
        Err(_) => return,
    };
    if let Some(name) = &descriptor.parent_hint {
        found.add_reference(Role::Parent, name, Some("vmdk"));
        found.add(Code::Parent, at, "the image has a parent");
    } else if descriptor.parent_cid != super::descriptor::NO_PARENT {
        let cid = descriptor.parent_cid;
        found.add(Code::Parent, at, format!("the image has a parent, with CID {cid:08x}"));
    } else if let Some(uuid) = descriptor.virtualbox_parent() {
        found.add_reference(Role::Parent, uuid, None);
        found.add(Code::Parent, at, "the image has a parent (VirtualBox)");
    } else if let Some(line) = text.lines().find(|line| names_parent(line)) {
        let message = format!("the image has a parent: '{}'", shortened(line.trim()));
        found.add(Code::Parent, at, message);
    }
}

/// Returns true for an entry of the disk database that refers to a parent, as ESXi and VirtualBox
/// write them: its name has `parent`, and its value is neither empty nor a number of only the
/// digits 0 or F.
fn names_parent(line: &str) -> bool {
    let Some((key, value)) = line.split_once('=') else { return false };
    let value = value.trim().trim_matches('"');
    let is_none = |digit: char| {
        value.chars().filter(char::is_ascii_alphanumeric).all(|c| c.eq_ignore_ascii_case(&digit))
    };
    !key.trim_start().starts_with('#')
        && key.to_ascii_lowercase().contains("parent")
        && !is_none('0')
        && !is_none('f')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_thing_only() {
        for ignored in ["", "# RW 1 FLAT \"x\"", "ddb.a = \"b\"", "DDB", "ddbx=/etc"] {
            assert_eq!(Line::of(ignored), Line::Ignored, "{ignored}");
        }
        for extent in ["RW 1 SPARSE \"a\"", "rdonly 1 FLAT \"a=b\" 0", "NOACCESS"] {
            assert_eq!(Line::of(extent), Line::Extent, "{extent}");
        }
        for unknown in ["RW\t1\tFLAT\t\"/etc/passwd\"\t0\t=", "a b=c", "=x", "word", "[x]", "//x"] {
            assert_eq!(Line::of(unknown), Line::Unknown, "{unknown}");
        }
        assert_eq!(Line::of("CREATETYPE=x"), Line::Field("createtype", "x"));
        assert_eq!(Line::of("CID=1"), Line::Field("", "1"));
    }

    #[test]
    fn plain_text_is_ascii_with_unambiguous_line_ends() {
        for ok in ["a\r\nb\n", "a\tb", "", "a\r"] {
            assert!(plain(ok.as_bytes()).is_some(), "{ok:?}");
        }
        for bad in ["a\rb\n", "ä", "a\u{b}b", "\u{7f}"] {
            assert!(plain(bad.as_bytes()).is_none(), "{bad:?}");
        }
    }
}
