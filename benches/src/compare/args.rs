//! Command-line arguments.

use crate::floor::CodecWork;
use crate::inputs::InputSpec;
use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Benchmark conversions by diskimg, qemu-img and other tools
#[derive(Debug, Parser)]
#[command(name = "compare")]
pub(crate) struct Args {
    /// Directory for inputs and outputs; repeatable (default: /dev/shm and the temporary directory)
    #[arg(long = "dir", value_name = "DIR")]
    given_dirs: Vec<PathBuf>,
    /// Size of the ext4 image that most cells convert
    #[arg(long, default_value = "2G", value_parser = size)]
    pub(crate) size: u64,
    /// Size of the files in it (default: 35% of its size)
    #[arg(long, value_parser = size)]
    files: Option<u64>,
    /// Directory to copy these files from
    #[arg(long, value_name = "DIR", default_value = "/usr")]
    pub(crate) from: PathBuf,
    /// Run only cells whose name contains PATTERN, or matches it if it contains '*'; repeatable
    #[arg(long, value_name = "PATTERN")]
    pub(crate) cells: Vec<String>,
    /// List the cells and exit
    #[arg(long)]
    pub(crate) list: bool,
    /// Number of measured runs of each tool, after one warm-up run
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) runs: u32,
    /// Which tools flush their output to disk within the measured time
    #[arg(long, value_enum, default_value_t = Fsync::None)]
    pub(crate) fsync: Fsync,
    /// Also create, mount and measure XFS and btrfs file systems with reflinks; requires root
    #[arg(long)]
    pub(crate) reflink: bool,
    /// Keep the inputs in DIR/diskimg-compare and reuse existing ones
    #[arg(long)]
    pub(crate) keep: bool,
    /// Do not measure the codecs alone
    #[arg(long)]
    pub(crate) no_floor: bool,
    /// Write the results of all runs to FILE as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
    /// Write a chart of the ratios to FILE as SVG
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// The diskimg binary to measure (default: built from this checkout)
    #[arg(long, value_name = "PATH")]
    pub(crate) diskimg: Option<PathBuf>,
    #[command(subcommand)]
    pub(crate) hidden: Option<Hidden>,
}

/// Which tools flush their output to disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fsync {
    /// None: diskimg runs with -t unsafe
    None,
    /// diskimg only, as it does by default
    Ours,
    /// All: sync FILE runs after the other tools
    Both,
}

impl Fsync {
    /// Returns a description for the caption of a table.
    pub(crate) fn caption(self) -> &'static str {
        match self {
            Self::None => "no tool flushes its output (diskimg runs with `-t unsafe`)",
            Self::Ours => {
                "diskimg flushes its output, as it does by default; the other tools do not"
            }
            Self::Both => {
                "all tools flush their output: diskimg by default, qemu-img with `-t writeback`; \
                 `sync FILE` after all others is included in the time"
            }
        }
    }
}

/// Internal subcommands, which this program runs in child processes.
#[derive(Debug, Subcommand)]
pub(crate) enum Hidden {
    /// Measure the codecs on an image
    #[command(hide = true)]
    CodecFloor(CodecWork),
    /// Create an input image
    #[command(hide = true)]
    MakeInput(InputSpec),
}

impl Args {
    /// Returns the directories to work in.
    pub(crate) fn dirs(&self) -> Vec<PathBuf> {
        if !self.given_dirs.is_empty() {
            return self.given_dirs.clone();
        }
        let memory = Path::new("/dev/shm");
        let memory = memory.is_dir().then(|| memory.to_owned());
        memory.into_iter().chain([std::env::temp_dir()]).collect()
    }

    /// Returns the size of the files in the ext4 image, in bytes.
    pub(crate) fn file_bytes(&self) -> u64 {
        self.files.unwrap_or(self.size / 100 * 35)
    }
}

fn size(text: &str) -> Result<u64, String> {
    diskimg::parse_size(text).ok_or_else(|| format!("'{text}' is not a size such as 700M or 2G"))
}
