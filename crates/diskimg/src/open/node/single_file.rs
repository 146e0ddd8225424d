//! Descriptions of one format over one file of the host or one URL.

use super::Node;
use super::graph::{finish_protocol, is_protocol};
#[cfg(feature = "json")]
use super::json;
use super::keys::{FAULTY_DRIVER, FILE, FILE_DRIVERS, GENERIC, NULL_DRIVERS};
use super::options::{Child, NodeOptions};
use super::url::NodeUrl;
use crate::error::Result;
use crate::model::format::Format;
use crate::open::location::Url;
use crate::open::protocol::Protocols;
use std::path::PathBuf;

/// A file of this host, with its format.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SingleFile {
    /// The file's name.
    pub path: PathBuf,
    /// Its format, if the description has one.
    pub format: Option<Format>,
    /// The description says that the image is not to be written (`read-only`).
    pub read_only: bool,
}

/// An image on a server, with its format.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SingleUrl {
    /// Where it is.
    pub url: Url,
    /// Its format, if the description has one.
    pub format: Option<Format>,
    /// The description says that the image is not to be written (`read-only`).
    pub read_only: bool,
}

/// A format, and the node below it.
struct Single {
    format: Option<Format>,
    read_only: bool,
    below: NodeOptions,
}

impl Node {
    /// Returns the file and its format if the node describes nothing else: it has no backing file,
    /// secret, offset or further file of its own. Images can only be modified if they are described
    /// like this. Options that only tune QEMU are ignored.
    pub fn single_file(&self) -> Option<SingleFile> {
        let Single { format, read_only, below } = self.single()?;
        let found = of_format(format, without_tuning(below))?;
        Some(SingleFile { read_only, ..found })
    }

    /// As [`single_file`](Self::single_file), for an image that one of `protocols` opens: returns
    /// its URL and its format.
    ///
    /// # Errors
    /// Returns [`Invalid`](crate::ErrorKind::Invalid) if the protocol does not know an option of
    /// the node, or misses one.
    pub fn single_url(&self, protocols: &Protocols) -> Result<Option<SingleUrl>> {
        let Some(Single { format, read_only, below: mut node }) = self.single() else {
            return Ok(None);
        };
        let Some(driver) = node.take("driver")? else { return Ok(None) };
        let is_own = |own: &[&str]| own.contains(&&*driver);
        let protocol = protocols.get(&driver).filter(|_| is_protocol(protocols, &driver));
        let (Some(protocol), false) =
            (protocol, is_own(&FILE_DRIVERS) || is_own(&NULL_DRIVERS) || is_own(&[FAULTY_DRIVER]))
        else {
            return Ok(None);
        };
        let url = protocol.node_url(&mut NodeUrl::new(&driver, &mut node))?;
        finish_protocol(node, &driver)?;
        Ok(Some(SingleUrl { url, format, read_only }))
    }

    /// Returns the format and the node below it, if the node describes nothing else.
    fn single(&self) -> Option<Single> {
        let mut node = self.0.clone();
        let mut read_only = take_read_only(&mut node)?;
        node.ignore(&["node-name"]);
        node.ignore(&GENERIC);
        let mut below = match node.take_child("file") {
            Some(Child::Node(file)) => file,
            Some(_) => return None,
            // A file or a URL is a raw image.
            None => {
                let format = node.has("driver").then_some(Format::Raw)?;
                return Some(Single { format: Some(format), read_only, below: node });
            }
        };
        read_only |= take_read_only(&mut below)?;
        below.ignore(&["node-name"]);
        let driver = node.take("driver").ok()?;
        let format = driver.map(|driver| driver.parse::<Format>()).transpose().ok()?;
        node.ignore(format.map_or(&[], |format| format.driver().node.ignored));
        node.is_empty().then_some(Single { format, read_only, below })
    }
}

/// Removes and returns whether a node is not to be written, or returns `None` if this is not valid.
fn take_read_only(node: &mut NodeOptions) -> Option<bool> {
    Some(node.take_switch("read-only").ok()?.unwrap_or(false))
}

