//! Dirty bitmaps of qcow2 images.

use crate::arguments::{self, OpenArgs};
use crate::errors::bad_value;
use crate::image::Image;
use crate::work;
use diskimg::formats::qcow2::Qcow2Mut;
use pyo3::prelude::*;
use std::path::PathBuf;

/// Makes one change of a bitmap: `action` is a word of qemu-img. A bitmap is merged from `source` if
/// that is given, or else from the image itself.
#[pyfunction]
#[allow(clippy::too_many_arguments, reason = "the arguments of several functions")]
pub(crate) fn change_bitmap(
    py: Python<'_>,
    path: PathBuf,
    name: &str,
    action: &str,
    granularity: Option<u64>,
    source: Option<PyRef<'_, Image>>,
    source_name: Option<String>,
    how: OpenArgs,
) -> PyResult<()> {
    let options = how.options(py)?;
    let other = source_name.as_deref().unwrap_or_default();
    let source = source.map(|source| source.get()).transpose()?;
    if !["add", "remove", "clear", "enable", "disable", "merge"].contains(&action) {
        return Err(bad_value(format!("unknown action '{action}'")));
    }
    work::run(py, None, |_| {
        let mut image = Qcow2Mut::open_with(arguments::plain(path), options)?;
        match (action, &source) {
            ("add", _) => image.add_bitmap(name, granularity),
            ("remove", _) => image.remove_bitmap(name),
            ("clear", _) => image.clear_bitmap(name),
            ("enable", _) => image.enable_bitmap(name),
            ("disable", _) => image.disable_bitmap(name),
            (_, Some(source)) => image.merge_bitmap_from(name, &source.dirty_bitmap(other)?),
            (_, None) => image.merge_bitmap(name, other),
        }
    })
}
