//! `json:` names inside images.

use super::json;
use super::options::{Child, NodeOptions};
use crate::model::format::Format;
use std::path::PathBuf;

/// Drivers whose `filename` is a file of this host.
const FILES: [&str; 3] = ["file", "host_device", "host_cdrom"];

/// A file of this host that an image names by a `json:` name.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct LocalFile {
    /// An absolute path.
    pub(crate) path: PathBuf,
    /// Its format, if the name has one.
    pub(crate) format: Option<Format>,
}

/// Returns the file that `json`, the part of a name after `json:`, denotes, if it denotes one format
/// over one local file and nothing else. QEMU records such names when an overlay of an image is
/// created that was itself opened by one.
pub(crate) fn local_file(json: &str) -> Option<LocalFile> {
    let mut node = json::parse(json).ok()?;
    let driver = node.take("driver").ok()?;
    let (file, format) = match driver.as_deref() {
        Some(driver) if FILES.contains(&driver) => (path(node)?, Some(Format::Raw)),
        driver => {
            let format = driver.map(str::parse).transpose().ok()?;
            let Some(Child::Node(mut file)) = node.take_child("file") else { return None };
            let driver = file.take("driver").ok()?;
            if node.first_key().is_some() || !driver.is_none_or(|name| FILES.contains(&&*name)) {
                return None;
            }
            (path(file)?, format)
        }
    };
    Some(LocalFile { path: file, format })
}

/// Returns the file name of a node that has nothing else.
fn path(mut node: NodeOptions) -> Option<PathBuf> {
    let path = PathBuf::from(node.take("filename").ok()??);
    // QEMU resolves a relative name from the current directory of the process.
    (node.first_key().is_none() && path.is_absolute()).then_some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_local_file_is_denoted_by_nested_or_dotted_keys() {
        let path = if cfg!(windows) { "C:/d/a" } else { "/d/a" };
        let file = |format| Some(LocalFile { path: path.into(), format });
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
