//! Confinement of the process.

#[cfg(target_os = "linux")]
mod sandbox;
