//! Arguments that several commands share, and their parsing.

use crate::args::{advice, objects};
use crate::failure::Failure;
use crate::output::Program;
use crate::remote::{self, Connections, NetworkArgs, Server, TlsCredentials};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use diskimg::open::{Node, SingleFile, appliance_and_disk, local_path};
use diskimg::{
    Caching, Durability, Error, ExternalFiles, Format, Image, Limits, OpenOptions, OptionSpec,
    Options, Probing, Secrets, SnapshotSelector,
};
use std::ffi::OsString;
use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// `--output`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum OutputFormat {
    /// Text for people.
    #[default]
    Human,
    /// JSON.
    Json,
}

/// Options of every command that reads an image.
#[derive(Debug, clap::Args)]
pub(crate) struct ImageArgs {
    /// Read images even while they are written
    #[arg(long_help = "Read images even if another process is writing to them")]
    #[arg(short = 'U', long)]
    force_share: bool,
    /// Files to follow: none, same-dir, any
    #[arg(long_help = "Files an image may refer to: none, same-dir, any (default: any)")]
    #[arg(long, alias = "references", value_name = "WHICH", default_value = "any")]
    #[arg(value_parser = words(ExternalFiles::ALL))]
    #[arg(hide_default_value = true, hide_possible_values = true)]
    external_files: ExternalFiles,
    /// Open an image whose parent has changed
    #[arg(long_help = "Open an image even if its parent was modified (content ID mismatch)")]
    #[arg(long)]
    ignore_cid: bool,
    /// Possible parent of a VirtualBox snapshot
    #[arg(long_help = "Possible parent of a VirtualBox snapshot (by UUID); repeatable")]
    #[arg(long = "parent", value_name = "FILE", action = clap::ArgAction::Append)]
    parents: Vec<PathBuf>,
    #[command(flatten)]
    limits: LimitArgs,
    /// Describe images by driver=qcow2,...
    #[arg(long_help = "Describe images by options: driver=qcow2,file.filename=FILE")]
    #[arg(long, alias = "source-image-opts")]
    image_opts: bool,
    /// Define an object of QEMU: secret,id=ID,data=TEXT or file=FILE; repeatable
    #[arg(long, value_name = "OBJECT", hide = true, action = clap::ArgAction::Append)]
    object: Vec<String>,
}

/// `--limit`.
#[derive(Debug, clap::Args)]
pub(crate) struct LimitArgs {
    /// Set a resource limit ('help': a list)
    #[arg(long_help = "Set a resource limit; repeatable; 'help' lists the limits")]
    #[arg(long = "limit", value_name = "NAME=VALUE", action = clap::ArgAction::Append)]
    limits: Vec<String>,
    /// The limits of the configuration, which are the default value.
    #[arg(long = "configured-limit", value_name = "NAME=VALUE", hide = true)]
    configured: Vec<String>,
}

/// Returns the files that are read to access servers.
type FilesOf<'a> = &'a dyn Fn(&NetworkArgs) -> Vec<PathBuf>;

/// Restrictions on the images that are opened.
#[derive(Debug, Clone)]
pub(crate) struct Policy {
    /// `--external-files`.
    pub(crate) external_files: ExternalFiles,
    /// `--limit`.
    pub(crate) limits: Limits,
    /// `--ignore-cid`.
    ignore_content_id: bool,
    /// `--parent`.
    pub(crate) parents: Vec<PathBuf>,
    /// `-U`.
    force_share: bool,
    /// `--image-opts`.
    image_opts: bool,
    /// `--object secret`.
    secrets: Secrets,
    /// `--object tls-creds-x509`.
    credentials: Vec<TlsCredentials>,
    /// How servers are accessed, if images may be behind them.
    network: Option<NetworkArgs>,
}

