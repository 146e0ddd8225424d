//! The OVF package: a descriptor, the files it lists, and an optional manifest, in an archive or in
//! a directory.
//!
//! ```text
//!   appliance.ova: tar                     appliance.ovf      (opened by name)
//!     appliance.ovf   ── href ──┐          appliance.mf       (same directory)
//!     appliance.mf              │          disk1.vmdk         (same directory, if
//!     disk1.vmdk      ◄─────────┘                              the policy allows it)
//! ```

use super::archive::{Archive, Packing};
use super::envelope::{Disk, Envelope, File};
use super::files::{Files, PackageFileName, only_descriptor, open_text, require_text_len};
use super::manifest::{self, Manifest};
use super::{disk_archive, has_appliance_name, markup};
use crate::error::{Error, Result};
use crate::open::OpenContext;
use crate::open::external_files::{ExternalFiles, Resolver};
use crate::open::limits::Limits;
use crate::open::unpack::{self, UnpackBudget};
use crate::remedy::Remedy;
use crate::storage::number::{to_u64, to_usize};
use crate::storage::source::{JoinedSource, Source, SourceReader};
use flate2::read::MultiGzDecoder;
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// Maximum number of chunks of a file in a compressed archive: for each one, everything before it
/// in a tar.gz is decompressed again.
const MAX_PACKED_CHUNKS: usize = 64;

/// An OVF package.
#[derive(Debug)]
pub(super) struct Package {
    files: Files,
    /// `None` for an archive of disk images without one.
    descriptor: Option<PackageFile>,
    envelope: Envelope,
    manifest: Option<PackageFile>,
    /// The manifest, once it has been parsed.
    parsed_manifest: OnceLock<Manifest>,
    /// Sizes in bytes of the envelope's files as stored in the archive, where known.
    stored: Vec<Option<u64>>,
    /// Whether files may be decompressed. False if the package was recognized by its contents only:
    /// then it may be a raw disk whose guest has written it.
    unpacks: bool,
    /// Whether as much as possible of a damaged package is read.
    pub(super) salvage: bool,
    pub(super) limits: Limits,
}

/// A file of the package, or a chunk of one, as it is stored.
#[derive(Debug, Clone)]
pub(super) struct PackageFile {
    /// Name relative to the descriptor.
    pub(super) name: String,
    /// Name in the archive.
    pub(super) path: String,
    /// The CRC-32 that a zip archive records, if reading does not verify it.
    pub(super) crc32: Option<u32>,
    pub(super) source: Arc<dyn Source>,
}

impl PackageFile {
    /// Creates a file that is not in an archive.
    pub(super) fn plain(name: String, source: Arc<dyn Source>) -> Self {
        Self { path: name.clone(), name, crc32: None, source }
    }

    /// Verifies the bytes against the manifest, if there is one, and the archive's CRC.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if they differ or the manifest does not list the
    /// file, [`Io`](crate::ErrorKind::Io), and errors of `tick`.
    pub(super) fn verify(
        &self,
        manifest: Option<&Manifest>,
        tick: &mut dyn FnMut() -> Result<()>,
    ) -> Result<()> {
        if let Some(manifest) = manifest {
            manifest::verify(&manifest.entries_for(self)?, &*self.source, tick)?;
        }
        let Some(expected) = self.crc32 else { return Ok(()) };
        let found = manifest::crc32(&*self.source, tick)?;
        if found == expected {
            return Ok(());
        }
        let message = format!("the CRC of '{}' is {found:08x}; expected {expected:08x}", self.name);
        Err(Error::corrupt("zip archive", message))
    }
}

impl Package {
    /// Opens an archive or a descriptor, parses the descriptor and locates the manifest.
    ///
    /// # Errors
    /// As [`Archive::open`], [`Envelope::parse`], [`disk_archive::envelope`] and
    /// [`Files::manifest`].
    pub(super) fn open(source: Arc<dyn Source>, context: &OpenContext<'_>) -> Result<Self> {
        /// Enough to recognize a descriptor with leading whitespace.
        const HEAD: u64 = 64;
        let mut head = vec![0; to_usize(source.len().min(HEAD))];
        source
            .read_exact_at(&mut head, 0)
            .map_err(|e| Error::io("cannot read the first bytes", e))?;
        let path = context.resolver.image;
        let packing = Packing::of(&head);
        // Listing a compressed archive decompresses it already.
        let named = path.is_some_and(|path| has_appliance_name(path, &head));
        let unpacks = !context.probed || named || packing == Packing::Gzip;
        let limits = context.limits;
        let is_ovf = path.is_some_and(|path| has_extension(&path.to_string_lossy(), "ovf"));
        let (files, descriptor) = if is_ovf || markup::looks_like_xml(&head) {
            let (files, descriptor) = of_descriptor(source, context);
            (files, Some(descriptor))
        } else {
            let partial = context.tolerates_damage() || context.salvage;
            let archive = Archive::open(source, packing, limits, partial)?;
            let descriptor = only_descriptor(&archive)?
                .map(|member| open_text(&archive, member, limits.ovf_bytes))
                .transpose()?;
            let path = descriptor.as_ref().map_or("", |descriptor| &descriptor.path);
            let directory = path.rsplit_once('/').map_or("", |(dir, _)| dir).to_owned();
            (Files::Archive { archive: Box::new(archive), directory }, descriptor)
        };
        let mut package = Self {
            files,
            descriptor,
            envelope: Envelope::default(),
            manifest: None,
            parsed_manifest: OnceLock::new(),
            stored: Vec::new(),
            unpacks,
            salvage: context.salvage,
            limits: limits.clone(),
        };
        package.read_envelope()?;
        package.stored = package.stored_sizes();
        Ok(package)
    }

