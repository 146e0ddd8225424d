//! Tests of the formats, compared with qemu-img and other tools.

mod fuzzed;
mod guest_disk;
mod hostile;
mod ova;
mod overlays;
mod parallels;
mod readers;
mod real_images;
mod vhd;
mod vmdk;
mod writers;
