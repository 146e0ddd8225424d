//! Names that Windows does not take for those of files.
//!
//! Paths with the prefix `\\?\` are exceptions: the system takes them literally, and can then create
//! files that other programs cannot open.

use std::path::{Component, Path, Prefix};

/// Returns true if opening the path accesses another computer or a device: `\\server\share`,
/// `\\.\pipe\x`, `\\?\UNC\…`, `\??\…`, each also with `/`, or a name such as `NUL` or `COM1`; or a
/// stream of a file, `x:y`. A connection to another computer sends it the user's credentials.
pub(in crate::storage::os) fn names_device_or_network(path: &Path) -> bool {
    let text = path.as_os_str().as_encoded_bytes();
    let is_separator = |at: usize| text.get(at).is_some_and(|byte| b"/\\".contains(byte));
    // `\??\` is the prefix of the system itself.
    let native = is_separator(0) && text.get(1..3) == Some(b"??") && is_separator(3);
    let mut components = path.components();
    let local = match components.next() {
        Some(Component::Prefix(prefix)) => {
            matches!(prefix.kind(), Prefix::Disk(_) | Prefix::VerbatimDisk(_))
        }
        _ => !(is_separator(0) && is_separator(1)),
    };
    let is_reserved = |part| match part {
        Component::Normal(name) => {
            name.to_str().is_some_and(|name| name.contains(':') || is_device(name))
        }
        _ => false,
    };
    native || !local || path.components().any(is_reserved)
}

/// Returns why a file of this name cannot be created, or could not be used by other programs.
pub(crate) fn refusal(name: &str) -> Option<&'static str> {
    const FORBIDDEN: &str = "<>:\"/\\|?*";
    if name.chars().any(|c| c < ' ' || FORBIDDEN.contains(c)) {
        return Some("Windows does not allow <>:\"/\\|?* and control characters in names");
    }
    if name.ends_with(['.', ' ']) {
        return Some("Windows does not allow names that end in a dot or a space");
    }
    is_device(name).then_some("Windows reserves the name for a device")
}

/// Returns true if the name is that of a device, with any extension: `NUL`, `con.txt`, `COM1 .x`.
fn is_device(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).trim_end_matches(' ').to_ascii_uppercase();
    if ["CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"].contains(&&*stem) {
        return true;
    }
    let port = stem.strip_prefix("COM").or_else(|| stem.strip_prefix("LPT"));
    // The superscripts are digits to Windows.
    port.is_some_and(|n| {
        matches!(n, "¹" | "²" | "³") || n.len() == 1 && n.as_bytes()[0].is_ascii_digit()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_those_of_local_files_are_recognized() {
        for path in [
            r"\\server\share\x",
            "//server/share/x",
            r"\/server/share/x",
            r"\\?\UNC\server\share\x",
            r"\\.\PhysicalDrive0",
            "//./pipe/x",
            r"\\?\GLOBALROOT\Device\x",
            r"\??\C:\x",
            "/??/UNC/server/share/x",
            r"\\",
            "NUL",
            r"dir\con.img",
            "dir/COM1",
            "lpt¹.x",
            "nul:",
            r"dir\file:stream",
            "Aux .raw",
        ] {
            assert!(names_device_or_network(Path::new(path)), "{path}");
        }
        for path in [
            r"C:\images\base.raw",
            r"\\?\C:\images\base.raw",
            r"\images\base.raw",
            "base.raw",
            "../base.raw",
            "console.img",
            "com10",
            "nullable",
        ] {
            assert!(!names_device_or_network(Path::new(path)), "{path}");
        }
    }

    #[test]
    fn names_that_windows_reserves_are_refused() {
        for name in [
            "NUL",
            "con",
            "com1.txt",
            "LPT9",
            "COM³",
            "a.",
            "a ",
            "..",
            "a:b",
            "a?",
            "x\u{1}",
            "a\\b",
            "<",
            "aux.tar.gz",
            "CONOUT$",
        ] {
            assert!(refusal(name).is_some(), "{name}");
        }
        for name in ["a", "a.b", ".a", " a", "COM", "COM10", "null", "ä", "COM１"] {
            assert!(refusal(name).is_none(), "{name}");
        }
    }
}
