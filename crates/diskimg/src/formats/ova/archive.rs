//! An archive: members by name, wherever their bytes are.
//!
//! ```text
//!   tar      members lie in the file as they are      a window is read in place
//!   tar.gz   inflating the file yields the tar        a member is unpacked when its bytes are wanted
//!   zip      members stored or deflated               in place, or unpacked
//! ```

use super::tar_members::{self, Forward};
use super::unpack::{self, SourceReader, UnpackBudget};
use super::zip_members::{self, Deflated};
use crate::error::{Error, Result};
use crate::open::limits::Limits;
use crate::storage::number::to_u64;
use crate::storage::source::{Source, WindowSource, fill};
use flate2::read::MultiGzDecoder;
use std::collections::BTreeMap;
use std::io::{self, Read};
use std::ops::Range;
use std::sync::{Arc, OnceLock};

/// Bytes of a member's name: Linux's `PATH_MAX`.
const MAX_NAME: usize = 4096;

const GZIP: &[u8] = &[0x1f, 0x8b];
const ZIP: &[u8] = b"PK\x03\x04";
const BZIP2: &[u8] = b"BZh";
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];

/// How an archive is packed, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    /// A bare tar, or nothing that we know.
    None,
    Gzip,
    Zip,
    Xz,
    Bzip2,
}

impl Packing {
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
    /// Its path in the archive, without `.` and empty parts.
    pub(super) name: Arc<str>,
    /// Bytes, unpacked.
    pub(super) size: u64,
    pub(super) storage: Storage,
}

/// Names while they are collected: each has a bound, and so have all together.
#[derive(Debug)]
pub(super) struct Names<'a> {
    count: u64,
    bytes: u64,
    pub(super) limits: &'a Limits,
}

impl<'a> Names<'a> {
    pub(super) fn new(limits: &'a Limits) -> Self {
        Self { count: 0, bytes: 0, limits }
    }

    /// The name in one spelling.
    ///
    /// # Errors
    /// [`Limit`](crate::ErrorKind::Limit).
    pub(super) fn take(&mut self, name: &[u8]) -> Result<Arc<str>> {
        if name.len() > MAX_NAME {
            let message = format!("a member's name of {} bytes; at most {MAX_NAME}", name.len());
            return Err(Error::limit(message));
        }
        self.count += 1;
        if self.count > self.limits.archive_members {
            let found = format!("{} members or more", self.count);
            return Err(Error::over_limit("archive_members", found, self.limits.archive_members));
        }
        let name = normal_name(&String::from_utf8_lossy(name));
        self.bytes += to_u64(name.len());
        if self.bytes > self.limits.archive_name_bytes {
            let found = format!("members' names of {} bytes or more", self.bytes);
            let most = self.limits.archive_name_bytes;
            return Err(Error::over_limit("archive_name_bytes", found, most));
        }
        Ok(name.into())
    }
}

/// How to come by a member's bytes.
#[derive(Debug)]
pub(super) enum Storage {
    /// This range of the archive's file.
    InPlace(Range<u64>),
    /// The same, of a zip archive, which knows the CRC.
    Stored { range: Range<u64>, crc32: u32 },
    /// This range of what inflating the archive's file yields.
    InGzip(Range<u64>),
    /// Deflated by itself.
    Deflated(Deflated),
}

/// An archive and its list of members.
#[derive(Debug)]
pub(super) struct Archive {
    source: Arc<dyn Source>,
    members: Vec<Member>,
    /// Indices of members by name.
    index: BTreeMap<Arc<str>, usize>,
    /// All that inflating the archive's file yields, once many members are wanted.
    unpacked: OnceLock<Arc<dyn Source>>,
    /// What anything may unpack to.
    limits: Limits,
}

impl Archive {
    /// Lists the members.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is no archive, a broken one,
    /// or has two members of one name; [`Unsupported`](crate::ErrorKind::Unsupported),
    /// [`Limit`](crate::ErrorKind::Limit), [`Io`](crate::ErrorKind::Io).
    pub(super) fn open(source: Arc<dyn Source>, packing: Packing, limits: &Limits) -> Result<Self> {
        let mut members = match packing {
            Packing::None => tar_members::list(&mut InPlace(&*source), Storage::InPlace, limits)?,
            Packing::Gzip => {
                let mut inflated = Inflated::new(&*source, UnpackBudget::of(source.len(), limits));
                let members = tar_members::list(&mut inflated, Storage::InGzip, limits)?;
                inflated.finish()?;
                members
            }
            Packing::Zip => zip_members::list(&*source, limits)?,
            Packing::Xz => return Err(compressed_by("xz")),
            Packing::Bzip2 => return Err(compressed_by("bzip2")),
        };
        members.retain(|member| !is_mac_metadata(&member.name));
        let mut index = BTreeMap::new();
        for (i, member) in members.iter().enumerate() {
            if index.insert(Arc::clone(&member.name), i).is_some() {
                let message = format!("two members are called '{}'", member.name);
                return Err(Error::corrupt("archive", message));
            }
        }
        let limits = limits.clone();
        Ok(Self { source, members, index, unpacked: OnceLock::new(), limits })
    }

