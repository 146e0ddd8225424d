//! The members of a tar archive.
//!
//! ```text
//!   ┌ header 512 ┬ member, padded to 512 ┬ header ┬ member ┬ … ┬ two zero blocks ┐
//!     name, size,
//!     checksum, type: 0 file · 5 directory · L name of the next member · x its attributes
//! ```
//!
//! POSIX.1-2017 *pax*, "ustar Interchange Format" and "pax Header Block"; GNU
//! tar's manual, "Basic Tar Format" (long names, base-256 numbers).

use super::archive::{Member, MemberNames, Storage};
use super::sparse_member::Pieces;
use crate::error::{Error, Result};
use crate::open::limits::Limits;
use crate::storage::number::to_usize;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use tar::{EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

/// Size in bytes of a block, to which everything in a tar archive is aligned.
pub(super) const BLOCK: u64 = 512;

/// A source that is read at ascending offsets only, because it may be a compressed stream.
pub(super) trait ForwardRead {
    /// Fills `buf` from `at` and returns the number of bytes, which is smaller only at the end.
    fn read(&mut self, at: u64, buf: &mut [u8]) -> Result<usize>;

    /// True if the archive is known to end before `at`.
    fn ends_before(&self, at: u64) -> bool;
}

/// Iterates over the files of an archive.
struct Walk<'a> {
    archive: &'a mut dyn ForwardRead,
    names: MemberNames<'a>,
    /// Offset of the next header.
    at: u64,
    /// End of the last member.
    end: u64,
    /// Why the archive is not complete, once its end has been reached.
    cut: Option<Error>,
    /// Size in bytes of the lists of pieces of all sparse files so far.
    pieces_bytes: u64,
    /// Names of links.
    links: Vec<Arc<str>>,
}

/// A file and the range of its bytes.
struct File {
    name: Arc<str>,
    bytes: Range<u64>,
    /// The length and the stored pieces of a sparse file.
    sparse: Option<(u64, Arc<Pieces>)>,
}

/// Attributes in extension members, which override those in the following header.
#[derive(Default)]
struct Overrides {
    name: Option<Vec<u8>>,
    size: Option<u64>,
}

/// The files of an archive, in order.
pub(super) struct Listing {
    pub(super) members: Vec<Member>,
    /// Why the archive is not complete: it ends within a header or within the last member.
    pub(super) cut: Option<Error>,
    /// Names of links, which are not followed.
    pub(super) links: Vec<Arc<str>>,
}

/// Lists the files of the archive, in order. `storage` converts the range of a file's bytes.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) for an invalid header,
/// [`Unsupported`](crate::ErrorKind::Unsupported) for sparse members in pax's formats,
/// [`Limit`](crate::ErrorKind::Limit), [`Io`](crate::ErrorKind::Io).
pub(super) fn list(
    archive: &mut dyn ForwardRead,
    storage: fn(Range<u64>) -> Storage,
    limits: &Limits,
) -> Result<Listing> {
    let mut walk = Walk {
        archive,
        names: MemberNames::new(limits),
        at: 0,
        end: 0,
        cut: None,
        pieces_bytes: 0,
        links: Vec::new(),
    };
    let mut members = Vec::new();
    while let Some(File { name, bytes, sparse }) = walk.next()? {
        let (size, pieces) = match sparse {
            Some((size, pieces)) => (size, Some(pieces)),
            None => (bytes.end - bytes.start, None),
        };
        members.push(Member { name, size, storage: storage(bytes), pieces });
    }
    Ok(Listing { members, cut: walk.cut, links: walk.links })
}

/// The start of a tar archive.
pub(super) struct ArchiveStart {
    /// Whether the first header has the magic. The oldest archives do not, and are recognized by
    /// the checksum only.
    pub(super) magic: bool,
    /// Names of the files whose headers are in the bytes that were probed.
    pub(super) names: Vec<Arc<str>>,
}

/// Parses the start of a tar archive; `None` if `head` is not one.
pub(super) fn archive_start(head: &[u8]) -> Option<ArchiveStart> {
    struct Head<'a>(&'a [u8]);
    impl ForwardRead for Head<'_> {
        fn read(&mut self, at: u64, buf: &mut [u8]) -> Result<usize> {
            let rest = self.0.get(to_usize(at)..).unwrap_or_default();
            let n = rest.len().min(buf.len());
            buf[..n].copy_from_slice(&rest[..n]);
            Ok(n)
        }

        fn ends_before(&self, _: u64) -> bool {
            false
        }
    }
    let mut archive = Head(head);
    let header = read_header(&mut archive, 0).ok().and_then(Result::ok).flatten()?;
    let magic = header.as_ustar().is_some() || header.as_gnu().is_some();
    let limits = Limits::default();
    let names = MemberNames::new(&limits);
    let mut walk = Walk {
        archive: &mut archive,
        names,
        at: 0,
        end: 0,
        cut: None,
        pieces_bytes: 0,
        links: Vec::new(),
    };
    let names = std::iter::from_fn(|| walk.next().ok().flatten().map(|file| file.name)).collect();
    Some(ArchiveStart { magic, names })
}

