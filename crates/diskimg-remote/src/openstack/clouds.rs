//! `clouds.yaml` and `secure.yaml`, as openstacksdk reads them.

use super::yaml::Node;
use crate::environment::Environment;
use diskimg::{Error, Result};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;

/// Maximum length in bytes of a file.
const MAX_FILE: u64 = 1 << 20;

/// The files of this user.
pub(super) struct Clouds {
    /// The description of all clouds, and where it was found.
    clouds: Option<(PathBuf, Rc<Node>)>,
    /// Passwords that are kept elsewhere.
    secure: Option<Rc<Node>>,
}

/// One cloud.
pub(super) struct Cloud<'c> {
    own: &'c Node,
    secure: Option<&'c Node>,
}

impl Clouds {
    /// Reads the files.
    ///
    /// # Errors
    /// Returns [`Io`](diskimg::ErrorKind::Io) if one cannot be read, and
    /// [`Invalid`](diskimg::ErrorKind::Invalid) if it is not YAML.
    pub(super) fn load(environment: &Environment) -> Result<Self> {
        let clouds = first(&candidates(environment, "OS_CLIENT_CONFIG_FILE", "clouds"))?;
        let secure = first(&candidates(environment, "OS_CLIENT_SECURE_FILE", "secure"))?;
        Ok(Self { clouds, secure: secure.map(|(_, node)| node) })
    }

    /// Returns the name of the cloud if there is only one.
    pub(super) fn only(&self) -> Option<String> {
        let (_, node) = self.clouds.as_ref()?;
        match *node.get("clouds")?.keys() {
            [name] => Some(name.to_owned()),
            _ => None,
        }
    }

    /// Returns a cloud.
    ///
    /// # Errors
    /// Returns [`Invalid`](diskimg::ErrorKind::Invalid) if there is none of this name.
    pub(super) fn get(&self, name: &str) -> Result<Cloud<'_>> {
        let Some((file, clouds)) = &self.clouds else {
            return Err(Error::invalid(format!("there is no clouds.yaml with the cloud '{name}'"))
                .hint("it is looked for in ., ~/.config/openstack and /etc/openstack"));
        };
        let Some(cloud) = clouds.get("clouds").and_then(|clouds| clouds.get(name)) else {
            let message = format!("there is no cloud '{name}' in it");
            return Err(Error::invalid(message).in_file(file));
        };
        let secure = self.secure.as_ref();
        let secure = secure.and_then(|node| node.get("clouds")?.get(name));
        Ok(Cloud { own: cloud, secure })
    }
}

impl Cloud<'_> {
    /// Returns a setting of the cloud itself.
    pub(super) fn get(&self, key: &str) -> Option<String> {
        self.find(|node| node.get(key))
    }

    /// Returns a setting of its `auth`.
    pub(super) fn auth(&self, key: &str) -> Option<String> {
        self.find(|node| node.get("auth")?.get(key))
    }

    fn find(&self, find: impl Fn(&Node) -> Option<&Node>) -> Option<String> {
        // What is in the secure file has precedence.
        let nodes = self.secure.into_iter().chain([self.own]);
        let mut found = nodes.filter_map(|node| find(node)?.text().map(str::to_owned));
        found.next()
    }
}

/// Returns where a file may be, in this order.
pub(super) fn candidates(environment: &Environment, variable: &str, name: &str) -> Vec<PathBuf> {
    if environment.is_empty() {
        return Vec::new();
    }
    let config = environment.get("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| Some(environment.home()?.join(".config")));
    let user = config.map(|config| config.join("openstack"));
    let directories = [Some(PathBuf::from(".")), user, Some(PathBuf::from("/etc/openstack"))]
        .into_iter()
        .flatten();
    let named = environment.get(variable).map(PathBuf::from);
    let files = directories
        .flat_map(|directory| ["yaml", "yml"].map(|ext| directory.join(format!("{name}.{ext}"))));
    named.into_iter().chain(files).collect()
}

/// Reads the first file that exists.
fn first(files: &[PathBuf]) -> Result<Option<(PathBuf, Rc<Node>)>> {
    for file in files {
        match read(file) {
            Ok(text) => {
                let node = Node::parse(&text).map_err(|e| Error::invalid(e).in_file(file))?;
                return Ok(Some((file.clone(), node)));
            }
            // Other users' directories cannot be searched.
            Err(e)
                if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
            Err(e) => return Err(Error::io("cannot read it", e).in_file(file)),
        }
    }
    Ok(None)
}

fn read(file: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(file)?.take(MAX_FILE + 1).read_to_string(&mut text)?;
    match text.len() as u64 > MAX_FILE {
        true => Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is longer than 1 MiB")),
        false => Ok(text),
    }
}
