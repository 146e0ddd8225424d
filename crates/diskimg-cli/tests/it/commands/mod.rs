//! Tests of the commands, one file each; `ewf`, `ova`, `vdi`, `vmdk` and `scale` run several commands.

mod amend;
mod apple_sparse;
mod bench;
mod bitmap;
mod chains;
mod check;
mod compare;
mod convert;
mod create;
mod dd;
#[cfg(unix)]
mod dry_run;
#[cfg(unix)]
mod ewf;
mod info;
mod inspect;
#[cfg(unix)]
mod iso;
mod locks;
#[cfg(target_os = "linux")]
mod ls;
mod map;
#[cfg(unix)]
mod map_page;
mod measure;
#[cfg(target_os = "linux")]
mod moto;
mod nbd;
mod ova;
#[cfg(target_os = "linux")]
mod own_files;
mod parallels;
mod probing;
mod rbd;
mod remote;
mod replacing;
mod resize;
#[cfg(target_os = "linux")]
mod s3;
mod scale;
#[cfg(target_os = "linux")]
mod serve;
mod snapshot;
mod ssh;
#[cfg(target_os = "linux")]
mod swift;
mod vdi;
mod vmdk;
