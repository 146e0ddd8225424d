//! File attributes as text.

use diskimg::iso::{FileType, Node};
use serde::Serialize;

/// Formats type and permissions like `ls -l`: `-rw-r--r--`. Permissions that are not recorded are
/// shown as `?`.
pub(in crate::commands) fn mode(node: &Node) -> String {
    let kind = match node.file_type {
        FileType::Directory => 'd',
        FileType::Symlink => 'l',
        FileType::BlockDevice => 'b',
        FileType::CharacterDevice => 'c',
        FileType::Fifo => 'p',
        FileType::Socket => 's',
        _ => '-',
    };
    let Some(mode) = node.attributes.mode else { return format!("{kind}?????????") };
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        let bits = mode >> shift;
        text.push(if bits & 4 == 0 { '-' } else { 'r' });
        text.push(if bits & 2 == 0 { '-' } else { 'w' });
        text.push(match (mode & special != 0, bits & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, true) => letter,
            (true, false) => letter.to_ascii_uppercase(),
        });
    }
    text
}

/// Returns the name of a file type.
pub(super) fn kind(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Regular => "file",
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::BlockDevice => "block-device",
        FileType::CharacterDevice => "character-device",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        _ => "other",
    }
}

/// The JSON object of a file.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    path: String,
    /// The bytes of the path in hexadecimal, if they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    path_bytes: Option<String>,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    /// Permissions in octal.
    #[serde(skip_serializing_if = "Option::is_none")]
    mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    modified: Option<diskimg::iso::Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<(u32, u32)>,
}

impl Row {
    /// Returns the object of the file at this path.
    pub(super) fn of(path: &[u8], node: &Node) -> Self {
        let hex = || path.iter().map(|byte| format!("{byte:02x}")).collect();
        let attributes = &node.attributes;
        Self {
            path: String::from_utf8_lossy(path).into_owned(),
            path_bytes: std::str::from_utf8(path).is_err().then(hex),
            kind: kind(node.file_type),
            size: (node.file_type == FileType::Regular).then_some(node.size),
            mode: attributes.mode.map(|mode| format!("{mode:04o}")),
            uid: attributes.uid,
            gid: attributes.gid,
            modified: attributes.modified,
            target: node.link_target.as_ref().map(|t| String::from_utf8_lossy(t).into_owned()),
            device: attributes.device,
        }
    }
}
