//! The files that a client of Ceph reads, for a program that restricts itself.

use super::name::Name;
use std::path::{Path, PathBuf};

/// Where keyrings are by default, and what the cryptographic library reads.
const DEFAULTS: [&str; 6] = [
    "/etc/ceph/ceph.$name.keyring",
    "/etc/ceph/ceph.keyring",
    "/etc/ceph/keyring",
    "/etc/ceph/keyring.bin",
    "/etc/ssl/openssl.cnf",
    "/usr/lib/ssl/openssl.cnf",
];

/// Maximum size of a configuration in bytes.
const MAX_CONF: u64 = 1 << 20;

/// The configuration, if nothing else names one.
const CONF: &str = "/etc/ceph/ceph.conf";

/// Options that name files with keys.
const KEYS: [&str; 2] = ["keyring", "keyfile"];

/// Returns the files that are read to access an image: the configuration, the keyrings that it or
/// the options name, and those that the cryptographic library reads.
pub(super) fn of(name: &Name, conf: Option<&Path>, user: &str) -> Vec<PathBuf> {
    let conf = name.option("conf").map(PathBuf::from).or_else(|| conf.map(Path::to_owned));
    let conf = conf.or_else(|| std::env::var_os("CEPH_CONF").map(PathBuf::from));
    let conf = conf.unwrap_or_else(|| CONF.into());
    let arguments = std::env::var("CEPH_ARGS").unwrap_or_default();
    // The values of `--keyring FILE` and `--keyring=FILE`, of `--conf FILE` and others.
    let arguments = arguments.split([' ', '=']).filter(|word| word.starts_with('/'));
    let mut files: Vec<_> = arguments.map(PathBuf::from).collect();
    files.extend(DEFAULTS.iter().map(|path| PathBuf::from(substituted(path, user))));
    let text = read(&conf).unwrap_or_default();
    let configured = text.lines().filter_map(|line| line.split_once('='));
    let given = name.options.iter().map(|(key, value)| (key.as_str(), value.as_str()));
    for (key, value) in configured.chain(given) {
        if KEYS.contains(&&*key.trim().to_ascii_lowercase()) {
            let paths = value.split([',', ';']).map(|path| substituted(path.trim(), user));
            files.extend(paths.filter(|path| path.starts_with('/')).map(PathBuf::from));
        }
    }
    files.extend(std::env::var_os("CEPH_KEYRING").map(PathBuf::from));
    files.push(conf);
    files
}

/// Reads a configuration, if it is a regular file of a usual size.
fn read(conf: &Path) -> std::io::Result<String> {
    let found = std::fs::metadata(conf)?;
    match found.is_file() && found.len() <= MAX_CONF {
        true => std::fs::read_to_string(conf),
        false => Ok(String::new()),
    }
}

/// Replaces the variables of Ceph's configuration.
fn substituted(path: &str, user: &str) -> String {
    path.replace("$name", &format!("client.{user}"))
        .replace("$cluster", "ceph")
        .replace("$type", "client")
        .replace("$id", user)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keyrings_that_the_configuration_names_are_found() {
        let dir = tempfile::tempdir().expect("makes a directory");
        let conf = dir.path().join("c");
        let text = "[global]\n keyring = /a/$cluster.$name.keyring, /b\nmon host = x\n";
        std::fs::write(&conf, text).expect("writes");
        let options = vec![("keyfile".to_owned(), "/k/$id".to_owned())];
        let name = Name { options, ..Name::default() };
        let files = of(&name, Some(&conf), "cinder");
        for expected in [
            "/a/ceph.client.cinder.keyring",
            "/b",
            "/k/cinder",
            "/etc/ceph/ceph.client.cinder.keyring",
        ] {
            assert!(files.contains(&expected.into()), "{expected}: {files:?}");
        }
        assert!(files.contains(&conf));
    }
}
