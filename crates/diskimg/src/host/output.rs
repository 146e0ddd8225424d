//! Output that is never half there.
//!
//! ```text
//!   create(dst)            sink() … writes …             commit()
//!   ───────────┬─────────────────────────────┬──────────────────────────────
//!   .dst.XXXXXX.diskimg-tmp beside dst       │ flush, mode and owner of the
//!   (dst itself untouched)                   │ old dst, rename over dst,
//!                                            │ flush the directory
//!                          drop without commit: the temporary file goes away
//! ```
//!
//! Devices, pipes and files opened [in place](Output::in_place) have no beside:
//! they are written directly.

use crate::host::os;
use crate::host::sink::{FileSink, PipeSink, Sink};
use crate::host::source::HostFileId;
use std::collections::{BTreeSet, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tempfile::{NamedTempFile, TempPath};

/// One or more files being written, which appear under their names when all is
/// complete and not at all otherwise. Several are renamed one after the other,
/// the main file last: should one of these last steps fail, an older image is
/// left with new companions.
#[derive(Debug)]
pub struct Output {
    main: Part,
    /// Further files that belong to the image: an external data file, extents.
    companions: Vec<Part>,
    /// The names of all of them, each in one spelling.
    names: HashSet<PathBuf>,
}

#[derive(Debug)]
struct Part {
    sink: Arc<dyn Sink>,
    /// The name it will have; `None` for a bare writer.
    path: Option<PathBuf>,
    /// Where it waits until then; `None` when written in place.
    staged: Option<TempPath>,
}

/// How hard [`Output::commit`] tries to survive a power cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// Data reaches stable storage before the name appears.
    #[default]
    Flushed,
    /// The operating system writes back when it likes.
    Cached,
}

impl Output {
    /// Starts a new file that will be called `path`. An existing regular file
    /// stays as it is until [`commit`](Self::commit); a symbolic link is
    /// followed. A device or a pipe is opened and written in place.
    ///
    /// # Errors
    /// What the system said: no such directory, no permission to write the
    /// existing file.
    pub fn create(path: impl AsRef<Path>) -> io::Result<Self> {
        Ok(Self::of(Part::create(path.as_ref())?))
    }

    /// Opens an existing file or device to overwrite it where it stands.
    /// `zeroed` is the caller's promise that it reads as zeros now.
    ///
    /// # Errors
    /// What the system said.
    pub fn in_place(path: impl AsRef<Path>, zeroed: bool) -> io::Result<Self> {
        let path = path.as_ref();
        let file = OpenOptions::new().write(true).open(path)?;
        Ok(Self::of(Part::direct(file, path, zeroed)?))
    }

    /// Writes to anything that takes bytes in order.
    pub fn writer(writer: impl Write + Send + 'static) -> Self {
        Self::to_sink(Arc::new(PipeSink::new(writer)))
    }

    /// Writes to a sink of the caller's.
    pub fn to_sink(sink: Arc<dyn Sink>) -> Self {
        Self::of(Part { sink, path: None, staged: None })
    }

    fn of(main: Part) -> Self {
        Self { main, companions: Vec::new(), names: HashSet::new() }
    }

    /// With a name that the image may record, for a sink that is a file in a
    /// larger one. Nothing of that name is touched.
    pub(crate) fn called(mut self, name: impl Into<PathBuf>) -> Self {
        self.main.path = Some(name.into());
        self
    }

    /// Where the main file's bytes go.
    pub fn sink(&self) -> Arc<dyn Sink> {
        Arc::clone(&self.main.sink)
    }

    /// The name the main file will have; `None` for a writer.
    pub fn path(&self) -> Option<&Path> {
        self.main.path.as_deref()
    }

    /// The names of all files, the main one first.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(&self.main).chain(&self.companions).filter_map(|part| part.path.as_deref())
    }

    /// Whether further files can stand beside the main one: it has a name, and
    /// is neither a device nor a pipe.
    pub(crate) fn has_beside(&self) -> bool {
        let is_file = |path: &Path| std::fs::metadata(path).is_ok_and(|m| m.is_file());
        self.main.staged.is_some() || self.path().is_some_and(is_file)
    }

    /// Starts a further file of the same image. A relative `name` is beside
    /// the main file.
    ///
    /// # Errors
    /// As [`create`](Self::create); [`io::ErrorKind::InvalidInput`] if it would
    /// be the main file itself, or another companion.
    pub fn companion(&mut self, name: &Path) -> io::Result<Arc<dyn Sink>> {
        let beside = self.path().and_then(Path::parent).unwrap_or(Path::new(""));
        let part = Part::create(&beside.join(name))?;
        if let Some(main) = self.path().filter(|_| self.names.is_empty()) {
            self.names.insert(unambiguous(main)?);
        }
        if let Some(path) = &part.path
            && !self.names.insert(unambiguous(path)?)
        {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "it would be the same file as another one of the image",
            ));
        }
        let sink = Arc::clone(&part.sink);
        self.companions.push(part);
        Ok(sink)
    }

    /// Gives every file its name. Companions come first: an image that is
    /// there has all its parts.
    ///
    /// # Errors
    /// What the system said. Files not yet renamed are removed.
    pub fn commit(self, durability: Durability) -> io::Result<()> {
        for part in self.companions.iter().chain([&self.main]) {
            part.finish_data(durability)?;
        }
        // Closes them all: hundreds of files may have exhausted what a process
        // may open, and flushing a directory opens it.
        let companions: Vec<_> = self.companions.into_iter().filter_map(Part::close).collect();
        let main = self.main.close();
        let directories: BTreeSet<_> =
            companions.iter().map(|part| directory_of(&part.path).to_owned()).collect();
        companions.into_iter().try_for_each(Staged::publish)?;
        if durability == Durability::Flushed {
            directories.iter().try_for_each(|directory| flush_directory(directory))?;
        }
        let Some(main) = main else { return Ok(()) };
        let directory = directory_of(&main.path).to_owned();
        main.publish()?;
        match durability {
            Durability::Flushed => flush_directory(&directory),
            Durability::Cached => Ok(()),
        }
    }

    /// The name that the file behind one of our sinks will have.
    pub(crate) fn path_of(&self, sink: &Arc<dyn Sink>) -> Option<&Path> {
        let mut parts = std::iter::once(&self.main).chain(&self.companions);
        parts.find(|part| Arc::ptr_eq(&part.sink, sink))?.path.as_deref()
    }
}

