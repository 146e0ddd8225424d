//! Archives within a file that does not begin with the signature of one: a zip archive at its end,
//! those that programs search for in its first part, as in self-extracting programs, and those that
//! programs recognize by lines of text.
//!
//! ```text
//!   any bytes │ member │ … │ central directory │ end record │ comment or other bytes
//!             PK 3 4         PK 1 2              PK 5 6       at most 80 KiB with the record
//! ```

use crate::error::{Error, Result};
use crate::formats::inspect::Subject;
use crate::formats::plain_disk;
use crate::formats::signatures::{has_tar_checksum, is_uuencoded};
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;

/// Length in bytes of the part of a file in which the beginning of an archive is searched, as by
/// 7-Zip.
const SEARCHED: u64 = 8 << 20;

/// Length in bytes of the parts in which that is read.
const PART: u64 = 1 << 20;

/// Length in bytes of the longest beginning of an archive that is examined: a block of tar.
const LONGEST: u64 = 512;

/// Length in bytes of the part of a file in which lines of text are examined.
const TEXT: u64 = 1 << 20;

/// Length in bytes of the record at the end of a zip archive, without its comment.
const END_RECORD: usize = 22;

/// Length in bytes of the part of a file in which that record is searched. unzip reads whole blocks
/// of 8 KiB until it has 66,000 bytes, others as many as a comment may have.
const END_SEARCHED: u64 = 80 << 10;

/// An archive within the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Embedded {
    /// The name of its format.
    pub(crate) name: &'static str,
    /// Its format with an article.
    pub(crate) what: &'static str,
    /// Offset in bytes of the signature.
    pub(crate) at: u64,
    /// Whether it ends where the file ends.
    pub(crate) ends_file: bool,
}

impl Embedded {
    fn new(name: &'static str, what: &'static str, at: u64) -> Self {
        Self { name, what, at, ends_file: false }
    }
}

/// Finds a zip archive at the end. Other bytes may follow it: most programs do not verify the
/// comment's length. Of several, one that ends the file is returned.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if the source cannot be read.
pub(crate) fn zip_at_end(subject: &Subject<'_>) -> Result<Option<Embedded>> {
    let len = subject.len();
    let start = len.saturating_sub(END_SEARCHED);
    let bytes = read(&**subject.source, start, len - start)?;
    let mut last = None;
    for (index, record) in bytes.windows(END_RECORD).enumerate().rev() {
        let Some(record) = record.first_chunk().filter(|record| record.starts_with(b"PK\x05\x06"))
        else {
            continue;
        };
        let at = start + to_u64(index);
        if has_directory(&**subject.source, record, at)? {
            let comment = usize::from(u16::from_le_bytes([record[20], record[21]]));
            let ends_file = index + END_RECORD + comment == bytes.len();
            let found = Embedded { ends_file, ..Embedded::new("zip", "a zip archive", at) };
            if ends_file {
                return Ok(Some(found));
            }
            last = last.or(Some(found));
        }
    }
    Ok(last)
}

/// Returns true if a program takes what is before the end record at `at` for a central directory:
/// because of what it finds there, or of the record alone.
fn has_directory(source: &dyn Source, record: &[u8; END_RECORD], at: u64) -> Result<bool> {
    Ok(is_end_of_one_volume(record, at) || is_directory_at(source, record, at)?)
}

/// Returns true if the record is valid to bsdtar, which searches the directory forward from where
/// its length says that it begins, however far: the archive has one volume, and a directory of the
/// stated length at the stated offset would end before the record.
fn is_end_of_one_volume(record: &[u8; END_RECORD], at: u64) -> bool {
    let [size, offset] = size_and_offset(record);
    record[4..8] == [0; 4] && record[8..10] == record[10..12] && size + offset <= at
}

