//! Arguments of `ls`.

use crate::args::Parsed;
use crate::args::common::{ImageArgs, Input, OutputFormat, Policy};
use crate::args::names;
use crate::failure::Failure;
use crate::remote::NetworkArgs;
use diskimg::Limits;
use diskimg::open::appliance_and_disk;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::Path;

const EXAMPLES: &str = "\
PARTITION is a number (0: the whole disk) or LABEL=, UUID=, PARTLABEL= or PARTUUID= with a value.
Names are listed in FAT, ext2, ext3, ext4, ISO 9660 and UDF. With -R or several PATH, full paths
are printed. Control characters in names are escaped.

Examples:
  diskimg ls disk.qcow2
  diskimg ls -l disk.qcow2:1 /boot
  diskimg ls appliance.ova:2:LABEL=data";

/// List partitions, and files in FAT, ext2 to ext4 and ISO 9660.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Args {
    /// The image, with a partition, and paths in it.
    #[arg(value_name = "IMAGE[:PARTITION] [PATH...]", value_hint = clap::ValueHint::FilePath)]
    operands: Vec<OsString>,
    /// Format of IMAGE (default: probed)
    #[arg(short, long, value_name = "FMT")]
    format: Option<String>,
    /// The partition, where IMAGE:PARTITION would be ambiguous
    #[arg(short, long, value_name = "PARTITION")]
    partition: Option<String>,
    /// Also print permissions, owners, sizes, times (UTC) and link targets
    #[arg(short, long)]
    long: bool,
    /// List directories recursively
    #[arg(short = 'R', long)]
    recursive: bool,
    /// Output format (default: human)
    #[arg(long, value_enum, value_name = "human|json", default_value_t)]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    output: OutputFormat,
    /// Sector size of the disk: 512 or 4096 (default: as the partition table says, or 512)
    #[arg(long, value_name = "BYTES")]
    sector_size: Option<u64>,
    #[command(flatten)]
    image_args: ImageArgs,
    #[command(flatten)]
    network_args: NetworkArgs,
}

/// Which partition to list, or whose files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Selector {
    /// Its number; 0 is the whole disk.
    Number(u32),
    /// The label of its file system.
    Label(String),
    /// The UUID of its file system.
    Uuid(String),
    /// Its name.
    PartLabel(String),
    /// Its unique identifier.
    PartUuid(String),
}

impl Selector {
    /// Parses a number, or what fstab(5) writes, such as `LABEL=root`.
    fn parse(text: &str) -> Option<Self> {
        if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
            return text.parse().ok().map(Self::Number);
        }
        let (tag, value) = text.split_once('=')?;
        let value = value.to_owned();
        Some(match tag {
            "LABEL" => Self::Label(value),
            "UUID" => Self::Uuid(value),
            "PARTLABEL" => Self::PartLabel(value),
            "PARTUUID" => Self::PartUuid(value),
            _ => return None,
        })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => number.fmt(f),
            Self::Label(value) => write!(f, "LABEL={value}"),
            Self::Uuid(value) => write!(f, "UUID={value}"),
            Self::PartLabel(value) => write!(f, "PARTLABEL={value}"),
            Self::PartUuid(value) => write!(f, "PARTUUID={value}"),
        }
    }
}

/// What to list.
#[derive(Debug)]
pub(crate) struct Job {
    /// The image, without the partition.
    pub(crate) input: Input,
    /// The operand as it was given, if the number after its colon may be that of a disk: it is if
    /// `input` is an appliance.
    pub(crate) disk: Option<Box<Input>>,
    /// The partition; `None` lists the partitions.
    pub(crate) partition: Option<Selector>,
    /// Paths in the file system; empty for the root directory.
    pub(crate) paths: Vec<Vec<u8>>,
    /// `-l`.
    pub(crate) long: bool,
    /// `-R`.
    pub(crate) recursive: bool,
    /// `--output`.
    pub(crate) output: OutputFormat,
    /// `--sector-size`.
    pub(crate) sector_bytes: Option<u64>,
    /// `--limit`.
    pub(crate) limits: Limits,
}

