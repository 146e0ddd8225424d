//! Words of the command line as bytes, which paths in an image are, and numbers as text.

use crate::failure::Failure;
use std::ffi::{OsStr, OsString};

/// The bytes of a word.
///
/// # Errors
/// Where the system's names are no bytes (Windows): one that is not Unicode.
#[cfg(unix)]
pub(crate) fn bytes(word: &OsStr) -> Result<Vec<u8>, Failure> {
    use std::os::unix::ffi::OsStrExt;
    Ok(word.as_bytes().to_vec())
}

/// The word of these bytes.
#[cfg(unix)]
pub(crate) fn word(bytes: Vec<u8>) -> Result<OsString, Failure> {
    use std::os::unix::ffi::OsStringExt;
    Ok(OsString::from_vec(bytes))
}

#[cfg(not(unix))]
pub(crate) fn bytes(word: &OsStr) -> Result<Vec<u8>, Failure> {
    let text = word.to_str().ok_or_else(|| not_unicode(&word.to_string_lossy()))?;
    Ok(text.as_bytes().to_vec())
}

#[cfg(not(unix))]
pub(crate) fn word(bytes: Vec<u8>) -> Result<OsString, Failure> {
    let text = String::from_utf8(bytes);
    text.map(OsString::from).map_err(|e| not_unicode(&String::from_utf8_lossy(e.as_bytes())))
}

#[cfg(not(unix))]
fn not_unicode(name: &str) -> Failure {
    Failure::error(format!("'{name}' is not Unicode"))
}

/// Permissions in octal; `None` if it is something else.
pub(crate) fn mode(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let mode = u32::from_str_radix(digits, 8).ok()?;
    (mode <= 0o7777 && !digits.starts_with('+')).then_some(mode)
}
