//! Tests of standard output, standard error, signals, full disks and limits on resources.

#[cfg(target_os = "linux")]
mod colors;
#[cfg(target_os = "linux")]
mod full_disk;
#[cfg(target_os = "linux")]
mod resources;
mod streams;
