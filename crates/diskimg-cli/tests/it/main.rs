//! Drives the built program. qemu-img is the reference: it must be installed.

#![allow(clippy::unwrap_used, reason = "tests")]

mod args;
mod commands;
mod confine;
// The preloaded library reads the registers of one architecture.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod faults;
#[cfg(target_os = "linux")]
mod mutations;
mod output;
mod support;
