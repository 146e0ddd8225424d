//! The members of a tar archive.
//!
//! ```text
//!   ┌ header 512 ┬ member, padded to 512 ┬ header ┬ member ┬ … ┬ two zero blocks ┐
//!     name, size,
//!     checksum, type: 0 file · 5 folder · L the next one's name · x its name, size, …
//! ```
//!
//! POSIX.1-2017 *pax*, "ustar Interchange Format" and "pax Header Block"; GNU
//! tar's manual, "Basic Tar Format" (long names, base-256 numbers).

use super::archive::{Member, Names, Storage};
use crate::error::{Error, Result};
use crate::open::limits::Limits;
use crate::storage::number::to_usize;
use std::ops::Range;
use std::sync::Arc;
use tar::{EntryType, Header};

/// The unit of a tar archive.
pub(super) const BLOCK: u64 = 512;

/// Bytes that are asked for in ascending order only: an archive may be packed.
pub(super) trait Forward {
    /// Fills `buf` from `at`, as far as there is anything.
    fn read(&mut self, at: u64, buf: &mut [u8]) -> Result<usize>;

    /// True if what was read shows that the archive ends before `at`.
    fn ends_before(&self, at: u64) -> bool;
}

/// A walk over the files of an archive.
struct Walk<'a> {
    archive: &'a mut dyn Forward,
    names: Names<'a>,
    /// Where the next header is.
    at: u64,
    /// Where the last member ends.
    end: u64,
}

/// A file, and where its bytes are.
struct File {
    name: Arc<str>,
    bytes: Range<u64>,
}

/// What stands before a file's header and overrides it.
#[derive(Default)]
struct Overrides {
    name: Option<Vec<u8>>,
    size: Option<u64>,
}

/// The files of the archive, in order. `storage` says how to come by the bytes
/// of one.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) for a header whose checksum is wrong
/// or a member that leaves the archive, [`Limit`](crate::ErrorKind::Limit),
/// [`Unsupported`](crate::ErrorKind::Unsupported) for sparse members.
pub(super) fn list(
    archive: &mut dyn Forward,
    storage: fn(Range<u64>) -> Storage,
    limits: &Limits,
) -> Result<Vec<Member>> {
    let mut walk = Walk { archive, names: Names::new(limits), at: 0, end: 0 };
    let mut members = Vec::new();
    while let Some(File { name, bytes }) = walk.next()? {
        members.push(Member { name, size: bytes.end - bytes.start, storage: storage(bytes) });
    }
    Ok(members)
}

/// How a tar archive begins.
pub(super) struct Beginning {
    /// It has the magic number, which the oldest archives lack: without it the
    /// checksum alone speaks.
    pub(super) magic: bool,
    /// The first file's name, if it is that near.
    pub(super) name: Option<Arc<str>>,
}

/// The beginning of the archive, if `head` is that of one.
pub(super) fn beginning(head: &[u8]) -> Option<Beginning> {
    struct Head<'a>(&'a [u8]);
    impl Forward for Head<'_> {
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
    let header = read_header(&mut archive, 0).ok().flatten()?;
    let magic = header.as_ustar().is_some() || header.as_gnu().is_some();
    let limits = Limits::default();
    let names = Names::new(&limits);
    let mut walk = Walk { archive: &mut archive, names, at: 0, end: 0 };
    let name = walk.next().ok().flatten().map(|file| file.name);
    Some(Beginning { magic, name })
}

impl Walk<'_> {
    /// The next file; `None` at the end of the archive.
    fn next(&mut self) -> Result<Option<File>> {
        let mut overrides = Overrides::default();
        while let Some(header) = read_header(self.archive, self.at)? {
            let (at, kind) = (self.at, header.entry_type());
            let is_file = matches!(kind, EntryType::Regular | EntryType::Continuous);
            // Only a file's own header is overridden.
            let size = match overrides.size.filter(|_| is_file) {
                Some(size) => size,
                None => header.entry_size().map_err(|e| bad(at, format!("its size: {e}")))?,
            };
            let start = at + BLOCK;
            // So that no offset of the archive overflows.
            let end = start.checked_add(size).filter(|&end| end <= i64::MAX.cast_unsigned());
            let end = end.ok_or_else(|| bad(at, format!("a member of {size} bytes")))?;
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
                EntryType::GNUSparse => return Err(sparse(at)),
                EntryType::XGlobalHeader | EntryType::GNULongLink => {}
                _ => {
                    let Overrides { name, .. } = std::mem::take(&mut overrides);
                    let name = name.unwrap_or_else(|| header.path_bytes().into_owned());
                    // Old archives mark a folder by its name alone. Folders and
                    // links are passed over: whoever needs one will miss it.
                    if is_file && !name.ends_with(b"/") {
                        let name = self.names.take(&name)?;
                        return Ok(Some(File { name, bytes: start..end }));
                    }
                }
            }
        }
        if self.archive.ends_before(self.end) {
            let message = format!("a member ends at {:#x}, where nothing is", self.end);
            return Err(truncated(Error::corrupt("tar archive", message)));
        }
        Ok(None)
    }

    fn read_extension(&mut self, range: Range<u64>) -> Result<Vec<u8>> {
        let (len, most) = (range.end - range.start, self.names.limits.archive_header_bytes);
        if len > most {
            let found = format!("a name or attributes of {len} bytes");
            return Err(Error::over_limit("archive_header_bytes", found, most)
                .in_structure("tar header")
                .at(range.start));
        }
        let mut bytes = vec![0; to_usize(len)];
        if self.archive.read(range.start, &mut bytes)? < bytes.len() {
            return Err(truncated(bad(range.start - BLOCK, "its name or attributes are cut off")));
        }
        Ok(bytes)
    }
}

