//! Archives and their members.
//!
//! ```text
//!   tar      members are stored verbatim              read in place
//!   tar.gz   the whole tar is compressed              a member is decompressed when it is needed
//!   zip      members are stored or deflated           read in place, or decompressed
//! ```

use super::sparse_member::{Pieces, SparseSource};
use super::tar_members::{self, ForwardRead, Listing};
use super::zip_members::{self, Deflated};
use crate::error::{Error, Result};
use crate::open::limits::Limits;
use crate::open::unpack::{self, UnpackBudget};
use crate::remedy::Remedy;
use crate::storage::number::to_u64;
use crate::storage::source::{Source, SourceReader, WindowSource, fill, read_some};
use flate2::read::MultiGzDecoder;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// Maximum length of a member's name in bytes: Linux's `PATH_MAX`.
pub(super) const MAX_NAME: usize = 4096;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZIP: &[u8] = b"PK\x03\x04";
const BZIP2: &[u8] = b"BZh";
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];

/// The kind of an archive or of its compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// An uncompressed tar, or unknown.
    None,
    Gzip,
    Zip,
    Xz,
    Bzip2,
}

impl Packing {
    /// Detects the packing by the first bytes of the file.
    pub(super) fn of(head: &[u8]) -> Self {
        match head {
            head if head.starts_with(GZIP) => Self::Gzip,
            head if head.starts_with(ZIP) => Self::Zip,
            head if head.starts_with(XZ) => Self::Xz,
            head if head.starts_with(BZIP2) => Self::Bzip2,
            _ => Self::None,
        }
    }
}

/// A file in the archive.
#[derive(Debug)]
pub(super) struct Member {
    /// Normalized path in the archive (see [`normal_name`]).
    pub(super) name: Arc<str>,
    /// Uncompressed size in bytes.
    pub(super) size: u64,
    pub(super) storage: Storage,
    /// The stored pieces of a sparse file.
    pub(super) pieces: Option<Arc<Pieces>>,
}

/// Normalizes the names of members and enforces the limits on their number and length.
#[derive(Debug)]
pub(super) struct MemberNames<'a> {
    count: u64,
    bytes: u64,
    pub(super) limits: &'a Limits,
}

impl<'a> MemberNames<'a> {
    pub(super) fn new(limits: &'a Limits) -> Self {
        Self { count: 0, bytes: 0, limits }
    }

    /// Counts a member and returns its normalized name.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit) if the name, all names together or the number of members
    /// exceed the limits.
    pub(super) fn add(&mut self, name: &[u8]) -> Result<Arc<str>> {
        if name.len() > MAX_NAME {
            let message =
                format!("a member name of {} bytes; at most {MAX_NAME} are supported", name.len());
            return Err(Error::limit(message));
        }
        self.count += 1;
        if self.count > self.limits.archive_members {
            let found = format!("at least {} members", self.count);
            return Err(Error::over_limit("archive_members", found, self.limits.archive_members));
        }
        let name = normal_name(&String::from_utf8_lossy(name));
        self.bytes += to_u64(name.len());
        if self.bytes > self.limits.archive_name_bytes {
            let found = format!("member names of at least {} bytes in total", self.bytes);
            let max = self.limits.archive_name_bytes;
            return Err(Error::over_limit("archive_name_bytes", found, max));
        }
        Ok(name.into())
    }
}

/// How a member is stored.
#[derive(Debug)]
pub(super) enum Storage {
    /// Verbatim, in this range of the archive's file.
    InPlace(Range<u64>),
    /// Verbatim in a zip archive, which also records the CRC.
    Stored { range: Range<u64>, crc32: u32 },
    /// In this range of the decompressed tar.
    InGzip(Range<u64>),
    /// Deflated individually.
    Deflated(Deflated),
}

/// An archive and the list of its members.
#[derive(Debug)]
pub(super) struct Archive {
    source: Arc<dyn Source>,
    members: Vec<Member>,
    /// The metadata files of macOS, which are no members here, but files to other programs.
    #[cfg_attr(not(feature = "inspect"), expect(dead_code, reason = "only inspections read it"))]
    ignored: Vec<Member>,
    /// Indices into `members` by name.
    index: BTreeMap<Arc<str>, usize>,
    /// Names of links, which are not followed.
    links: Vec<Arc<str>>,
    /// Why the archive is not complete, if it was opened nevertheless.
    cut: Option<Error>,
    /// The decompressed tar, after [`unpack`](Self::unpack).
    unpacked: OnceLock<Arc<dyn Source>>,
    /// Limits for decompressed data.
    limits: Limits,
}

