//! The members of a zip archive, in which some appliances are distributed.
//!
//! Specification: PKWARE's *APPNOTE.TXT*.

use super::archive::{Member, MemberNames, Storage};
use crate::error::{Error, Result};
use crate::open::limits::Limits;
use crate::open::unpack::{self, UnpackBudget};
use crate::storage::source::{Source, SourceReader, read_some};
use flate2::read::DeflateDecoder;
use rawzip::{
    CompressionMethod, RECOMMENDED_BUFFER_SIZE, ReaderAt, ZipArchive, ZipArchiveEntryWayfinder,
    ZipLocator,
};
use std::io;
use std::ops::Range;
use std::sync::Arc;

/// Adapts a source to rawzip's trait.
#[derive(Debug)]
struct SourceAt<'a>(&'a dyn Source);

impl ReaderAt for SourceAt<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        read_some(self.0, buf, offset)
    }
}

/// The location of a deflated member.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deflated(ZipArchiveEntryWayfinder);

/// Lists the files of the archive, in the order of its central directory.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) for an invalid directory,
/// [`Unsupported`](crate::ErrorKind::Unsupported) for encryption and for methods other than stored
/// and deflated, [`Limit`](crate::ErrorKind::Limit) for too many or too long names.
pub(super) fn list(source: &dyn Source, limits: &Limits) -> Result<Vec<Member>> {
    let archive = locate(source)?;
    let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
    let mut entries = archive.entries(&mut buffer);
    let (mut members, mut names) = (Vec::new(), MemberNames::new(limits));
    let mut ranges = Vec::new();
    while let Some(entry) = entries.next_entry().map_err(corrupt)? {
        if entry.is_dir() {
            continue;
        }
        let name = names.add(entry.file_path().as_bytes())?;
        if entry.flags().is_encrypted() {
            return Err(Error::unsupported(format!("the member '{name}' is encrypted")));
        }
        let size = entry.uncompressed_size_hint();
        let wayfinder = entry.wayfinder();
        let data = archive.get_entry(wayfinder).map_err(corrupt)?;
        let (start, end) = data.compressed_data_range();
        ranges.push(start..end);
        let storage = match entry.compression_method() {
            CompressionMethod::STORE => {
                if end > source.len() {
                    let message = format!("the member '{name}' extends beyond the end of the file");
                    return Err(Error::corrupt("zip archive", message));
                }
                if end.checked_sub(start) != Some(size) {
                    let message = format!(
                        "the member '{name}' of {size} bytes is stored in {} bytes",
                        end.saturating_sub(start)
                    );
                    return Err(Error::corrupt("zip archive", message));
                }
                Storage::Stored { range: start..end, crc32: entry.crc32() }
            }
            CompressionMethod::DEFLATE => Storage::Deflated(Deflated(wayfinder)),
            method => {
                let method = method.as_u16();
                let message = format!("the member '{name}' is compressed with method {method}");
                return Err(Error::unsupported(message).hint(
                    "only stored and deflated members are supported: unpack the archive and open \
                     the .ovf",
                ));
            }
        };
        members.push(Member { name, size, storage, pieces: None });
    }
    require_disjoint(ranges)?;
    Ok(members)
}

/// Checks that no two members share bytes: the archive could otherwise decompress to the square of
/// its length.
fn require_disjoint(mut ranges: Vec<Range<u64>>) -> Result<()> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable_by_key(|range| range.start);
    match ranges.windows(2).find(|pair| pair[1].start < pair[0].end) {
        Some(pair) => Err(Error::corrupt("zip archive", "two members overlap").at(pair[1].start)),
        None => Ok(()),
    }
}

/// Decompresses a member to a temporary file, and verifies its length and checksum.
///
/// # Errors
/// As [`unpack::to_temporary_file`].
pub(super) fn inflate(
    source: &Arc<dyn Source>,
    Deflated(wayfinder): Deflated,
    budget: UnpackBudget,
) -> Result<Arc<dyn Source>> {
    let archive = locate(&**source)?;
    let entry = archive.get_entry(wayfinder).map_err(corrupt)?;
    let (start, end) = entry.compressed_data_range();
    let packed = SourceReader::new(&**source, start..end);
    unpack::to_temporary_file(entry.verifying_reader(DeflateDecoder::new(packed)), budget)
}

fn locate(source: &dyn Source) -> Result<ZipArchive<SourceAt<'_>>> {
    let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
    let found = ZipLocator::new().locate_in_reader(SourceAt(source), &mut buffer, source.len());
    found.map_err(|(_, e)| corrupt(e))
}

/// Converts an error of reading the directory, which may be one of the storage.
fn corrupt(error: rawzip::Error) -> Error {
    Error::decode("cannot read it", io::Error::other(error)).in_structure("zip archive")
}
