//! Unix: openat(2) and similar calls, which take a single name and follow no symbolic links.

use crate::iso::extract::ExtractOptions;
use crate::iso::node::{Attributes, Node};
use crate::iso::time::Timestamp;
use crate::storage::output::Destination;
use crate::storage::source::HostFileId;
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid};
use rustix::io::{Errno, retry_on_intr};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// An open directory of the host.
pub(in crate::iso::extract) struct Directory(OwnedFd);

const OPEN: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// openat(2), repeated if interrupted by a signal.
fn open(
    directory: impl AsFd,
    name: impl rustix::path::Arg + Copy,
    flags: OFlags,
    mode: Mode,
) -> io::Result<OwnedFd> {
    Ok(retry_on_intr(|| rustix::fs::openat(&directory, name, flags, mode))?)
}

impl Directory {
    /// Creates and opens the destination. The path is the caller's, so symbolic links in it are
    /// followed, but not those that appear meanwhile.
    pub(in crate::iso::extract) fn create(path: &Path) -> io::Result<Self> {
        let mut missing = Vec::new();
        let mut existing = path;
        let found = loop {
            match Destination::of(existing) {
                Ok(found) if found.metadata().is_ok() => break found,
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let mut parts = existing.components();
            let Some(last) = parts.next_back() else {
                return Err(io::ErrorKind::NotFound.into());
            };
            missing.push(last);
            existing = parts.as_path();
            if existing == Path::new("") {
                existing = Path::new(".");
            }
        };
        let no_follow = if found.open_file.is_some() { OFlags::empty() } else { OFlags::NOFOLLOW };
        // With a trailing slash, a link would be followed.
        let found: PathBuf = found.path.components().collect();
        let flags = OFlags::DIRECTORY | OFlags::CLOEXEC | no_follow;
        let root = Self(open(CWD, &*found, flags, Mode::empty())?);
        missing.iter().rev().try_fold(root, |directory, part| {
            directory.make_dir(part.as_os_str().as_encoded_bytes())
        })
    }

    /// Creates a directory with the default permissions, or opens an existing one. Symbolic
    /// links are not followed.
    pub(in crate::iso::extract) fn make_dir(&self, name: &[u8]) -> io::Result<Self> {
        let made = rustix::fs::mkdirat(&self.0, name, Mode::from_raw_mode(0o777));
        match made {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        Ok(Self(open(&self.0, name, OPEN, Mode::empty())?))
    }

    /// Creates a file, which must not exist.
    pub(in crate::iso::extract) fn make_file(&self, name: &[u8]) -> io::Result<File> {
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o666);
        Ok(File::from(open(&self.0, name, flags, mode)?))
    }

    /// Returns the identity of an entry, if it exists. A symbolic link is not followed.
    pub(in crate::iso::extract) fn identity(&self, name: &[u8]) -> Option<HostFileId> {
        let found = rustix::fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW).ok()?;
        Some(HostFileId::of_stat(&found))
    }

    /// Removes a file, if it exists.
    pub(in crate::iso::extract) fn remove_file(&self, name: &[u8]) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    pub(in crate::iso::extract) fn make_symlink(
        &self,
        name: &[u8],
        target: &[u8],
        attributes: &Attributes,
        options: &ExtractOptions,
    ) -> io::Result<()> {
        rustix::fs::symlinkat(target, &self.0, name)?;
        self.set_entry_attributes(name, attributes, options)
    }

    /// Creates `name` in `parent` as a hard link to the file at `path` below this directory.
    /// Each directory in `path` is opened separately, without following symbolic links.
    pub(in crate::iso::extract) fn link(
        &self,
        path: &[u8],
        parent: &Self,
        name: &[u8],
    ) -> io::Result<()> {
        let mut names = path.split(|&byte| byte == b'/');
        let last = names.next_back().unwrap_or(path);
        let mut directory: Option<OwnedFd> = None;
        for component in names {
            let here = directory.as_ref().map_or(self.0.as_fd(), AsFd::as_fd);
            directory = Some(open(here, component, OPEN, Mode::empty())?);
        }
        let here = directory.as_ref().map_or(self.0.as_fd(), AsFd::as_fd);
        Ok(rustix::fs::linkat(here, last, &parent.0, name, AtFlags::empty())?)
    }