/// Returns true if the directory is where unzip or Python search it: by its length before the
/// record, by its offset in the file, or by the locator of another end record. They do not examine
/// the numbers of volumes and of members.
fn is_directory_at(source: &dyn Source, record: &[u8; END_RECORD], at: u64) -> Result<bool> {
    const ZIP64_LOCATOR: u64 = 20;
    let [size, offset] = size_and_offset(record);
    // Python opens it as an archive without members.
    if size == 0 {
        return Ok(true);
    }
    let candidates = [
        (at.checked_sub(size), b"PK\x01\x02"),
        (Some(offset), b"PK\x01\x02"),
        (at.checked_sub(ZIP64_LOCATOR), b"PK\x06\x07"),
    ];
    for (start, mark) in candidates {
        let start = start.filter(|start| start.checked_add(4).is_some_and(|end| end <= at));
        if let Some(start) = start
            && read(source, start, 4)? == mark
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Returns the length of the central directory and its offset, as an end record states them.
fn size_and_offset(record: &[u8; END_RECORD]) -> [u64; 2] {
    [12, 16].map(|at| u32::from_le_bytes([0, 1, 2, 3].map(|i| record[at + i])).into())
}

/// A kind of archive that programs search for.
struct Searched {
    name: &'static str,
    what: &'static str,
    mark: &'static [u8],
    /// Offset in bytes of the mark in the archive.
    mark_at: usize,
    /// Returns true if the archive's first bytes have plausible values.
    plausible: fn(&[u8]) -> bool,
}

impl Searched {
    const fn new(name: &'static str, what: &'static str, mark: &'static [u8]) -> Self {
        Self { name, what, mark, mark_at: 0, plausible: |_| true }
    }

    /// Returns true if the bytes from `at` on are such an archive.
    fn is_at(&self, bytes: &[u8], at: usize) -> bool {
        let mark = bytes.get(at + self.mark_at..).is_some_and(|rest| rest.starts_with(self.mark));
        mark && (self.plausible)(&bytes[at..])
    }
}

const SEARCHED_ARCHIVES: [Searched; 9] = [
    Searched {
        plausible: is_member_header,
        ..Searched::new("zip", "a zip archive", b"PK\x03\x04")
    },
    Searched::new("7z", "a 7z archive", b"7z\xbc\xaf\x27\x1c"),
    Searched::new("rar", "a RAR archive", b"Rar!\x1a\x07"),
    Searched::new("cab", "a cabinet file", b"MSCF\0\0\0\0"),
    Searched::new("wim", "a WIM image", b"MSWIM\0\0\0"),
    Searched::new("xz", "an xz file", b"\xfd7zXZ\0\0"),
    Searched { mark_at: 2, plausible: is_lha, ..Searched::new("lha", "an LHA archive", b"-lh") },
    Searched { mark_at: 2, plausible: is_lha, ..Searched::new("lha", "an LHA archive", b"-lz") },
    Searched {
        mark_at: 257,
        plausible: |bytes| bytes.first_chunk().is_some_and(has_tar_checksum),
        ..Searched::new("tar", "a tar archive", b"ustar")
    },
];

/// Finds the beginning of an archive in the first part of the file. Programs do not search where
/// they recognize a disk, unless the file begins like a program.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if the source cannot be read.
pub(crate) fn archive_within(subject: &Subject<'_>) -> Result<Option<Embedded>> {
    match plain_disk::is_plain(subject.head) && !is_program(subject.head) {
        true => Ok(None),
        false => search(subject, None),
    }
}

/// As [`archive_within`], but only if the file begins like a program: bsdtar searches such a file
/// for archives even if it recognizes it otherwise. Archives of the format `own` do not count.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if the source cannot be read.
pub(crate) fn archive_in_program(
    subject: &Subject<'_>,
    own: Option<&str>,
) -> Result<Option<Embedded>> {
    match is_program(subject.head) {
        true => search(subject, own),
        false => Ok(None),
    }
}

fn is_program(head: &[u8]) -> bool {
    head.starts_with(b"MZ") || head.starts_with(b"\x7fELF")
}

fn search(subject: &Subject<'_>, own: Option<&str>) -> Result<Option<Embedded>> {
    let len = subject.len().min(SEARCHED);
    for start in (0..len).step_by(to_usize(PART)) {
        // An archive may begin before this part with a mark in it, and continue behind it.
        let (from, end) =
            (start.saturating_sub(LONGEST), (start + PART + LONGEST).min(subject.len()));
        let bytes = read(&**subject.source, from, end - from)?;
        if let Some(found) = search_part(&bytes, own) {
            return Ok(Some(Embedded { at: from + found.at, ..found }));
        }
    }
    Ok(None)
}

fn search_part(bytes: &[u8], own: Option<&str>) -> Option<Embedded> {
    let is_mark = |byte: u8| matches!(byte, b'P' | b'7' | b'R' | b'M' | b'-' | b'u' | 0xfd);
    let mut marks = (0..bytes.len()).filter(|&at| is_mark(bytes[at]));
    let kinds = || SEARCHED_ARCHIVES.iter().filter(|archive| Some(archive.name) != own);
    marks.find_map(|mark| {
        kinds().find_map(|archive| {
            let at = mark.checked_sub(archive.mark_at)?;
            let found = archive.is_at(bytes, at);
            found.then(|| Embedded::new(archive.name, archive.what, to_u64(at)))
        })
    })
}

/// Returns true if the header of a zip archive's member has plausible values: the version that is
/// needed, the method, and the length of the name.
fn is_member_header(bytes: &[u8]) -> bool {
    let Some(header) = bytes.first_chunk::<30>() else { return false };
    let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    header[4] < 100 && word(8) < 100 && (1..4096).contains(&word(26))
}

/// Returns true if the header of an LHA archive's member has plausible values: its length, the
/// method, and the level.
fn is_lha(bytes: &[u8]) -> bool {
    let Some(header) = bytes.first_chunk::<21>() else { return false };
    header[0] != 0 && header[5].is_ascii_alphanumeric() && header[6] == b'-' && header[20] <= 3
}

/// Finds uuencoded data: bsdtar searches its first line behind any number of lines of text.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if the source cannot be read.
pub(crate) fn uuencoded(subject: &Subject<'_>) -> Result<Option<Embedded>> {
    let bytes = text(subject)?;
    let mut at = 0;
    for line in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
        if !is_text(line.trim_ascii_end()) {
            break;
        }
        if is_uuencoded(line) {
            return Ok(Some(Embedded::new("uuencode", "a uuencoded file", to_u64(at))));
        }
        at += line.len();
    }
    Ok(None)
}

/// Returns true if the file begins with lines of text, or has no others. bsdtar takes three lines,
/// or all of them, for an mtree specification if they consist of a name and of keywords; such a
/// specification may name any file of the host. Empty lines and comments do not count.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if the source cannot be read.
pub(crate) fn begins_with_lines(subject: &Subject<'_>) -> Result<bool> {
    const ENTRIES: usize = 3;
    let bytes = text(subject)?;
    let mut entries = 0;
    for line in bytes.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
        let text = line.trim_ascii();
        if line.contains(&0) || !text.starts_with(b"#") && !is_text(text) {
            return Ok(false);
        }
        let ended = line.ends_with(b"\n") || line.ends_with(b"\r");
        entries += usize::from(ended && !text.is_empty() && !text.starts_with(b"#"));
        if entries == ENTRIES {
            return Ok(true);
        }
    }
    Ok(entries > 0 || to_u64(bytes.len()) < subject.len() && !bytes.is_empty())
}

fn is_text(line: &[u8]) -> bool {
    line.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'))
}

/// Reads the first part of a file that begins with text, and nothing of another one.
fn text(subject: &Subject<'_>) -> Result<Vec<u8>> {
    match subject.head.first() {
        Some(b'\t' | b'\n' | b'\r' | b' '..=b'~') => {
            read(&**subject.source, 0, subject.len().min(TEXT))
        }
        _ => Ok(Vec::new()),
    }
}

fn read(source: &dyn Source, at: u64, len: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; to_usize(len)];
    source.read_exact_at(&mut bytes, at).map_err(|e| Error::io("cannot read it", e).at(at))?;
    Ok(bytes)
}
