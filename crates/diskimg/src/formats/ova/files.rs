//! Where a package's files are: in an archive, or beside the descriptor. Every
//! name that comes from the package becomes a file here, and nowhere else.

use super::archive::{Archive, Member, normal_name};
use super::package::{PackageFile, has_extension};
use crate::error::{Error, Result};
use crate::open::external_files::{ExternalFiles, Resolver};
use crate::storage::source::{ReadMode, Source};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where the package's files are.
#[derive(Debug)]
pub(super) enum Files {
    /// In an archive; names start at the descriptor's folder.
    Archive { archive: Box<Archive>, folder: String },
    /// Beside the descriptor, whose own path this is; beside one without a path
    /// there is nothing.
    Beside { descriptor: Option<PathBuf>, policy: ExternalFiles, access: ReadMode },
}

/// A file's name relative to the descriptor: inside the package, in one spelling.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PartName(String);

impl PartName {
    /// The chunk with this index.
    pub(super) fn chunk(&self, index: u64) -> Self {
        Self(format!("{}.{index:09}", self.0))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Files {
    /// The name behind an `href`: relative, inside the package, without `%20`.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) if it leads out of the package.
    pub(super) fn name(&self, href: &str) -> Result<PartName> {
        let refused = |why: &str| {
            Error::refused(format!("it names the file '{href}', {why}"))
                .hint("a package holds its own files: bring that file and edit the descriptor")
        };
        // A name may hold a percent sign or a colon that means itself.
        let literal = self.member(href).is_some();
        let before_slash = href.split('/').next().unwrap_or_default();
        if before_slash.contains(':') && !literal {
            return Err(refused("which is elsewhere"));
        }
        let name = if literal { href.to_owned() } else { percent_decoded(href) };
        let outside = name.starts_with(['/', '\\'])
            || name.contains('\0')
            || name.split(['/', '\\']).any(|part| part == "..");
        let name = normal_name(&name);
        if outside || name.is_empty() {
            return Err(refused("which is outside the package"));
        }
        Ok(PartName(name))
    }

    /// As [`name`](Self::name), for a manifest, which may name files as the
    /// archive does.
    pub(super) fn listed(&self, name: &str) -> Result<PartName> {
        if let Self::Archive { folder, .. } = self
            && self.member(name).is_none()
            && let Some(name) = name.strip_prefix(folder.as_str()).and_then(|n| n.strip_prefix('/'))
        {
            return self.name(name);
        }
        self.name(name)
    }

    /// Opens a file.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is not in the archive,
    /// [`Io`](crate::ErrorKind::Io) if it is not beside the descriptor,
    /// [`Refused`](crate::ErrorKind::Refused) by the policy.
    pub(super) fn open(&self, PartName(name): &PartName) -> Result<PackageFile> {
        match self {
            Self::Archive { archive, .. } => {
                let Some(member) = self.member(name) else {
                    let message = format!("the file '{name}' is not in the archive");
                    return Err(Error::corrupt("package", message));
                };
                let source =
                    archive.open_member(member).map_err(|e| e.in_structure(format!("'{name}'")))?;
                Ok(PackageFile {
                    name: name.clone(),
                    path: member.name.to_string(),
                    crc32: member.crc32(),
                    source,
                })
            }
            Self::Beside { descriptor, policy, access } => {
                let Some(descriptor) = descriptor else {
                    return Err(Error::refused(format!(
                        "it names the file '{name}', and a descriptor without a path has nothing \
                         beside it"
                    ))
                    .hint("open the .ovf by its path"));
                };
                let resolver = beside(descriptor, *policy, *access);
                Ok(PackageFile::plain(name.clone(), resolver.open("file", &relative(name))?))
            }
        }
    }

    /// The archive's member of this name.
    pub(super) fn member(&self, name: &str) -> Option<&Member> {
        match self {
            Self::Archive { archive, folder } if folder.is_empty() => {
                archive.find(&normal_name(name))
            }
            Self::Archive { archive, folder } => {
                archive.find(&normal_name(&format!("{folder}/{name}")))
            }
            Self::Beside { .. } => None,
        }
    }

    /// The archive's file, if there is one.
    pub(super) fn archive(&self) -> Option<&Arc<dyn Source>> {
        match self {
            Self::Archive { archive, .. } => Some(archive.source()),
            Self::Beside { .. } => None,
        }
    }

    /// Prepares for reading many files: what is packed as a whole is unpacked once.
    ///
    /// # Errors
    /// As [`Archive::unpack`].
    pub(super) fn unpack(&self) -> Result<()> {
        match self {
            Self::Archive { archive, .. } => archive.unpack(),
            Self::Beside { .. } => Ok(()),
        }
    }

    /// The manifest: any of an archive, as there can be one only; beside a
    /// descriptor the one that has its name, in whatever case.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if there are several,
    /// [`Refused`](crate::ErrorKind::Refused), [`Io`](crate::ErrorKind::Io).
    pub(super) fn manifest(
        &self,
        descriptor: &PackageFile,
        longest: u64,
    ) -> Result<Option<PackageFile>> {
        match self {
            Self::Archive { archive, .. } => {
                let manifests = archive.members().iter().filter(|m| has_extension(&m.name, "mf"));
                let manifests: Vec<_> = manifests.collect();
                one_of("manifests", &manifests.iter().map(|m| &*m.name).collect::<Vec<_>>())?;
                let Some(member) = manifests.first() else { return Ok(None) };
                open_text(archive, member, longest).map(Some)
            }
            // Who may open nothing gets no disk either, and is told so then.
            Self::Beside { policy: ExternalFiles::None, .. }
            | Self::Beside { descriptor: None, .. } => Ok(None),
            Self::Beside { descriptor: Some(path), policy, access } => {
                let names = manifests_beside(path, &descriptor.name)?;
                one_of("manifests", &names.iter().map(String::as_str).collect::<Vec<_>>())?;
                let Some(name) = names.first() else { return Ok(None) };
                let resolver = beside(path, *policy, *access);
                let source = resolver.open("manifest", &relative(name))?;
                Ok(Some(PackageFile::plain(name.clone(), source)))
            }
        }
    }
}

fn beside(descriptor: &Path, policy: ExternalFiles, access: ReadMode) -> Resolver<'_> {
    Resolver { access, ..Resolver::new(Some(descriptor), policy) }
}

/// Files in the descriptor's folder that are called as it is, but `.mf`.
fn manifests_beside(path: &Path, descriptor: &str) -> Result<Vec<String>> {
    let wanted = Path::new(descriptor).with_extension("mf").to_string_lossy().to_lowercase();
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let cannot = |e| Error::io("cannot look for its manifest", e);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder.unwrap_or(Path::new("."))).map_err(cannot)? {
        let name = entry.map_err(cannot)?.file_name();
        names.extend(name.into_string().ok().filter(|name| name.to_lowercase() == wanted));
    }
    names.sort();
    Ok(names)
}

