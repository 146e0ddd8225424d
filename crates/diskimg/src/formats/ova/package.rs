//! The OVF package: a descriptor, the files it names, and perhaps a manifest,
//! in an archive or side by side.
//!
//! ```text
//!   appliance.ova: tar                     appliance.ovf      (opened by its name)
//!     appliance.ovf   ── href ──┐          appliance.mf       (beside it)
//!     appliance.mf              │          disk1.vmdk         (beside it, as far as
//!     disk1.vmdk      ◄─────────┘                              the policy allows)
//! ```

use super::archive::{Archive, Packing};
use super::envelope::{Disk, Envelope, File};
use super::files::{Files, PartName, only_descriptor, open_text, require_short};
use super::manifest::{self, Manifest};
use super::unpack::{self, SourceReader, UnpackBudget};
use super::{is_called_so, markup};
use crate::error::{Error, Result};
use crate::open::OpenContext;
use crate::open::external_files::Resolver;
use crate::open::limits::Limits;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::{JoinedSource, Source};
use flate2::read::MultiGzDecoder;
use std::path::Path;
use std::sync::Arc;

/// Chunks of one file that are unpacked one after the other: for each, all that
/// comes before it in a tar.gz is inflated again.
const MAX_PACKED_CHUNKS: usize = 64;

/// An OVF package.
#[derive(Debug)]
pub(super) struct Package {
    files: Files,
    descriptor: PackageFile,
    envelope: Envelope,
    manifest: Option<PackageFile>,
    /// Bytes of the envelope's files as they lie in the archive, as far as known.
    stored: Vec<Option<u64>>,
    /// False if only its bytes say that this is an appliance: then a disk's guest
    /// may have made it.
    unpacks: bool,
    pub(super) limits: Limits,
}

/// A file of the package, or a chunk of one: its bytes as they lie there.
#[derive(Debug, Clone)]
pub(super) struct PackageFile {
    /// Relative to the descriptor.
    pub(super) name: String,
    /// As the archive spells it.
    pub(super) path: String,
    /// What a zip archive says of bytes that nothing else vouches for.
    pub(super) crc32: Option<u32>,
    pub(super) source: Arc<dyn Source>,
}

impl PackageFile {
    /// A file that is in no archive.
    pub(super) fn plain(name: String, source: Arc<dyn Source>) -> Self {
        Self { path: name.clone(), name, crc32: None, source }
    }

    /// Holds the bytes against what the manifest, if there is one, and the
    /// archive say of them.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if they differ, or the manifest
    /// leaves the file out; what reading and `tick` said.
    pub(super) fn verify(
        &self,
        manifest: Option<&Manifest>,
        tick: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        if let Some(manifest) = manifest {
            manifest::verify(&manifest.of(self)?, &*self.source, tick)?;
        }
        let Some(said) = self.crc32 else { return Ok(()) };
        let found = manifest::crc32(&*self.source, tick)?;
        if found == said {
            return Ok(());
        }
        let message = format!("the CRC of '{}' is {found:08x}, not {said:08x}", self.name);
        Err(Error::corrupt("zip archive", message))
    }
}

impl Package {
    /// Opens an archive or a descriptor, reads the descriptor and finds the manifest.
    pub(super) fn open(source: Arc<dyn Source>, context: &OpenContext<'_>) -> Result<Self> {
        /// Enough to tell a descriptor behind some blanks.
        const HEAD: u64 = 64;
        let mut head = vec![0; to_usize(source.len().min(HEAD))];
        source
            .read_exact_at(&mut head, 0)
            .map_err(|e| Error::io("cannot read its beginning", e))?;
        let path = context.resolver.image;
        let unpacks = !context.probed || path.is_some_and(|path| is_called_so(path, &head));
        let limits = context.limits;
        let is_ovf = path.is_some_and(|path| has_extension(&path.to_string_lossy(), "ovf"));
        let (files, descriptor) = if is_ovf || markup::looks_like_it(&head) {
            let name = path.and_then(Path::file_name);
            let name = name.map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let descriptor = path.map(Path::to_owned);
            let Resolver { policy, access, .. } = context.resolver;
            (Files::Beside { descriptor, policy, access }, PackageFile::plain(name, source))
        } else {
            let archive = Archive::open(source, Packing::of(&head), limits)?;
            let part = open_text(&archive, only_descriptor(&archive)?, limits.ovf_bytes)?;
            let folder = part.path.rsplit_once('/').map(|(folder, _)| folder.to_owned());
            (
                Files::Archive { archive: Box::new(archive), folder: folder.unwrap_or_default() },
                part,
            )
        };
        let envelope = Envelope::parse(&text_of(&descriptor, limits)?, limits)
            .map_err(|e| e.in_structure(format!("OVF descriptor '{}'", descriptor.name)))?;
        let manifest = files.manifest(&descriptor, limits.ovf_bytes)?;
        let limits = limits.clone();
        let mut package =
            Self { files, descriptor, envelope, manifest, stored: Vec::new(), unpacks, limits };
        package.stored = package.stored_sizes();
        Ok(package)
    }

    pub(super) fn disks(&self) -> &[Disk] {
        &self.envelope.disks
    }

    pub(super) fn file_of(&self, disk: &Disk) -> Option<&File> {
        self.envelope.file_of(disk)
    }

    pub(super) fn descriptor(&self) -> &PackageFile {
        &self.descriptor
    }

    pub(super) fn manifest(&self) -> Option<&PackageFile> {
        self.manifest.as_ref()
    }

