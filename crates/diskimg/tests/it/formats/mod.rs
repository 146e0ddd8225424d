//! Tests of the formats, compared with qemu-img and other tools.

mod asif;
mod bochs;
mod cloop;
mod dmg;
mod ewf;
mod fuzzed;
mod guest_disk;
mod hostile;
mod ova;
mod overlays;
mod parallels;
mod qcow;
mod qed;
mod readers;
mod real_images;
mod sparsebundle;
mod sparseimage;
mod vdi;
mod vhd;
mod vhdx;
mod vmdk;
mod writers;
