//! The location of a package's files: an archive, or the descriptor's directory. This is the only
//! place where a name from the package is resolved to a file.

use super::archive::{Archive, MAX_NAME, Member, normal_name};
use super::package::{PackageFile, has_extension};
use super::spelling;
use crate::error::{Error, Result};
use crate::open::external_files::{ExternalFiles, Resolver};
use crate::storage::source::ReadMode;
use std::io;
use std::path::{Path, PathBuf};

/// The location of the package's files.
#[derive(Debug)]
pub(super) enum Files {
    /// An archive. Names are relative to `directory`, which contains the descriptor.
    Archive { archive: Box<Archive>, directory: String },
    /// The directory of the descriptor, whose path is given. A descriptor without a path has no
    /// other files.
    Directory { descriptor: Option<PathBuf>, policy: ExternalFiles, read_mode: ReadMode },
}

/// The normalized name of a file, relative to the descriptor's directory and inside the package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct PackageFileName(String);

impl PackageFileName {
    /// Returns the name of the chunk with this index.
    pub(super) fn chunk(&self, index: u64) -> Self {
        Self(format!("{}.{index:09}", self.0))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Files {
    /// Converts an `href` to a file name, decoding percent escapes.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) if it is a URL or leads out of the package,
    /// [`Limit`](crate::ErrorKind::Limit) if it is longer than any path.
    pub(super) fn name(&self, href: &str) -> Result<PackageFileName> {
        if href.len() > MAX_NAME {
            let what = format!("a file name of {} bytes; the maximum is {MAX_NAME}", href.len());
            return Err(Error::limit(what).in_structure("OVF package"));
        }
        let refused = |why: &str| {
            Error::refused(format!("the package refers to the file '{href}', {why}")).hint(
                "copy the file to the descriptor's directory and correct its name in the \
                 descriptor",
            )
        };
        // An href that equals a member's name is used as it is, because member names may contain
        // percent signs and colons.
        let literal = self.member(href).is_some();
        let before_slash = href.split('/').next().unwrap_or_default();
        if before_slash.contains(':') && !literal {
            return Err(refused("which is a URL"));
        }
        let name = if literal { href.to_owned() } else { percent_decoded(href) };
        let outside = name.starts_with(['/', '\\'])
            || name.contains('\0')
            || name.split(['/', '\\']).any(|component| component == "..");
        let name = normal_name(&name);
        if outside || name.is_empty() {
            return Err(refused("which is outside the package"));
        }
        Ok(PackageFileName(name))
    }

    /// As [`name`](Self::name), for the names in a manifest, which may be relative to the archive's
    /// root.
    pub(super) fn manifest_name(&self, name: &str) -> Result<PackageFileName> {
        if let Self::Archive { directory, .. } = self
            && self.member(name).is_none()
            && let Some(name) =
                name.strip_prefix(directory.as_str()).and_then(|n| n.strip_prefix('/'))
        {
            return self.name(name);
        }
        self.name(name)
    }

    /// Opens a file.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if it is not in the archive,
    /// [`Io`](crate::ErrorKind::Io) if it is not in the descriptor's directory,
    /// [`Refused`](crate::ErrorKind::Refused) if the policy forbids it; otherwise as
    /// [`Archive::open_member`].
    pub(super) fn open(&self, PackageFileName(name): &PackageFileName) -> Result<PackageFile> {
        match self {
            Self::Archive { archive, .. } => {
                let Some(member) = self.member(name) else {
                    let message = format!("the file '{name}' is not in the archive");
                    let names = archive.members().iter().map(|member| &*member.name);
                    return Err(spelled(Error::corrupt("package", message), name, names));
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
            Self::Directory { descriptor, policy, read_mode } => {
                let Some(descriptor) = descriptor else {
                    return Err(Error::refused(format!(
                        "the package refers to the file '{name}', but the descriptor has no path \
                         and thus no directory"
                    ))
                    .hint("open the .ovf by the path of a file, or use an .ova"));
                };
                let resolver = resolver(descriptor, *policy, *read_mode);
                let source = resolver.open("file", &with_dot_slash(name));
                let source = source.map_err(|e| match e.io_error().map(io::Error::kind) {
                    Some(io::ErrorKind::NotFound) => {
                        let names = names_beside(descriptor).unwrap_or_default();
                        spelled(e, name, names.iter().map(String::as_str))
                    }
                    _ => e,
                })?;
                Ok(PackageFile::plain(name.clone(), source))
            }
        }
    }

    /// Returns the archive member of this name.
    pub(super) fn member(&self, name: &str) -> Option<&Member> {
        match self {
            Self::Archive { archive, directory } if directory.is_empty() => {
                archive.find(&normal_name(name))
            }
            Self::Archive { archive, directory } => {
                archive.find(&normal_name(&format!("{directory}/{name}")))
            }
            Self::Directory { .. } => None,
        }
    }

    /// The archive, if there is one.
    pub(super) fn archive(&self) -> Option<&Archive> {
        match self {
            Self::Archive { archive, .. } => Some(archive),
            Self::Directory { .. } => None,
        }
    }

    /// Prepares for opening many files, by decompressing a tar.gz only once.
    ///
    /// # Errors
    /// As [`Archive::unpack`].
    pub(super) fn unpack(&self) -> Result<()> {
        match self {
            Self::Archive { archive, .. } => archive.unpack(),
            Self::Directory { .. } => Ok(()),
        }
    }

    /// Opens the manifest, if there is one: in an archive the only `.mf` member, in a directory the
    /// file with the descriptor's name and the extension `.mf`, ignoring case.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) if there are several,
    /// [`Limit`](crate::ErrorKind::Limit) if it is longer than `max_len` bytes,
    /// [`Refused`](crate::ErrorKind::Refused), [`Io`](crate::ErrorKind::Io).
    pub(super) fn manifest(
        &self,
        descriptor: &PackageFile,
        max_len: u64,
    ) -> Result<Option<PackageFile>> {
        match self {
            Self::Archive { archive, .. } => {
                let manifests = archive.members().iter().filter(|m| has_extension(&m.name, "mf"));
                let manifests: Vec<_> = manifests.collect();
                require_at_most_one(
                    "manifests",
                    &manifests.iter().map(|m| &*m.name).collect::<Vec<_>>(),
                )?;
                let Some(member) = manifests.first() else { return Ok(None) };
                open_text(archive, member, max_len).map(Some)
            }
            // If the policy forbids all external files, opening a disk will report that.
            Self::Directory { policy: ExternalFiles::None, .. }
            | Self::Directory { descriptor: None, .. } => Ok(None),
            Self::Directory { descriptor: Some(path), policy, read_mode } => {
                let names = manifest_names(path, &descriptor.name)?;
                require_at_most_one(
                    "manifests",
                    &names.iter().map(String::as_str).collect::<Vec<_>>(),
                )?;
                let Some(name) = names.first() else { return Ok(None) };
                let resolver = resolver(path, *policy, *read_mode);
                let source = resolver.open("manifest", &with_dot_slash(name))?;
                Ok(Some(PackageFile::plain(name.clone(), source)))
            }
        }
    }
}

fn resolver(descriptor: &Path, policy: ExternalFiles, read_mode: ReadMode) -> Resolver<'_> {
    Resolver { read_mode, ..Resolver::new(Some(descriptor), policy) }
}

/// Returns the names of the files in the descriptor's directory that may be its manifest.
fn manifest_names(path: &Path, descriptor: &str) -> Result<Vec<String>> {
    let wanted = Path::new(descriptor).with_extension("mf").to_string_lossy().to_lowercase();
    let mut names =
        names_beside(path).map_err(|e| Error::io("cannot search for the manifest", e))?;
    names.retain(|name| name.to_lowercase() == wanted);
    names.sort();
    Ok(names)
}

/// Returns the names of the files in the directory of `path`, except those that are not UTF-8.
fn names_beside(path: &Path) -> io::Result<Vec<String>> {
    let directory = path.parent().filter(|directory| !directory.as_os_str().is_empty());
    let entries = std::fs::read_dir(directory.unwrap_or(Path::new(".")))?;
    let names = entries.map(|entry| Ok(entry?.file_name().into_string().ok()));
    names.filter_map(io::Result::transpose).collect()
}

/// Adds to the error for a missing file which file has another spelling of its name.
fn spelled<'a>(error: Error, name: &str, names: impl Iterator<Item = &'a str>) -> Error {
    let Some(other) = spelling::find(name, names) else { return error };
    error.hint(format!(
        "the package has '{other}', whose name is spelled differently: correct the name in the \
         descriptor, or open that file by itself"
    ))
}

/// Returns the only descriptor of an archive, if it has one.
///
/// # Errors
/// [`Corrupt`](crate::ErrorKind::Corrupt) if there are several.
pub(super) fn only_descriptor(archive: &Archive) -> Result<Option<&Member>> {
    let found: Vec<_> =
        archive.members().iter().filter(|m| has_extension(&m.name, "ovf")).collect();
    require_at_most_one("descriptors", &found.iter().map(|m| &*m.name).collect::<Vec<_>>())?;
    Ok(found.first().copied())
}

/// Verifies that there is at most one name.
fn require_at_most_one(what: &str, names: &[&str]) -> Result<()> {
    if names.len() < 2 {
        return Ok(());
    }
    const SHOWN: usize = 8;
    let shown = names[..names.len().min(SHOWN)].join(", ");
    let message = format!("{} {what}: {shown}", names.len());
    Err(Error::corrupt("package", message).hint("remove all but the right one"))
}

/// Opens a text member of at most `max_len` bytes.
pub(super) fn open_text(archive: &Archive, member: &Member, max_len: u64) -> Result<PackageFile> {
    require_text_len(&member.name, member.size, max_len)?;
    let source =
        archive.open_member(member).map_err(|e| e.in_structure(format!("'{}'", member.name)))?;
    let name = member.name.rsplit('/').next().unwrap_or_default().to_owned();
    Ok(PackageFile { name, path: member.name.to_string(), crc32: member.crc32(), source })
}

/// Verifies the size of a descriptor or manifest.
///
/// # Errors
/// [`Limit`](crate::ErrorKind::Limit) if it exceeds `max_len` bytes.
pub(super) fn require_text_len(name: &str, size: u64, max_len: u64) -> Result<()> {
    if size > max_len {
        let found = format!("'{name}' has {size} bytes");
        return Err(Error::over_limit("ovf_bytes", found, max_len));
    }
    Ok(())
}

/// Prefixes a name that contains a colon with `./`, so that it is not mistaken for a URL.
fn with_dot_slash(name: &str) -> String {
    if name.contains(':') { format!("./{name}") } else { name.to_owned() }
}

/// Decodes percent escapes (RFC 3986, section 2.1). Invalid escapes are kept.
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
    fn percent_escapes_are_decoded_once() {
        for (href, name) in
            [("a%20b", "a b"), ("%2e%2E/x", "../x"), ("100%", "100%"), ("%zz%2520", "%zz%20")]
        {
            assert_eq!(percent_decoded(href), name);
        }
    }
}
