//! Opening the nodes of a description.

use super::NodeSettings;
use super::describe::{file_node, format_node, url_node};
use super::faults::FaultySource;
use super::keys::{FAULTY_DRIVER, FILE, FILE_DRIVERS, GENERIC, NULL_DRIVERS, OTHER_DRIVERS};
use super::null::NullSource;
use super::options::{Child, NodeOptions, Value};
use super::url::NodeUrl;
use super::window::{window, within};
use crate::error::{Error, Result};
use crate::model::format::Format;
use crate::model::image::Image;
use crate::open::chain::{self, Opening, Place, lock_error, require_content};
use crate::open::location::{Location, unknown_protocol};
use crate::open::{OpenOptions, Protocols};
use crate::storage::source::{FileSource, Source};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// Maximum depth of nested nodes.
const MAX_DEPTH: usize = 16;

/// The nodes of a description that are open and have a name, by which others refer to them. A node
/// is open before those that refer to it: the file first, then the data file, then the backing file.
#[derive(Default)]
pub(super) struct Graph(BTreeMap<String, Named>);

/// A node with a name.
enum Named {
    File(File),
    Image(Image),
}

/// A file or what takes its place, with its description.
#[derive(Clone)]
struct File {
    source: Arc<dyn Source>,
    /// The file's name, if it is a plain file or a URL.
    name: Option<String>,
    /// The node as a JSON object.
    json: String,
    /// The file is not to be locked.
    unlocked: bool,
    place: Place,
}

impl File {
    /// Returns an image that takes the place of a file.
    fn image(image: Image) -> Result<Self> {
        if image.format().driver().appliance.is_some() {
            // Its manifest would not be verified.
            let message = "a disk of an appliance cannot be the file of another node";
            return Err(Error::unsupported(message));
        }
        let name = image.name(0);
        let json = match name.strip_prefix("json:") {
            Some(json) => json.to_owned(),
            None => format_node(image.format().name(), None, None, &file_node(name)),
        };
        let place = if image.is_local() { Place::Local } else { Place::Elsewhere };
        Ok(Self { source: Arc::new(image), name: None, json, unlocked: false, place })
    }

    /// Opens the format in the file.
    fn open(self, options: &OpenOptions, name: String) -> Result<Image> {
        let options = options.clone().force_share(options.force_share || self.unlocked);
        let format = options.format;
        chain::open(&options, Opening { source: self.source, name, format, place: self.place })
    }
}

impl Graph {
    /// Opens the image that a node describes.
    pub(super) fn open(
        &mut self,
        options: &OpenOptions,
        mut node: NodeOptions,
        depth: usize,
    ) -> Result<Image> {
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        let driver = node.take("driver")?;
        if driver.as_deref().is_some_and(|name| is_protocol(&options.protocols, name)) {
            if options.format.is_some_and(|format| format != Format::Raw) {
                return Err(no_file());
            }
            let file = self.open_protocol(options, node, driver, depth)?;
            let name = file.name.clone().unwrap_or_else(|| format!("json:{}", file.json));
            return file.open(&options.clone().format(Format::Raw), name);
        }
        let own_name = node_name(&mut node)?;
        let share = node.take_switch("force-share")?.unwrap_or(false);
        let options = options.clone().force_share(options.force_share || share);
        let image = self.open_format(&options, node, driver, depth)?;
        self.define(own_name, || Named::Image(image.clone()))?;
        Ok(image)
    }

