//! `iso`, and mkisofs's command line, beside the programs that others use for both.

mod argv;
mod create;
mod options;
mod reading;

use crate::support::Lab;
use std::collections::BTreeMap;
use std::fs;

impl Lab {
    /// A file with this text, and the directories that it is in.
    fn file(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("is in the lab")).expect("mkdir");
        fs::write(path, text).expect("writes");
    }

    /// A config drive's tree, as Nova writes it.
    fn config_drive(&self) {
        self.file("drive/openstack/latest/meta_data.json", "{\"uuid\": \"1\"}");
        self.file("drive/openstack/latest/network_data.json", "{}");
        self.file("drive/openstack/latest/user_data", "#cloud-config\n");
        self.file("drive/ec2/2009-04-04/meta-data.json", "{}");
        self.file("drive/openstack/content/0000", "some file");
    }

    /// A seed for cloud-init.
    fn seed(&self) {
        self.file("user-data", "#cloud-config\n");
        self.file("meta-data", "instance-id: i-1\n");
        self.file("network-config", "version: 2\n");
    }

    /// Runs another program, whose standard output is wanted and whose chatter is not.
    #[track_caller]
    fn tool(&self, program: &str, args: &[&str]) -> Vec<u8> {
        let ran = self.command(program).args(args).output();
        let ran = ran.unwrap_or_else(|e| panic!("these tests need {program}: {e}"));
        let said = String::from_utf8_lossy(&ran.stderr).into_owned();
        assert!(ran.status.success(), "{program} {args:?}: {said}");
        ran.stdout
    }

    /// All paths of a tree as isoinfo tells them, sorted: of Joliet (`-J`), of Rock Ridge (`-R`),
    /// or of the primary tree (nothing).
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

    /// What isoinfo tells of the primary descriptor: "Volume id" and so on.
    #[track_caller]
    fn descriptor(&self, image: &str) -> BTreeMap<String, String> {
        let text = String::from_utf8(self.tool("isoinfo", &["-d", "-i", image])).expect("UTF-8");
        let pairs = text.lines().filter_map(|line| line.split_once(": "));
        pairs.map(|(key, value)| (key.to_owned(), value.trim().to_owned())).collect()
    }

    /// One file's contents as bsdtar extracts them.
    #[track_caller]
    fn bsdtar(&self, image: &str, path: &str) -> Vec<u8> {
        self.tool("bsdtar", &["-xOf", image, path])
    }
}
