//! The OVF package: a descriptor, the files it names, and perhaps a manifest,
//! in an archive or side by side.
//!
//! ```text
//!   appliance.ova: tar                     appliance.ovf      (opened by its name)
//!     appliance.ovf   ── href ──┐          appliance.mf       (beside it)
//!     appliance.mf              │          disk1.vmdk         (beside it, as far as
//!     disk1.vmdk      ◄─────────┘                              the policy allows)
//! ```

use super::archive::{Archive, Member, Packing, normal_name};
use super::envelope::{Disk, Envelope, File};
use super::unpack::{self, SourceReader};
use crate::host::source::{JoinedSource, Source};
use crate::vocabulary::error::{Error, ErrorKind, Result};
use crate::vocabulary::limits::Limits;
use crate::vocabulary::open::OpenContext;
use crate::vocabulary::reference::{References, Resolver};
use flate2::read::MultiGzDecoder;
use std::io::ErrorKind::NotFound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Chunks of one file. vSphere's are of gigabytes.
const MAX_CHUNKS: u64 = 10_000;

/// Chunks of one file that are unpacked one after the other: for each, all that
/// comes before it in a tar.gz is inflated again.
const MAX_PACKED_CHUNKS: usize = 64;

/// An OVF package.
#[derive(Debug)]
pub(super) struct Package {
    files: Files,
    descriptor: Part,
    envelope: Envelope,
    manifest: Option<Part>,
    pub(super) limits: Limits,
}

/// Where the package's files are.
#[derive(Debug)]
enum Files {
    /// In an archive; names start at the descriptor's folder.
    Archive { archive: Archive, folder: String },
    /// Beside the descriptor, whose own path this is.
    Beside { descriptor: Option<PathBuf>, policy: References },
}

/// A file of the package, or a chunk of one: its bytes as they lie there.
#[derive(Debug, Clone)]
pub(super) struct Part {
    /// Relative to the descriptor, as a manifest spells it.
    pub(super) name: String,
    pub(super) source: Arc<dyn Source>,
}

