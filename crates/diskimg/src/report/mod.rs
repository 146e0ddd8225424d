//! The results of `info`, `check` and `inspect`.

pub mod check;
pub(crate) mod finding;
pub mod info;
#[cfg(feature = "inspect")]
pub mod inspection;
pub(crate) mod printable;
