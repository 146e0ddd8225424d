//! The text of a descriptor when the size of the disk changes.

use super::content_id;
use crate::error::{Error, Result};
use crate::formats::vmdk::SECTOR;
use crate::formats::vmdk::descriptor::{Descriptor, NO_PARENT};
use crate::formats::vmdk::extent_line::ExtentLine;
use crate::formats::vmdk::write::DiskGeometry;
use crate::storage::number::to_u64;
use std::ops::Range;

/// Key of the number of cylinders.
const CYLINDERS: &[u8] = b"ddb.geometry.cylinders";

/// How the extents of a disk change. Extents of no sectors do not count.
#[derive(Debug)]
pub(super) struct NewExtents {
    /// Number of extents that are kept.
    pub(super) kept: usize,
    /// Number of sectors of the last one.
    pub(super) last: u64,
    /// Lines of new extents.
    pub(super) added: Vec<String>,
    /// Number of sectors of the disk.
    pub(super) sectors: u64,
}

/// Returns the text of a descriptor with other extents, the number of cylinders that belongs to
/// them, and a new content ID. All other lines stay as they are.
///
/// # Errors
/// Returns [`Unsupported`](crate::ErrorKind::Unsupported) if the lines cannot be changed, or a name
/// cannot be written in the encoding of the text.
pub(super) fn with_extents(
    text: &[u8],
    descriptor: &Descriptor,
    new: &NewExtents,
) -> Result<Vec<u8>> {
    if new.added.iter().any(|line| !line.is_ascii()) && std::str::from_utf8(text).is_err() {
        let message = "the descriptor is not in UTF-8, so that it cannot list a new extent";
        return Err(Error::unsupported(message).in_structure("VMDK descriptor"));
    }
    let cylinders = cylinders(descriptor, new.sectors);
    let mut out = Vec::with_capacity(text.len());
    let mut extents = 0;
    let mut skip_newline = false;
    for piece in pieces(text) {
        if std::mem::take(&mut skip_newline) && piece == b"\n" {
            continue;
        }
        if is_extent(piece) {
            extents += 1;
            if extents > new.kept {
                skip_newline = piece.ends_with(b"\r");
            } else if extents == new.kept {
                push_last(piece, new, &mut out)?;
                skip_newline = piece.ends_with(b"\r") && !new.added.is_empty();
            } else {
                out.extend_from_slice(piece);
            }
        } else if has_key(piece, CYLINDERS) {
            replace(piece, value_digits(piece), cylinders, &mut out);
        } else {
            out.extend_from_slice(piece);
        }
    }
    content_id::renew_text(&mut out, descriptor.cid.unwrap_or(NO_PARENT));
    verify(&out, new)?;
    Ok(out)
}

/// Verifies that the text has the extents that it should have.
fn verify(text: &[u8], new: &NewExtents) -> Result<()> {
    let extents = Descriptor::parse(text)?.extents;
    let stored: Vec<_> = extents.iter().filter(|line| line.sectors > 0).collect();
    let sectors: u64 = stored.iter().map(|line| line.sectors).sum();
    if sectors == new.sectors && stored.len() == new.kept + new.added.len() {
        return Ok(());
    }
    Err(Error::unsupported("its extent lines cannot be changed").in_structure("VMDK descriptor"))
}

/// Appends the line of the last extent that is kept with its new size, and the new lines.
fn push_last(piece: &[u8], new: &NewExtents, out: &mut Vec<u8>) -> Result<()> {
    let Some(number) = second_word(piece) else {
        let message = "an extent line cannot be changed";
        return Err(Error::unsupported(message).in_structure("VMDK descriptor"));
    };
    replace(piece, Some(number), new.last, out);
    if new.added.is_empty() {
        return Ok(());
    }
    let end = if piece.ends_with(b"\r") { "\r\n" } else { "\n" };
    match piece.ends_with(b"\r") {
        true => out.push(b'\n'),
        false if !piece.ends_with(b"\n") => out.push(b'\n'),
        false => {}
    }
    for line in &new.added {
        out.extend_from_slice(line.as_bytes());
        out.extend_from_slice(end.as_bytes());
    }
    Ok(())
}

/// Appends a line in which the number in this range is replaced.
fn replace(piece: &[u8], place: Option<Range<usize>>, number: u64, out: &mut Vec<u8>) {
    let place = place.unwrap_or(piece.len()..piece.len());
    let digits = if place.is_empty() { String::new() } else { number.to_string() };
    out.extend_from_slice(&piece[..place.start]);
    out.extend_from_slice(digits.as_bytes());
    out.extend_from_slice(&piece[place.end..]);
}

/// Returns the number of cylinders of a disk with as many heads and sectors per track as before, so
/// that partition tables remain valid that count cylinders.
fn cylinders(descriptor: &Descriptor, sectors: u64) -> u64 {
    let value = |name: &str| {
        let number = descriptor.ddb(name)?.trim().parse::<u32>().ok()?;
        (number > 0).then_some(u64::from(number))
    };
    let adapter = descriptor.ddb("ddb.adapterType").unwrap_or_default();
    match (value("ddb.geometry.heads"), value("ddb.geometry.sectors")) {
        (Some(heads), Some(track)) => sectors / (heads * track),
        _ => DiskGeometry::of(sectors, adapter).cylinders,
    }
}

/// Returns the lines with the byte that ends them, `\n` or `\r`.
fn pieces(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split_inclusive(|&byte| byte == b'\n' || byte == b'\r')
}

