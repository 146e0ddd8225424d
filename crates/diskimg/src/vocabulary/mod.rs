//! Floor 1: the words in which formats and verbs speak to each other.
//!
//! A disk image is a map from **guest bytes** (what the virtual machine sees)
//! to **places** (where those bytes are kept). Three questions stay apart:
//!
//! ```text
//!   where are the bytes?      Layer::map   → extents        (a format answers)
//!   which layer answers?      Image        → chain extents  (the chain answers)
//!   how are they fetched?     Fetcher      → bytes          (the engine answers)
//! ```
//!
//! and on the way out a [`Target`](target::Target) says where new bytes go; the engine moves them.

pub mod check;
pub mod conformance;
pub(crate) mod error;
pub mod extent;
pub(crate) mod fetch;
pub(crate) mod flat;
pub(crate) mod format;
pub(crate) mod guest;
pub(crate) mod image;
pub mod info;
pub mod inspection;
pub(crate) mod layer;
pub(crate) mod limits;
pub mod open;
pub(crate) mod options;
pub(crate) mod printable;
pub mod reference;
pub(crate) mod slices;
pub mod target;
