//! Tests of the command that need no other program, for every system. Those in `../it` compare it
//! with qemu-img and other tools of Linux.
//!
//! `.ci/windows` runs them under Wine. What Wine lacks is not tested there, and printed.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "tests")]

mod conversions;
mod files;
mod interrupts;
mod iso;
mod lab;
#[cfg(windows)]
mod windows;
