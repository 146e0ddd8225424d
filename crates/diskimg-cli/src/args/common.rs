//! What several verbs take, and how it is read.

use crate::failure::Failure;
use crate::output::Program;
use diskimg::open::{appliance_and_disk, local_path};
use diskimg::{
    Caching, Durability, ExternalFiles, Format, Image, Limits, OpenOptions, Options,
    SnapshotSelector,
};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

/// `--output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Form {
    /// For people.
    #[default]
    Human,
    /// For programs.
    Json,
}

/// How images are read: the same for every verb.
#[derive(Debug, clap::Args)]
pub(crate) struct Reading {
    /// Accepted: images are never locked
    #[arg(short = 'U', long)]
    force_share: bool,
    /// Which other files an image may name: none, same-dir or any (default)
    #[arg(long, alias = "references", value_name = "WHICH", default_value = "any")]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    external_files: ExternalFilesArg,
    /// Read a child even if its parent was changed since (VMDK content IDs)
    #[arg(long)]
    ignore_cid: bool,
    #[command(flatten)]
    limits: LimitWords,
    #[command(flatten)]
    refused: Refused,
}

/// `--limit`.
#[derive(Debug, clap::Args)]
pub(crate) struct LimitWords {
    /// How much an image may ask for (repeatable; 'help' lists the limits)
    #[arg(long = "limit", value_name = "NAME=VALUE", action = clap::ArgAction::Append)]
    limits: Vec<String>,
}

/// What images may demand, and what is put up with.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    /// `--external-files`.
    pub(crate) external_files: ExternalFiles,
    /// `--limit`.
    pub(crate) limits: Limits,
    /// `--ignore-cid`.
    ignore_content_id: bool,
}

/// [`ExternalFiles`] as a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum ExternalFilesArg {
    None,
    SameDir,
    Any,
}

impl Reading {
    /// The policy; an error if something we do not do was asked for.
    pub(crate) fn policy(&self) -> Result<Policy, Failure> {
        self.refused.check()?;
        let external_files = match self.external_files {
            ExternalFilesArg::None => ExternalFiles::None,
            ExternalFilesArg::SameDir => ExternalFiles::SameDir,
            ExternalFilesArg::Any => ExternalFiles::Any,
        };
        let limits = self.limits.parse()?;
        Ok(Policy { external_files, limits, ignore_content_id: self.ignore_cid })
    }
}

impl LimitWords {
    /// All that was given, later ones over earlier ones.
    pub(crate) fn parse(&self) -> Result<Limits, Failure> {
        if self.limits.iter().any(|text| text == "help" || text == "?") {
            return Err(Failure::Show(limits_help()));
        }
        let mut limits = Limits::default();
        for text in &self.limits {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            let bound = diskimg::parse_size(value).ok_or_else(|| {
                Failure::error(format!(
                    "--limit {text}: expecting NAME=VALUE, a number or one with k, M, G or T"
                ))
            })?;
            limits.set(name, bound).map_err(|e| Failure::error(format!("--limit {text}: {e}")))?;
        }
        Ok(limits)
    }
}

/// What `--limit help` prints.
fn limits_help() -> String {
    let limits = Limits::default();
    let lines = limits.iter().map(|limit| {
        let left = format!("{}={}", limit.name, short(limit.value));
        format!("  {left:<31} - {}\n", limit.help)
    });
    std::iter::once("Limits and their defaults:\n".to_owned()).chain(lines).collect()
}

/// A number as `--limit` takes it: with a suffix where it is a multiple of that.
fn short(value: u64) -> String {
    let suffixes = [("T", 40), ("G", 30), ("M", 20), ("k", 10)];
    let fits = |(_, shift): &&(&str, u32)| value > 0 && value.trailing_zeros() >= *shift;
    match suffixes.iter().find(fits) {
        Some((suffix, shift)) => format!("{}{suffix}", value >> shift),
        None => value.to_string(),
    }
}

/// qemu-img's grammar that no verb here has: known, so that the answer is
/// plain, and refused, so that nothing happens otherwise than was asked.
#[derive(Debug, clap::Args)]
struct Refused {
    #[arg(long, hide = true, alias = "source-image-opts")]
    image_opts: bool,
    #[arg(long, hide = true, value_name = "OBJECT", action = clap::ArgAction::Append)]
    object: Vec<OsString>,
}

impl Refused {
    fn check(&self) -> Result<(), Failure> {
        if self.image_opts {
            return Err(Failure::not_supported("--image-opts"));
        }
        if !self.object.is_empty() {
            return Err(Failure::not_supported("--object"));
        }
        Ok(())
    }
}