    /// Creates a device, a named pipe or a socket.
    pub(in crate::iso::extract) fn make_special(
        &self,
        name: &[u8],
        node: &Node,
        options: &ExtractOptions,
    ) -> io::Result<()> {
        self.make_node(name, node)?;
        if options.modes {
            let mode = permissions(&node.attributes, options);
            rustix::fs::chmodat(&self.0, name, mode, AtFlags::empty())?;
        }
        self.set_entry_attributes(name, &node.attributes, options)
    }

    #[cfg(not(target_vendor = "apple"))]
    fn make_node(&self, name: &[u8], node: &Node) -> io::Result<()> {
        use crate::iso::node::FileType;
        use rustix::fs::FileType as Kind;
        let kind = match node.file_type {
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::CharacterDevice => Kind::CharacterDevice,
            FileType::Socket => Kind::Socket,
            _ => Kind::Fifo,
        };
        let (major, minor) = node.attributes.device.unwrap_or_default();
        let device = rustix::fs::makedev(major, minor);
        Ok(rustix::fs::mknodat(&self.0, name, kind, Mode::from_raw_mode(0o600), device)?)
    }

    #[cfg(target_vendor = "apple")]
    fn make_node(&self, _name: &[u8], _node: &Node) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// Sets owner and times of an entry of this directory, without following a symbolic link.
    fn set_entry_attributes(
        &self,
        name: &[u8],
        attributes: &Attributes,
        options: &ExtractOptions,
    ) -> io::Result<()> {
        if let Some((uid, gid)) = owner(attributes, options) {
            rustix::fs::chownat(&self.0, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        if let Some(times) = times(attributes, options) {
            rustix::fs::utimensat(&self.0, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        Ok(())
    }

    /// Sets the attributes of this directory.
    pub(in crate::iso::extract) fn set_own_attributes(
        &self,
        attributes: &Attributes,
        options: &ExtractOptions,
    ) -> io::Result<()> {
        set_attributes(&self.0, attributes, options)
    }
}

/// Sets owner, permissions and times of an open file or directory, in this order, because a
/// change of owner clears the set-user-ID and set-group-ID bits.
pub(in crate::iso::extract) fn set_attributes(
    file: impl AsFd,
    attributes: &Attributes,
    options: &ExtractOptions,
) -> io::Result<()> {
    if let Some((uid, gid)) = owner(attributes, options) {
        rustix::fs::fchown(&file, uid, gid)?;
    }
    if options.modes && attributes.mode.is_some() {
        rustix::fs::fchmod(&file, permissions(attributes, options))?;
    }
    if let Some(times) = times(attributes, options) {
        rustix::fs::futimens(&file, &times)?;
    }
    Ok(())
}

fn permissions(attributes: &Attributes, options: &ExtractOptions) -> Mode {
    let kept = if options.special_modes { 0o7777 } else { 0o777 };
    // The width of the type depends on the system; twelve bits fit in all of them.
    #[allow(clippy::as_conversions)]
    let mode = (attributes.mode.unwrap_or(0o644) & kept) as _;
    Mode::from_raw_mode(mode)
}

fn owner(attributes: &Attributes, options: &ExtractOptions) -> Option<(Option<Uid>, Option<Gid>)> {
    // An ID of all ones means "unknown" in an image, and "unchanged" to chown(2).
    let known = |id: Option<u32>| id.filter(|&id| id != u32::MAX);
    let uid = known(attributes.uid).map(Uid::from_raw);
    let gid = known(attributes.gid).map(Gid::from_raw);
    options.owners.then_some((uid, gid))
}

fn times(attributes: &Attributes, options: &ExtractOptions) -> Option<Timestamps> {
    let modified = attributes.modified.filter(|_| options.times)?;
    let spec = |Timestamp { seconds, nanoseconds }| Timespec {
        tv_sec: seconds,
        tv_nsec: nanoseconds.into(),
    };
    let omitted = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    let last_access = attributes.accessed.map_or(omitted, spec);
    Some(Timestamps { last_access, last_modification: spec(modified) })
}
