//! The results of `info`, `check`, `inspect`, `preflight` and `Draw`.

pub mod check;
pub(crate) mod finding;
pub mod info;
#[cfg(feature = "inspect")]
pub mod inspection;
#[cfg(feature = "picture")]
mod page;
#[cfg(feature = "picture")]
pub mod picture;
#[cfg(feature = "preflight")]
pub(crate) mod preflight;
pub(crate) mod printable;