/// Returns true for the line of an extent that is not empty.
fn is_extent(piece: &[u8]) -> bool {
    let line = String::from_utf8_lossy(piece);
    matches!(ExtentLine::parse(line.trim()), Ok(Some(extent)) if extent.sectors > 0)
}

/// Returns true for a line that gives this key a value.
fn has_key(piece: &[u8], key: &[u8]) -> bool {
    let equals = piece.iter().position(|&byte| byte == b'=');
    let found = equals.and_then(|equals| piece.get(..equals));
    found.is_some_and(|found| found.trim_ascii().eq_ignore_ascii_case(key))
}

/// Returns the range of the second word of a line if it is a number.
fn second_word(piece: &[u8]) -> Option<Range<usize>> {
    let end_of = |at: usize, blank: bool| {
        let ends = |byte: &u8| byte.is_ascii_whitespace() != blank;
        piece[at..].iter().position(ends).map_or(piece.len(), |count| at + count)
    };
    let second = end_of(end_of(end_of(0, true), false), true);
    let word = second..end_of(second, false);
    let is_number = !word.is_empty() && piece[word.clone()].iter().all(u8::is_ascii_digit);
    is_number.then_some(word)
}

/// Returns the range of the digits of the value of a line.
fn value_digits(piece: &[u8]) -> Option<Range<usize>> {
    let equals = piece.iter().position(|&byte| byte == b'=')?;
    let start = equals + piece[equals..].iter().position(u8::is_ascii_digit)?;
    let count = piece[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    Some(start..start + count)
}

/// Returns the sector of the text in which all bytes differ that change, with the range of these
/// bytes. Returns `None` if they are in several sectors.
pub(super) fn one_sector(old: &[u8], new: &[u8]) -> Option<Range<usize>> {
    let differs = |at: &usize| old.get(*at) != new.get(*at);
    let first = (0..new.len()).find(differs).unwrap_or(0);
    let last = (first..new.len()).rfind(differs).unwrap_or(first);
    (to_u64(first) / SECTOR == to_u64(last) / SECTOR).then_some(first..last + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# Disk DescriptorFile\nCID=0123abcd\nparentCID=ffffffff\n\
        createType=\"twoGbMaxExtentSparse\"\n\n# Extent description\n\
        RW 4192256 SPARSE \"a-s001.vmdk\"\nRW 100 SPARSE \"a-s002.vmdk\"\nRW 0 ZERO\n\n\
        ddb.geometry.cylinders = \"4159\"\nddb.geometry.heads=\"16\"\nddb.geometry.sectors=\"63\"\n";

    fn change(text: &str, kept: usize, last: u64, added: &[&str], sectors: u64) -> String {
        let descriptor = Descriptor::parse(text.as_bytes()).expect("parses");
        let added = added.iter().map(|&line| line.to_owned()).collect();
        let new = NewExtents { kept, last, added, sectors };
        let text = with_extents(text.as_bytes(), &descriptor, &new).expect("changes");
        String::from_utf8(text).expect("is text")
    }

    #[test]
    fn extents_cylinders_and_content_id_change_and_nothing_else() {
        let line = "RW 7 SPARSE \"a-s003.vmdk\"";
        for end in ["\n", "\r\n"] {
            let text = TEXT.replace('\n', end);
            let new = change(&text, 2, 4_192_256, &[line], 8_384_519);
            let wanted = text
                .replace("RW 100 SPARSE", "RW 4192256 SPARSE")
                .replace("RW 0 ZERO", &format!("{line}{end}RW 0 ZERO"))
                .replace("4159", "8317");
            let id = wanted.replace("0123abcd", &new[wanted.find("0123").expect("ID")..][..8]);
            assert_eq!(new, id);
            let new = change(&text, 1, 63, &[], 63);
            let wanted = text
                .replace("RW 4192256 SPARSE", "RW 63 SPARSE")
                .replace(&format!("RW 100 SPARSE \"a-s002.vmdk\"{end}"), "")
                .replace("4159", "0");
            let id = wanted.replace("0123abcd", &new[wanted.find("0123").expect("ID")..][..8]);
            assert_eq!(new, id);
        }
    }

    #[test]
    fn a_key_that_only_begins_alike_is_another_one() {
        let text = "CID=1\nRW 1 FLAT \"a\" 0\nddb.geometry.cylindersX = \"9\"\n";
        assert!(change(text, 1, 2, &[], 2).ends_with("cylindersX = \"9\"\n"));
    }

    #[test]
    fn the_last_line_may_have_no_end() {
        let text = "CID=1\nRW 1 FLAT \"a\" 0";
        assert!(change(text, 1, 2, &[], 2).ends_with("\nRW 2 FLAT \"a\" 0"));
        let new = change(text, 1, 2, &["RW 3 FLAT \"b\" 0"], 5);
        assert!(new.ends_with("\nRW 2 FLAT \"a\" 0\nRW 3 FLAT \"b\" 0\n"), "{new}");
    }

    #[test]
    fn a_change_is_in_one_sector_or_not() {
        let old = vec![b'a'; 1100];
        let with = |places: &[usize]| {
            let mut new = old.clone();
            places.iter().for_each(|&at| new[at] = b'b');
            one_sector(&old, &new)
        };
        assert_eq!(with(&[512, 1023]), Some(512..1024));
        assert_eq!(with(&[511, 512]), None);
    }
}