impl Archive {
    /// Opens an archive and lists its members. With `partial`, accepts a tar archive that is cut
    /// short; the last member is then shorter than it was.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is not a valid archive or has two members of
    /// the same name; [`Unsupported`](crate::ErrorKind::Unsupported) for xz, bzip2 and the like,
    /// [`Limit`](crate::ErrorKind::Limit), [`Io`](crate::ErrorKind::Io).
    pub(super) fn open(
        source: Arc<dyn Source>,
        packing: Packing,
        limits: &Limits,
        partial: bool,
    ) -> Result<Self> {
        let Listing { mut members, cut, links } = match packing {
            Packing::None => {
                let mut listing =
                    tar_members::list(&mut InPlace(&*source), Storage::InPlace, limits)?;
                if partial && let Some(last) = listing.members.last_mut() {
                    last.shorten(source.len());
                }
                listing
            }
            Packing::Gzip => {
                let mut inflated = Inflated::new(&*source, UnpackBudget::of(source.len(), limits));
                let listing = tar_members::list(&mut inflated, Storage::InGzip, limits)?;
                inflated.finish()?;
                listing
            }
            Packing::Zip => Listing {
                members: zip_members::list(&*source, limits)?,
                cut: None,
                links: Vec::new(),
            },
            Packing::Xz => return Err(compressed_by("xz")),
            Packing::Bzip2 => return Err(compressed_by("bzip2")),
        };
        let cut = match cut {
            Some(error) if !partial || packing != Packing::None => {
                return Err(error.with_remedy(Remedy::Salvage));
            }
            cut => cut,
        };
        let ignored = members.extract_if(.., |member| is_mac_metadata(&member.name)).collect();
        let mut index = BTreeMap::new();
        for (i, member) in members.iter().enumerate() {
            if index.insert(Arc::clone(&member.name), i).is_some() {
                let message = format!("two members have the name '{}'", member.name);
                return Err(Error::corrupt("archive", message));
            }
        }
        // Programs that unpack the archive would replace one by the other.
        if let Some(link) = links.iter().find(|&link| index.contains_key(link)) {
            let message = format!("a member and a link have the name '{link}'");
            return Err(Error::corrupt("archive", message));
        }
        require_few_holes(members.iter().chain(&ignored), source.len(), limits)?;
        let limits = limits.clone();
        Ok(Self { source, members, ignored, index, links, cut, unpacked: OnceLock::new(), limits })
    }

    /// Returns the names of links, which are not followed.
    pub(super) fn links(&self) -> impl Iterator<Item = &str> {
        self.links.iter().map(|link| &**link)
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    /// Returns the metadata files of macOS, which are not among the members.
    #[cfg(feature = "inspect")]
    pub(super) fn ignored(&self) -> &[Member] {
        &self.ignored
    }

    /// Describes where an archive that is cut short ends.
    pub(super) fn cut(&self) -> Option<String> {
        self.cut.as_ref().map(Error::without_remedy)
    }

    pub(super) fn find(&self, name: &str) -> Option<&Member> {
        self.index.get(name).map(|&i| &self.members[i])
    }

    /// The archive's file.
    pub(super) fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// Decompresses a tar.gz to a temporary file, so that several members can be opened without
    /// decompressing everything before each of them again.
    ///
    /// # Errors
    /// As [`unpack::to_temporary_file`].
    pub(super) fn unpack(&self) -> Result<()> {
        let is_gzip = self.members.iter().any(|m| matches!(m.storage, Storage::InGzip(_)));
        if is_gzip && self.unpacked.get().is_none() {
            let inflated = MultiGzDecoder::new(SourceReader::whole(&*self.source));
            let _ = self.unpacked.set(unpack::to_temporary_file(inflated, self.budget())?);
        }
        Ok(())
    }

    /// The budget for everything that is decompressed.
    pub(super) fn budget(&self) -> UnpackBudget {
        UnpackBudget::of(self.source.len(), &self.limits)
    }

    /// Opens a member, decompressing it if necessary.
    ///
    /// # Errors
    /// As [`unpack::to_temporary_file`].
    pub(super) fn open_member(&self, member: &Member) -> Result<Arc<dyn Source>> {
        let stored = self.open_stored(member)?;
        Ok(match &member.pieces {
            Some(pieces) => Arc::new(SparseSource::new(stored, Arc::clone(pieces), member.size)),
            None => stored,
        })
    }

    /// Opens a member as it is stored, but decompressed.
    fn open_stored(&self, member: &Member) -> Result<Arc<dyn Source>> {
        let budget = self.budget();
        let expected = member.pieces.as_ref().map_or(member.size, |pieces| pieces.stored());
        if expected > budget.bytes && !member.in_place() {
            return Err(budget.exceeded());
        }
        let window = |source: &Arc<dyn Source>, range: &Range<u64>| {
            let window = WindowSource::new(Arc::clone(source), range.clone());
            let window: Arc<dyn Source> =
                Arc::new(window.map_err(|e| Error::io("cannot read it", e))?);
            Ok(window)
        };
        let unpacked = match &member.storage {
            Storage::InPlace(range) | Storage::Stored { range, .. } => {
                return window(&self.source, range);
            }
            Storage::InGzip(range) => {
                if let Some(unpacked) = self.unpacked.get() {
                    return window(unpacked, range);
                }
                let mut inflated = MultiGzDecoder::new(SourceReader::whole(&*self.source));
                skip(&mut inflated, range.start).map_err(unpack::failed)?;
                unpack::to_temporary_file(inflated.take(range.end - range.start), budget)?
            }
            Storage::Deflated(entry) => zip_members::inflate(&self.source, *entry, budget)?,
        };
        if unpacked.len() != expected {
            let found = unpacked.len();
            let message = format!("the member decompresses to {found} bytes; expected {expected}");
            return Err(Error::corrupt("archive", message));
        }
        Ok(unpacked)
    }
}

impl Member {
    /// True if the member can be read without decompressing it first.
    pub(super) fn in_place(&self) -> bool {
        matches!(self.storage, Storage::InPlace(_) | Storage::Stored { .. })
    }

