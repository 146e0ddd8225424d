//! A directory of the host, held open: what is made in it is made by bare names.

#[cfg(not(unix))]
pub(super) use absent::{Directory, set_attributes};
#[cfg(unix)]
pub(super) use unix::{Directory, set_attributes};

#[cfg(unix)]
mod unix {
    use crate::iso::extract::ExtractOptions;
    use crate::iso::node::{Attributes, FileType, Node};
    use crate::iso::time::Timestamp;
    use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, Timespec, Timestamps, UTIME_OMIT, Uid};
    use rustix::io::{Errno, retry_on_intr};
    use std::fs::File;
    use std::io;
    use std::os::fd::{AsFd, OwnedFd};
    use std::path::Path;

    /// A directory of the host.
    pub(in crate::iso::extract) struct Directory(OwnedFd);

    const OPEN: OFlags = OFlags::DIRECTORY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

    /// openat(2), once more where a signal came in between.
    fn open(
        directory: impl AsFd,
        name: impl rustix::path::Arg + Copy,
        flags: OFlags,
        mode: Mode,
    ) -> io::Result<OwnedFd> {
        Ok(retry_on_intr(|| rustix::fs::openat(&directory, name, flags, mode))?)
    }

    impl Directory {
        /// The destination: the caller's own path, so links in it are followed.
        pub(in crate::iso::extract) fn create(path: &Path) -> io::Result<Self> {
            std::fs::create_dir_all(path)?;
            let flags = OFlags::DIRECTORY | OFlags::CLOEXEC;
            Ok(Self(open(CWD, path, flags, Mode::empty())?))
        }

        /// Makes a directory, with a new one's permissions until it gets its own. One that is there
        /// is filled; a symbolic link is not followed.
        pub(in crate::iso::extract) fn make_dir(&self, name: &[u8]) -> io::Result<Self> {
            let made = rustix::fs::mkdirat(&self.0, name, Mode::from_raw_mode(0o777));
            match made {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            Ok(Self(open(&self.0, name, OPEN, Mode::empty())?))
        }

        /// Makes a file that was not there.
        pub(in crate::iso::extract) fn make_file(&self, name: &[u8]) -> io::Result<File> {
            let flags =
                OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mode = Mode::from_raw_mode(0o666);
            Ok(File::from(open(&self.0, name, flags, mode)?))
        }

        /// Removes a file, if it is there.
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
            self.set_at(name, attributes, options)
        }

        /// Makes a hard link to the file of that path below this directory. Each directory on
        /// the way is opened by its own name.
        pub(in crate::iso::extract) fn link(
            &self,
            path: &[u8],
            parent: &Self,
            name: &[u8],
        ) -> io::Result<()> {
            let mut names = path.split(|&byte| byte == b'/');
            let last = names.next_back().unwrap_or(path);
            let mut directory: Option<OwnedFd> = None;
            for step in names {
                let here = directory.as_ref().map_or(self.0.as_fd(), AsFd::as_fd);
                directory = Some(open(here, step, OPEN, Mode::empty())?);
            }
            let here = directory.as_ref().map_or(self.0.as_fd(), AsFd::as_fd);
            Ok(rustix::fs::linkat(here, last, &parent.0, name, AtFlags::empty())?)
        }

        /// Makes a device, a named pipe or a socket.
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
            self.set_at(name, &node.attributes, options)
        }

        #[cfg(not(target_vendor = "apple"))]
        fn make_node(&self, name: &[u8], node: &Node) -> io::Result<()> {
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

        /// Owner and times of something in this directory that is not followed.
        fn set_at(
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

        /// This directory's own attributes.
        pub(in crate::iso::extract) fn set_own_attributes(
            &self,
            attributes: &Attributes,
            options: &ExtractOptions,
        ) -> io::Result<()> {
            set_attributes(&self.0, attributes, options)
        }
    }

    /// Owner, permissions and times of an open file or directory; in this order, as a change of
    /// owner takes set-id bits away.
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
        // The type differs between systems; the bits fit all of them.
        #[allow(clippy::as_conversions)]
        let mode = (attributes.mode.unwrap_or(0o644) & kept) as _;
        Mode::from_raw_mode(mode)
    }

    fn owner(
        attributes: &Attributes,
        options: &ExtractOptions,
    ) -> Option<(Option<Uid>, Option<Gid>)> {
        // All ones means "nobody's", and would mean "leave it".
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
}

#[cfg(not(unix))]
mod absent {
    use crate::iso::extract::ExtractOptions;
    use crate::iso::node::{Attributes, Node};
    use std::fs::File;
    use std::io;
    use std::path::Path;

    /// Not here: what keeps an image's names inside a directory are calls that this system does
    /// not have.
    pub(in crate::iso::extract) enum Directory {}

    impl Directory {
        pub(in crate::iso::extract) fn create(_: &Path) -> io::Result<Self> {
            Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "extraction is not possible on this system",
            ))
        }

        pub(in crate::iso::extract) fn make_dir(&self, _: &[u8]) -> io::Result<Self> {
            match *self {}
        }

        pub(in crate::iso::extract) fn make_file(&self, _: &[u8]) -> io::Result<File> {
            match *self {}
        }

        pub(in crate::iso::extract) fn remove_file(&self, _: &[u8]) -> io::Result<()> {
            match *self {}
        }

        pub(in crate::iso::extract) fn make_symlink(
            &self,
            _: &[u8],
            _: &[u8],
            _: &Attributes,
            _: &ExtractOptions,
        ) -> io::Result<()> {
            match *self {}
        }

        pub(in crate::iso::extract) fn link(&self, _: &[u8], _: &Self, _: &[u8]) -> io::Result<()> {
            match *self {}
        }

        pub(in crate::iso::extract) fn make_special(
            &self,
            _: &[u8],
            _: &Node,
            _: &ExtractOptions,
        ) -> io::Result<()> {
            match *self {}
        }

        pub(in crate::iso::extract) fn set_own_attributes(
            &self,
            _: &Attributes,
            _: &ExtractOptions,
        ) -> io::Result<()> {
            match *self {}
        }
    }

    pub(in crate::iso::extract) fn set_attributes(
        _: &File,
        _: &Attributes,
        _: &ExtractOptions,
    ) -> io::Result<()> {
        Ok(())
    }
}