    /// Opens a format over a file.
    fn open_format(
        &mut self,
        options: &OpenOptions,
        mut node: NodeOptions,
        driver: Option<String>,
        depth: usize,
    ) -> Result<Image> {
        let named = driver.as_deref().map(format).transpose()?;
        let format = options.format.or(named);
        let mut file = match node.take_child("file") {
            Some(child) => self.open_child(options, child, depth)?,
            None if named.is_none() => {
                return Err(Error::invalid("Must specify either driver or file"));
            }
            None => return Err(no_file()),
        };
        let window = (format == Some(Format::Raw)).then(|| window(&mut node, file.source.len()));
        let window = window.transpose()?.flatten();
        if let Some(window) = &window {
            file.source = within(&file.source, window)?;
        }
        let options = &options.clone().format(format);
        let format = match format {
            Some(format) => format,
            None => Format::probe_named(&*file.source, file.source.path(), options.probing)?,
        };
        let settings = self.settings(options, &mut node, format, depth)?;
        let backing = take_backing(options, &mut node, format)?;
        finish(node, format)?;
        let name = match (&file.name, &window, settings.key_secret.as_deref()) {
            (Some(name), None, None) => name.clone(),
            (_, window, key) => {
                format!("json:{}", format_node(format.name(), window.as_ref(), key, &file.json))
            }
        };
        let own = options.clone().node(settings);
        match backing {
            None => file.open(&own, name),
            Some(Child::Null) => file.open(&own.alone(), name),
            Some(child) => {
                let top = file.open(&own.alone(), name)?;
                let below = self.open_backing(&below(options), &top, child, depth);
                let below = below.map_err(|e| match e.structure() {
                    None => e.in_structure("backing file"),
                    Some(_) => e,
                })?;
                join(options, top, &below)
            }
        }
    }

    /// Opens a child that is read like a file: `file` or `data-file`.
    fn open_child(&mut self, options: &OpenOptions, child: Child, depth: usize) -> Result<File> {
        let mut node = match child {
            Child::Node(node) => node,
            Child::Null => return Err(no_file()),
            Child::Reference(name) => {
                return match self.named(&name)? {
                    Named::File(file) => Ok(file.clone()),
                    Named::Image(image) => File::image(image.clone()),
                };
            }
        };
        let driver = node.take("driver")?;
        match driver {
            Some(name) if !is_protocol(&options.protocols, &name) => {
                format(&name)?;
                node.insert("driver", Value::Text(name));
                let options = below(options).metadata_only(false);
                File::image(self.open(&options, node, depth + 1)?)
            }
            driver => self.open_protocol(options, node, driver, depth),
        }
    }

    /// Opens an explicit backing file.
    fn open_backing(
        &mut self,
        options: &OpenOptions,
        top: &Image,
        child: Child,
        depth: usize,
    ) -> Result<Image> {
        let node = match child {
            Child::Node(node) => node,
            Child::Reference(name) => {
                return match self.named(&name)? {
                    Named::Image(image) => Ok(image.clone()),
                    Named::File(file) => {
                        let name = file.name.clone().unwrap_or_default();
                        file.clone().open(&options.clone().format(Format::Raw), name)
                    }
                };
            }
            Child::Null => return Err(no_file()),
        };
        // QEMU adds the name that the image records to the options.
        if node.has_reference("file") && top.layer(0).parent().is_some() {
            return Err(Error::invalid(
                "Cannot reference an existing block device with additional options or a new \
                 filename",
            ));
        }
        self.open(options, node, depth + 1)
    }

    /// Removes what a node says about its image.
    fn settings(
        &mut self,
        options: &OpenOptions,
        node: &mut NodeOptions,
        format: Format,
        depth: usize,
    ) -> Result<NodeSettings> {
        let mut settings = NodeSettings::default();
        let keys = &format.driver().node;
        if keys.encrypt {
            settings.encryption = node.take("encrypt.format")?;
            settings.key_secret = node.take("encrypt.key-secret")?;
            if let Some(Child::Node(rest)) = node.take_child("encrypt") {
                let key = rest.first_key().unwrap_or_default();
                return Err(Error::invalid(format!("Parameter '{key}' is unexpected")));
            }
        }
        let data_file = keys.data_file.then(|| node.take_child("data-file")).flatten();
        match data_file {
            None | Some(Child::Null) => {}
            // The data file is not opened, not even by QEMU.
            Some(_) if options.metadata_only => {}
            Some(child) => {
                let file = self.open_child(options, child, depth)?;
                if let Some(lock) = options.lock().filter(|_| !file.unlocked) {
                    file.source.lock(lock).map_err(|e| lock_error(e).in_structure("data file"))?;
                }
                settings.data_file = Some(file.source);
            }
        }
        Ok(settings)
    }

