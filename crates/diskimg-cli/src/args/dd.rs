//! Arguments of `dd`.

use crate::args::Parsed;
use crate::args::common::{self, ImageArgs, Input};
use crate::failure::Failure;
use crate::output::Program;
use crate::remote::{self, NetworkArgs, Server};
use diskimg::{ExternalFiles, Format, Options};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// Size of a block in bytes, without `bs=`.
const DEFAULT_BLOCK: u64 = 512;

/// Maximum size of a block in bytes, as in qemu-img.
const MAX_BLOCK: u64 = i32::MAX as u64;

/// Maximum of `count=` and `skip=`, as in qemu-img.
const MAX_BLOCKS: u64 = i64::MAX as u64;

const EXAMPLES: &str = "\
Examples:
  diskimg dd if=disk.qcow2 of=mbr.raw count=1
  diskimg dd -O qcow2 if=disk.raw of=part.qcow2 bs=1M skip=1 count=512

Operands are if=FILE, of=FILE, bs=SIZE (of a block; default: 512), skip=N and count=N (blocks). The
output is a new image of COUNT blocks after the first SKIP ones; an existing file is replaced.
Both can be URLs.";

/// Copy a part of a disk to a new image.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// `if=`, `of=`, `bs=`, `skip=` and `count=`.
    #[arg(value_name = "OPERAND")]
    operands: Vec<OsString>,
    /// Format of the input (default: probed)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// Format of the output (default: by extension)
    #[arg(long_help = "Format of the output (default: from its extension, else raw)")]
    #[arg(short = 'O', long, value_name = "FMT")]
    output_format: Option<String>,
    #[command(flatten)]
    image_args: ImageArgs,
    #[command(flatten)]
    network_args: NetworkArgs,
}

/// What to copy.
#[derive(Debug)]
pub(crate) struct Job {
    /// `if=`.
    pub(crate) input: Input,
    /// `of=`.
    pub(crate) output: Destination,
    /// `-O`.
    pub(crate) format: Format,
    /// The options that qemu-img sets.
    pub(crate) options: Options,
    /// Files that the images may refer to.
    pub(crate) external_files: ExternalFiles,
    /// Size of a block in bytes.
    pub(crate) block: u64,
    /// Number of blocks that are skipped at the beginning.
    pub(crate) skip: u64,
    /// Number of blocks that are copied, if not all.
    pub(crate) count: Option<u64>,
}

/// Where the blocks are written.
#[derive(Debug)]
pub(crate) enum Destination {
    /// A file or a device, or `-`.
    File(PathBuf),
    /// A new image on a server.
    Server(Box<Server>),
}

impl Destination {
    /// Returns the server, if the image is on one.
    pub(crate) fn server(&self) -> Option<&Server> {
        match self {
            Self::File(_) => None,
            Self::Server(server) => Some(server),
        }
    }
}

/// The values of the operands.
#[derive(Default)]
struct Operands {
    input: Option<OsString>,
    output: Option<OsString>,
    block: Option<u64>,
    skip: u64,
    count: Option<u64>,
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn parse(self, program: Program) -> Result<Parsed<Job>, Failure> {
        let policy = self.image_args.policy()?.with_network(self.network_args.clone());
        let mut operands = Operands::default();
        for operand in &self.operands {
            operands.set(operand)?;
        }
        let (Some(input), Some(output)) = (operands.input, operands.output) else {
            return Err(Failure::usage("dd", "Must specify both input and output files"));
        };
        let format = common::new_format(self.output_format.as_deref(), Some(&output), program)?;
        let mut options = Options::default();
        common::set_qemu_defaults(&mut options, format, program);
        let server = policy.server(Path::new(&output), false);
        server.iter().for_each(|server| remote::prepare(server.url.scheme()));
        Ok(Parsed::Job(Job {
            input: Input::new(&input, self.format.as_deref(), &policy)?,
            output: match server {
                Some(server) => Destination::Server(Box::new(server)),
                None => Destination::File(output.into()),
            },
            format,
            options,
            external_files: policy.external_files,
            block: operands.block.unwrap_or(DEFAULT_BLOCK),
            skip: operands.skip,
            count: operands.count,
        }))
    }
}

impl Operands {
    fn set(&mut self, operand: &OsStr) -> Result<(), Failure> {
        let bytes = operand.as_encoded_bytes();
        let end = bytes.iter().position(|&byte| byte == b'=');
        let name = String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned();
        let unknown = || Failure::usage("dd", format!("unrecognized operand {name}"));
        let value = end.and_then(|end| value_after(operand, end + 1)).ok_or_else(unknown)?;
        match name.as_str() {
            "if" => self.input = Some(value),
            "of" => self.output = Some(value),
            "bs" => self.block = Some(number("bs", &value, 1, MAX_BLOCK)?),
            "skip" => self.skip = number("skip", &value, 0, MAX_BLOCKS)?,
            "count" => self.count = Some(number("count", &value, 0, MAX_BLOCKS)?),
            _ => return Err(unknown()),
        }
        Ok(())
    }
}

/// Returns the part of `text` that begins at a byte that follows an ASCII character.
#[cfg(unix)]
fn value_after(text: &OsStr, at: usize) -> Option<OsString> {
    use std::os::unix::ffi::OsStrExt;
    text.as_bytes().get(at..).map(|bytes| OsStr::from_bytes(bytes).to_owned())
}

/// Returns the part of `text` that begins at a byte, or `None` if it is not Unicode.
#[cfg(not(unix))]
fn value_after(text: &OsStr, at: usize) -> Option<OsString> {
    text.to_str()?.get(at..).map(OsString::from)
}

/// Parses the value of an operand, a number with an optional suffix.
fn number(name: &str, value: &OsStr, min: u64, max: u64) -> Result<u64, Failure> {
    let text = value.to_string_lossy();
    let number = match text.strip_prefix('-') {
        Some(digits) => diskimg::parse_size(digits).map(|_| None),
        None => diskimg::parse_size(&text).map(Some),
    };
    match number {
        None => Err(Failure::error(format!("Invalid {name} specified: '{text}'."))),
        Some(Some(number)) if (min..=max).contains(&number) => Ok(number),
        Some(_) => Err(Failure::error(format!(
            "Invalid {name} specified. Must be between {min} and {max}."
        ))),
    }
}
