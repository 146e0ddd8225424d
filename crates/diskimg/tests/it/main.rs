//! The library against the tools that others use: qemu-img and qemu-io are
//! asked the same questions, over generated images and the whole option space.
//!
//! `DISKIMG_FAULTS=full` lets every operation fail once, not some (`faults`).
//!
//! `DISKIMG_CASES=N` runs N generated cases of each property instead of the
//! usual number.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod formats;
mod iso;
mod open;
mod ops;
mod storage;
