//! Tests of `iso` and `mkisofs`, which compare diskimg with other programs.

mod argv;
mod create;
mod options;
mod partitions;
mod reading;
mod scripts;
mod selection;
mod xorriso;

use crate::support::Lab;
use std::collections::BTreeMap;
use std::fs;

impl Lab {
    /// Creates a file, and its parent directories.
    fn file(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("is in the lab")).expect("mkdir");
        fs::write(path, text).expect("writes");
    }

    /// Creates the files of a config drive as Nova writes them.
    fn config_drive(&self) {
        self.file("drive/openstack/latest/meta_data.json", "{\"uuid\": \"1\"}");
        self.file("drive/openstack/latest/network_data.json", "{}");
        self.file("drive/openstack/latest/user_data", "#cloud-config\n");
        self.file("drive/ec2/2009-04-04/meta-data.json", "{}");
        self.file("drive/openstack/content/0000", "some file");
    }

    /// Creates the files of a NoCloud seed.
    fn seed(&self) {
        self.file("user-data", "#cloud-config\n");
        self.file("meta-data", "instance-id: i-1\n");
        self.file("network-config", "version: 2\n");
    }

    /// Runs another program, which must succeed, and returns its standard output.
    #[track_caller]
    fn tool(&self, program: &str, args: &[&str]) -> Vec<u8> {
        let ran = self.command(program).args(args).output();
        let ran = ran.unwrap_or_else(|e| panic!("these tests need {program}: {e}"));
        let error = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(ran.status.success(), "{program} {args:?}: {error}");
        ran.stdout
    }

    /// Returns the sorted paths of a tree as listed by isoinfo: Joliet (`-J`), Rock Ridge (`-R`) or
    /// ISO 9660 (empty).
    #[track_caller]
    fn isoinfo(&self, image: &str, tree: &str) -> Vec<String> {
        let mut args = vec!["-f", "-i", image];
        if !tree.is_empty() {
            args.insert(0, tree);
        }
        let out = self.tool("isoinfo", &args);
        let text = String::from_utf8_lossy(&out).into_owned();
        let mut paths: Vec<_> = text.lines().map(str::to_owned).collect();
        paths.retain(|path| path.starts_with('/'));
        paths.sort();
        paths
    }

    /// Returns the fields of the primary volume descriptor as isoinfo prints them, such as "Volume
    /// id".
    #[track_caller]
    fn descriptor(&self, image: &str) -> BTreeMap<String, String> {
        let text = String::from_utf8(self.tool("isoinfo", &["-d", "-i", image])).expect("UTF-8");
        let pairs = text.lines().filter_map(|line| line.split_once(": "));
        pairs.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect()
    }

    /// Returns the contents of a file as extracted by bsdtar.
    #[track_caller]
    fn bsdtar(&self, image: &str, path: &str) -> Vec<u8> {
        self.tool("bsdtar", &["-xOf", image, path])
    }
}
