//! The content ID in a descriptor, which changes whenever the disk is written.

use crate::error::{Error, Result};
use crate::formats::vmdk::descriptor::NO_PARENT;
use crate::storage::edit::{Edit, Storage};
use crate::storage::number::{to_u32, to_u64, to_usize};
use std::ops::Range;
use std::time::SystemTime;

/// VMware's placeholder for a content ID that is to be replaced.
const PLACEHOLDER: u32 = 0xffff_fffe;

/// Number of hexadecimal digits of a content ID.
const DIGITS: usize = 8;

/// Returns the modifications that give the descriptor in this range of the file a new content ID.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if the descriptor cannot be read.
pub(super) fn renew(storage: &dyn Storage, descriptor: Range<u64>, old: u32) -> Result<Vec<Edit>> {
    let mut text = vec![0; to_usize(descriptor.end - descriptor.start)];
    storage
        .read_exact_at(&mut text, descriptor.start)
        .map_err(|e| Error::io("cannot read", e).in_structure("VMDK descriptor"))?;
    let edit = |(at, bytes)| Edit::Write { offset: descriptor.start + to_u64(at), bytes };
    Ok(new_digits(&text, old).map(edit).collect())
}

/// Gives a text a new content ID, as [`renew`].
pub(super) fn renew_text(text: &mut [u8], old: u32) {
    let digits: Vec<_> = new_digits(text, old).collect();
    for (at, bytes) in digits {
        text[at..at + bytes.len()].copy_from_slice(&bytes);
    }
}

/// Returns the digits of a new content ID, with the indexes in the text at which they are written.
fn new_digits(text: &[u8], old: u32) -> impl Iterator<Item = (usize, Vec<u8>)> {
    let digits = format!("{:08x}", new_id(old)).into_bytes();
    let places = [short_id(text), long_id(text)].into_iter().flatten();
    // The last digits are those of a shorter number, too.
    places.map(move |place| (place.start, digits[DIGITS - place.len()..].to_vec()))
}

/// Returns a content ID that the disk did not have before.
fn new_id(old: u32) -> u32 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    // The golden ratio: close times have IDs that differ in all digits.
    let mixed = now.as_nanos().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let id = to_u32((mixed >> 32) & 0xffff_ffff);
    match id {
        NO_PARENT | PLACEHOLDER => 1,
        id if id == old => id ^ 1,
        id => id,
    }
}

/// Returns where the digits of `CID=` are: 1 to 8, because QEMU writes no leading zeros.
fn short_id(text: &[u8]) -> Option<Range<usize>> {
    let (at, line) = lines(text).find(|(_, line)| starts_with(line, b"CID"))?;
    let equals = line.iter().position(|&byte| byte == b'=')? + 1;
    let start = equals + line[equals..].iter().take_while(|&&byte| byte == b' ').count();
    let count = line[start..].iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    (1..=DIGITS).contains(&count).then_some(at + start..at + start + count)
}

/// Returns where the last 8 digits of `ddb.longContentID` are, which are the content ID.
fn long_id(text: &[u8]) -> Option<Range<usize>> {
    let (at, line) = lines(text).find(|(_, line)| starts_with(line, b"ddb.longContentID"))?;
    let end = at + line.iter().rposition(u8::is_ascii_hexdigit)? + 1;
    let digits = end.checked_sub(DIGITS)?..end;
    text[digits.clone()].iter().all(u8::is_ascii_hexdigit).then_some(digits)
}

fn starts_with(line: &[u8], key: &[u8]) -> bool {
    line.get(..key.len()).is_some_and(|start| start.eq_ignore_ascii_case(key))
}

/// Returns the lines of the descriptor, which ends at the first zero byte, with their index.
fn lines(text: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let mut at = 0;
    let text = text.split(|&byte| byte == 0).next().unwrap_or_default();
    text.split(|&byte| byte == b'\n').map(move |line| {
        let start = at;
        at += line.len() + 1;
        (start, line)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::edit::MemoryStorage;

    #[test]
    fn both_forms_of_the_content_id_change() {
        let text = "# Disk DescriptorFile\nCID=0123abcd\nparentCID=ffffffff\n\
                    ddb.longContentID = \"00112233445566778899aabb0123abcd\"\n\0";
        let storage = MemoryStorage::new(text.into());
        let edits = renew(&storage, 0..to_u64(text.len()), 0x0123_abcd).expect("reads");
        let [Edit::Write { offset: a, bytes: x }, Edit::Write { offset: b, bytes: y }] = &edits[..]
        else {
            panic!("{edits:?}");
        };
        assert_eq!((*a, x), (26, y));
        assert_eq!(&text[to_usize(*b)..][..8], "0123abcd");
        assert_ne!(x, b"0123abcd");
    }

    #[test]
    fn a_content_id_without_leading_zeros_keeps_its_length() {
        let text = "CID=abc\r\nparentCID=ffffffff\n";
        let storage = MemoryStorage::new(text.into());
        let edits = renew(&storage, 0..to_u64(text.len()), 0xabc).expect("reads");
        let [Edit::Write { offset: 4, bytes }] = &edits[..] else { panic!("{edits:?}") };
        assert_eq!(bytes.len(), 3);
    }
}