/// An image to be opened.
#[derive(Debug)]
pub(crate) struct Input {
    /// A path, `-`, or an appliance with a disk (`appliance.ova:2`).
    pub(crate) path: PathBuf,
    /// How.
    pub(crate) options: OpenOptions,
}

impl Input {
    /// The image called `name`, of the format named, or probed.
    pub(crate) fn new(
        name: &OsString,
        format: Option<&str>,
        policy: &Policy,
    ) -> Result<Self, Failure> {
        let format = format.map(self::format).transpose()?;
        let options = OpenOptions::new()
            .external_files(policy.external_files)
            .limits(policy.limits.clone())
            .ignore_content_id(policy.ignore_content_id)
            .format(format);
        let name = Path::new(name);
        let path = match appliance_and_disk(name) {
            Some(_) => name.to_owned(),
            None => local_path(name).map_err(|e| e.in_file(name))?,
        };
        Ok(Self { path, options })
    }

    /// Opens it, for who called us so: QEMU knows no ISO images, to it they are raw.
    pub(crate) fn open(&self, program: Program) -> Result<Image, Failure> {
        let options = match program {
            Program::QemuImg => &self.options.clone().never_probed_as(Format::Iso),
            _ => &self.options,
        };
        Ok(options.open(&self.path)?)
    }
}

/// The format called `name`.
pub(crate) fn format(name: &str) -> Result<Format, Failure> {
    match name {
        // QEMU's name for a raw image on a device, which provisioners give.
        "host_device" => Ok(Format::Raw),
        _ => Ok(name.parse()?),
    }
}

/// Sees that an output asked for as `host_device` is a device: where one is
/// missing, no file shall take its place.
pub(crate) fn device_if_asked(format: Option<&str>, path: &Path) -> Result<(), Failure> {
    if format != Some("host_device") {
        return Ok(());
    }
    let name = path.display();
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() || found.is_dir() => Err(Failure::error(format!(
            "'host_device' driver requires '{name}' to be either a character or block device"
        ))),
        Ok(_) => Ok(()),
        Err(e) => Err(diskimg::Error::io("cannot open the device", e).in_file(path).into()),
    }
}

/// A number of bytes; `what` is what the message calls it.
pub(crate) fn size(what: &str, text: &str) -> Result<u64, Failure> {
    diskimg::parse_size(text).ok_or_else(|| {
        Failure::error(format!(
            "Invalid {what} specified: '{text}' (a number of bytes, or one with k, M, G, T, P or E)"
        ))
    })
}

/// The one file that a verb takes.
pub(crate) fn one_file(command: &str, mut files: Vec<OsString>) -> Result<OsString, Failure> {
    match (files.pop(), files.is_empty()) {
        (Some(file), true) => Ok(file),
        _ => Err(Failure::usage(command, "Expecting one image file name")),
    }
}

/// Sees that a cache mode is one of QEMU's. `what` is what the message calls it.
pub(crate) fn cache_mode(what: &str, mode: Option<&str>) -> Result<(), Failure> {
    match mode {
        None | Some("none" | "writeback" | "writethrough" | "directsync" | "unsafe") => Ok(()),
        Some(other) => Err(Failure::error(format!(
            "Invalid {what} option: {other} \
             (one of: none, writeback, writethrough, directsync, unsafe)"
        ))),
    }
}

/// How durable an output written in this cache mode shall be. Only the word
/// `unsafe` itself gives up the flush that makes a finished output last.
pub(crate) fn durability(mode: Option<&str>) -> Result<Durability, Failure> {
    cache_mode("cache", mode)?;
    Ok(if mode == Some("unsafe") { Durability::Cached } else { Durability::Flushed })
}

/// Whether a file is to be read or written past the page cache in this cache mode.
pub(crate) fn caching(mode: Option<&str>) -> Caching {
    match mode {
        Some("none" | "directsync") => Caching::Direct,
        _ => Caching::Buffered,
    }
}

/// All that `-o` was given, later ones over earlier ones; `None` if any of it
/// asks for the list of options.
pub(crate) fn create_options(given: &[String]) -> Result<Option<Options>, Failure> {
    let asks = |text: &String| text.split(',').any(|item| item == "help" || item == "?");
    if given.iter().any(asks) {
        return Ok(None);
    }
    let mut options = Options::default();
    for text in given {
        options.extend(Options::parse(text)?);
    }
    Ok(Some(options))
}

