//! Tests of the operations.

mod amend;
mod bench;
mod bitmaps;
mod chains;
mod commit;
mod convert;
mod fix_gpt;
mod inspect;
mod lengths;
mod map;
mod measure;
mod picture;
mod plan;
mod rebase;
mod repair;
mod resize;
mod resize_qcow2;
mod snapshots;
