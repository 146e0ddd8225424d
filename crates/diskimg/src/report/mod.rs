//! Reports: what `info`, `check` and `inspect` say about an image.

pub mod check;
pub mod info;
pub mod inspection;
pub(crate) mod printable;
