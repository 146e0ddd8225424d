//! Conversion of arguments to and from bytes (paths inside an image are bytes), and of file modes.

use crate::failure::Failure;
use std::ffi::{OsStr, OsString};

/// Returns the bytes of an argument.
///
/// # Errors
/// On Windows, if it is not valid Unicode.
#[cfg(unix)]
pub(crate) fn bytes(arg: &OsStr) -> Result<Vec<u8>, Failure> {
    use std::os::unix::ffi::OsStrExt;
    Ok(arg.as_bytes().to_vec())
}

/// Converts bytes to an argument.
#[cfg(unix)]
pub(crate) fn os_string(bytes: Vec<u8>) -> Result<OsString, Failure> {
    use std::os::unix::ffi::OsStringExt;
    Ok(OsString::from_vec(bytes))
}

#[cfg(not(unix))]
pub(crate) fn bytes(arg: &OsStr) -> Result<Vec<u8>, Failure> {
    let text = arg.to_str().ok_or_else(|| not_unicode(&arg.to_string_lossy()))?;
    Ok(text.as_bytes().to_vec())
}

#[cfg(not(unix))]
pub(crate) fn os_string(bytes: Vec<u8>) -> Result<OsString, Failure> {
    let text = String::from_utf8(bytes);
    text.map(OsString::from).map_err(|e| not_unicode(&String::from_utf8_lossy(e.as_bytes())))
}

#[cfg(not(unix))]
fn not_unicode(name: &str) -> Failure {
    Failure::error(format!("'{name}' is not Unicode"))
}

/// Parses permissions in octal, from 0 to 7777.
pub(crate) fn octal_mode(text: &str) -> Option<u32> {
    let digits = text.strip_prefix("0o").unwrap_or(text);
    let mode = u32::from_str_radix(digits, 8).ok()?;
    (mode <= 0o7777 && !digits.starts_with('+')).then_some(mode)
}