    /// Parses the descriptor and locates the manifest, or lists the disks of an archive without
    /// them.
    fn read_envelope(&mut self) -> Result<()> {
        let limits = &self.limits;
        match (&self.descriptor, self.files.archive()) {
            (Some(descriptor), _) => {
                self.envelope = Envelope::parse(&text_of(descriptor, limits)?, limits)
                    .map_err(|e| e.in_structure(format!("OVF descriptor '{}'", descriptor.name)))?;
                self.manifest = self.files.manifest(descriptor, limits.ovf_bytes)?;
            }
            (None, Some(archive)) => self.envelope = disk_archive::envelope(archive, limits)?,
            (None, None) => {}
        }
        Ok(())
    }

    pub(super) fn disks(&self) -> &[Disk] {
        &self.envelope.disks
    }

    pub(super) fn file_of(&self, disk: &Disk) -> Option<&File> {
        self.envelope.file_of(disk)
    }

    pub(super) fn descriptor(&self) -> Option<&PackageFile> {
        self.descriptor.as_ref()
    }

    /// Names of all files that the descriptor lists, relative to the descriptor.
    #[cfg(feature = "inspect")]
    pub(super) fn listed(&self) -> &[String] {
        &self.envelope.listed
    }

    pub(super) fn manifest(&self) -> Option<&PackageFile> {
        self.manifest.as_ref()
    }

    /// Reads the manifest, if there is one.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io), [`Limit`](crate::ErrorKind::Limit) if it is too long.
    pub(super) fn read_manifest(&self) -> Result<Option<&Manifest>> {
        let Some(file) = &self.manifest else { return Ok(None) };
        if self.parsed_manifest.get().is_none() {
            let parsed = Manifest::parse(&text_of(file, &self.limits)?);
            let _ = self.parsed_manifest.set(parsed);
        }
        Ok(self.parsed_manifest.get())
    }

    /// Describes why the descriptor cannot be verified, although there is a manifest.
    pub(super) fn unlisted_descriptor(&self) -> Option<String> {
        let (manifest, descriptor) = (self.read_manifest().ok()??, self.descriptor.as_ref()?);
        let error = manifest.entries_for(descriptor).err()?;
        Some(error.without_remedy())
    }

    /// The location of the package's files.
    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// The file that was opened: the archive or the descriptor.
    pub(super) fn main_source(&self) -> &Arc<dyn Source> {
        let descriptor = || self.descriptor.as_ref().map(|descriptor| &descriptor.source);
        let archive = self.files.archive().map(Archive::source);
        archive.or_else(descriptor).expect("a package without an archive has a descriptor")
    }

    /// Total size in bytes of a disk's file as stored in the package; `None` if it would have to be
    /// opened to find out.
    pub(super) fn stored_size(&self, disk: &Disk) -> Option<u64> {
        self.stored.get(disk.file?).copied().flatten()
    }

    fn stored_sizes(&self) -> Vec<Option<u64>> {
        // A crafted descriptor may list the same chunks in many files: the total number of lookups
        // is bounded by the maximum number of members.
        let mut lookups = self.limits.archive_members;
        let size = |file: &File| {
            lookups = lookups.checked_sub(self.chunk_count(file).ok()?.unwrap_or(1))?;
            let names = self.names(file).ok()?;
            let size = |name: &PackageFileName| self.files.member(name.as_str()).map(|m| m.size);
            names.iter().try_fold(0u64, |sum, name| sum.checked_add(size(name)?))
        };
        match self.files.archive() {
            Some(_) => self.envelope.files.iter().map(size).collect(),
            None => Vec::new(),
        }
    }

    /// True if the file can be read within the archive, without decompressing it or opening another
    /// file.
    pub(super) fn in_place(&self, file: &File) -> bool {
        let unpacked = || self.names(file).is_ok_and(|names| !self.any_packed(&names));
        self.files.archive().is_some() && !file.gzip && unpacked()
    }

    /// True if one of these files must be decompressed.
    fn any_packed(&self, names: &[PackageFileName]) -> bool {
        let packed = |name: &PackageFileName| {
            self.files.member(name.as_str()).is_some_and(|member| !member.in_place())
        };
        names.iter().any(packed)
    }