/// The header at `at`; `None` at the end of the archive.
fn read_header(archive: &mut dyn Forward, at: u64) -> Result<Option<Header>> {
    let mut block = [0; to_usize(BLOCK)];
    let n = archive.read(at, &mut block)?;
    // Padding may be missing at the end; so may the two blocks of zeros.
    if block.iter().all(|&b| b == 0) {
        return Ok(None);
    }
    if n < block.len() {
        return Err(truncated(bad(at, format!("it is cut off after {n} bytes"))));
    }
    // The sum of all bytes, its own field as blanks.
    let field = 148..156;
    let sum = |(i, &b): (usize, &u8)| u32::from(if field.contains(&i) { b' ' } else { b });
    let sum: u32 = block.iter().enumerate().map(sum).sum();
    let header = Header::from_byte_slice(&block);
    match header.cksum() {
        Ok(said) if said == sum => Ok(Some(header.clone())),
        _ => Err(bad(at, "its checksum is wrong")),
    }
}

/// Records are `LENGTH KEY=VALUE\n`; the length is of all of it, and a value may
/// hold line breaks.
fn read_pax(records: &[u8], at: u64, overrides: &mut Overrides) -> Result<()> {
    let mut rest = records;
    // Some writers fill the block up with zeros.
    while rest.first().is_some_and(|&byte| byte != 0) {
        let (record, behind) =
            split_record(rest).ok_or_else(|| bad(at, "its pax records are malformed"))?;
        rest = behind;
        let Some(equals) = record.iter().position(|&b| b == b'=') else {
            return Err(bad(at, "a pax record without a value"));
        };
        let (key, value) = (&record[..equals], &record[equals + 1..]);
        match key {
            b"path" => overrides.name = Some(value.to_owned()),
            b"size" => {
                let size = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
                overrides.size = Some(size.ok_or_else(|| bad(at, "its pax size is no number"))?);
            }
            key if key.starts_with(b"GNU.sparse.") => return Err(sparse(at)),
            _ => {}
        }
    }
    Ok(())
}

/// The first record, without its length and its line break, and the rest.
fn split_record(records: &[u8]) -> Option<(&[u8], &[u8])> {
    let blank = records.iter().position(|&b| b == b' ')?;
    let length = std::str::from_utf8(&records[..blank]).ok()?.parse::<usize>().ok()?;
    let record = records.get(blank + 1..length)?.strip_suffix(b"\n")?;
    Some((record, &records[length..]))
}

fn bad(at: u64, what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::corrupt("tar header", what).at(at)
}

fn sparse(at: u64) -> Error {
    Error::unsupported("a sparse member (GNU tar's --sparse)")
        .in_structure("tar header")
        .at(at)
        .hint("unpack it with tar and open the .ovf")
}

fn truncated(error: Error) -> Error {
    error.hint("the file is probably truncated: its transfer did not complete")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pax_record_is_as_long_as_it_says_whatever_is_in_it() {
        let mut found = Overrides::default();
        let records = b"29 comment=a\n12 size=512\nxyz\n10 path=d\n\0\0";
        read_pax(records, 0, &mut found).expect("reads");
        assert_eq!((found.size, found.name.as_deref()), (None, Some(&b"d"[..])));
        for records in ["5 a=", "99 a=b\n", "5 a=b\n", "0 ", "7 a", "x a=b\n", "6 abc\n"] {
            read_pax(records.as_bytes(), 0, &mut found).expect_err(records);
        }
    }
}