impl Policy {
    /// Returns the node if `name` is not a file name: with `--image-opts`, or if it begins with
    /// `json:`.
    fn node(&self, name: &Path) -> Result<Option<Node>, Failure> {
        let Some(text) = name.to_str() else { return Ok(None) };
        let node = match text.strip_prefix("json:") {
            _ if self.image_opts => Node::from_options(text),
            Some(json) => Node::from_json(json),
            None => return Ok(None),
        };
        Ok(Some(node.map_err(|e| e.in_file(name))?))
    }

    /// Returns the same policy, with images behind servers.
    pub(crate) fn with_network(self, network: NetworkArgs) -> Self {
        let network = network.with_credentials(self.credentials.clone());
        Self { network: Some(network), ..self }
    }

    /// Returns the same policy, with `--image-opts` or without.
    pub(crate) fn describing_images(&self, image_opts: bool) -> Self {
        Self { image_opts, ..self.clone() }
    }

    /// Returns the file that `name` describes, or `None` if it is a file name.
    pub(crate) fn described_file(&self, name: &Path) -> Result<Option<SingleFile>, Failure> {
        self.node(name)?.map(|node| file_of(&node, name)).transpose()
    }

    /// Returns the server that `name` describes, and the format of the image there, or `None` if it
    /// is a file name or describes a file.
    pub(crate) fn described_server(
        &self,
        name: &Path,
    ) -> Result<Option<(Server, Option<Format>)>, Failure> {
        let (Some(network), Some(node)) = (&self.network, self.node(name)?) else {
            return Ok(None);
        };
        let found = node
            .single_url(&network.registry())
            .map_err(|e| e.in_file(node.shown(&name.to_string_lossy())))?;
        let Some(found) = found else { return Ok(None) };
        require_writable(found.read_only, &found.url)?;
        Ok(Some((Server { url: found.url, network: network.clone() }, found.format)))
    }

    /// Returns the server of `name`, or `None` if it is not a URL. With `create_only`, nothing is
    /// replaced there.
    pub(crate) fn server(&self, name: &Path, create_only: bool) -> Option<Server> {
        let network = self.network.clone()?.create_only(create_only);
        remote::url(name).map(|url| Server { url, network })
    }

    /// Returns true if `name` is not a file name but describes an image.
    pub(crate) fn is_node(&self, name: &Path) -> bool {
        self.image_opts || name.to_str().is_some_and(|name| name.starts_with("json:"))
    }

    /// Adds the protocols of servers to `options`, if the image is on one, of which `files` are read,
    /// and may be. Also returns the files.
    fn add_protocols(
        &self,
        options: OpenOptions,
        files: Option<FilesOf<'_>>,
    ) -> (OpenOptions, Option<Vec<PathBuf>>) {
        match (&self.network, files) {
            (Some(network), Some(files)) => {
                let options = network.protocols().fold(options, OpenOptions::protocol);
                (options, Some(files(network)))
            }
            _ => (options, None),
        }
    }

    /// Returns the options for opening an image that is not behind a server.
    pub(crate) fn options(&self) -> OpenOptions {
        OpenOptions::new()
            .external_files(self.external_files)
            .limits(self.limits.clone())
            .ignore_content_id(self.ignore_content_id)
            .possible_parents(self.parents.clone())
            .force_share(self.force_share)
            .secrets(self.secrets.clone())
    }
}

