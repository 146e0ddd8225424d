//! Tests of the sandbox.

#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod probe;
#[cfg(target_os = "linux")]
mod sandbox;
