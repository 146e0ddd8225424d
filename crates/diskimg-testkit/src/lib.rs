//! Image builders, reference tools and faulty storage, shared by diskimg's tests and fuzz targets.
//!
//! ```text
//!   builders of images that the installed tools cannot write
//!     qcow2      qcow2 images with shared tables and clusters
//!     esx        ESXi snapshot extents: COWD and seSparse
//!     vhd, vhdx  VHD and VHDX: damaged, differencing, with a log
//!     vdi        VDI: old versions, extra bytes, differencing
//!     qed, qcow  QED and QCOW version 1 images with every size of tables
//!     hosted     VMDK hosted sparse and stream-optimized extents with unusual parameters
//!     parallels  Parallels images with unusual parameters, and bundles
//!     sparseimage, sparsebundle, asif   Apple's sparse images
//!     ewf        EWF images with every size of segments and tables, and damaged ones
//!     cloop      cloop images with other blocks
//!     bochs      growing images of Bochs with other sizes
//!     iso, udf   ISO 9660 and UDF structures, field by field
//!     appliance  OVF packages, packed with tar, gzip and 7-Zip
//!   contents
//!     disk       guest disks as lists of runs, for generated tests
//!   checks
//!     tool       runs qemu-img, qemu-io and other tools; loop devices, mounted file systems
//!     oracles    independent readers
//!     growth     work that must not grow faster than its input
//!   servers
//!     nbd        servers of NBD
//!     nginx      HTTP, with TLS and passwords, or without ranges
//!     moto       an S3 store, and services that issue keys
//!     radosgw    an S3 store: Ceph with its gateway
//!     swift      Swift, and Keystone
//!   storage
//!     crash      storage that records its writes, and every state after a crash
//!     faulty     sources, sinks and storage that fail at a chosen operation
//!     hole       a source without data
//! ```

#![allow(
    clippy::unwrap_used,
    clippy::new_without_default,
    missing_docs,
    missing_debug_implementations,
    reason = "for tests"
)]

#[cfg(unix)]
pub mod appliance;
pub mod asif;
pub mod bochs;
#[cfg(unix)]
mod boto3;
pub mod cloop;
pub mod crash;
pub mod disk;
pub mod dmg;
pub mod esx;
pub mod ewf;
pub mod faulty;
pub mod growth;
pub mod hole;
pub mod hosted;
pub mod iso;
#[cfg(unix)]
pub mod moto;
#[cfg(unix)]
pub mod nbd;
#[cfg(unix)]
pub mod nginx;
#[cfg(unix)]
pub mod oracles;
pub mod parallels;
pub mod qcow;
pub mod qcow2;
pub mod qed;
#[cfg(unix)]
pub mod radosgw;
pub mod slow;
pub mod sparsebundle;
pub mod sparseimage;
#[cfg(unix)]
pub mod swift;
pub mod tool;
pub mod udf;
pub mod vdi;
pub mod vhd;
pub mod vhdx;

/// Runs the examples of the project's README as tests.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