/// Returns a parser for the words of one of the library's enumerations.
pub(crate) fn words<T>(all: &'static [T]) -> impl TypedValueParser<Value = T>
where
    T: Copy + Display + FromStr<Err = Error> + Send + Sync + 'static,
{
    PossibleValuesParser::new(all.iter().map(ToString::to_string)).try_map(|word| word.parse::<T>())
}

impl ImageArgs {
    /// Returns the policy, or an error if an unsupported option was given.
    pub(crate) fn policy(&self) -> Result<Policy, Failure> {
        let limits = self.limits.parse()?;
        Ok(Policy {
            external_files: self.external_files,
            limits,
            ignore_content_id: self.ignore_cid,
            parents: self.parents.clone(),
            force_share: self.force_share,
            image_opts: self.image_opts,
            secrets: objects::secrets(&self.object)?,
            credentials: objects::credentials(&self.object)?,
            network: None,
        })
    }

    /// Returns true if images are opened without a lock (`-U`).
    pub(crate) fn is_shared(&self) -> bool {
        self.force_share
    }

    /// Rejects `--image-opts`, for a command whose operand is a file name.
    pub(crate) fn require_file_names(&self) -> Result<(), Failure> {
        match self.image_opts {
            true => Err(Failure::not_supported("--image-opts for this command")),
            false => Ok(()),
        }
    }
}

impl LimitArgs {
    /// Returns the limits; the last value of a limit wins.
    pub(crate) fn parse(&self) -> Result<Limits, Failure> {
        if self.limits.iter().any(|text| text == "help" || text == "?") {
            return Err(Failure::Show(limits_help()));
        }
        let mut limits = Limits::default();
        for text in self.configured.iter().chain(&self.limits) {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            let bound = diskimg::parse_size(value).ok_or_else(|| {
                Failure::error(format!(
                    "--limit {text}: expected NAME=VALUE, where VALUE may end in k, M, G, T, P or E"
                ))
            })?;
            limits.set(name, bound).map_err(|e| {
                match advice::suggestion(name, Limits::names()) {
                    Some(meant) => {
                        Failure::error(format!("--limit {text}: unknown limit '{name}' ({meant})"))
                    }
                    None => Failure::error(format!("--limit {text}: {e}")),
                }
            })?;
        }
        Ok(limits)
    }
}

/// Returns the output of `--limit help`.
fn limits_help() -> String {
    let limits = Limits::default();
    let lines = limits.iter().map(|limit| {
        let left = format!("{}={}", limit.name, with_suffix(limit.value));
        format!("  {left:<31} - {}\n", limit.help)
    });
    std::iter::once("Limits and their defaults:\n".to_owned()).chain(lines).collect()
}

/// Formats a number for `--limit`, with the largest suffix that divides it.
fn with_suffix(value: u64) -> String {
    let suffixes = [("T", 40), ("G", 30), ("M", 20), ("k", 10)];
    let divides = |(_, shift): &&(&str, u32)| value > 0 && value.trailing_zeros() >= *shift;
    match suffixes.iter().find(divides) {
        Some((suffix, shift)) => format!("{}{suffix}", value >> shift),
        None => value.to_string(),
    }
}

/// An image to be opened.
#[derive(Debug)]
pub(crate) struct Input {
    /// A path, `-`, an appliance with a disk (`appliance.ova:2`), or the text of the node.
    pub(crate) path: PathBuf,
    /// If it is on a server: the files that are read to access that.
    pub(crate) network: Option<Vec<PathBuf>>,
    /// `json:` or `--image-opts`.
    node: Option<Node>,
    /// Its format, if it is given.
    pub(crate) format: Option<Format>,
    /// How to open it.
    pub(crate) options: OpenOptions,
    /// Files that it may refer to.
    pub(crate) external_files: ExternalFiles,
    /// Files that may be parents.
    pub(crate) parents: Vec<PathBuf>,
}

impl Input {
    /// Returns true if the image is described by options or JSON.
    pub(crate) fn is_described(&self) -> bool {
        self.node.is_some()
    }

    /// Returns the input `name`; without `format`, its format is probed.
    pub(crate) fn new(
        name: &OsString,
        format: Option<&str>,
        policy: &Policy,
    ) -> Result<Self, Failure> {
        let format = format.map(self::format).transpose()?;
        let options = policy.options().format(format);
        let external_files = policy.external_files;
        let parents = policy.parents.clone();
        let name = Path::new(name);
        if let Some(node) = policy.node(name)? {
            if policy.image_opts && format.is_some() {
                let message = "--image-opts and --format are mutually exclusive";
                return Err(Failure::error(message));
            }
            let path = node.shown(&name.to_string_lossy()).into();
            node.drivers().into_iter().for_each(remote::prepare);
            let uses_network = node.drivers().into_iter().any(remote::is_scheme);
            let files = |network: &NetworkArgs| network.files_of_node(&node);
            let (options, network) = policy.add_protocols(options, uses_network.then_some(&files));
            let node = Some(node);
            return Ok(Self { path, network, node, format, options, external_files, parents });
        }
        let url = remote::url(name);
        url.iter().for_each(|url| remote::prepare(url.scheme()));
        let files = url.as_ref().map(|url| move |network: &NetworkArgs| network.files_of(url));
        let (options, network) = policy.add_protocols(options, files.as_ref().map(|f| f as _));
        let path = match appliance_and_disk(name) {
            Some(_) => name.to_owned(),
            None if network.is_some() => name.to_owned(),
            None => {
                require_no_url(name)?;
                local_path(name).map_err(|e| e.in_file(name))?
            }
        };
        Ok(Self { path, network, node: None, format, options, external_files, parents })
    }

    /// Returns true if the image is on a server to which this process connects in this way.
    pub(crate) fn connects(&self, by: Connections) -> bool {
        match (&self.network, &self.node, remote::url(&self.path)) {
            (None, ..) => false,
            (Some(_), Some(node), _) => by.any_of(node),
            (Some(_), None, url) => url.is_some_and(|url| Connections::of(&url) == by),
        }
    }

    /// Returns the names of its files: the ones on the command line.
    pub(crate) fn file_names(&self) -> Vec<PathBuf> {
        match (&self.node, appliance_and_disk(&self.path)) {
            (Some(node), _) => node.file_names().into_iter().map(PathBuf::from).collect(),
            (None, Some((appliance, _))) => {
                let appliance = local_path(appliance).unwrap_or_else(|_| appliance.to_owned());
                vec![appliance]
            }
            (None, None) if self.network.is_some() => Vec::new(),
            (None, None) => vec![self.path.clone()],
        }
    }

    /// Returns its name for messages, without secrets.
    pub(crate) fn shown(&self) -> String {
        match remote::url(&self.path).filter(|_| self.node.is_none()) {
            Some(url) => url.to_string(),
            None => self.path.display().to_string(),
        }
    }

    /// Opens the image. As qemu-img, ISO images are raw, since QEMU has no such format.
    pub(crate) fn open(&self, program: Program) -> Result<Image, Failure> {
        self.try_open(program).map_err(|error| self.with_advice(error, program).into())
    }

    /// Adds to the error of opening the image what may have been meant.
    pub(crate) fn with_advice(&self, error: Error, program: Program) -> Error {
        match advice::of(&self.path) {
            Some(advice) if program != Program::QemuImg => error.hint(advice),
            _ => error,
        }
    }

    /// Like [`open`](Self::open), but returns the library's error.
    pub(crate) fn try_open(&self, program: Program) -> diskimg::Result<Image> {
        let options = self.options_for(program);
        match &self.node {
            Some(node) => options.open_node(node, &self.path.to_string_lossy()),
            None => options.open(&self.path),
        }
    }

    /// Returns the same image as a file, which can be modified.
    pub(crate) fn into_file(mut self) -> Result<Self, Failure> {
        if self.node.is_none() {
            require_no_url(&self.path)?;
        }
        if let Some(node) = self.node.take() {
            let file = file_of(&node, &self.path)?;
            self.path = file.path;
            self.format = file.format;
            self.options = self.options.format(file.format);
        }
        Ok(self)
    }

    /// Returns the options for opening the image, as the program that the command was run as.
    pub(crate) fn options_for(&self, program: Program) -> OpenOptions {
        let options = self.options.clone();
        match program {
            Program::QemuImg => options.probing(Probing::LikeQemu),
            _ => options,
        }
    }
}

/// Refuses a URL that other commands or operands accept.
pub(crate) fn require_no_url(name: &Path) -> Result<(), Failure> {
    match remote::url(name).filter(|_| !name.exists()) {
        Some(url) => Err(Failure::error(format!(
            "{url}: this must be a file or a device, not a URL (for a file whose name has a colon, \
             write ./NAME)"
        ))),
        None => Ok(()),
    }
}

/// Returns the file of an image that is to be modified and that is called `name`.
fn file_of(node: &Node, name: &Path) -> Result<SingleFile, Failure> {
    let mut file = node.single_file().ok_or_else(|| {
        Failure::error(format!(
            "{}: to be modified, an image must be described as one format over one file: \
             driver=FMT,file.filename=FILE",
            name.display()
        ))
    })?;
    require_writable(file.read_only, file.path.display())?;
    file.path = local_path(&file.path).map_err(|e| e.in_file(&file.path))?;
    Ok(file)
}

fn require_writable(read_only: bool, name: impl Display) -> Result<(), Failure> {
    match read_only {
        true => Err(Failure::error(format!("Could not open '{name}': Block node is read-only"))),
        false => Ok(()),
    }
}

/// Layouts of a VMDK, which are an option of the format.
const VMDK_LAYOUTS: [&str; 5] = [
    "streamOptimized",
    "monolithicSparse",
    "monolithicFlat",
    "twoGbMaxExtentSparse",
    "twoGbMaxExtentFlat",
];

/// Parses the name of a format, in any case. Other usual names are accepted: extensions, and QEMU's
/// driver for a raw image on a device, which some provisioning tools pass.
pub(crate) fn format(name: &str) -> Result<Format, Failure> {
    // The recorded names are in lower case.
    let lower = name.to_ascii_lowercase();
    let usual = match lower.as_str() {
        "host_device" | "img" | "dd" => "raw",
        "ovf" => "ova",
        other => other,
    };
    usual.parse().map_err(|error: Error| {
        let layout = VMDK_LAYOUTS.iter().find(|layout| layout.eq_ignore_ascii_case(name));
        if let Some(layout) = layout {
            return Failure::error(format!(
                "'{name}' is a layout of the format vmdk (-O vmdk -o subformat={layout})"
            ));
        }
        let known = Format::ALL.iter().map(|format| format.name());
        let Some(meant) = advice::suggestion(name, known) else { return error.into() };
        let supported = error.hint_text().unwrap_or_default().to_owned();
        error.hint(format!("{meant} {supported}")).into()
    })
}

/// Returns the format of a new image: as named or, under diskimg's own name, that of the extension
/// of `path`; else raw.
pub(crate) fn new_format(
    name: Option<&str>,
    path: Option<&OsString>,
    program: Program,
) -> Result<Format, Failure> {
    match (name, path) {
        (Some(name), _) => format(name),
        (None, Some(path)) if program != Program::QemuImg => {
            let url = remote::url(Path::new(path));
            let name = url.as_ref().map_or(Path::new(path), |url| Path::new(url.file_name()));
            Ok(Format::of_new_file(name)?)
        }
        _ => Ok(Format::Raw),
    }
}

/// Checks that an output of format `host_device` is a device, so that no regular file is created
/// when the device is missing.
pub(crate) fn require_device(format: Option<&str>, path: &Path) -> Result<(), Failure> {
    if format != Some("host_device") {
        return Ok(());
    }
    let name = path.display();
    match std::fs::metadata(path) {
        Ok(found) if found.is_file() || found.is_dir() => Err(Failure::error(format!(
            "'host_device' driver requires '{name}' to be either a character or block device"
        ))),
        Ok(_) => Ok(()),
        Err(e) => Err(Error::io("cannot open the device", e).in_file(path).into()),
    }
}

/// Parses a number of bytes; error messages call it `what`.
pub(crate) fn size(what: &str, text: &str) -> Result<u64, Failure> {
    diskimg::parse_size(text).ok_or_else(|| {
        Failure::error(format!(
            "Invalid {what} specified: '{text}' \
             (expected a number, which may end in k, M, G, T, P or E)"
        ))
    })
}

/// Returns the only file operand of `command`.
pub(crate) fn single_file(command: &str, mut files: Vec<OsString>) -> Result<OsString, Failure> {
    match (files.pop(), files.is_empty()) {
        (Some(file), true) => Ok(file),
        _ => Err(Failure::usage(command, "Expecting one image file name")),
    }
}

/// Checks that a cache mode is one of QEMU's; error messages call the option `what`.
pub(crate) fn check_cache_mode(what: &str, mode: Option<&str>) -> Result<(), Failure> {
    match mode {
        None | Some("none" | "writeback" | "writethrough" | "directsync" | "unsafe") => Ok(()),
        Some(other) => Err(Failure::error(format!(
            "Invalid {what} option: {other} \
             (one of: none, writeback, writethrough, directsync, unsafe)"
        ))),
    }
}

/// Returns the durability that this cache mode asks for: only `unsafe` skips the final flush.
pub(crate) fn durability(mode: Option<&str>) -> Result<Durability, Failure> {
    check_cache_mode("cache", mode)?;
    Ok(if mode == Some("unsafe") { Durability::Cached } else { Durability::Flushed })
}

/// Returns whether this cache mode bypasses the page cache.
pub(crate) fn caching(mode: Option<&str>) -> Caching {
    match mode {
        Some("none" | "directsync") => Caching::Direct,
        _ => Caching::Buffered,
    }
}

/// Parses the values of `-o`; the last value of an option wins. Returns `None` if one of them is
/// `help` or `?`.
pub(crate) fn create_options(given: &[String]) -> Result<Option<Options>, Failure> {
    if given.iter().any(|text| Options::ask_for_help(text)) {
        return Ok(None);
    }
    let mut options = Options::default();
    for text in given {
        options.extend(Options::parse(text)?);
    }
    Ok(Some(options))
}

/// Suggests the option of the format that may have been meant by an unknown one. Without a
/// suggestion, the operation reports the error.
pub(crate) fn suggest_option(options: &Options, format: Format) -> Result<(), Failure> {
    let known: Vec<_> = format.options().iter().map(|spec| spec.name).collect();
    for (name, _) in options.iter().filter(|(name, _)| !known.contains(name)) {
        if let Some(meant) = advice::suggestion(name, &known) {
            return Err(Failure::error(format!("Invalid parameter '{name}' ({meant})")));
        }
    }
    Ok(())
}

/// Sets the options that are not given to QEMU's default values, where these are others, if the
/// command was run as qemu-img.
pub(crate) fn set_qemu_defaults(options: &mut Options, format: Format, program: Program) {
    if program != Program::QemuImg {
        return;
    }
    for spec in format.options() {
        if let Some(value) = spec.qemu_default.filter(|_| options.get(spec.name).is_none()) {
            options.set(spec.name, value);
        }
    }
}

/// Adds the backing file given with flags to the options of a new image.
///
/// # Errors
/// If `-o` sets the same option, or there is a backing format but no backing file.
pub(crate) fn add_backing(
    options: &mut Options,
    name: Option<String>,
    format: Option<String>,
) -> Result<(), Failure> {
    for (option, flag, value) in [("backing_file", "-B or -b", name), ("backing_fmt", "-F", format)]
    {
        match value {
            Some(_) if options.get(option).is_some() => {
                return Err(Failure::error(format!("{option} is set twice, by {flag} and by -o")));
            }
            Some(value) => drop(options.set(option, value)),
            None => {}
        }
    }
    // In the words of an image, which QEMU reads. Its drivers for devices are recorded as they are.
    if let Some(name) = options.get("backing_fmt").filter(|name| !name.starts_with("host_"))
        && let Ok(format) = self::format(name)
    {
        options.set("backing_fmt", format.name());
    }
    match options.get("backing_file") {
        None | Some("") if options.get("backing_fmt").is_some() => {
            Err(Failure::error("-F (backing_fmt) requires -B or -b (backing_file)"))
        }
        _ => Ok(()),
    }
}

/// Parses `-l`: an ID or a name, or `snapshot.id=ID,snapshot.name=NAME`.
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

/// Returns the output of `-o help`. As in qemu-img, the title names the format if there are no file
/// operands.
pub(crate) fn options_help(format: Format, has_operands: bool) -> String {
    let title = match has_operands {
        true => "Supported options:\n".to_owned(),
        false => format!("Supported {format} options:\n"),
    };
    options_list(&title, format.options())
}

/// Returns a list of options below a title, in the order of their names.
pub(crate) fn options_list(title: &str, specs: &[OptionSpec]) -> String {
    let mut specs = specs.to_vec();
    specs.sort_by_key(|spec| spec.name);
    let lines = specs.iter().map(|spec| {
        let left = format!("{}={}", spec.name, spec.kind);
        format!("  {left:<22} - {}\n", spec.help)
    });
    std::iter::once(title.to_owned()).chain(lines).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_value_of_a_limit_wins() {
        let limits =
            limits_of(&["table_bytes=1M", "snapshots=3", "table_bytes=4k"]).expect("parses");
        assert_eq!((limits.table_bytes, limits.snapshots), (4096, 3));
        for wrong in ["table_bytes", "table_bytes=", "table_bytes=x", "tables=1", "=1"] {
            limits_of(&[wrong]).expect_err(wrong);
        }
    }

    fn limits_of(given: &[&str]) -> Result<Limits, Failure> {
        let limits = given.iter().map(|&text| text.to_owned()).collect();
        LimitArgs { limits, configured: Vec::new() }.parse()
    }

    #[test]
    fn limit_help_lists_valid_settings() {
        let help = limits_help();
        for line in help.lines().skip(1) {
            let setting = line.split_whitespace().next().expect("a setting");
            assert_eq!(limits_of(&[setting]).expect("valid"), Limits::default(), "{line}");
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
    fn help_in_any_option_value_requests_the_list() {
        for text in ["help", "?", "size=1,help"] {
            assert!(create_options(&[text.to_owned()]).expect("parses").is_none(), "{text}");
        }
        for text in ["help=1", "backing_file=a,,help", "backing_file=?"] {
            assert!(create_options(&[text.to_owned()]).expect("parses").is_some(), "{text}");
        }
    }

    #[test]
    fn a_backing_file_set_twice_is_an_error() {
        let mut options = Options::parse("backing_file=a").expect("parses");
        assert!(add_backing(&mut options, Some("b".into()), None).is_err());
        add_backing(&mut options, None, Some("raw".into())).expect("set once each");
        assert_eq!(options.get("backing_file"), Some("a"));
        assert_eq!(options.get("backing_fmt"), Some("raw"));
    }

    #[test]
    fn a_backing_format_without_a_backing_file_is_an_error() {
        assert!(add_backing(&mut Options::default(), None, Some("raw".into())).is_err());
    }

    #[test]
    fn a_snapshot_is_selected_by_id_or_name_or_by_both_exactly() {
        let parsed = |text| snapshot(Some(text)).expect("parses").expect("given");
        assert_eq!(parsed("s1"), SnapshotSelector::IdOrName("s1".into()));
        assert_eq!(
            parsed("snapshot.id=1,snapshot.name=s"),
            SnapshotSelector::Exactly { id: Some("1".into()), name: Some("s".into()) }
        );
        assert!(snapshot(Some("snapshot.x=1")).is_err());
    }
}
