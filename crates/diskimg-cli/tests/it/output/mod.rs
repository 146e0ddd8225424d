//! Standard output and full disks.

#[cfg(target_os = "linux")]
mod full_disk;
mod streams;
