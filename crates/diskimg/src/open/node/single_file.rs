//! Descriptions of one format over one file of the host.

use super::Node;
#[cfg(feature = "json")]
use super::json;
use super::keys::{FILE, FILE_DRIVERS, GENERIC};
use super::options::{Child, NodeOptions};
use crate::model::format::Format;
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

impl Node {
    /// Returns the file and its format if the node describes nothing else: it has no backing file,
    /// secret, offset or further file of its own. Images can only be modified if they are described
    /// like this. Options that only tune QEMU are ignored.
    pub fn single_file(&self) -> Option<SingleFile> {
        let mut node = self.0.clone();
        let mut read_only = take_read_only(&mut node)?;
        node.ignore(&["node-name"]);
        node.ignore(&GENERIC);
        let mut file = match node.take_child("file") {
            Some(Child::Node(file)) => file,
            Some(_) => return None,
            None => return Some(SingleFile { read_only, ..of_file(without_tuning(node))? }),
        };
        read_only |= take_read_only(&mut file)?;
        file.ignore(&["node-name"]);
        let driver = node.take("driver").ok()?;
        let format = driver.map(|driver| driver.parse::<Format>()).transpose().ok()?;
        node.ignore(format.map_or(&[], |format| format.driver().node.ignored));
        let found = node.is_empty().then(|| of_format(format, without_tuning(file)))??;
        Some(SingleFile { read_only, ..found })
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
