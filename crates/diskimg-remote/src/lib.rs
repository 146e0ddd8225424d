//! Disk images behind network protocols, for the [`diskimg`] library.
//!
//! Each protocol is a feature of this crate and implements [`diskimg::open::Protocol`]. Add it to the
//! options with which an image is opened:
//!
//! ```no_run
//! use diskimg::OpenOptions;
//! use diskimg_remote::http::Http;
//! use std::sync::Arc;
//!
//! let options = OpenOptions::new().protocol(Arc::new(Http::new()?));
//! println!("{}", options.open("https://example.org/disk.qcow2")?.size());
//! # Ok::<(), diskimg::Error>(())
//! ```
//!
//! Only names that the caller passes select a protocol. A name inside an image never does; if the
//! image was opened by a URL, a backing file of its directory can be opened there, if the options
//! allow it ([`diskimg::ExternalFiles`]).
//!
//! A lost connection, a slow server or one that is busy is an error of the kind
//! [`Transient`](diskimg::ErrorKind::Transient) after several attempts, never damage of the image,
//! and never zeros.

#[cfg(any(feature = "http", feature = "nbd"))]
mod addresses;
#[cfg(feature = "azure")]
pub mod azure;
#[cfg(any(feature = "http", feature = "nbd"))]
mod certificates;
#[cfg(any(feature = "s3", feature = "swift"))]
mod environment;
#[cfg(feature = "gcs")]
pub mod gcs;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "nbd")]
pub mod nbd;
#[cfg(feature = "swift")]
pub mod openstack;
#[cfg(any(feature = "http", feature = "rbd"))]
mod percent;
#[cfg(feature = "rbd")]
pub mod rbd;
#[cfg(feature = "s3")]
pub mod s3;
#[cfg(feature = "swift")]
pub mod swift;
#[cfg(any(feature = "http", feature = "nbd"))]
mod system;
#[cfg(any(feature = "azure", feature = "gcs"))]
mod tokens;
#[cfg(any(feature = "s3", feature = "swift"))]
mod upload;
