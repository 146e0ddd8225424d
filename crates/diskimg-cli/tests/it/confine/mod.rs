//! Tests of the sandbox.

#[cfg(target_os = "linux")]
mod sandbox;