impl Package {
    /// Opens an archive or a descriptor, reads the descriptor and finds the manifest.
    pub(super) fn open(source: Arc<dyn Source>, context: &OpenContext<'_>) -> Result<Self> {
        let mut head = vec![0; source.len().min(8) as usize];
        source
            .read_exact_at(&mut head, 0)
            .map_err(|e| Error::io("cannot read its beginning", e))?;
        let packing = Packing::of(&head);
        let text = head.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&head);
        let (files, descriptor) = if text.trim_ascii_start().starts_with(b"<") {
            let path = context.resolver.image.map(Path::to_owned);
            let name = path.as_deref().and_then(Path::file_name);
            let name = name.map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let policy = context.resolver.policy;
            (Files::Beside { descriptor: path, policy }, Part { name, source })
        } else {
            let archive = Archive::open(source, packing, context.limits.unpacked_bytes)?;
            let member = only_descriptor(&archive)?;
            let source = open_text(&archive, member, context.limits)?;
            let (folder, name) = member.name.rsplit_once('/').unwrap_or(("", &member.name));
            let (folder, name) = (folder.to_owned(), name.to_owned());
            (Files::Archive { archive, folder }, Part { name, source })
        };
        let envelope = Envelope::parse(&text_of(&descriptor, context.limits)?)
            .map_err(|e| e.in_structure(format!("OVF descriptor '{}'", descriptor.name)))?;
        let mut package =
            Self { files, descriptor, envelope, manifest: None, limits: context.limits.clone() };
        package.manifest = package.find_manifest()?;
        Ok(package)
    }

    pub(super) fn disks(&self) -> &[Disk] {
        &self.envelope.disks
    }

    pub(super) fn file_of(&self, disk: &Disk) -> Option<&File> {
        self.envelope.file_of(disk)
    }

    pub(super) fn descriptor(&self) -> &Part {
        &self.descriptor
    }

    pub(super) fn manifest(&self) -> Option<&Part> {
        self.manifest.as_ref()
    }

    /// The manifest's text.
    pub(super) fn manifest_text(&self) -> Result<Option<Vec<u8>>> {
        self.manifest.as_ref().map(|part| text_of(part, &self.limits)).transpose()
    }

    /// The archive's file, or the descriptor.
    pub(super) fn main_source(&self) -> &Arc<dyn Source> {
        match &self.files {
            Files::Archive { archive, .. } => archive.source(),
            Files::Beside { .. } => &self.descriptor.source,
        }
    }

    /// Who may open what an image in the package names: nobody, in an archive.
    pub(super) fn resolver<'a>(&self, image: &'a Part) -> Resolver<'a> {
        match &self.files {
            Files::Archive { .. } => Resolver::new(None, References::None),
            Files::Beside { policy, .. } => Resolver::new(image.source.path(), *policy),
        }
    }

    /// Bytes of a file as it lies in the package, all chunks together; `None`
    /// if only opening it would tell.
    pub(super) fn stored_size(&self, file: &File) -> Option<u64> {
        let Files::Archive { archive, .. } = &self.files else { return None };
        let names = self.names(file).ok()?;
        let size = |name: &String| archive.find(&self.path_of(name)).map(|member| member.size);
        names.iter().try_fold(0u64, |sum, name| sum.checked_add(size(name)?))
    }

    /// True if the file can be read where it lies, and no other file be opened.
    pub(super) fn in_place(&self, file: &File) -> bool {
        let is_archive = matches!(self.files, Files::Archive { .. });
        is_archive && !file.gzip && self.names(file).is_ok_and(|names| !self.any_packed(&names))
    }

    /// True if one of these must be unpacked from an archive.
    fn any_packed(&self, names: &[String]) -> bool {
        let Files::Archive { archive, .. } = &self.files else { return false };
        let packed =
            |name: &String| archive.find(&self.path_of(name)).is_some_and(|m| !m.in_place());
        names.iter().any(packed)
    }

    /// The file as it lies in the package: one part, or its chunks.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if one is missing or a chunk has
    /// another length than its file says, [`Refused`](crate::ErrorKind::Refused)
    /// by the policy or for a name that leaves the package.
    pub(super) fn parts(&self, file: &File) -> Result<Vec<Part>> {
        let names = self.names(file)?;
        if names.len() > MAX_PACKED_CHUNKS && self.any_packed(&names) {
            let (name, count) = (&file.href, names.len());
            let message = format!("'{name}' is cut into {count} chunks, in a packed archive");
            return Err(Error::limit(message).hint("unpack the archive and open the .ovf"));
        }
        let parts: Vec<_> =
            names.into_iter().map(|name| self.open_part(name)).collect::<Result<_>>()?;
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
    pub(super) fn image(&self, file: &File, parts: &[Part]) -> Result<Arc<dyn Source>> {
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
        let inflated = MultiGzDecoder::new(SourceReader::whole(&*joined));
        unpack::to_temporary_file(inflated, self.limits.unpacked_bytes)
            .map_err(|e| e.in_structure(format!("'{}'", file.href)))
    }

    /// Opens a file by its name relative to the descriptor.
    pub(super) fn open_part(&self, name: String) -> Result<Part> {
        let source = match &self.files {
            Files::Archive { archive, .. } => {
                let Some(member) = archive.find(&self.path_of(&name)) else {
                    let message = format!("the file '{name}' is not in the archive");
                    return Err(Error::corrupt("package", message));
                };
                archive.open_member(member).map_err(|e| e.in_structure(format!("'{name}'")))?
            }
            Files::Beside { descriptor, policy } => {
                let resolver = Resolver::new(descriptor.as_deref(), *policy);
                resolver.open("disk file", &name)?
            }
        };
        Ok(Part { name, source })
    }

    /// The names of a file's parts, relative to the descriptor.
    fn names(&self, file: &File) -> Result<Vec<String>> {
        let name = self.plain_name(&file.href)?;
        let Some(chunk) = file.chunk else { return Ok(vec![name]) };
        let Some(size) = file.size else {
            let message = format!("'{name}' is cut into chunks, and its size is not given");
            return Err(Error::corrupt("OVF descriptor", message));
        };
        let count = size.div_ceil(chunk).max(1);
        if count > MAX_CHUNKS {
            let message = format!("'{name}' is cut into {count} chunks; at most {MAX_CHUNKS}");
            return Err(Error::limit(message));
        }
        Ok((0..count).map(|i| format!("{name}.{i:09}")).collect())
    }

    /// The name behind an `href`: relative, inside the package, without `%20`.
    fn plain_name(&self, href: &str) -> Result<String> {
        let refused = |why: &str| {
            Error::refused(format!("it names the file '{href}', {why}"))
                .hint("a package holds its own files: bring that file and edit the descriptor")
        };
        let before_slash = href.split('/').next().unwrap_or_default();
        if before_slash.contains(':') {
            return Err(refused("which is elsewhere"));
        }
        // A name may hold a percent sign that means itself.
        let literal = match &self.files {
            Files::Archive { archive, .. } => archive.find(&self.path_of(href)).is_some(),
            Files::Beside { .. } => false,
        };
        let name = if literal { href.to_owned() } else { percent_decoded(href) };
        let outside = name.starts_with(['/', '\\'])
            || name.contains('\0')
            || name.split(['/', '\\']).any(|part| part == "..");
        let name = normal_name(&name);
        if outside || name.is_empty() {
            return Err(refused("which is outside the package"));
        }
        Ok(name)
    }

    /// A file's path in the archive, if there is one.
    fn path_of(&self, name: &str) -> String {
        match &self.files {
            Files::Archive { folder, .. } => normal_name(&format!("{folder}/{name}")),
            Files::Beside { .. } => name.to_owned(),
        }
    }

    /// The manifest: it has the descriptor's name. In an archive, any other
    /// does if it is the only one.
    fn find_manifest(&self) -> Result<Option<Part>> {
        let own = Path::new(&self.descriptor.name).with_extension("mf");
        let own = own.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        match &self.files {
            Files::Archive { archive, .. } => {
                let manifests = archive.members().iter().filter(|m| has_extension(&m.name, "mf"));
                let manifests: Vec<_> = manifests.collect();
                let path = self.path_of(&own);
                let found = match manifests.as_slice() {
                    [only] => Some(*only),
                    several => several.iter().copied().find(|m| m.name == path),
                };
                let part = |member: &Member| {
                    let source = open_text(archive, member, &self.limits)?;
                    Ok(Part { name: member.name.clone(), source })
                };
                found.map(part).transpose()
            }
            // A descriptor without a name has nothing beside it.
            Files::Beside { .. } if self.descriptor.name.is_empty() => Ok(None),
            Files::Beside { .. } => match self.open_part(own) {
                Ok(part) => Ok(Some(part)),
                // A policy that forbids the manifest forbids the disks, and
                // says so then.
                Err(e) if e.kind() == ErrorKind::Refused => Ok(None),
                Err(e) if e.io_error().is_some_and(|e| e.kind() == NotFound) => Ok(None),
                Err(e) => Err(e),
            },
        }
    }
}