impl Args {
    /// Validates the arguments.
    pub(crate) fn parse(self) -> Result<Parsed<Job>, Failure> {
        let policy = self.image_args.policy()?.with_network(self.network_args.clone());
        let mut operands = self.operands.into_iter();
        let Some(operand) = operands.next() else {
            return Err(Failure::usage("ls", "Expecting an image file name"));
        };
        let partition = match &self.partition {
            Some(text) => Some(Selector::parse(text).ok_or_else(|| {
                let message = format!("invalid partition '{text}' (a number, LABEL=, UUID=, …)");
                Failure::usage("ls", message)
            })?),
            None => None,
        };
        let input = |name: &OsString| Input::new(name, self.format.as_deref(), &policy);
        let found = if partition.is_none() { split(&operand, &policy) } else { None };
        if let Some(text) = operand.to_str().filter(|_| found.is_none() && partition.is_none()) {
            require_selector(text)?;
        }
        let (input, disk, partition) = match found {
            Some((image, selector @ Selector::Number(_))) => {
                (input(&image)?, input(&operand).ok().map(Box::new), Some(selector))
            }
            Some((image, selector)) => (input(&image)?, None, Some(selector)),
            None => (input(&operand)?, None, partition),
        };
        Ok(Parsed::Job(Job {
            input,
            disk,
            partition,
            paths: operands.map(|path| names::bytes(&path)).collect::<Result<_, _>>()?,
            long: self.long,
            recursive: self.recursive,
            output: self.output,
            sector_bytes: self.sector_size,
            limits: policy.limits,
        }))
    }
}

/// Returns an error for an operand that is an image of one disk and something that is no partition.
fn require_selector(operand: &str) -> Result<(), Failure> {
    let Some((image, rest)) = operand.rsplit_once(':') else { return Ok(()) };
    // An appliance may be followed by the name or ID of a disk.
    const APPLIANCES: [&str; 6] = ["ova", "ovf", "box", "zip", "gz", "tgz"];
    let extension = Path::new(image).extension().and_then(OsStr::to_str).unwrap_or_default();
    let is_image = !Path::new(operand).exists() && Path::new(image).is_file();
    if !is_image || APPLIANCES.iter().any(|name| extension.eq_ignore_ascii_case(name)) {
        return Ok(());
    }
    Err(Failure::error(format!(
        "'{rest}' is not a partition of '{image}' (a number, LABEL=, UUID=, PARTLABEL= or PARTUUID=)"
    )))
}

/// Splits an operand into an image and a partition. A file whose name is the whole operand is an
/// image.
fn split(operand: &OsStr, policy: &Policy) -> Option<(OsString, Selector)> {
    let text = operand.to_str().filter(|_| !policy.is_node(Path::new(operand)))?;
    if Path::new(operand).exists() {
        return None;
    }
    // A label may contain colons, but not the tag before it.
    let tag = ["LABEL=", "UUID=", "PARTLABEL=", "PARTUUID="]
        .iter()
        .filter_map(|tag| text.find(&format!(":{tag}")))
        .min();
    let (image, selector) = match tag {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => text.rsplit_once(':')?,
    };
    let path = Path::new(image);
    // If there is no such file, the error is about it and not about what follows the colon.
    let is_image = !image.contains(':') || path.exists() || appliance_and_disk(path).is_some();
    Selector::parse(selector).filter(|_| is_image).map(|selector| (image.into(), selector))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_numbers_or_tags() {
        for (text, wanted) in [
            ("0", Selector::Number(0)),
            ("12", Selector::Number(12)),
            ("LABEL=a:b=c", Selector::Label("a:b=c".into())),
            ("UUID=", Selector::Uuid(String::new())),
            ("PARTLABEL=EFI", Selector::PartLabel("EFI".into())),
            ("PARTUUID=0-1", Selector::PartUuid("0-1".into())),
        ] {
            assert_eq!(Selector::parse(text), Some(wanted.clone()));
            assert_eq!(wanted.to_string(), text);
        }
        for text in ["", "-1", "+1", "1a", "label=x", "4294967296", "root"] {
            assert_eq!(Selector::parse(text), None, "{text}");
        }
    }
}