impl Walk<'_> {
    /// Returns the next file; `None` at the end of the archive.
    fn next(&mut self) -> Result<Option<File>> {
        let mut overrides = Overrides::default();
        while let Some(header) = self.header()? {
            let (at, kind) = (self.at, header.entry_type());
            let is_sparse = kind == EntryType::GNUSparse;
            // Members of unknown types are files (POSIX, pax, "ustar Interchange Format").
            let is_file = !matches!(
                kind,
                EntryType::Link
                    | EntryType::Symlink
                    | EntryType::Char
                    | EntryType::Block
                    | EntryType::Directory
                    | EntryType::Fifo
                    | EntryType::GNULongName
                    | EntryType::GNULongLink
                    | EntryType::XHeader
                    | EntryType::XGlobalHeader
            );
            // The override does not apply to the header of another extension member.
            let size = match overrides.size.filter(|_| is_file) {
                Some(size) => size,
                None => header
                    .entry_size()
                    .map_err(|e| corrupt(at, format!("its size is not valid: {e}")))?,
            };
            let mut start = at + BLOCK;
            let mut sparse = None;
            if is_sparse {
                let (len, pieces, blocks) = self.sparse(&header, at, size)?;
                (start, sparse) = (start + blocks * BLOCK, Some((len, Arc::new(pieces))));
            }
            // Offsets in the archive must not overflow.
            let end = start.checked_add(size).filter(|&end| end <= i64::MAX.cast_unsigned());
            let end = end.ok_or_else(|| {
                corrupt(at, format!("a member of {size} bytes, which would end beyond 8 EiB"))
            })?;
            (self.at, self.end) = (end.next_multiple_of(BLOCK), end);
            match kind {
                EntryType::GNULongName => {
                    let mut name = self.read_extension(start..end)?;
                    name.truncate(name.iter().position(|&b| b == 0).unwrap_or(name.len()));
                    overrides.name = Some(name);
                }
                EntryType::XHeader => {
                    let records = self.read_extension(start..end)?;
                    read_pax(&records, at, &mut overrides)?;
                }
                EntryType::XGlobalHeader | EntryType::GNULongLink => {}
                _ => {
                    let Overrides { name, .. } = std::mem::take(&mut overrides);
                    let name = name.unwrap_or_else(|| header.path_bytes().into_owned());
                    // In old archives, a trailing slash marks a directory, which is ignored. A
                    // reference to a link fails as to a missing file.
                    if matches!(kind, EntryType::Link | EntryType::Symlink) {
                        let name = self.names.add(&name)?;
                        self.links.push(name);
                        continue;
                    }
                    if is_file && !name.ends_with(b"/") {
                        let name = self.names.add(&name)?;
                        return Ok(Some(File { name, bytes: start..end, sparse }));
                    }
                }
            }
        }
        if self.archive.ends_before(self.end) {
            let message =
                format!("the last member ends at {:#x}, beyond the end of the archive", self.end);
            self.cut = Some(truncated(Error::corrupt("tar archive", message)));
        }
        Ok(None)
    }

    /// Reads the next header; `None` at the end of the archive, and if it ends within the header.
    fn header(&mut self) -> Result<Option<Header>> {
        match read_header(self.archive, self.at)? {
            Ok(header) => Ok(header),
            Err(cut) => {
                self.cut = Some(cut);
                Ok(None)
            }
        }
    }

    /// Reads the list of a sparse file's pieces, `size` bytes in total. Returns the length of the
    /// file, the pieces, and the number of blocks between the header and their bytes.
    fn sparse(&mut self, header: &Header, at: u64, size: u64) -> Result<(u64, Pieces, u64)> {
        let invalid = |e: io::Error| corrupt(at, format!("its list of pieces is not valid: {e}"));
        let Some(gnu) = header.as_gnu() else { return Err(pax_sparse(at)) };
        let len = gnu.real_size().map_err(invalid)?;
        let max = self.names.limits.table_bytes.saturating_sub(self.pieces_bytes);
        let mut pieces = Pieces::default();
        let mut add = |list: &[GnuSparseHeader]| {
            for piece in list.iter().filter(|piece| !piece.is_empty()) {
                let (start, length) = (piece.offset(), piece.length());
                let added = pieces.add(start.map_err(invalid)?, length.map_err(invalid)?, len, max);
                added.map_err(|e| e.at(at))?;
            }
            Ok::<_, Error>(())
        };
        add(&gnu.sparse)?;
        let mut more = gnu.is_extended();
        let mut blocks = 0;
        while more {
            let mut list = GnuExtSparseHeader::new();
            let from = at + (1 + blocks) * BLOCK;
            if self.archive.read(from, list.as_mut_bytes())? < to_usize(BLOCK) {
                return Err(truncated(corrupt(at, "its list of pieces is truncated")));
            }
            add(list.sparse())?;
            more = list.is_extended();
            blocks += 1;
        }
        self.pieces_bytes += pieces.memory();
        match pieces.stored() == size && len <= i64::MAX.cast_unsigned() {
            true => Ok((len, pieces, blocks)),
            false => {
                let found = pieces.stored();
                Err(corrupt(at, format!("its pieces have {found} bytes; expected {size}")))
            }
        }
    }

    /// Reads the data of an extension member.
    fn read_extension(&mut self, range: Range<u64>) -> Result<Vec<u8>> {
        let (len, max) = (range.end - range.start, self.names.limits.archive_header_bytes);
        if len > max {
            let found = format!("a name or attributes of {len} bytes");
            return Err(Error::over_limit("archive_header_bytes", found, max)
                .in_structure("tar header")
                .at(range.start));
        }
        let mut bytes = vec![0; to_usize(len)];
        if self.archive.read(range.start, &mut bytes)? < bytes.len() {
            let message = "its name or attributes are truncated";
            return Err(truncated(corrupt(range.start - BLOCK, message)));
        }
        Ok(bytes)
    }
}