/// The one `.ovf` of an archive.
fn only_descriptor(archive: &Archive) -> Result<&Member> {
    let found: Vec<_> =
        archive.members().iter().filter(|m| has_extension(&m.name, "ovf")).collect();
    match found.as_slice() {
        [one] => Ok(one),
        [] => Err(Error::corrupt("archive", "no .ovf among its members")
            .hint("it is no OVA: name the format (-f), or unpack it")),
        several => {
            let names: Vec<_> = several.iter().take(8).map(|m| m.name.as_str()).collect();
            let message = format!("{} descriptors: {}", several.len(), names.join(", "));
            Err(Error::corrupt("archive", message).hint("unpack it and open one of them"))
        }
    }
}

/// Opens a member that will be read as a whole.
fn open_text(archive: &Archive, member: &Member, limits: &Limits) -> Result<Arc<dyn Source>> {
    require_short(&member.name, member.size, limits)?;
    archive.open_member(member).map_err(|e| e.in_structure(format!("'{}'", member.name)))
}

fn text_of(part: &Part, limits: &Limits) -> Result<Vec<u8>> {
    require_short(&part.name, part.source.len(), limits)?;
    let mut text = vec![0; part.source.len() as usize];
    part.source
        .read_exact_at(&mut text, 0)
        .map_err(|e| Error::io(format!("cannot read '{}'", part.name), e))?;
    Ok(text)
}

fn require_short(name: &str, size: u64, limits: &Limits) -> Result<()> {
    if size > limits.ovf_bytes {
        let most = limits.ovf_bytes;
        return Err(Error::limit(format!("'{name}' has {size} bytes; at most {most}")));
    }
    Ok(())
}

pub(super) fn has_extension(name: &str, extension: &str) -> bool {
    Path::new(name).extension().is_some_and(|e| e.eq_ignore_ascii_case(extension))
}

/// RFC 3986, section 2.1; what is no escape stands for itself.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail.get(..2).and_then(|d| std::str::from_utf8(d).ok());
        let escape = digits
            .filter(|d| byte == b'%' && d.bytes().all(|b| b.is_ascii_hexdigit()))
            .and_then(|d| u8::from_str_radix(d, 16).ok());
        bytes.push(escape.unwrap_or(byte));
        rest = if escape.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_of_a_name_are_undone_once() {
        for (href, name) in
            [("a%20b", "a b"), ("%2e%2E/x", "../x"), ("100%", "100%"), ("%zz%2520", "%zz%20")]
        {
            assert_eq!(percent_decoded(href), name);
        }
    }
}
