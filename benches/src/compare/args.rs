//! What was asked.

use crate::floor::CodecWork;
use crate::inputs::Order;
use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Compare diskimg with qemu-img and other tools, process by process
#[derive(Debug, Parser)]
#[command(name = "compare")]
pub(crate) struct Args {
    /// Where inputs and outputs lie; repeatable (default: /dev/shm and the temporary folder)
    #[arg(long = "dir", value_name = "DIR")]
    given_dirs: Vec<PathBuf>,
    /// Size of the ext4 image that most cells convert
    #[arg(long, default_value = "2G", value_parser = size)]
    pub(crate) size: u64,
    /// Bytes of files in it (default: 35 % of its size)
    #[arg(long, value_parser = size)]
    files: Option<u64>,
    /// Where these files are copied from
    #[arg(long, value_name = "FOLDER", default_value = "/usr")]
    pub(crate) from: PathBuf,
    /// Only cells whose name contains this, or matches it where it has a '*'; repeatable
    #[arg(long, value_name = "PATTERN")]
    pub(crate) cells: Vec<String>,
    /// Name the cells, and do nothing
    #[arg(long)]
    pub(crate) list: bool,
    /// Counted runs of every tool, after one that is not
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) runs: u32,
    /// Who flushes the output to the disk within the measured time
    #[arg(long, value_enum, default_value_t = Fsync::None)]
    pub(crate) fsync: Fsync,
    /// Also make, mount and measure file systems that share blocks (XFS, btrfs); root only
    #[arg(long)]
    pub(crate) reflink: bool,
    /// Leave the inputs in DIR/diskimg-compare, and use those that are there
    #[arg(long)]
    pub(crate) keep: bool,
    /// Do not measure the codecs' own speed
    #[arg(long)]
    pub(crate) no_floor: bool,
    /// Write all runs as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write a chart of the ratios
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// The command to measure (default: this checkout's, built for release)
    #[arg(long, value_name = "PATH")]
    pub(crate) diskimg: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) hidden: Option<Hidden>,
}

/// Who waits until the output is on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fsync {
    /// Nobody: diskimg is given -t unsafe
    None,
    /// diskimg, by default; the others do not
    Ours,
    /// All: the others are followed by sync FILE
    Both,
}

impl Fsync {
    /// For a table's caption.
    pub(crate) fn caption(self) -> &'static str {
        match self {
            Self::None => "no tool flushes its output (diskimg runs with `-t unsafe`)",
            Self::Ours => "diskimg flushes its output, as it does by default; the others do not",
            Self::Both => {
                "all flush: diskimg by default, qemu-img with `-t writeback`, and it and the \
                 others with `sync FILE` in the measured time"
            }
        }
    }
}

/// This program, run by itself.
#[derive(Debug, Subcommand)]
pub(crate) enum Hidden {
    /// Measure the codecs on an image
    #[command(hide = true)]
    CodecFloor(CodecWork),
    /// Make an image
    #[command(hide = true)]
    MakeInput(Order),
}

impl Args {
    /// Where to work.
    pub(crate) fn dirs(&self) -> Vec<PathBuf> {
        if !self.given_dirs.is_empty() {
            return self.given_dirs.clone();
        }
        let memory = Path::new("/dev/shm");
        let memory = memory.is_dir().then(|| memory.to_owned());
        memory.into_iter().chain([std::env::temp_dir()]).collect()
    }

    /// Bytes of files in the ext4 image.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.files.unwrap_or(self.size / 100 * 35)
    }
}

fn size(text: &str) -> Result<u64, String> {
    diskimg::parse_size(text).ok_or_else(|| format!("'{text}' is no size (as 700M or 2G)"))
}
