//! NBD, the protocol of network block devices.

mod wire;
