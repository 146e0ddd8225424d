//! Archives within a file that does not begin with one: a zip archive at its end, and the archives
//! that programs such as 7-Zip search for in its first part, as in self-extracting programs.
//!
//! ```text
//!   any bytes │ member │ … │ central directory │ end record │ comment or other bytes
//!             PK 3 4         PK 1 2              PK 5 6       at most 64 KiB
//! ```

use crate::error::{Error, Result};
use crate::formats::inspect::Subject;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::Source;

/// Length in bytes of the part of a file in which the beginning of an archive is searched.
const SEARCHED: u64 = 1 << 20;

/// Length in bytes of the record at the end of a zip archive, without its comment.
const END_RECORD: usize = 22;

/// An archive within the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Embedded {
    /// Its format with an article.
    pub(crate) what: &'static str,
    /// Offset in bytes of the signature.
    pub(crate) at: u64,
    /// Whether it ends where the file ends.
    pub(crate) ends_file: bool,
}

/// Finds a zip archive at the end. As many bytes may follow it as a comment has: most programs do
/// not verify the comment's length.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if the source cannot be read.
pub(crate) fn zip_at_end(subject: &Subject<'_>) -> Result<Option<Embedded>> {
    let len = subject.len();
    let start = len.saturating_sub(to_u64(END_RECORD + usize::from(u16::MAX)));
    let bytes = read(&**subject.source, start, len - start)?;
    let records = bytes.windows(END_RECORD).enumerate().rev();
    for (index, record) in records.filter(|(_, record)| record.starts_with(b"PK\x05\x06")) {
        let at = start + to_u64(index);
        if follows_directory(&**subject.source, record, at)? {
            let comment = usize::from(u16::from_le_bytes([record[20], record[21]]));
            let ends_file = index + END_RECORD + comment == bytes.len();
            return Ok(Some(Embedded { what: "a zip archive", at, ends_file }));
        }
    }
    Ok(None)
}

/// Returns true if the end record at `at` follows a central directory of the length that it states.
fn follows_directory(source: &dyn Source, record: &[u8], at: u64) -> Result<bool> {
    const ZIP64_LOCATOR: u64 = 20;
    let size = u32::from_le_bytes([12, 13, 14, 15].map(|i| record[i]));
    let (before, mark) = match size {
        // An empty archive.
        0 => return Ok(record[8..12] == [0; 4]),
        u32::MAX => (ZIP64_LOCATOR, b"PK\x06\x07"),
        size => (size.into(), b"PK\x01\x02"),
    };
    match at.checked_sub(before) {
        Some(start) => Ok(read(source, start, 4)? == mark),
        None => Ok(false),
    }
}

/// Finds the beginning of an archive in the first part of the file.
///
/// # Errors
/// Returns [`Io`](crate::ErrorKind::Io) if the source cannot be read.
pub(crate) fn archive_within(subject: &Subject<'_>) -> Result<Option<Embedded>> {
    const SIGNATURES: [(&[u8], &str); 3] = [
        (b"PK\x03\x04", "a zip archive"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"Rar!\x1a\x07", "a RAR archive"),
    ];
    if is_file_system(subject.head) {
        return Ok(None);
    }
    let bytes = read(&**subject.source, 0, subject.len().min(SEARCHED))?;
    let mut starts = (0..bytes.len()).filter(|&at| matches!(bytes[at], b'P' | b'7' | b'R'));
    Ok(starts.find_map(|at| {
        let rest = &bytes[at..];
        let (mark, what) = SIGNATURES.iter().find(|(mark, _)| rest.starts_with(mark))?;
        let plausible = mark[0] != b'P' || is_member_header(rest);
        plausible.then_some(Embedded { what, at: to_u64(at), ends_file: false })
    }))
}

/// Returns true for the file systems FAT and ext, which programs recognize before they search.
fn is_file_system(head: &[u8]) -> bool {
    let has_jump = matches!(head, [0xeb, _, 0x90, ..] | [0xe9, ..]);
    let is_fat = has_jump && head.get(11..13) == Some(&[0, 2]) && head.get(16) == Some(&2);
    is_fat || head.get(1080..1082) == Some(&[0x53, 0xef])
}

/// Returns true if the header of a zip archive's member has plausible values: the version that is
/// needed, the method, and the length of the name.
fn is_member_header(bytes: &[u8]) -> bool {
    let Some(header) = bytes.first_chunk::<30>() else { return false };
    let word = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    header[4] < 100 && word(8) < 100 && (1..4096).contains(&word(26))
}

fn read(source: &dyn Source, at: u64, len: u64) -> Result<Vec<u8>> {
    let mut bytes = vec![0; to_usize(len)];
    source.read_exact_at(&mut bytes, at).map_err(|e| Error::io("cannot read it", e).at(at))?;
    Ok(bytes)
}
