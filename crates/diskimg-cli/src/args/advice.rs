//! What may have been meant by a mistyped word, and what to do about a file that cannot be opened.

use std::fs;
use std::path::{Path, PathBuf};

/// Maximum number of files in a directory that are compared with a name.
const MAX_FILES: usize = 10_000;

/// Returns what to do if `path` cannot be opened: the name that may have been meant, or how to read
/// a pipe.
pub(crate) fn of(path: &Path) -> Option<String> {
    match fs::metadata(path) {
        Ok(metadata) if is_pipe(&metadata) => {
            Some("a pipe is read as standard input: COMMAND | diskimg ... -".to_owned())
        }
        Ok(_) => None,
        Err(_) => Some(format!("did you mean '{}'?", nearest(path)?.display())),
    }
}

/// Returns the one of `known` that differs least from `word`, if it differs by few letters.
pub(crate) fn nearest_word<W: AsRef<str>>(
    word: &str,
    known: impl IntoIterator<Item = W>,
) -> Option<W> {
    let word = word.to_lowercase();
    let distance = |other: &W| strsim::osa_distance(&word, &other.as_ref().to_lowercase());
    let known = known.into_iter().map(|other| (distance(&other), other));
    let (distance, near) = known.min_by_key(|(distance, _)| *distance)?;
    let few = (word.chars().count() / 4).clamp(1, 3);
    (distance <= few).then_some(near)
}

/// Returns `did you mean 'WORD'?` for the one of `known` that is nearest to `word`.
pub(crate) fn suggestion<W: AsRef<str>>(
    word: &str,
    known: impl IntoIterator<Item = W>,
) -> Option<String> {
    nearest_word(word, known).map(|near| format!("did you mean '{}'?", near.as_ref()))
}

/// Adds a suggestion to a message.
pub(crate) fn with_suggestion<W: AsRef<str>>(
    message: String,
    word: &str,
    known: impl IntoIterator<Item = W>,
) -> String {
    match suggestion(word, known) {
        Some(meant) => format!("{message} ({meant})"),
        None => message,
    }
}

/// Returns the file of the same directory whose name differs least from that of `path`, if it
/// differs by few letters.
fn nearest(path: &Path) -> Option<PathBuf> {
    let name = path.file_name()?.to_str()?;
    let directory = path.parent().filter(|directory| *directory != Path::new(""));
    let entries = fs::read_dir(directory.unwrap_or(Path::new("."))).ok()?;
    let names =
        entries.take(MAX_FILES).flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<_> = names.collect();
    names.sort();
    nearest_word(name, names).map(|near| path.with_file_name(near))
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