/// Reads the header at `at`; `None` at the end of the archive. The inner error is that of an
/// archive that ends within the header.
fn read_header(archive: &mut dyn ForwardRead, at: u64) -> Result<Result<Option<Header>>> {
    let mut block = [0; to_usize(BLOCK)];
    let n = archive.read(at, &mut block)?;
    // At the end, the padding and the two blocks of zeros may be missing.
    if block.iter().all(|&b| b == 0) {
        return Ok(Ok(None));
    }
    if n < block.len() {
        return Ok(Err(truncated(corrupt(at, format!("it is truncated after {n} bytes")))));
    }
    // The checksum is the sum of all bytes, with its own field counted as blanks.
    let field = 148..156;
    let sum = |(i, &b): (usize, &u8)| u32::from(if field.contains(&i) { b' ' } else { b });
    let sum: u32 = block.iter().enumerate().map(sum).sum();
    let header = Header::from_byte_slice(&block);
    match header.cksum() {
        Ok(expected) if expected == sum => Ok(Ok(Some(header.clone()))),
        _ => Err(corrupt(at, "its checksum is wrong")),
    }
}

/// Parses pax records, `LENGTH KEY=VALUE\n`. The length is that of the whole record; a value may
/// contain line breaks.
fn read_pax(records: &[u8], at: u64, overrides: &mut Overrides) -> Result<()> {
    let mut rest = records;
    // Some writers pad the block with zeros.
    while rest.first().is_some_and(|&byte| byte != 0) {
        let (record, following) =
            split_record(rest).ok_or_else(|| corrupt(at, "its pax records are malformed"))?;
        rest = following;
        let Some(equals) = record.iter().position(|&b| b == b'=') else {
            return Err(corrupt(at, "a pax record without a value"));
        };
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" => overrides.name = Some(value.to_owned()),
            b"size" => {
                let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                let size = size.ok_or_else(|| corrupt(at, "its pax size is not a number"))?;
                overrides.size = Some(size);
            }
            key if key.starts_with(b"GNU.sparse.") => return Err(pax_sparse(at)),
            _ => {}
        }
    }
    Ok(())
}

/// Splits off the first record, without its length and line break.
fn split_record(records: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = records.iter().position(|&b| b == b' ')?;
    let length = std::str::from_utf8(&records[..blank]).ok()?.parse::<usize>().ok()?;
    let record = records.get(blank + 1..length)?.strip_suffix(b"\n")?;
    Some((record, &records[length..]))
}

fn corrupt(at: u64, what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::corrupt("tar header", what).at(at)
}

fn pax_sparse(at: u64) -> Error {
    Error::unsupported("a sparse member in one of pax's formats")
        .in_structure("tar header")
        .at(at)
        .hint("unpack it with tar and open the .ovf or the disk image")
}

fn truncated(error: Error) -> Error {
    error.hint("the file is probably truncated by an incomplete transfer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pax_record_extends_over_its_stated_length() {
        let mut found = Overrides::default();
        let records = b"29 comment=a\n12 size=512\nxyz\n10 path=d\n\0\0";
        read_pax(records, 0, &mut found).expect("reads");
        assert_eq!((found.size, found.name.as_deref()), (None, Some(&b"d"[..])));
        for records in ["5 a=", "99 a=b\n", "5 a=b\n", "0 ", "7 a", "x a=b\n", "6 abc\n"] {
            read_pax(records.as_bytes(), 0, &mut found).expect_err(records);
        }
    }
}
