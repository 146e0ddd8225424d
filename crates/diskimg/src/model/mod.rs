//! The model: types and traits that formats and operations share.
//!
//! A disk image is a map from **guest bytes** (what the virtual machine sees) to **host offsets**
//! (where those bytes are stored). Three steps are separate:
//!
//! ```text
//!   Layer::map    maps guest bytes to the host offsets of one layer    → extents
//!   Image         finds the layer of the chain that provides each run  → chain extents
//!   Fetcher       reads and decodes the stored bytes                   → bytes
//! ```
//!
//! When an image is written, a [`Target`](target::Target) allocates host offsets for new bytes, and
//! the convert engine writes the bytes there.

pub(crate) mod backing;
pub(crate) mod bitmap;
pub(crate) mod budget;
pub mod extent;
pub(crate) mod extents;
pub(crate) mod fetch;
pub(crate) mod flat;
pub(crate) mod format;
pub(crate) mod image;
pub(crate) mod image_source;
pub(crate) mod layer;
pub(crate) mod mutable;
pub(crate) mod options;
pub(crate) mod reader;
pub(crate) mod sealed;
pub(crate) mod shared_units;
pub(crate) mod slices;
pub(crate) mod target;
