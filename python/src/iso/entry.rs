//! Files and directories as plain values for Python.

use diskimg::iso::{FileType, Node, Timestamp};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};

/// A path or a link's target, decoded as UTF-8 with Python's `surrogateescape`.
pub(crate) type Text<'py> = Bound<'py, PyAny>;

/// Permissions, owner, group, number of hard links, serial number, device.
type Numbers =
    (Option<u32>, Option<u32>, Option<u32>, Option<u32>, Option<u32>, Option<(u32, u32)>);

/// Modification, access, attribute change and creation time in nanoseconds since 1970.
type Times = (Option<i128>, Option<i128>, Option<i128>, Option<i128>);

/// The fields of `Entry`, in order.
pub(crate) type Fields<'py> = (Text<'py>, &'static str, u64, Option<Text<'py>>, Numbers, Times);

/// Returns the fields of the entry at `path`.
pub(crate) fn fields<'py>(py: Python<'py>, path: &[u8], node: &Node) -> PyResult<Fields<'py>> {
    let a = &node.attributes;
    let target = node.link_target.as_deref().map(|target| text(py, target)).transpose()?;
    let numbers = (a.mode, a.uid, a.gid, a.links, a.serial, a.device);
    let times = (
        a.modified.map(nanoseconds),
        a.accessed.map(nanoseconds),
        a.changed.map(nanoseconds),
        a.created.map(nanoseconds),
    );
    Ok((text(py, path)?, kind(node.file_type), node.size, target, numbers, times))
}

/// Decodes bytes such that Python can encode the text back to them.
pub(crate) fn text<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Text<'py>> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(PyString::new(py, text).into_any()),
        Err(_) => PyBytes::new(py, bytes).call_method1("decode", ("utf-8", "surrogateescape")),
    }
}

fn kind(file_type: FileType) -> &'static str {
    match file_type {
        FileType::Directory => "directory",
        FileType::Symlink => "symlink",
        FileType::BlockDevice => "block-device",
        FileType::CharacterDevice => "char-device",
        FileType::Fifo => "fifo",
        FileType::Socket => "socket",
        _ => "file",
    }
}

fn nanoseconds(time: Timestamp) -> i128 {
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanoseconds)
}
