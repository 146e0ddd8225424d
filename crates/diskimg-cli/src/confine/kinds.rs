//! What a command does, as far as it determines which system calls it makes.

use super::rules::parent;
use std::ffi::OsString;
use std::path::Path;

/// What a command does besides reading, which determines the system calls that it may make.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Calls {
    /// Open files to change their contents.
    pub(crate) modify: bool,
    /// Create, rename and remove files.
    pub(crate) create: bool,
    /// Give new files the owner and attributes of files that they replace.
    pub(crate) attributes: bool,
    /// Write to temporary files, which are created before.
    pub(crate) spool: bool,
    /// Extract files.
    pub(crate) extract: Option<Extract>,
}

/// What an extraction restores besides contents, permissions and times.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Extract {
    /// Owners and groups.
    pub(crate) owners: bool,
    /// Set-ID bits.
    pub(crate) special_modes: bool,
    /// Devices, named pipes and sockets.
    pub(crate) devices: bool,
}

impl Calls {
    /// Returns the calls of a command that only reads.
    pub(crate) fn read() -> Self {
        Self::default()
    }

    /// Returns the calls of a command that changes existing files.
    pub(crate) fn modify() -> Self {
        Self { modify: true, ..Self::default() }
    }

    /// Returns the calls of a command that creates `path` and files with similar names. Owners and
    /// attributes may be set if a file with such a name exists, which would be replaced.
    pub(crate) fn create(path: &Path) -> Self {
        Self { modify: true, create: true, attributes: may_replace(path), ..Self::default() }
    }

    /// Returns the calls of a command that extracts files.
    pub(crate) fn extract(extract: Extract) -> Self {
        Self { modify: true, extract: Some(extract), ..Self::default() }
    }

    /// Also allows writing to temporary files, which are created before.
    pub(crate) fn and_spool(self) -> Self {
        Self { spool: true, ..self }
    }
}

/// Returns false if there is neither a file at `path` nor one that could be a part of the same
/// image, such as `disk-s001.vmdk` of `disk.vmdk`.
fn may_replace(path: &Path) -> bool {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let Some(stem) = path.file_stem() else { return false };
    // If the names cannot be listed, any can exist.
    let Ok(mut entries) = parent(&path).read_dir() else { return true };
    let stem = stem.as_encoded_bytes();
    let is_similar = |name: OsString| name.as_encoded_bytes().starts_with(stem);
    entries.any(|entry| entry.map_or(true, |entry| is_similar(entry.file_name())))
}
