//! Nodes: images that are described by options instead of a file name, as on QEMU's command line.
//!
//! ```text
//!   json:{"driver": "qcow2", "file": {"filename": "a.qcow2"}, "backing": null}
//!   driver=raw,offset=512,size=1M,file.filename=disk.raw
//!
//!   format node: driver (or probed), backing        raw: offset, size
//!      └─ file: a protocol node (file: filename), a raw node (a window), or another format node
//! ```
//!
//! A node comes from the caller, never from an image: names in images are plain paths.
//!
//! Every key that is not known is an error, because programs test for features in this way.

#[cfg(feature = "json")]
mod json;
mod options;

use crate::error::{Error, Result};
use crate::model::format::Format;
use crate::model::image::Image;
use crate::open::{OpenOptions, require_content};
use crate::storage::source::{FileSource, Source, WindowSource};
use options::{Child, NodeOptions};
use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

/// Keys of every node that make no difference for reading.
const GENERIC: [&str; 7] = [
    "auto-read-only",
    "cache.direct",
    "cache.no-flush",
    "detect-zeroes",
    "discard",
    "node-name",
    "read-only",
];

/// Keys of a file that make no difference here.
const FILE: [&str; 5] =
    ["aio", "aio-max-batch", "pr-manager", "drop-cache", "x-check-cache-dropped"];

/// Keys of qcow2 that tune QEMU's caches and checks.
const QCOW2: [&str; 12] = [
    "lazy-refcounts",
    "pass-discard-request",
    "pass-discard-snapshot",
    "pass-discard-other",
    "discard-no-unref",
    "overlap-check",
    "overlap-check.template",
    "cache-size",
    "l2-cache-size",
    "l2-cache-entry-size",
    "refcount-cache-size",
    "cache-clean-interval",
];

/// Drivers for files of the host.
const FILE_DRIVERS: [&str; 3] = ["file", "host_device", "host_cdrom"];

/// QEMU's other protocols and filters.
const OTHER_DRIVERS: [&str; 24] = [
    "blkdebug",
    "blklogwrites",
    "blkreplay",
    "blkverify",
    "compress",
    "copy-on-read",
    "ftp",
    "ftps",
    "gluster",
    "http",
    "https",
    "iscsi",
    "luks",
    "nbd",
    "nfs",
    "null-aio",
    "null-co",
    "nvme",
    "preallocate",
    "quorum",
    "rbd",
    "ssh",
    "throttle",
    "vvfat",
];

/// Maximum depth of nested nodes.
const MAX_DEPTH: usize = 16;

/// An image that is described by options; see [`OpenOptions::open_node`].
///
/// ```no_run
/// use diskimg::OpenOptions;
/// use diskimg::open::Node;
///
/// // The second partition of a disk, by its offset and size.
/// let node = Node::from_options("driver=raw,offset=1M,size=512M,file.filename=disk.raw")?;
/// let image = OpenOptions::new().open_node(&node, "partition")?;
/// # Ok::<(), diskimg::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node(NodeOptions);

impl Node {
    /// Parses `key=value,key=value`, the argument of QEMU's `--image-opts`. `,,` is a literal comma
    /// in a value.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) for an empty key.
    pub fn from_options(text: &str) -> Result<Self> {
        NodeOptions::parse(text).map(Self)
    }

    /// Parses a JSON object, the part of QEMU's `json:` names after the colon. Strings may be in
    /// single quotes.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if the text is not valid JSON or not an
    /// object.
    #[cfg(feature = "json")]
    pub fn from_json(text: &str) -> Result<Self> {
        json::parse(text).map(Self)
    }
}

impl OpenOptions {
    /// Opens the image that `node` describes, and its backing chain. Errors refer to it as `name`.
    /// [`Image::name`] is the file's name, or a `json:` name if the image is a part of a file or in
    /// another image; it does not contain an explicit backing file.
    ///
    /// Options of `node` have the meaning that they have for QEMU. Supported are the drivers of
    /// this library's formats over files; `offset` and `size` of raw; and `backing`: `null`, or a
    /// node instead of the file that the image names. Options that only tune QEMU are ignored.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) for an option that a driver does not have or
    /// that has no valid value, [`Unsupported`](crate::ErrorKind::Unsupported) for drivers and
    /// options of QEMU that are not supported, and the errors of [`open`](Self::open).
    pub fn open_node(&self, node: &Node, name: &str) -> Result<Image> {
        open(self, node.0.clone(), 0).map_err(|e| e.in_file(name))
    }
}

/// A file or what takes its place, with its description.
struct Opened {
    source: Arc<dyn Source>,
    /// The file's name, if it is a plain file.
    filename: Option<String>,
    /// The node as a JSON object.
    json: String,
    /// The file is not to be locked.
    unlocked: bool,
}