    /// Opens a protocol node; without `driver`, a file of the host.
    fn open_protocol(
        &mut self,
        options: &OpenOptions,
        mut node: NodeOptions,
        driver: Option<String>,
        depth: usize,
    ) -> Result<File> {
        let own_name = node_name(&mut node)?;
        let share = node.take_switch("force-share")?.unwrap_or(false);
        let mut file = match driver {
            Some(driver) if driver == FAULTY_DRIVER => self.open_faulty(options, node, depth)?,
            Some(driver) if NULL_DRIVERS.contains(&&*driver) => open_null(node, &driver)?,
            Some(driver) if !FILE_DRIVERS.contains(&&*driver) => open_url(options, node, &driver)?,
            _ => open_file(options, node)?,
        };
        file.unlocked |= share;
        self.define(own_name, || Named::File(file.clone()))?;
        Ok(file)
    }

    /// Opens what fails on purpose.
    fn open_faulty(
        &mut self,
        options: &OpenOptions,
        mut node: NodeOptions,
        depth: usize,
    ) -> Result<File> {
        if depth > MAX_DEPTH {
            return Err(too_deep());
        }
        let Some(child) = node.take_child("image") else {
            return Err(Error::invalid("A block device must be specified for \"image\""));
        };
        let inner = self.open_child(options, child, depth + 1)?;
        let source = FaultySource::new(inner.source, &mut node)?;
        finish_protocol(node, FAULTY_DRIVER)?;
        let json = source.node(&inner.json);
        Ok(File { source: Arc::new(source), name: None, json, ..inner })
    }

    /// Gives a node its name, if it has one.
    fn define(&mut self, name: Option<String>, node: impl FnOnce() -> Named) -> Result<()> {
        let Some(name) = name else { return Ok(()) };
        if self.0.contains_key(&name) {
            return Err(Error::invalid(format!("Duplicate nodes with node-name='{name}'")));
        }
        self.0.insert(name, node());
        Ok(())
    }

    /// Returns the node that is called `name`.
    fn named(&self, name: &str) -> Result<&Named> {
        self.0.get(name).ok_or_else(|| {
            Error::invalid(format!("Cannot find device='{name}' nor node-name='{name}'"))
                .hint("a file is given as file.filename=NAME")
        })
    }
}

/// Returns the options for a node below another one.
fn below(options: &OpenOptions) -> OpenOptions {
    options.clone().format(None).snapshot(None).disk(None)
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

/// Removes and returns the name of a node.
fn node_name(node: &mut NodeOptions) -> Result<Option<String>> {
    /// Maximum length in bytes of QEMU's names.
    const MAX: usize = 31;
    let Some(name) = node.take("node-name")? else { return Ok(None) };
    let is_valid = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte));
    match name.len() {
        _ if !is_valid => Err(Error::invalid(format!("Invalid node-name: '{name}'"))),
        ..=MAX => Ok(Some(name)),
        _ => Err(Error::invalid("Node name too long")),
    }
}

/// Removes and returns the explicit backing file.
///
/// # Errors
/// Returns [`Invalid`](crate::ErrorKind::Invalid) if the format has no backing files, or if backing
/// files are not opened.
fn take_backing(
    options: &OpenOptions,
    node: &mut NodeOptions,
    format: Format,
) -> Result<Option<Child>> {
    let key = match node.take_child("backing") {
        None => return Ok(None),
        Some(Child::Null) => return Ok(Some(Child::Null)),
        // An older spelling of `null`.
        Some(Child::Reference(name)) if name.is_empty() => return Ok(Some(Child::Null)),
        Some(child) => {
            let has_backing = format.options().iter().any(|option| option.name == "backing_file");
            if has_backing && options.with_parent() {
                return Ok(Some(child));
            }
            match child {
                Child::Node(node) => format!("backing.{}", node.first_key().unwrap_or_default()),
                _ => "backing".to_owned(),
            }
        }
    };
    Err(unknown_key(format, &key))
}