/// Removes the options of a file that make no difference.
fn without_tuning(mut file: NodeOptions) -> NodeOptions {
    file.ignore(&GENERIC);
    file.ignore(&FILE);
    file
}

/// Returns the file that `json`, the part of a name inside an image after `json:`, denotes, if it
/// denotes one format over one local file and nothing else. QEMU records such names when an overlay
/// of an image is created that was itself opened by one.
#[cfg(feature = "json")]
pub(crate) fn local_file(json: &str) -> Option<SingleFile> {
    let mut node = json::parse(json).ok()?;
    let found = match node.take_child("file") {
        Some(Child::Node(file)) => {
            let driver = node.take("driver").ok()?;
            let format = driver.map(|driver| driver.parse()).transpose().ok()?;
            node.is_empty().then(|| of_format(format, file))?
        }
        Some(_) => None,
        None => of_file(node),
    };
    // QEMU resolves a relative name from the current directory of the process.
    found.filter(|file| file.path.is_absolute())
}

/// Returns a file that is a raw image, or a format over it, without further options.
fn of_file(node: NodeOptions) -> Option<SingleFile> {
    node.has("driver").then(|| of_format(Some(Format::Raw), node))?
}

/// Returns a format over the file that a node describes, if the node has no further options.
fn of_format(format: Option<Format>, mut file: NodeOptions) -> Option<SingleFile> {
    let driver = file.take("driver").ok()?;
    let path = PathBuf::from(file.take("filename").ok()??);
    let is_file = driver.is_none_or(|driver| FILE_DRIVERS.contains(&&*driver));
    (is_file && file.is_empty()).then_some(SingleFile { path, format, read_only: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::open::location::Location;
    use crate::open::protocol::{OpenMode, Protocol};
    use crate::storage::source::Source;
    use std::sync::Arc;

    #[test]
    fn an_image_that_can_be_modified_is_a_format_over_one_file() {
        let unwritable = |format| Some(SingleFile { path: "a,b".into(), format, read_only: true });
        let file = |format| Some(SingleFile { path: "a,b".into(), format, read_only: false });
        for (text, found) in [
            ("driver=qcow2,file.filename=a,,b", file(Some(Format::Qcow2))),
            ("file.filename=a,,b", file(None)),
            ("driver=file,filename=a,,b", file(Some(Format::Raw))),
            (
                "driver=qcow2,lazy-refcounts=on,discard=unmap,node-name=n,file.driver=file,\
                 file.aio=native,file.cache.direct=on,file.node-name=m,file.filename=a,,b",
                file(Some(Format::Qcow2)),
            ),
            (
                "driver=qcow2,read-only=off,file.auto-read-only=on,file.filename=a,,b",
                file(Some(Format::Qcow2)),
            ),
            ("driver=qcow2,read-only=on,file.filename=a,,b", unwritable(Some(Format::Qcow2))),
            ("driver=qcow2,file.read-only=on,file.filename=a,,b", unwritable(Some(Format::Qcow2))),
            ("driver=file,read-only=on,filename=a,,b", unwritable(Some(Format::Raw))),
            ("driver=qcow2,read-only=perhaps,file.filename=a,,b", None),
            ("driver=qcow2,file.filename=a,,b,file.locking=off", None),
            ("driver=qcow2,force-share=on,file.filename=a,,b", None),
            ("driver=qcow2,backing.file.filename=c,file.filename=a,,b", None),
            ("driver=raw,offset=512,file.filename=a,,b", None),
            ("driver=raw,lazy-refcounts=on,file.filename=a,,b", None),
            ("driver=qcow2,file.driver=raw,file.file.filename=a,,b", None),
            ("driver=qcow2,file=other", None),
            ("driver=nonsense,file.filename=a,,b", None),
            ("filename=a,,b", None),
        ] {
            let node = Node::from_options(text).expect("parses");
            assert_eq!(node.single_file(), found, "{text}");
        }
    }

    /// A protocol that opens nothing.
    #[derive(Debug)]
    struct Nothing;

    impl Protocol for Nothing {
        fn schemes(&self) -> &[&str] {
            &["none"]
        }

        fn open(&self, _: &Location, _: &OpenMode) -> Result<Arc<dyn Source>> {
            Err(Error::unsupported("nothing is opened"))
        }

        fn join(&self, _: &Location, _: &str) -> Result<Location> {
            Err(Error::unsupported("there are no directories"))
        }
    }

    #[test]
    fn an_image_on_a_server_is_a_format_over_one_url() {
        let mut protocols = Protocols::new();
        protocols.insert(Arc::new(Nothing));
        let found = |format, read_only| {
            Some(SingleUrl { url: Url::new("none:a").expect("is one"), format, read_only })
        };
        for (text, expected) in [
            ("driver=none,url=none:a", found(Some(Format::Raw), false)),
            ("driver=raw,file.driver=none,file.url=none:a", found(Some(Format::Raw), false)),
            (
                "driver=qcow2,discard=unmap,file.driver=none,file.cache.direct=on,\
                 file.node-name=n,file.url=none:a",
                found(Some(Format::Qcow2), false),
            ),
            ("file.driver=none,file.url=none:a", found(None, false)),
            ("driver=none,read-only=on,url=none:a", found(Some(Format::Raw), true)),
            ("driver=raw,offset=512,file.driver=none,file.url=none:a", None),
            ("driver=raw,file.driver=raw,file.file.driver=none,file.file.url=none:a", None),
            ("driver=raw,file.filename=a", None),
            ("driver=null-co", None),
            ("driver=other,url=none:a", None),
        ] {
            let node = Node::from_options(text).expect("parses");
            assert_eq!(node.single_url(&protocols).expect(text), expected, "{text}");
            let is_file = text.contains("filename");
            assert_eq!(node.single_file().is_some(), is_file, "{text}");
        }
        for (text, said) in [
            ("driver=none", "requires the option 'url'"),
            ("driver=none,url=other:a", "must start with 'none:'"),
            ("driver=none,url=none:a,size=1", "doesn't support the option 'size'"),
        ] {
            let node = Node::from_options(text).expect("parses");
            let error = node.single_url(&protocols).expect_err(text).to_string();
            assert!(error.contains(said), "{text}: {error}");
        }
    }

    #[cfg(feature = "json")]
    #[test]
    fn one_local_file_is_denoted_by_nested_or_dotted_keys() {
        let path = if cfg!(windows) { "C:/d/a" } else { "/d/a" };
        let file = |format| Some(SingleFile { path: path.into(), format, read_only: false });
        for (json, found) in [
            (r#"{"file":{"filename":"/d/a"}}"#, file(None)),
            (
                r#"{"driver":"raw","file":{"driver":"file","filename":"/d/a"}}"#,
                file(Some(Format::Raw)),
            ),
            (r#"{"file.driver":"host_device","file.filename":"/d/a"}"#, file(None)),
            (r#"{"driver":"file","filename":"/d/a"}"#, file(Some(Format::Raw))),
            (r#"{"driver":"raw","file":{"driver":"nbd","filename":"/d/a"}}"#, None),
            (r#"{"driver":"raw","file":{"driver":"file","filename":"a"}}"#, None),
            (r#"{"driver":"raw","size":512,"file":{"driver":"file","filename":"/d/a"}}"#, None),
            (r#"{"driver":"raw","file":{"driver":"file","filename":"/d/a","x":1}}"#, None),
            (r#"{"driver":"raw","file":{"driver":"raw","file":{"filename":"/d/a"}}}"#, None),
            (r#"{"driver":"raw","file":"node"}"#, None),
            (r#"{"driver":"https","url":"https://host/d/a"}"#, None),
            (r#"{"file":{}}"#, None),
            ("{", None),
        ] {
            let json = json.replace("/d/a", path);
            assert_eq!(local_file(&json), found, "{json}");
        }
    }
}
