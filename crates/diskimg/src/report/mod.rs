//! The results of `info`, `check`, `inspect` and `Draw`.

pub mod check;
pub(crate) mod finding;
pub mod info;
#[cfg(feature = "inspect")]
pub mod inspection;
#[cfg(feature = "picture")]
mod page;
#[cfg(feature = "picture")]
pub mod picture;
pub(crate) mod printable;
