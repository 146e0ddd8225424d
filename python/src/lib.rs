//! The native half of the Python package `diskimg`.
//!
//! ```text
//!   lib/diskimg/     what users see: signatures, types, documentation, results
//!      │ plain values: names, numbers, option pairs
//!      ▼
//!   _native          this crate: image, convert, the other verbs, iso/, and what they share
//!      │   arguments   what Python gave → what the library takes
//!      │   file/       Python's file objects as sources and outputs
//!      │   work        the GIL released, Ctrl-C and progress looked after
//!      │   errors      the library's errors as Python's exceptions
//!      ▼
//!   diskimg          the library
//! ```
//!
//! Nothing here is for users: names and signatures change with the package.

mod arguments;
mod cluster;
mod command;
mod convert;
mod errors;
mod file;
mod image;
mod iso;
mod operations;
mod work;

/// The module `diskimg._native`.
#[pyo3::pymodule(gil_used = false)]
mod _native {
    #[pymodule_export]
    use crate::command::run_command;
    #[pymodule_export]
    use crate::convert::convert;
    #[pymodule_export]
    use crate::image::Image;
    #[pymodule_export]
    use crate::iso::{
        Iso, IsoContents, IsoWalk, iso_bytes, iso_create, iso_remaster, iso_remaster_bytes,
    };
    #[pymodule_export]
    use crate::operations::{compare, create, detect, formats, inspect, limits, measure_size};

    /// The version of library, command and package.
    #[pymodule_export]
    const VERSION: &str = env!("CARGO_PKG_VERSION");
}