/// A complete file that waits for its name.
struct Staged {
    path: PathBuf,
    file: TempPath,
}

impl Staged {
    fn publish(self) -> io::Result<()> {
        self.file.persist(&self.path).map_err(|e| e.error)
    }
}

impl Part {
    fn create(path: &Path) -> io::Result<Self> {
        // /dev/stdout leads to a pipe by a link that spells no name.
        let path = match std::fs::metadata(path) {
            Ok(metadata) if !metadata.is_file() => path.to_owned(),
            _ => follow_links(path)?,
        };
        match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => {
                Err(io::Error::new(io::ErrorKind::IsADirectory, "the output is a directory"))
            }
            Ok(metadata) if metadata.is_file() => {
                // Renaming over a file asks leave of its directory only; the
                // file's own mode must count too.
                OpenOptions::new().write(true).open(&path)?;
                Self::stage(path, true)
            }
            Ok(metadata) => {
                let file = OpenOptions::new().write(true).open(&path)?;
                if os::is_positioned(&metadata) {
                    Self::direct(file, &path, false)
                } else {
                    Ok(Self { sink: Arc::new(PipeSink::new(file)), path: Some(path), staged: None })
                }
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => Self::stage(path, false),
            Err(e) => Err(e),
        }
    }

    fn stage(path: PathBuf, replaces: bool) -> io::Result<Self> {
        let name = path.file_name().ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "the output has no file name")
        })?;
        let directory = directory_of(&path);
        // `NAME_MAX` is 255 bytes on every system we know: leave room for the suffix.
        let mut shown: String = name.to_string_lossy().chars().take(40).collect();
        shown.insert(0, '.');
        shown.push('.');
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true);
        #[cfg(unix)]
        {
            use std::os::unix::fs::OpenOptionsExt;
            // A file that replaces another stays private until it takes that
            // one's mode; a new one gets what the umask leaves.
            options.mode(if replaces { 0o600 } else { 0o666 });
        }
        #[cfg(not(unix))]
        let _ = replaces;
        let mut builder = tempfile::Builder::new();
        builder.prefix(&shown).suffix(".diskimg-tmp");
        // Opened here: the system's own error must come out.
        let temporary = builder.make_in(directory, |path| options.open(path))?;
        let (file, staged) = NamedTempFile::into_parts(temporary);
        Ok(Self {
            sink: Arc::new(FileSink::new(file, true)?),
            path: Some(path),
            staged: Some(staged),
        })
    }

    fn direct(file: File, path: &Path, zeroed: bool) -> io::Result<Self> {
        Ok(Self {
            sink: Arc::new(FileSink::new(file, zeroed)?),
            path: Some(path.to_owned()),
            staged: None,
        })
    }

    fn finish_data(&self, durability: Durability) -> io::Result<()> {
        if let (Some(staged), Some(path)) = (&self.staged, &self.path) {
            take_mode_and_owner(path, staged)?;
        }
        // A pipe's flush only empties our own buffers: that is always due.
        if durability == Durability::Flushed || self.sink.is_sequential() {
            self.sink.flush()?;
        }
        Ok(())
    }

    /// Lets go of the file; `None` if it was written in place.
    fn close(self) -> Option<Staged> {
        Some(Staged { path: self.path?, file: self.staged? })
    }
}

/// Follows symbolic links to the file that will be written, which need not
/// exist yet.
fn follow_links(path: &Path) -> io::Result<PathBuf> {
    const MAX_LINKS: usize = 40; // as Linux's own limit
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match std::fs::read_link(&path) {
            Ok(target) => {
                path = path.parent().unwrap_or(Path::new("")).join(target);
            }
            // Not a link, or nothing there: this is the name to write.
            Err(_) => return Ok(path),
        }
    }
    Err(io::Error::other("too many levels of symbolic links"))
}

fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A name that two spellings of it (`a`, `./a`, `link/a`) share.
fn unambiguous(path: &Path) -> io::Result<PathBuf> {
    Ok(directory_of(path).canonicalize()?.join(path.file_name().unwrap_or_default()))
}

/// The new file takes the old one's mode and, where permitted, its owner.
#[cfg(unix)]
fn take_mode_and_owner(old: &Path, new: &Path) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let Ok(metadata) = std::fs::metadata(old) else { return Ok(()) };
    // Only root may give files away; for anyone else this is a wish. Owner
    // first: chown clears set-id bits, which the mode then restores.
    // The group is a wish of its own: its members may give it.
    let _ = std::os::unix::fs::chown(new, None, Some(metadata.gid()));
    let _ = std::os::unix::fs::chown(new, Some(metadata.uid()), None);
    std::fs::set_permissions(new, metadata.permissions())
}

#[cfg(not(unix))]
fn take_mode_and_owner(_old: &Path, _new: &Path) -> io::Result<()> {
    Ok(())
}

/// Makes new names in it durable.
fn flush_directory(directory: &Path) -> io::Result<()> {
    if cfg!(unix) {
        match File::open(directory) {
            Ok(directory) => directory.sync_all()?,
            // A directory may be written and not read; the file is there all the same.
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

/// The identity of what stands under `path` now, if anything does.
pub(crate) fn existing_identity(path: &Path) -> Option<HostFileId> {
    os::identity(&std::fs::metadata(path).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<_> = std::fs::read_dir(directory)
            .expect("lists")
            .map(|e| e.expect("entry").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_dropped_output_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("a.img");
        std::fs::write(&path, b"old").expect("writes");
        let output = Output::create(&path).expect("creates");
        output.sink().write_all_at(b"half", 0).expect("writes");
        assert_eq!(std::fs::read(&path).expect("reads"), b"old");
        drop(output);
        assert_eq!(std::fs::read(&path).expect("reads"), b"old");
        assert_eq!(names(dir.path()), ["a.img"]);
    }

    #[test]
    fn a_committed_output_replaces_the_old_file_and_its_companion_is_there() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("a.img");
        std::fs::write(&path, b"old").expect("writes");
        let mut output = Output::create(&path).expect("creates");
        let data = output.companion(Path::new("a.data")).expect("creates");
        data.write_all_at(b"data", 0).expect("writes");
        output.sink().write_all_at(b"new", 0).expect("writes");
        output.commit(Durability::Flushed).expect("commits");
        assert_eq!(std::fs::read(&path).expect("reads"), b"new");
        assert_eq!(names(dir.path()), ["a.data", "a.img"]);
    }

    #[test]
    fn a_companion_under_another_spelling_of_a_name_in_use_is_refused() {
        let dir = tempfile::tempdir().expect("tempdir");
        std::fs::create_dir(dir.path().join("sub")).expect("mkdir");
        let mut output = Output::create(dir.path().join("a.img")).expect("creates");
        for name in ["a.img", "./a.img", "sub/../a.img"] {
            let error = output.companion(Path::new(name)).expect_err(name);
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name}");
        }
        output.companion(Path::new("a.data")).expect("creates");
        output.companion(Path::new("./a.data")).expect_err("is a companion already");
        drop(output);
        assert_eq!(names(dir.path()), ["sub"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_pipe_is_written_under_its_name_in_dev_fd() {
        use std::io::Read;
        use std::os::fd::AsRawFd;
        let (mut reader, writer) = io::pipe().expect("pipe");
        let path = format!("/dev/fd/{}", writer.as_raw_fd());
        let output = Output::create(path).expect("opens");
        drop(writer);
        output.sink().write_all_at(b"bytes", 0).expect("writes");
        output.commit(Durability::Flushed).expect("commits");
        let mut read = Vec::new();
        reader.read_to_end(&mut read).expect("reads");
        assert_eq!(read, b"bytes");
    }

    /// Root may read any directory: this says something to everyone else.
    #[cfg(unix)]
    #[test]
    fn a_directory_that_cannot_be_read_takes_an_output() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("tempdir");
        let mode = |mode| {
            std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(mode))
                .expect("chmod");
        };
        mode(0o300);
        let output = Output::create(dir.path().join("a.img")).expect("creates");
        let outcome = output.commit(Durability::Flushed);
        mode(0o700);
        outcome.expect("commits");
    }

    #[cfg(unix)]
    #[test]
    fn a_symbolic_link_is_followed_and_the_mode_is_kept() {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir().expect("tempdir");
        let (file, link) = (dir.path().join("real"), dir.path().join("link"));
        std::fs::write(&file, b"old").expect("writes");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).expect("chmod");
        symlink("real", &link).expect("links");
        let output = Output::create(&link).expect("creates");
        output.sink().write_all_at(b"new", 0).expect("writes");
        output.commit(Durability::Cached).expect("commits");
        assert!(std::fs::symlink_metadata(&link).expect("stat").is_symlink());
        assert_eq!(std::fs::read(&file).expect("reads"), b"new");
        let mode = std::fs::metadata(&file).expect("stat").permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
    }
}