/// The one descriptor of an archive.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if there is none, or are several.
pub(super) fn only_descriptor(archive: &Archive) -> Result<&Member> {
    let found: Vec<_> =
        archive.members().iter().filter(|m| has_extension(&m.name, "ovf")).collect();
    one_of("descriptors", &found.iter().map(|m| &*m.name).collect::<Vec<_>>())?;
    found.first().copied().ok_or_else(|| {
        Error::corrupt("archive", "no .ovf among its members")
            .hint("it is no OVA: name the format (-f), or unpack it")
    })
}

fn one_of(what: &str, names: &[&str]) -> Result<()> {
    if names.len() < 2 {
        return Ok(());
    }
    const SHOWN: usize = 8;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    let message = format!("{} {what}: {shown}", names.len());
    Err(Error::corrupt("package", message).hint("leave only the right one, or unpack the archive"))
}

/// Opens a member that will be read as a whole, of at most `longest` bytes.
pub(super) fn open_text(archive: &Archive, member: &Member, longest: u64) -> Result<PackageFile> {
    require_short(&member.name, member.size, longest)?;
    let source =
        archive.open_member(member).map_err(|e| e.in_structure(format!("'{}'", member.name)))?;
    let name = member.name.rsplit('/').next().unwrap_or_default().to_owned();
    Ok(PackageFile { name, path: member.name.to_string(), crc32: member.crc32(), source })
}

/// # Errors
/// [`Limit`](crate::ErrorKind::Limit) for more than `most` bytes.
pub(super) fn require_short(name: &str, size: u64, most: u64) -> Result<()> {
    if size > most {
        let found = format!("'{name}' has {size} bytes");
        return Err(Error::over_limit("ovf_bytes", found, most));
    }
    Ok(())
}

/// A name that is no protocol's: `./a:b`.
fn relative(name: &str) -> String {
    if name.contains(':') { format!("./{name}") } else { name.to_owned() }
}

/// RFC 3986, section 2.1; what is no escape stands for itself.
pub(super) fn percent_decoded(text: &str) -> String {
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
