//! The native module of the Python package `diskimg`.
//!
//! ```text
//!   lib/diskimg/     the public API: signatures, types, documentation, results
//!      │ plain values: names, numbers, option pairs
//!      ▼
//!   _native          this crate: image, convert, the other operations, iso/, and shared code:
//!      │   arguments   converts arguments from Python for the library
//!      │   file/       Python's file objects as sources and outputs
//!      │   work        runs work without the GIL; handles Ctrl-C and progress
//!      │   errors      converts the library's errors to Python exceptions
//!      ▼
//!   diskimg          the library
//! ```
//!
//! This module is private to the package: its names and signatures may change at any time.

mod arguments;
mod bitmaps;
mod cluster;
mod command;
mod confine;
mod convert;
mod errors;
mod file;
mod image;
mod iso;
mod operations;
mod picture;
mod remedy;
mod serve;
mod snapshots;
mod url;
mod words;
mod work;

/// The module `diskimg._native`.
#[pyo3::pymodule(gil_used = false)]
mod _native {
    #[pymodule_export]
    use crate::bitmaps::change_bitmap;
    #[pymodule_export]
    use crate::command::run_command;
    #[pymodule_export]
    use crate::confine::confine;
    #[pymodule_export]
    use crate::confine::release;
    #[pymodule_export]
    use crate::convert::convert;
    #[pymodule_export]
    use crate::image::Image;
    #[pymodule_export]
    use crate::iso::{
        Iso, IsoContents, IsoWalk, iso_bytes, iso_create, iso_remaster, iso_remaster_bytes,
    };
    #[pymodule_export]
    use crate::operations::{
        amend, bench, commit, compare, create, detect, formats, inspect, limits, measure_size,
        rebase, repair, resize, take_modified_without_locks,
    };
    #[pymodule_export]
    use crate::picture::{map_html, map_summary};
    #[pymodule_export]
    use crate::serve::Server;
    #[pymodule_export]
    use crate::snapshots::{apply_snapshot, create_snapshot, delete_snapshot};
    #[pymodule_export]
    use crate::url::shown_url;
    #[pymodule_export]
    use crate::words::{format_of_name, word, words};
    #[pymodule_export]
    use crate::work::Stop;

    /// The version of the library, the command and the package.
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
}