    pub(super) fn members(&self) -> &[Member] {
        &self.members
    }

    pub(super) fn find(&self, name: &str) -> Option<&Member> {
        self.index.get(name).map(|&i| &self.members[i])
    }

    /// The archive's own file.
    pub(super) fn source(&self) -> &Arc<dyn Source> {
        &self.source
    }

    /// Unpacks a tar.gz once for all members: for a single one, all that comes
    /// before it is inflated and forgotten.
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

    fn budget(&self) -> UnpackBudget {
        UnpackBudget::of(self.source.len(), &self.limits)
    }

    /// A member's bytes; unpacks them first if they are packed.
    ///
    /// # Errors
    /// As [`unpack::to_temporary_file`].
    pub(super) fn open_member(&self, member: &Member) -> Result<Arc<dyn Source>> {
        let budget = self.budget();
        if member.size > budget.bytes && !member.in_place() {
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
            Storage::Deflated(way) => zip_members::inflate(&self.source, *way, budget)?,
        };
        if unpacked.len() != member.size {
            let message = format!("{} bytes where {} were announced", unpacked.len(), member.size);
            return Err(Error::corrupt("archive", message));
        }
        Ok(unpacked)
    }
}

impl Member {
    /// False if it must be unpacked before it can be read.
    pub(super) fn in_place(&self) -> bool {
        matches!(self.storage, Storage::InPlace(_) | Storage::Stored { .. })
    }

    /// The CRC of bytes that can be read without checking it.
    pub(super) fn crc32(&self) -> Option<u32> {
        match self.storage {
            Storage::Stored { crc32, .. } => Some(crc32),
            _ => None,
        }
    }
}

fn compressed_by(tool: &str) -> Error {
    Error::unsupported(format!("an appliance compressed with {tool}"))
        .hint(format!("decompress it with `{tool} -d` and open the tar"))
}

/// A tar as it lies in its file.
struct InPlace<'a>(&'a dyn Source);

impl Forward for InPlace<'_> {
    fn read(&mut self, at: u64, buf: &mut [u8]) -> Result<usize> {
        unpack::read_some(self.0, buf, at)
            .map_err(|e| Error::io("cannot read it", e).in_structure("tar archive").at(at))
    }

    fn ends_before(&self, at: u64) -> bool {
        self.0.len() < at
    }
}

/// A tar that comes out of gzip, and is not kept.
struct Inflated<'a> {
    stream: io::Take<MultiGzDecoder<SourceReader<'a>>>,
    position: u64,
    ended: bool,
    budget: UnpackBudget,
}

impl<'a> Inflated<'a> {
    fn new(source: &'a dyn Source, budget: UnpackBudget) -> Self {
        let stream = MultiGzDecoder::new(SourceReader::whole(source));
        // One more, to tell the end of the stream from the limit.
        Self {
            stream: stream.take(budget.bytes.saturating_add(1)),
            position: 0,
            ended: false,
            budget,
        }
    }

    /// Reads what is left, to the checksum at its end.
    fn finish(mut self) -> Result<()> {
        io::copy(&mut self.stream, &mut io::sink()).map_err(unpack::failed)?;
        self.require_room()
    }

    fn require_room(&self) -> Result<()> {
        if self.stream.limit() > 0 { Ok(()) } else { Err(self.budget.exceeded()) }
    }
}

impl Forward for Inflated<'_> {
    fn read(&mut self, at: u64, buf: &mut [u8]) -> Result<usize> {
        let gap = at.saturating_sub(self.position);
        let skipped = skip(&mut self.stream, gap).map_err(unpack::failed)?;
        let filled = match skipped == gap {
            true => fill(&mut self.stream, buf).map_err(unpack::failed)?,
            false => 0,
        };
        self.position += skipped + to_u64(filled);
        self.ended |= filled < buf.len();
        self.require_room()?;
        Ok(filled)
    }

    fn ends_before(&self, at: u64) -> bool {
        self.ended && self.position < at
    }
}

/// Reads and forgets `bytes`, or what there is; gives how many.
fn skip(stream: &mut impl Read, bytes: u64) -> io::Result<u64> {
    io::copy(&mut stream.take(bytes), &mut io::sink())
}

/// True for what macOS adds to an archive: a companion of each file.
fn is_mac_metadata(name: &str) -> bool {
    let last = name.rsplit('/').next().unwrap_or_default();
    last.starts_with("._") || name.split('/').any(|part| part == "__MACOSX")
}

/// A member's path in one spelling: `./a//b` is `a/b`.
pub(super) fn normal_name(path: &str) -> String {
    let parts: Vec<_> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    parts.join("/")
}
