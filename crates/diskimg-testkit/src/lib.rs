//! What diskimg's tests, fuzz targets and benchmarks share.
//!
//! ```text
//!   builders of images that no tool here writes
//!     esx        VMDK snapshots as ESXi keeps them: COWD and seSparse
//!     hosted     VMDK sparse extents and streams of unusual shape
//!     iso, udf   ISO 9660 and UDF structures, field by field
//!     appliance  OVF packages, packed by tar, gzip and 7-Zip
//!   contents
//!     disk       guest disks as lists of runs, for generated tests
//!   judges
//!     tool       qemu-img, qemu-io and others, run as commands; loop devices, file systems
//!     oracles    other readers of VMDK
//!     opened     opens an image by pread and by mmap and verifies both
//!   storage
//!     faulty     sources and sinks that fail at a chosen operation
//! ```

#![allow(clippy::unwrap_used, missing_docs, missing_debug_implementations, reason = "for tests")]

#[cfg(unix)]
pub mod appliance;
pub mod disk;
pub mod esx;
pub mod faulty;
pub mod hosted;
pub mod iso;
pub mod opened;
#[cfg(unix)]
pub mod oracles;
pub mod tool;
pub mod udf;
