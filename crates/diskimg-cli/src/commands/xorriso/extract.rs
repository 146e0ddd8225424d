//! Extraction of files.

use super::{Loaded, absolute, quoted, quoted_path};
use crate::commands::iso::{check_interrupted, read_chunks};
use crate::failure::Failure;
use crate::output::Console;
use diskimg::Error;
use diskimg::iso::{ExtractOptions, Extracted};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;

/// Extracts `from` as `to`: a file, or the entries of a directory.
pub(super) fn as_file(
    loaded: &Loaded,
    from: &[u8],
    to: &Path,
    console: &Console,
) -> Result<(), Failure> {
    let image = &loaded.image;
    let from = from.strip_prefix(b"/").unwrap_or(from);
    let node = image.lookup(from).map_err(Failure::from)?;
    let found = fs::metadata(to);
    if node.is_dir() {
        let done = image.extract_path(from, to, &options(), &mut |_| check_interrupted())?;
        check(&done)?;
    } else if found.as_ref().is_ok_and(fs::Metadata::is_dir) {
        let (to, from) = (to.display(), quoted_path(from));
        return Err(Failure::error(format!("-extract {from}: {to} is a directory")));
    } else if found.is_ok_and(|found| !found.is_file()) {
        // A device or a pipe.
        let cannot_write = |e| Error::io("cannot write", e).in_file(to);
        let mut out = OpenOptions::new().write(true).open(to).map_err(cannot_write)?;
        read_chunks(image, &node, &mut |bytes| Ok(out.write_all(bytes).map_err(cannot_write)?))?;
    } else {
        file_as(loaded, from, to)?;
    }
    let to = quoted(&absolute(to).display().to_string());
    console.stderr(&format!("Extracted from ISO image: file {}={to}", quoted_path(from)));
    Ok(())
}

fn file_as(loaded: &Loaded, from: &[u8], to: &Path) -> Result<(), Failure> {
    let no_name = || Failure::error(format!("{}: not a file name", to.display()));
    let name = crate::args::names::bytes(to.file_name().ok_or_else(no_name)?)?;
    let parent = to.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    check(&loaded.image.extract_as(from, parent, &name, &options())?)
}

/// Extracts files into the directory `to` or, if it is not a directory, the only file as `to`.
pub(super) fn into_directory(
    loaded: &Loaded,
    from: &[Vec<u8>],
    to: &Path,
    console: &Console,
) -> Result<(), Failure> {
    if !to.is_dir() && from.len() > 1 {
        return Err(Failure::error(format!("-cpx: {} is not a directory", to.display())));
    }
    for path in from {
        let relative = path.strip_prefix(b"/").unwrap_or(path);
        if loaded.image.lookup(relative)?.is_dir() {
            let path = quoted_path(path);
            return Err(Failure::error(format!("-cpx {path}: a directory (see -extract)")));
        }
        let name = relative.rsplit(|&byte| byte == b'/').next().unwrap_or(relative);
        let name = crate::args::names::os_string(name.to_vec())?;
        let target = if to.is_dir() { to.join(name) } else { to.to_owned() };
        file_as(loaded, relative, &target)?;
        let target = quoted(&absolute(&target).display().to_string());
        let path = quoted_path(path);
        console.stderr(&format!("Copied from ISO image to disk: file {path} = {target}"));
    }
    Ok(())
}

/// Returns the defaults of xorriso: existing files are replaced.
fn options() -> ExtractOptions {
    let mut options = ExtractOptions::default();
    options.overwrite = true;
    options
}

/// Returns the first failure.
fn check(done: &Extracted) -> Result<(), Failure> {
    let Some((path, error)) = done.failures.first() else { return Ok(()) };
    let message = crate::remedy::message(error);
    Err(Failure::error(format!("-extract {}: {message}", quoted_path(path))))
}