    /// Opens the chunks of a file as they are stored. A file that is not divided into chunks is a
    /// single one.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if a chunk is missing or does not have the stated
    /// length, [`Refused`](crate::ErrorKind::Refused) if the policy forbids it or a name leads out
    /// of the package, [`Limit`](crate::ErrorKind::Limit) for too many chunks; otherwise as
    /// [`Files::open`].
    pub(super) fn chunks(&self, file: &File) -> Result<Vec<PackageFile>> {
        let names = self.names(file)?;
        if names.len() > MAX_PACKED_CHUNKS && self.any_packed(&names) {
            let (name, count) = (&file.href, names.len());
            let message = format!(
                "'{name}' is divided into {count} chunks in a compressed archive; at most \
                 {MAX_PACKED_CHUNKS} are supported"
            );
            return Err(Error::limit(message).hint("unpack the archive and open the .ovf"));
        }
        let chunks: Vec<_> =
            names.iter().map(|name| self.files.open(name)).collect::<Result<_>>()?;
        if let (Some(expected), Some((_, all_but_last))) = (file.chunk, chunks.split_last())
            && let Some(chunk) = all_but_last.iter().find(|c| c.source.len() != expected)
        {
            let (name, len) = (&chunk.name, chunk.source.len());
            let message = format!("the chunk '{name}' has {len} bytes; expected {expected}");
            return Err(Error::corrupt("package", message));
        }
        Ok(chunks)
    }

    /// Joins and decompresses a file's chunks.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) if the file is compressed and the package was
    /// recognized by its contents only; as [`unpack::to_temporary_file`].
    pub(super) fn image(&self, file: &File, chunks: &[PackageFile]) -> Result<Arc<dyn Source>> {
        let joined = match chunks {
            [chunk] => Arc::clone(&chunk.source),
            chunks => {
                let sources = chunks.iter().map(|chunk| Arc::clone(&chunk.source));
                let joined = JoinedSource::new(sources);
                Arc::new(joined.map_err(|e| Error::io("cannot join the chunks", e))?)
            }
        };
        if !file.gzip {
            return Ok(joined);
        }
        if !self.unpacks {
            return Err(Error::refused(format!(
                "the file may be a raw disk: only its contents look like an appliance, and '{}' \
                 would have to be decompressed",
                file.href
            ))
            .hint("name the format: ova or raw")
            .with_remedy(Remedy::NameFormat));
        }
        let inflated = MultiGzDecoder::new(SourceReader::whole(&*joined));
        // A file of a compressed archive may have been decompressed already.
        let opened = self.files.archive().map(|archive| archive.source().len());
        let packed = joined.stored_len().min(opened.unwrap_or(u64::MAX));
        unpack::to_temporary_file(inflated, UnpackBudget::of(packed, &self.limits))
            .map_err(|e| e.in_structure(format!("'{}'", file.href)))
    }

    /// Returns the names of a file's chunks, relative to the descriptor.
    pub(super) fn names(&self, file: &File) -> Result<Vec<PackageFileName>> {
        let name = self.files.name(&file.href)?;
        let Some(count) = self.chunk_count(file)? else { return Ok(vec![name]) };
        Ok((0..count).map(|index| name.chunk(index)).collect())
    }

    /// Returns the number of a file's chunks, if it is divided into chunks.
    fn chunk_count(&self, file: &File) -> Result<Option<u64>> {
        let Some(chunk) = file.chunk else { return Ok(None) };
        let Some(size) = file.size else {
            let message = format!("'{}' is divided into chunks, but has no size", file.href);
            return Err(Error::corrupt("OVF descriptor", message));
        };
        let count = size.div_ceil(chunk).max(1);
        if count > self.limits.file_chunks {
            let found = format!("'{}' is divided into {count} chunks", file.href);
            return Err(Error::over_limit("file_chunks", found, self.limits.file_chunks));
        }
        // If there are more, one of the first ones is missing.
        let most = self.files.archive().map(|archive| to_u64(archive.members().len()) + 1);
        Ok(Some(most.map_or(count, |most| count.min(most))))
    }
}

/// Returns the files next to a descriptor, and the descriptor.
fn of_descriptor(source: Arc<dyn Source>, context: &OpenContext<'_>) -> (Files, PackageFile) {
    let Resolver { image, policy, read_mode, origin, .. } = context.resolver;
    let name = image.and_then(Path::file_name);
    let name = name.map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let descriptor = image.map(Path::to_owned);
    // Files next to a descriptor are opened by path.
    let policy = origin.map_or(policy, |_| ExternalFiles::None);
    (Files::Directory { descriptor, policy, read_mode }, PackageFile::plain(name, source))
}

pub(super) fn text_of(file: &PackageFile, limits: &Limits) -> Result<Vec<u8>> {
    require_text_len(&file.name, file.source.len(), limits.ovf_bytes)?;
    let mut text = vec![0; to_usize(file.source.len())];
    file.source
        .read_exact_at(&mut text, 0)
        .map_err(|e| Error::io(format!("cannot read '{}'", file.name), e))?;
    Ok(text)
}

/// True if the name has this extension, in any case.
pub(super) fn has_extension(name: &str, extension: &str) -> bool {
    Path::new(name).extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}
