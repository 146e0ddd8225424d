//! Tests of the operations.

mod convert;
mod inspect;
mod lengths;
mod map;
mod measure;
mod picture;
mod plan;
mod resize;
mod resize_qcow2;
mod snapshots;