    /// Shortens a member that extends beyond the end of the archive at `end`.
    fn shorten(&mut self, end: u64) {
        if let Storage::InPlace(range) = &mut self.storage {
            range.end = range.end.min(end);
            range.start = range.start.min(end);
            if self.pieces.is_none() {
                self.size = range.end - range.start;
            }
        }
    }

    /// The CRC-32 recorded for a member that is read in place. (Decompression verifies the others.)
    pub(super) fn crc32(&self) -> Option<u32> {
        match self.storage {
            Storage::Stored { crc32, .. } => Some(crc32),
            _ => None,
        }
    }
}

/// Requires that sparse members are together not longer than what an archive of `packed` bytes may
/// be decompressed to: reading and hashing holes takes time, too.
fn require_few_holes<'a>(
    members: impl Iterator<Item = &'a Member>,
    packed: u64,
    limits: &Limits,
) -> Result<()> {
    let sizes = members.filter(|member| member.pieces.is_some()).map(|member| member.size);
    let sum = sizes.fold(0, u64::saturating_add);
    UnpackBudget::of(packed, limits).require(sum)
}

fn compressed_by(tool: &str) -> Error {
    Error::unsupported(format!("an appliance compressed with {tool}"))
        .hint(format!("decompress it with `{tool} -d` and open the result"))
}

/// An uncompressed tar.
struct InPlace<'a>(&'a dyn Source);

impl ForwardRead for InPlace<'_> {
    fn read(&mut self, at: u64, buf: &mut [u8]) -> Result<usize> {
        read_some(self.0, buf, at)
            .map_err(|e| Error::io("cannot read it", e).in_structure("tar archive").at(at))
    }

    fn ends_before(&self, at: u64) -> bool {
        self.0.len() < at
    }
}

/// A gzip-compressed tar, whose decompressed bytes are not kept.
struct Inflated<'a> {
    stream: io::Take<MultiGzDecoder<SourceReader<'a>>>,
    position: u64,
    ended: bool,
    budget: UnpackBudget,
}

impl<'a> Inflated<'a> {
    fn new(source: &'a dyn Source, budget: UnpackBudget) -> Self {
        let stream = MultiGzDecoder::new(SourceReader::whole(source));
        // One byte more than allowed, to distinguish the end of the stream from the limit.
        Self {
            stream: stream.take(budget.bytes.saturating_add(1)),
            position: 0,
            ended: false,
            budget,
        }
    }

    /// Reads the rest of the stream, which verifies the checksum at its end.
    fn finish(mut self) -> Result<()> {
        io::copy(&mut self.stream, &mut io::sink()).map_err(unpack::failed)?;
        self.require_within_budget()
    }

    fn require_within_budget(&self) -> Result<()> {
        if self.stream.limit() > 0 { Ok(()) } else { Err(self.budget.exceeded()) }
    }
}

impl ForwardRead for Inflated<'_> {
    fn read(&mut self, at: u64, buf: &mut [u8]) -> Result<usize> {
        let gap = at.saturating_sub(self.position);
        let skipped = skip(&mut self.stream, gap).map_err(unpack::failed)?;
        let filled = match skipped == gap {
            true => fill(&mut self.stream, buf).map_err(unpack::failed)?,
            false => 0,
        };
        self.position += skipped + to_u64(filled);
        self.ended |= filled < buf.len();
        self.require_within_budget()?;
        Ok(filled)
    }

    fn ends_before(&self, at: u64) -> bool {
        self.ended && self.position < at
    }
}

/// Reads and discards up to `bytes` bytes, and returns how many there were.
fn skip(stream: &mut impl Read, bytes: u64) -> io::Result<u64> {
    io::copy(&mut stream.take(bytes), &mut io::sink())
}

/// True for the metadata files that macOS adds to an archive.
pub(super) fn is_mac_metadata(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or_default();
    last.starts_with("._") || name.split('/').any(|component| component == "__MACOSX")
}

/// Normalizes a member's path by removing empty and `.` components: `./a//b` becomes `a/b`.
pub(super) fn normal_name(path: &str) -> String {
    let components: Vec<_> = path.split('/').filter(|c| !c.is_empty() && *c != ".").collect();
    components.join("/")
}
