//! Tests of VMDK.

mod content_ids;
mod esx;
mod hosted;
mod layouts;
mod matrix;
mod mutations;
mod resized_files;
mod resizing;
mod split;