/// Adds the backing file of a new image to its options: by flag or by option,
/// not by both.
pub(crate) fn add_backing(
    options: &mut Options,
    name: Option<String>,
    format: Option<String>,
) -> Result<(), Failure> {
    for (option, flag, value) in [("backing_file", "-B or -b", name), ("backing_fmt", "-F", format)]
    {
        match value {
            Some(_) if options.get(option).is_some() => {
                return Err(Failure::error(format!("{option} is given twice, with {flag} and -o")));
            }
            Some(value) => drop(options.set(option, value)),
            None => {}
        }
    }
    match options.get("backing_file") {
        None | Some("") if options.get("backing_fmt").is_some() => {
            Err(Failure::error("-F (backing_fmt) needs -B or -b (backing_file)"))
        }
        _ => Ok(()),
    }
}

/// `-l`: an id or a name, or `snapshot.id=…,snapshot.name=…`.
pub(crate) fn snapshot(text: Option<&str>) -> Result<Option<SnapshotSelector>, Failure> {
    let Some(text) = text else { return Ok(None) };
    if !text.starts_with("snapshot.") {
        return Ok(Some(SnapshotSelector::IdOrName(text.to_owned())));
    }
    let mut given = Options::parse(text)?;
    let (id, name) = (given.take("snapshot.id"), given.take("snapshot.name"));
    if let Some((other, _)) = given.iter().next() {
        return Err(Failure::error(format!("Invalid parameter '{other}'")));
    }
    Ok(Some(SnapshotSelector::Exactly { id, name }))
}

/// What `-o help` prints. Like qemu-img, it names the format where no file is named.
pub(crate) fn options_help(format: Format, names_file: bool) -> String {
    let title = match names_file {
        true => "Supported options:\n".to_owned(),
        false => format!("Supported {format} options:\n"),
    };
    let mut specs = format.options().to_vec();
    specs.sort_by_key(|spec| spec.name);
    let lines = specs.iter().map(|spec| {
        let left = format!("{}={}", spec.name, spec.kind);
        format!("  {left:<22} - {}\n", spec.help)
    });
    std::iter::once(title).chain(lines).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_two_limits_of_one_name_wins() {
        let limits =
            limits_of(&["table_bytes=1M", "snapshots=3", "table_bytes=4k"]).expect("parses");
        assert_eq!((limits.table_bytes, limits.snapshots), (4096, 3));
        for wrong in ["table_bytes", "table_bytes=", "table_bytes=x", "tables=1", "=1"] {
            limits_of(&[wrong]).expect_err(wrong);
        }
    }

    fn limits_of(given: &[&str]) -> Result<Limits, Failure> {
        LimitWords { limits: given.iter().map(|&text| text.to_owned()).collect() }.parse()
    }

    #[test]
    fn the_list_of_limits_can_be_given_back() {
        let help = limits_help();
        for line in help.lines().skip(1) {
            let setting = line.split_whitespace().next().expect("a setting");
            assert_eq!(limits_of(&[setting]).expect("is one"), Limits::default(), "{line}");
            assert!(line.chars().count() <= 110, "{line}");
        }
        assert_eq!(help.lines().count(), Limits::names().len() + 1);
    }

    #[test]
    fn repeated_options_accumulate_and_the_last_value_wins() {
        let given = ["a=1,b=2".to_owned(), "b=3".to_owned()];
        let options = create_options(&given).expect("parses").expect("no help");
        assert_eq!((options.get("a"), options.get("b")), (Some("1"), Some("3")));
    }

    #[test]
    fn help_among_options_asks_for_the_list() {
        for text in ["help", "?", "size=1,help"] {
            assert!(create_options(&[text.to_owned()]).expect("parses").is_none(), "{text}");
        }
        assert!(create_options(&["help=1".to_owned()]).expect("parses").is_some());
    }

    #[test]
    fn a_backing_file_given_twice_is_an_error() {
        let mut options = Options::parse("backing_file=a").expect("parses");
        assert!(add_backing(&mut options, Some("b".into()), None).is_err());
        add_backing(&mut options, None, Some("raw".into())).expect("once each");
        assert_eq!(options.get("backing_file"), Some("a"));
        assert_eq!(options.get("backing_fmt"), Some("raw"));
    }

    #[test]
    fn a_backing_format_alone_is_an_error() {
        assert!(add_backing(&mut Options::default(), None, Some("raw".into())).is_err());
    }

    #[test]
    fn a_snapshot_is_named_bare_or_by_its_parts() {
        let parsed = |text| snapshot(Some(text)).expect("parses").expect("given");
        assert_eq!(parsed("s1"), SnapshotSelector::IdOrName("s1".into()));
        assert_eq!(
            parsed("snapshot.id=1,snapshot.name=s"),
            SnapshotSelector::Exactly { id: Some("1".into()), name: Some("s".into()) }
        );
        assert!(snapshot(Some("snapshot.x=1")).is_err());
    }
}
