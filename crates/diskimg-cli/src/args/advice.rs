//! What to do about a file that cannot be opened.

use std::fs;
use std::path::{Path, PathBuf};

/// Maximum number of files in a directory that are compared with a name.
const MAX_FILES: usize = 10_000;

/// Returns what to do if `path` cannot be opened: the name that may have been meant, or how to read
/// a pipe.
pub(super) fn of(path: &Path) -> Option<String> {
    match fs::metadata(path) {
        Ok(metadata) if is_pipe(&metadata) => {
            Some("a pipe is read as standard input: '-' and '< FILE'".to_owned())
        }
        Ok(_) => None,
        Err(_) => Some(format!("did you mean '{}'?", nearest(path)?.display())),
    }
}

/// Returns the file of the same directory whose name differs least from that of `path`, if it
/// differs by few letters.
fn nearest(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?.to_lowercase();
    let directory = path.parent().filter(|directory| *directory != Path::new(""));
    let entries = fs::read_dir(directory.unwrap_or(Path::new("."))).ok()?;
    let names =
        entries.take(MAX_FILES).flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let distance = |other: &String| strsim::osa_distance(&name, &other.to_lowercase());
    let near = names.map(|other| (distance(&other), other)).min()?;
    let few = (name.chars().count() / 4).clamp(1, 3);
    (near.0 <= few).then(|| path.with_file_name(near.1))
}

#[cfg(unix)]
fn is_pipe(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::FileTypeExt;
    metadata.file_type().is_fifo()
}

#[cfg(not(unix))]
fn is_pipe(_metadata: &fs::Metadata) -> bool {
    false
}
