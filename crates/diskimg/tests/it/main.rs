//! Tests of the library, most of them differential: the results are compared with those of
//! qemu-img, qemu-io and other tools, for generated images and all create options.
//!
//! `DISKIMG_FULL=1` (`./test.sh --full`) runs all cases of the long tests instead of a sample, and
//! `DISKIMG_CASES=N` N generated cases of each property.

#![allow(clippy::unwrap_used, unreachable_pub)]

mod examples;
mod formats;
mod growth;
mod iso;
mod open;
mod ops;
mod remedies;
mod storage;
mod verified;
