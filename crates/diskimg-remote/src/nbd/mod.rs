//! NBD, the protocol of network block devices.

pub mod server;
mod wire;
