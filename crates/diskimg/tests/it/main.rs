//! Tests of the library, most of them differential: the results are compared with those of
//! qemu-img, qemu-io and other tools, for generated images and all create options.
//!
//! `DISKIMG_FAULTS=full` injects a fault at every operation instead of a sample
//! (`storage::faults`).
//!
//! `DISKIMG_CASES=N` runs N generated cases of each property instead of the default number.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod formats;
mod iso;
mod open;
mod ops;
mod storage;