fn open(options: &OpenOptions, mut node: NodeOptions, depth: usize) -> Result<Image> {
    if depth > MAX_DEPTH {
        return Err(Error::invalid(format!("nodes are nested deeper than {MAX_DEPTH}")));
    }
    let options = &shared(options, &mut node)?;
    let driver = node.take("driver")?;
    if driver.as_deref().is_some_and(|name| FILE_DRIVERS.contains(&name)) {
        if options.format.is_some_and(|format| format != Format::Raw) {
            return Err(Error::invalid("A block device must be specified for \"file\""));
        }
        let file = open_file(options, node)?;
        return options
            .clone()
            .force_share(options.force_share || file.unlocked)
            .format(Format::Raw)
            .open_source(file.source, file.filename.unwrap_or_default());
    }
    let named = match driver {
        Some(name) => Some(format(&name)?),
        None => None,
    };
    let format = options.format.or(named);
    let file = match node.take_child("file") {
        Some(Child::Node(file)) => open_file_or_window(options, file, depth)?,
        Some(Child::Reference(name)) => return Err(unknown_node(&name)),
        None if named.is_none() => {
            return Err(Error::invalid("Must specify either driver or file"));
        }
        None | Some(Child::Null) => {
            return Err(Error::invalid("A block device must be specified for \"file\""));
        }
    };
    let window = (format == Some(Format::Raw)).then(|| window(&mut node, file.source.len()));
    let window = window.transpose()?.flatten();
    let source = match &window {
        Some(window) => within(&file.source, window)?,
        None => Arc::clone(&file.source),
    };
    let format_options =
        options.clone().format(format).force_share(options.force_share || file.unlocked);
    let actual = match format {
        Some(format) => format,
        None => Format::probe_named(&*source, source.path(), options.probing)?,
    };
    let backing = take_backing(options, &mut node, actual);
    finish(&mut node, actual)?;
    let name = match (&file.filename, &window) {
        (Some(name), None) => name.clone(),
        _ => format!("json:{}", describe(actual.name(), window.as_ref(), &file.json)),
    };
    match backing {
        None => format_options.open_source(source, name),
        Some(Child::Null) => format_options.alone().open_source(source, name),
        Some(Child::Reference(name)) => Err(unknown_node(&name).in_structure("backing file")),
        Some(Child::Node(backing)) => {
            let top = format_options.alone().open_source(source, name)?;
            let options = options.clone().format(None).snapshot(None).disk(None);
            let below = open(&options, backing, depth + 1);
            let below = below.map_err(|e| match e.structure() {
                None => e.in_structure("backing file"),
                Some(_) => e,
            })?;
            join(&options, top, &below)
        }
    }
}

/// Puts an explicit backing chain below an image.
fn join(options: &OpenOptions, top: Image, below: &Image) -> Result<Image> {
    if !options.ignore_content_id {
        require_content((top.layer(0), top.name(0)), (below.layer(0), below.name(0)))?;
    }
    let (depth, max) = (top.layers().len() + below.layers().len(), options.limits.chain_depth);
    if depth as u64 > max {
        let found = format!("the backing chain has {depth} images");
        return Err(Error::over_limit("chain_depth", found, max));
    }
    Ok(top.over(below))
}

/// Returns the options with `force-share` of a node.
fn shared(options: &OpenOptions, node: &mut NodeOptions) -> Result<OpenOptions> {
    let share = node.take_switch("force-share")?.unwrap_or(false);
    Ok(options.clone().force_share(options.force_share || share))
}

/// Removes and returns the explicit backing file. It is left over, and therefore an error, if the
/// format has no backing files, or if backing files are not opened.
fn take_backing(options: &OpenOptions, node: &mut NodeOptions, format: Format) -> Option<Child> {
    let has_backing = format.options().iter().any(|option| option.name == "backing_file");
    match node.take_child("backing")? {
        Child::Node(backing) if !has_backing || !options.with_parent() => {
            let key = backing.first_key().unwrap_or_default();
            node.insert(format!("backing.{key}"), options::Value::Null);
            None
        }
        child => Some(child),
    }
}

/// Verifies that no options of a format node are left over.
fn finish(node: &mut NodeOptions, format: Format) -> Result<()> {
    node.ignore(&GENERIC);
    let name = format.name();
    if name == "qcow2" {
        node.ignore(&QCOW2);
    }
    let Some(key) = node.first_key() else { return Ok(()) };
    if ["data-file", "encrypt", "key-secret"].iter().any(|known| key.starts_with(known)) {
        return Err(Error::unsupported(format!("the option '{key}' is not supported yet")));
    }
    Err(Error::invalid(format!("Block format '{name}' does not support the option '{key}'")))
}

