//! Drives the built program. qemu-img is the reference: it must be installed.

#![allow(clippy::unwrap_used, reason = "tests")]

mod check;
mod compare;
mod convert;
mod create;
// What it preloads knows one machine's registers.
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod faults;
#[cfg(target_os = "linux")]
mod full_disk;
mod grammar;
mod info;
mod inspect;
#[cfg(unix)]
mod iso;
mod limits;
mod map;
mod measure;
#[cfg(target_os = "linux")]
mod mutations;
mod ova;
#[cfg(target_os = "linux")]
mod sandbox;
mod scale;
mod streams;
mod support;
mod vmdk;