/// Verifies that no options of a format node are left over.
fn finish(mut node: NodeOptions, format: Format) -> Result<()> {
    node.ignore(&GENERIC);
    node.ignore(format.driver().node.ignored);
    node.first_key().map_or(Ok(()), |key| Err(unknown_key(format, key)))
}

fn unknown_key(format: Format, key: &str) -> Error {
    Error::invalid(format!("Block format '{format}' does not support the option '{key}'"))
}

/// Verifies that no options of a protocol node are left over.
pub(super) fn finish_protocol(mut node: NodeOptions, driver: &str) -> Result<()> {
    node.ignore(&GENERIC);
    let Some(key) = node.first_key() else { return Ok(()) };
    let message = format!("Block protocol '{driver}' doesn't support the option '{key}'");
    Err(Error::invalid(message))
}

/// Opens a file of the host.
fn open_file(options: &OpenOptions, mut node: NodeOptions) -> Result<File> {
    let name = node.take("filename")?;
    let unlocked = match node.take("locking")?.as_deref() {
        None | Some("auto" | "on") => false,
        Some("off") => true,
        Some(other) => {
            let message = format!("Parameter 'locking' does not accept value '{other}'");
            return Err(Error::invalid(message));
        }
    };
    node.ignore(&FILE);
    finish_protocol(node, "file")?;
    let name = name
        .filter(|name| !name.is_empty())
        .ok_or_else(|| Error::invalid("The 'file' block driver requires a file name"))?;
    let open = || options.read_mode.source(FileSource::open(Path::new(&name))?);
    let source = open().map_err(|e| Error::io(format!("cannot open '{name}'"), e))?;
    Ok(File { source, json: file_node(&name), name: Some(name), unlocked, place: Place::Local })
}

/// Opens a disk that stores nothing.
fn open_null(mut node: NodeOptions, driver: &str) -> Result<File> {
    let source = NullSource::take(&mut node)?;
    finish_protocol(node, driver)?;
    let json = source.node(driver);
    let source = Arc::new(source);
    Ok(File { source, name: None, json, unlocked: true, place: Place::Elsewhere })
}

/// Opens the URL that a node describes by a protocol that the caller has added.
fn open_url(options: &OpenOptions, mut node: NodeOptions, driver: &str) -> Result<File> {
    let Some(protocol) = options.protocols.get(driver) else {
        return Err(unknown_protocol(driver));
    };
    let url = protocol.node_url(&mut NodeUrl::new(driver, &mut node))?;
    finish_protocol(node, driver)?;
    let name = url.to_string();
    let opened = options.source(&Location::Url(url));
    let (source, origin) = opened.map_err(|e| e.in_structure(format!("'{name}'")))?;
    let json = url_node(driver, &name);
    let place = origin.map_or(Place::Local, Place::Url);
    Ok(File { source, json, name: Some(name), unlocked: false, place })
}

/// Returns true if the driver is a protocol: a file of the host, or one that the caller has added.
pub(super) fn is_protocol(protocols: &Protocols, driver: &str) -> bool {
    FILE_DRIVERS.contains(&driver)
        || NULL_DRIVERS.contains(&driver)
        || driver == FAULTY_DRIVER
        || (protocols.get(driver).is_some() && driver.parse::<Format>().is_err())
}

/// Returns the format of a driver.
fn format(driver: &str) -> Result<Format> {
    if OTHER_DRIVERS.contains(&driver) {
        return Err(Error::unsupported(format!("the driver '{driver}' is not supported")));
    }
    driver.parse()
}

fn too_deep() -> Error {
    Error::invalid(format!("nodes are nested deeper than {MAX_DEPTH}"))
}

fn no_file() -> Error {
    Error::invalid("A block device must be specified for \"file\"")
}