/// Opens the child `file` of a format node.
fn open_file_or_window(
    options: &OpenOptions,
    mut node: NodeOptions,
    depth: usize,
) -> Result<Opened> {
    let driver = node.take("driver")?;
    match driver.as_deref() {
        None => open_file(options, node),
        Some(name) if FILE_DRIVERS.contains(&name) => open_file(options, node),
        Some(name) => {
            format(name)?;
            node.insert("driver", options::Value::Text(name.to_owned()));
            let inner = options.clone().format(None).snapshot(None).disk(None);
            let image = open(&inner.metadata_only(false), node, depth + 1)?;
            if image.format().driver().appliance.is_some() {
                // Its manifest would not be verified.
                let message = "a disk of an appliance cannot be the file of another node";
                return Err(Error::unsupported(message));
            }
            let name = image.name(0);
            let json = name.strip_prefix("json:").map(str::to_owned);
            let json =
                json.unwrap_or_else(|| describe(image.format().name(), None, &describe_file(name)));
            Ok(Opened { source: Arc::new(image), filename: None, json, unlocked: false })
        }
    }
}

/// Opens a file of the host.
fn open_file(options: &OpenOptions, mut node: NodeOptions) -> Result<Opened> {
    let name = node.take("filename")?;
    let share = node.take_switch("force-share")?.unwrap_or(false);
    let unlocked = match node.take("locking")?.as_deref() {
        None | Some("auto" | "on") => share,
        Some("off") => true,
        Some(other) => {
            let message = format!("Parameter 'locking' does not accept value '{other}'");
            return Err(Error::invalid(message));
        }
    };
    node.ignore(&GENERIC);
    node.ignore(&FILE);
    if let Some(key) = node.first_key() {
        return Err(Error::invalid(format!(
            "Block protocol 'file' doesn't support the option '{key}'"
        )));
    }
    let name = name
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Error::invalid("The 'file' block driver requires a file name"))?;
    let open = || options.read_mode.source(FileSource::open(Path::new(&name))?);
    let source = open().map_err(|e| Error::io(format!("cannot open '{name}'"), e))?;
    Ok(Opened { source, json: describe_file(&name), filename: Some(name), unlocked })
}

/// Removes `offset` and `size` of a raw node. Returns `None` if neither is given.
fn window(node: &mut NodeOptions, len: u64) -> Result<Option<Window>> {
    let (offset, size) = (node.take_size("offset")?, node.take_size("size")?);
    if offset.is_none() && size.is_none() {
        return Ok(None);
    }
    let start = offset.unwrap_or(0);
    if start > len {
        return Err(Error::invalid(format!(
            "Offset ({start}) cannot be greater than size of the containing file ({len})"
        )));
    }
    if size.is_some_and(|size| !size.is_multiple_of(512)) {
        return Err(Error::invalid("Specified size is not multiple of 512"));
    }
    let end = size.map_or(Some(len), |size| start.checked_add(size));
    let Some(end) = end.filter(|&end| end <= len) else {
        let size = size.unwrap_or_default();
        return Err(Error::invalid(format!(
            "The sum of offset ({start}) and size ({size}) has to be smaller or equal to the \
             actual size of the containing file ({len})"
        )));
    };
    Ok(Some(Window { offset, size, range: start..end }))
}

/// A range of a file that is a raw disk.
struct Window {
    offset: Option<u64>,
    size: Option<u64>,
    range: std::ops::Range<u64>,
}

fn within(source: &Arc<dyn Source>, window: &Window) -> Result<Arc<dyn Source>> {
    let source = WindowSource::new(Arc::clone(source), window.range.clone());
    Ok(Arc::new(source.map_err(|e| Error::io("cannot read a part of the file", e))?))
}

/// Returns the format of a driver.
fn format(driver: &str) -> Result<Format> {
    if OTHER_DRIVERS.contains(&driver) {
        return Err(Error::unsupported(format!("the driver '{driver}' is not supported")));
    }
    driver.parse()
}

fn unknown_node(name: &str) -> Error {
    Error::invalid(format!("Cannot find device='{name}' nor node-name='{name}'"))
        .hint("a file is given as file.filename=NAME")
}

/// Returns a format node as a JSON object.
fn describe(driver: &str, window: Option<&Window>, file: &str) -> String {
    let mut json = format!("{{\"driver\": {}", quoted(driver));
    if let Some(window) = window {
        for (key, value) in [("offset", window.offset), ("size", window.size)] {
            if let Some(value) = value {
                let _ = write!(json, ", \"{key}\": {value}");
            }
        }
    }
    json + ", \"file\": " + file + "}"
}

/// Returns a file node as a JSON object.
fn describe_file(name: &str) -> String {
    format!("{{\"driver\": \"file\", \"filename\": {}}}", quoted(name))
}

/// Returns a JSON string.
fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out + "\""
}
