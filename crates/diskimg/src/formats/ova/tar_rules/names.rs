//! The names of members, in any spelling.

use super::super::spelling;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Maximum number of parts of a name.
const MAX_DEPTH: usize = 16;

/// Hashes of the names of all members and of the directories in them, in a common spelling.
#[derive(Default)]
pub(super) struct Names {
    files: BTreeSet<u64>,
    directories: BTreeSet<u64>,
}

impl Names {
    /// Adds a name and describes what is wrong with it.
    pub(super) fn add(&mut self, name: &[u8], is_directory: bool) -> Option<String> {
        let Ok(name) = std::str::from_utf8(name) else {
            return Some("a name that is not UTF-8".into());
        };
        let is_outside = name.starts_with('/') || name.split(['/', '\\']).any(|part| part == "..");
        if is_outside {
            return Some(format!("the name '{name}', which leads outside"));
        }
        if name.contains('\\') || name.contains(char::is_control) {
            return Some(format!("the name '{name}' with a backslash or a control character"));
        }
        // A drive letter, which bsdtar removes, or a stream of a file on Windows.
        if name.contains(':') {
            return Some(format!("the name '{name}' with a colon"));
        }
        if name.contains(is_ignorable) {
            let name = name.escape_unicode();
            return Some(format!("the name '{name}' with a character that file systems ignore"));
        }
        // Windows removes dots and blanks at the end.
        let key = spelling::key(name);
        let parts: Vec<_> = key.split('/').map(|part| part.trim_end_matches(['.', ' '])).collect();
        if parts.len() > MAX_DEPTH {
            return Some(format!("a name with {} parts", parts.len()));
        }
        if parts.iter().any(|part| part.is_empty()) {
            let is_root = is_directory && parts.len() == 1;
            return (!is_root).then(|| format!("the name '{name}' with an empty part"));
        }
        let mut hasher = DefaultHasher::new();
        let mut conflict = false;
        for (index, part) in parts.iter().enumerate() {
            part.hash(&mut hasher);
            let path = hasher.finish();
            let is_file = index + 1 == parts.len() && !is_directory;
            conflict |= match is_file {
                true => self.directories.contains(&path) || !self.files.insert(path),
                false => {
                    self.directories.insert(path);
                    self.files.contains(&path)
                }
            };
        }
        conflict.then(|| format!("another member has the name '{name}', or a spelling of it"))
    }
}

/// Returns true for characters that HFS+ or ext4 ignores when it compares names: those that are not
/// visible (`Default_Ignorable_Code_Point` of Unicode).
fn is_ignorable(character: char) -> bool {
    matches!(character, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}'
        | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}'
        | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{3164}'
        | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fff8}'
        | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_differ_in_any_spelling() {
        let mut names = Names::default();
        for name in ["a/b.vmdk", "a/c", "a/", "d", "./", "STRASSE"] {
            let is_directory = name.ends_with('/');
            assert_eq!(names.add(name.as_bytes(), is_directory), None, "{name}");
        }
        for name in [
            &b"A/B.vmdk"[..],
            b"./a//b.vmdk",
            b"a/b.vmdk.",
            b"a",
            b"d/e",
            b"/x",
            b"x/../y",
            b"x\\y",
            b"\xff",
            b"x\ny",
            b"C:x",
            b"x:y",
            "x\u{200d}".as_bytes(),
            "x\u{3164}".as_bytes(),
            "stra\u{df}e".as_bytes(),
            b"",
        ] {
            assert!(names.add(name, false).is_some(), "{name:?}");
        }
    }
}
