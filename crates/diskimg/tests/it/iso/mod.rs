//! ISO images, compared with other tools.

mod boot;
mod boot_reading;
mod devices;
mod extraction;
mod grown;
mod hostile;
mod machine;
mod matrix;
mod reference;
mod remaster;
mod sectors;
mod selection;
mod sessions;
mod tree;
mod udf;
mod udf_writing;
mod writing;
mod zisofs;
