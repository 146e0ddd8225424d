//! The reference to the parent in a descriptor.
//!
//! A descriptor is text in several sectors, and nothing but its place says where it is. It is
//! therefore changed only if all bytes that differ are in one sector, which is written as a whole.
//! Text that becomes shorter is filled up with empty lines.

use crate::error::{Error, Result};
use crate::formats::vmdk::descriptor::NO_PARENT;
use crate::model::backing::Backing;
use crate::storage::edit::{Edit, Edits, Storage};
use crate::storage::number::{to_u64, to_usize};
use std::ops::Range;

/// Length in bytes of what is written as a whole.
const SECTOR: u64 = 512;

/// Key of the line with the name of the parent.
const HINT: &[u8] = b"parentFileNameHint";

/// Returns the modifications that make the descriptor in this range of the file refer to another
/// parent, or to none. The text of a file that has nothing else may become longer.
///
/// # Errors
/// As [`backing_edits`](crate::model::mutable::MutableLayer::backing_edits).
pub(super) fn edits(
    storage: &dyn Storage,
    descriptor: Range<u64>,
    is_whole_file: bool,
    backing: Option<&Backing>,
) -> Result<Edits> {
    let mut old = vec![0; to_usize(descriptor.end - descriptor.start)];
    storage
        .read_exact_at(&mut old, descriptor.start)
        .map_err(|e| Error::io("cannot read", e).in_structure("VMDK descriptor"))?;
    let text_len = old.iter().position(|&byte| byte == 0).unwrap_or(old.len());
    let mut new = with_parent(&old[..text_len], backing)?;
    if is_whole_file {
        old.truncate(text_len);
    } else if new.len() > old.len() {
        return Err(Error::limit("No space left in the file header"));
    } else {
        new.resize(old.len(), 0);
    }
    let differs = |at: &usize| old.get(*at) != new.get(*at);
    let Some(first) = (0..new.len()).find(differs) else { return Ok(Edits::new()) };
    let last = (first..new.len()).rfind(differs).unwrap_or(first);
    let start = descriptor.start + to_u64(first);
    if start / SECTOR != (descriptor.start + to_u64(last)) / SECTOR {
        return Err(Error::unsupported(
            "the change does not fit into one sector of the descriptor, so that a crash could leave \
             a part of it",
        ));
    }
    let mut edits = Edits::new();
    edits.phase([Edit::Write { offset: start, bytes: new[first..=last].to_vec() }]);
    Ok(edits)
}

/// Returns the text with another parent. It is not shorter.
fn with_parent(text: &[u8], backing: Option<&Backing>) -> Result<Vec<u8>> {
    let name = backing.map(|backing| backing.name.as_str());
    if name.is_some_and(|name| name.contains(['"', '\n', '\r', '\0'])) {
        return Err(Error::invalid("the descriptor cannot contain this name"));
    }
    let is_key = |line: &[u8], key: &[u8]| {
        line.get(..key.len()).is_some_and(|start| start.eq_ignore_ascii_case(key))
    };
    let lines = || text.split_inclusive(|&byte| byte == b'\n');
    let mut has_hint = lines().any(|line| is_key(line, HINT));
    let mut has_id = false;
    let mut out = Vec::new();
    for line in lines() {
        let end = if line.ends_with(b"\r\n") { "\r\n" } else { "\n" };
        let hint = name.map(|name| format!("parentFileNameHint=\"{name}\"{end}"));
        if is_key(line, b"parentCID") {
            let id = parent_id(backing, &text_value(line))?;
            out.extend_from_slice(format!("parentCID={id}{end}").as_bytes());
            has_id = true;
            if !std::mem::replace(&mut has_hint, true) {
                out.extend_from_slice(hint.unwrap_or_default().as_bytes());
            }
        } else if is_key(line, HINT) {
            out.extend_from_slice(hint.unwrap_or_default().as_bytes());
        } else {
            out.extend_from_slice(line);
        }
    }
    if !has_id {
        return Err(Error::unsupported("the descriptor has no parentCID"));
    }
    if let Some(missing) = text.len().checked_sub(out.len()) {
        // Behind the lines about the parent, so that what follows them stays where it is.
        let lines = out.split_inclusive(|&byte| byte == b'\n');
        let mut at = 0;
        let mut after = 0;
        for line in lines {
            at += line.len();
            if is_key(line, b"parent") {
                after = at;
            }
        }
        out.splice(after..after, std::iter::repeat_n(b'\n', missing));
    }
    Ok(out)
}

/// Returns the value of a line.
fn text_value(line: &[u8]) -> String {
    let value = line.split(|&byte| byte == b'=').nth(1).unwrap_or_default();
    String::from_utf8_lossy(value).trim().trim_matches('"').to_owned()
}

/// Returns the content ID of the parent to record.
fn parent_id(backing: Option<&Backing>, old: &str) -> Result<String> {
    let none = format!("{NO_PARENT:08x}");
    let Some(backing) = backing else { return Ok(none) };
    match &backing.content_id {
        Some(id) => Ok(id.clone()),
        // It is assumed to be the same disk under another name.
        None if !old.eq_ignore_ascii_case(&none) => Ok(old.to_owned()),
        None => Err(Error::unsupported(
            "the content ID of the new parent is not known, because it was not opened",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Disk DescriptorFile\nCID=1\nparentCID=0123abcd\ncreateType=\"x\"\n\
                        parentFileNameHint=\"a long name.vmdk\"\nRW 1\n";

    #[test]
    fn a_shorter_text_is_filled_up_with_empty_lines() {
        let backing = Backing::new("b.vmdk");
        let text = with_parent(TEXT.as_bytes(), Some(&backing)).expect("changes");
        let text = String::from_utf8(text).expect("text");
        assert_eq!(text.len(), TEXT.len());
        assert!(text.contains("createType=\"x\"\nparentFileNameHint=\"b.vmdk\"\n\n\n"), "{text}");
        let text = with_parent(TEXT.as_bytes(), None).expect("changes");
        let text = String::from_utf8(text).expect("text");
        assert!(text.contains("parentCID=ffffffff\n\n") && !text.contains("Hint"), "{text}");
        assert!(text.ends_with("createType=\"x\"\nRW 1\n") && text.len() == TEXT.len(), "{text}");
        let text = with_parent(text.replace("ffffffff", "01234567").as_bytes(), Some(&backing));
        let text = String::from_utf8(text.expect("changes")).expect("text");
        assert!(text.contains("parentCID=01234567\nparentFileNameHint=\"b.vmdk\"\n"), "{text}");
    }

    #[test]
    fn the_content_id_of_a_disk_without_a_parent_must_be_known() {
        let text = TEXT.replace("0123abcd", "ffffffff");
        let mut backing = Backing::new("b.vmdk");
        with_parent(text.as_bytes(), Some(&backing)).expect_err("not known");
        backing.content_id = Some("89abcdef".into());
        let changed = with_parent(text.as_bytes(), Some(&backing)).expect("changes");
        assert!(String::from_utf8(changed).expect("text").contains("parentCID=89abcdef\n"));
        with_parent(TEXT.as_bytes(), Some(&Backing::new("\""))).expect_err("a quote");
    }
}
