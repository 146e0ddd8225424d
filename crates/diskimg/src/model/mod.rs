//! The model: what formats and operations share.
//!
//! A disk image is a map from **guest bytes** (what the virtual machine sees) to **host offsets**
//! (where those bytes are stored). Three questions are kept apart:
//!
//! ```text
//!   where are the bytes?      Layer::map   → extents        (a format answers)
//!   which layer answers?      Image        → chain extents  (the chain answers)
//!   how are they fetched?     Fetcher      → bytes          (the engine answers)
//! ```
//!
//! When an image is written, a [`Target`](target::Target) decides the host offset of new bytes, and
//! the engine writes them.

pub mod extent;
pub(crate) mod fetch;
pub(crate) mod flat;
pub(crate) mod format;
pub(crate) mod image;
pub(crate) mod image_source;
pub(crate) mod layer;
pub(crate) mod options;
pub(crate) mod slices;
pub mod target;
