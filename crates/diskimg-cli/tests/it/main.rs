//! Integration tests of the `diskimg` binary. They compare it with qemu-img, which must be
//! installed.

#![allow(clippy::unwrap_used, reason = "tests")]

mod args;
#[cfg(unix)]
mod browser;
mod commands;
mod confine;
mod documentation;
// The preloaded library reads x86-64 registers.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod faults;
#[cfg(target_os = "linux")]
mod mutations;
mod output;
#[cfg(unix)]
mod sequences;
mod support;