    /// What the manifest says, if there is one.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io), [`Limit`](crate::ErrorKind::Limit).
    pub(super) fn read_manifest(&self) -> Result<Option<Manifest>> {
        let Some(part) = &self.manifest else { return Ok(None) };
        Ok(Some(Manifest::parse(&text_of(part, &self.limits)?)))
    }

    /// Where the files are.
    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// The archive's file, or the descriptor.
    pub(super) fn main_source(&self) -> &Arc<dyn Source> {
        self.files.archive().unwrap_or(&self.descriptor.source)
    }

    /// Bytes of a disk's file as it lies in the package, all chunks together;
    /// `None` if only opening it would tell.
    pub(super) fn stored_size(&self, disk: &Disk) -> Option<u64> {
        self.stored.get(disk.file?).copied().flatten()
    }

    fn stored_sizes(&self) -> Vec<Option<u64>> {
        // Files may share their chunks: all of them together are not counted
        // more often than members can be.
        let mut left = self.limits.archive_members;
        let size = |file: &File| {
            let names = self.names(file).ok()?;
            left = left.checked_sub(to_u64(names.len()))?;
            let size = |name: &PartName| self.files.member(name.as_str()).map(|m| m.size);
            names.iter().try_fold(0u64, |sum, name| sum.checked_add(size(name)?))
        };
        match self.files.archive() {
            Some(_) => self.envelope.files.iter().map(size).collect(),
            None => Vec::new(),
        }
    }

    /// True if the file can be read where it lies, and no other file be opened.
    pub(super) fn in_place(&self, file: &File) -> bool {
        let names = || self.names(file).is_ok_and(|names| !self.any_packed(&names));
        self.files.archive().is_some() && !file.gzip && names()
    }

    /// True if one of these must be unpacked from an archive.
    fn any_packed(&self, names: &[PartName]) -> bool {
        let packed = |name: &PartName| {
            self.files.member(name.as_str()).is_some_and(|member| !member.in_place())
        };
        names.iter().any(packed)
    }

    /// The file as it lies in the package: one part, or its chunks.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if one is missing or a chunk has
    /// another length than its file says, [`Refused`](crate::ErrorKind::Refused)
    /// by the policy or for a name that leaves the package.
    pub(super) fn parts(&self, file: &File) -> Result<Vec<PackageFile>> {
        let names = self.names(file)?;
        if names.len() > MAX_PACKED_CHUNKS && self.any_packed(&names) {
            let (name, count) = (&file.href, names.len());
            let message = format!("'{name}' is cut into {count} chunks, in a packed archive");
            return Err(Error::limit(message).hint("unpack the archive and open the .ovf"));
        }
        let parts: Vec<_> =
            names.iter().map(|name| self.files.open(name)).collect::<Result<_>>()?;
        if let (Some(chunk), Some((_, all_but_last))) = (file.chunk, parts.split_last())
            && let Some(part) = all_but_last.iter().find(|part| part.source.len() != chunk)
        {
            let (name, len) = (&part.name, part.source.len());
            let message = format!("the chunk '{name}' has {len} bytes, not {chunk}");
            return Err(Error::corrupt("package", message));
        }
        Ok(parts)
    }

    /// The image in a file's parts: joined and decompressed.
    pub(super) fn image(&self, file: &File, parts: &[PackageFile]) -> Result<Arc<dyn Source>> {
        let joined = match parts {
            [part] => Arc::clone(&part.source),
            parts => {
                let sources = parts.iter().map(|part| Arc::clone(&part.source));
                let joined = JoinedSource::new(sources);
                Arc::new(joined.map_err(|e| Error::io("cannot join its chunks", e))?)
            }
        };
        if !file.gzip {
            return Ok(joined);
        }
        if !self.unpacks {
            let message = format!("'{}' is packed, and only first bytes speak of one", file.href);
            return Err(Error::refused(format!("it may be a disk and no appliance: {message}"))
                .hint("name the format (-f ova, -f raw)"));
        }
        let inflated = MultiGzDecoder::new(SourceReader::whole(&*joined));
        unpack::to_temporary_file(inflated, UnpackBudget::of(joined.len(), &self.limits))
            .map_err(|e| e.in_structure(format!("'{}'", file.href)))
    }

    /// The names of a file's parts, relative to the descriptor.
    fn names(&self, file: &File) -> Result<Vec<PartName>> {
        let name = self.files.name(&file.href)?;
        let Some(chunk) = file.chunk else { return Ok(vec![name]) };
        let Some(size) = file.size else {
            let message = format!("'{}' is cut into chunks, and its size is not given", file.href);
            return Err(Error::corrupt("OVF descriptor", message));
        };
        let count = size.div_ceil(chunk).max(1);
        if count > self.limits.file_chunks {
            let found = format!("'{}' is cut into {count} chunks", file.href);
            return Err(Error::over_limit("file_chunks", found, self.limits.file_chunks));
        }
        Ok((0..count).map(|index| name.chunk(index)).collect())
    }
}

fn text_of(part: &PackageFile, limits: &Limits) -> Result<Vec<u8>> {
    require_short(&part.name, part.source.len(), limits.ovf_bytes)?;
    let mut text = vec![0; to_usize(part.source.len())];
    part.source
        .read_exact_at(&mut text, 0)
        .map_err(|e| Error::io(format!("cannot read '{}'", part.name), e))?;
    Ok(text)
}

pub(super) fn has_extension(name: &str, extension: &str) -> bool {
    Path::new(name).extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}
