//! Tests of standard output, standard error, signals and full disks.

#[cfg(target_os = "linux")]
mod full_disk;
mod streams;
