//! What a command does, as far as it determines which system calls it makes.

use diskimg::Options;
use std::path::{Path, PathBuf};

/// What a command does besides reading, which determines the system calls that it may make.
#[derive(Debug, Clone, Default)]
pub(crate) struct Calls {
    /// Open files to change their contents.
    pub(crate) modify: bool,
    /// Create, rename and remove files.
    pub(crate) create: bool,
    /// Give new files the mode, owner and attributes of files that they replace.
    pub(crate) attributes: bool,
    /// Set the flags of new files: "no copy on write" and the size of extents.
    pub(crate) flags: bool,
    /// The output. Its temporary file is created before, with the mode, owner and attributes of the
    /// file that it replaces.
    pub(crate) output: Option<PathBuf>,
    /// Write to temporary files, which are created before.
    pub(crate) spool: bool,
    /// Extract files.
    pub(crate) extract: Option<Extract>,
    /// Write to standard output, which may be a file or a block device.
    pub(crate) stdout: bool,
    /// Connect to servers.
    pub(crate) network: bool,
    /// Connect to servers of this host by Unix sockets.
    pub(crate) unix_sockets: bool,
    /// Connect to servers by a library that waits for events of several connections.
    pub(crate) clusters: bool,
    /// Accept connections on a socket that listens already, and remove files.
    pub(crate) serve: bool,
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

    /// Returns the calls of a command that creates files.
    pub(crate) fn create_files() -> Self {
        Self { modify: true, create: true, ..Self::default() }
    }

    /// Returns the calls of a command that creates the output `path`.
    pub(crate) fn create(path: &Path) -> Self {
        Self { output: Some(path.to_owned()), ..Self::create_files() }
    }

    /// Also allows what the options of the image that is created need. Files other than the output
    /// get their mode, owner and attributes later, also from files that appear in the meantime.
    pub(crate) fn and_options(self, options: &Options) -> Self {
        Self {
            attributes: self.attributes || has_parts(options),
            flags: FLAG_OPTIONS.iter().any(|name| options.get(name).is_some()),
            ..self
        }
    }

    /// Returns the calls of a command that extracts files.
    pub(crate) fn extract(extract: Extract) -> Self {
        Self { modify: true, extract: Some(extract), ..Self::default() }
    }

    /// Returns the calls of a command that writes what it reads to standard output.
    pub(crate) fn write_stdout() -> Self {
        Self { stdout: true, ..Self::default() }
    }

    /// Also allows connecting to servers, if `yes`.
    pub(crate) fn and_network(self, yes: bool) -> Self {
        Self { network: self.network || yes, ..self }
    }

    /// Also allows connecting to the servers of a cluster by a library, if `yes`.
    pub(crate) fn and_clusters(self, yes: bool) -> Self {
        Self { clusters: self.clusters || yes, ..self.and_network(yes) }
    }

    /// Also allows connecting to servers of this host by Unix sockets, if `yes`.
    pub(crate) fn and_unix_sockets(self, yes: bool) -> Self {
        Self { unix_sockets: self.unix_sockets || yes, ..self }
    }

    /// Also allows accepting connections, and removing files.
    #[cfg(feature = "nbd")]
    pub(crate) fn and_serve(self) -> Self {
        Self { serve: true, ..self }
    }

    /// Also allows writing to temporary files, which are created before.
    pub(crate) fn and_spool(self) -> Self {
        Self { spool: true, ..self }
    }
}

/// Options of images that set flags of the file.
const FLAG_OPTIONS: [&str; 2] = ["nocow", "extent_size_hint"];

/// Returns true unless an image with these options is certainly one file.
pub(super) fn has_parts(options: &Options) -> bool {
    const ONE_FILE: [&str; 3] = ["", "monolithicsparse", "streamoptimized"];
    let layout = options.get("subformat").unwrap_or_default().to_ascii_lowercase();
    options.get("data_file").is_some() || !ONE_FILE.contains(&layout.as_str())
}
