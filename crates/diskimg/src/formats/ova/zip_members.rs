//! The members of a zip archive: some appliances are distributed so.
//!
//! Specification: PKWARE's *APPNOTE.TXT*.

use super::archive::{Member, Names, Storage};
use super::unpack::{self, SourceReader, UnpackBudget};
use crate::error::{Error, Result};
use crate::open::limits::Limits;
use crate::storage::source::Source;
use flate2::read::DeflateDecoder;
use rawzip::{
    CompressionMethod, RECOMMENDED_BUFFER_SIZE, ReaderAt, ZipArchive, ZipArchiveEntryWayfinder,
    ZipLocator,
};
use std::io;
use std::sync::Arc;

/// A source as the crate wants it.
#[derive(Debug)]
struct At<'a>(&'a dyn Source);

impl ReaderAt for At<'_> {
    fn read_at(&self, buf: &mut [u8], offset: u64) -> io::Result<usize> {
        unpack::read_some(self.0, buf, offset)
    }
}

/// Where a deflated member is: what finds it again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Deflated(ZipArchiveEntryWayfinder);

/// The files of the archive, in the order of its directory.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) for a broken directory,
/// [`Limit`](crate::ErrorKind::Limit), [`Unsupported`](crate::ErrorKind::Unsupported)
/// for encryption and for methods other than storing and deflating.
pub(super) fn list(source: &dyn Source, limits: &Limits) -> Result<Vec<Member>> {
    let archive = locate(source)?;
    let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
    let mut entries = archive.entries(&mut buffer);
    let (mut members, mut names) = (Vec::new(), Names::new(limits));
    while let Some(entry) = entries.next_entry().map_err(broken)? {
        if entry.is_dir() {
            continue;
        }
        let name = names.take(entry.file_path().as_bytes())?;
        if entry.flags().is_encrypted() {
            return Err(Error::unsupported(format!("the member '{name}' is encrypted")));
        }
        let size = entry.uncompressed_size_hint();
        let way = entry.wayfinder();
        let storage = match entry.compression_method() {
            CompressionMethod::STORE => {
                let (start, end) = archive.get_entry(way).map_err(broken)?.compressed_data_range();
                if end > source.len() || end.checked_sub(start) != Some(size) {
                    let message = format!("the member '{name}' is not as long as it says");
                    return Err(Error::corrupt("zip archive", message));
                }
                Storage::Stored { range: start..end, crc32: entry.crc32() }
            }
            CompressionMethod::DEFLATE => Storage::Deflated(Deflated(way)),
            method => {
                let method = method.as_u16();
                let message = format!("the member '{name}' is compressed by method {method}");
                return Err(Error::unsupported(message)
                    .hint("only deflated and stored members are read: unpack it"));
            }
        };
        members.push(Member { name, size, storage });
    }
    Ok(members)
}

/// Inflates a member, whose length and checksum must be what the archive says.
pub(super) fn inflate(
    source: &Arc<dyn Source>,
    Deflated(way): Deflated,
    budget: UnpackBudget,
) -> Result<Arc<dyn Source>> {
    let archive = locate(&**source)?;
    let entry = archive.get_entry(way).map_err(broken)?;
    let (start, end) = entry.compressed_data_range();
    let packed = SourceReader::new(&**source, start..end);
    unpack::to_temporary_file(entry.verifying_reader(DeflateDecoder::new(packed)), budget)
}

fn locate(source: &dyn Source) -> Result<ZipArchive<At<'_>>> {
    let mut buffer = vec![0; RECOMMENDED_BUFFER_SIZE];
    let found = ZipLocator::new().locate_in_reader(At(source), &mut buffer, source.len());
    found.map_err(|(_, e)| broken(e))
}

fn broken(error: rawzip::Error) -> Error {
    Error::corrupt("zip archive", error.to_string())
}
