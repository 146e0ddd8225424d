//! The description of a new ISO image, from the arguments of `iso create` or `mkisofs`.

use crate::args::{common, names};
use crate::failure::Failure;
use diskimg::iso::write::{CreateOptions, Hide, PartitionContents};
use std::ffi::OsStr;
use std::path::PathBuf;

/// The contents, options and destination of a new ISO image.
#[derive(Debug)]
pub(crate) struct Recipe {
    /// Options of the image.
    pub(crate) options: CreateOptions,
    /// Files and directories to add.
    pub(crate) grafts: Vec<Graft>,
    /// Files that list more grafts, one per line; `-` is standard input.
    pub(crate) path_lists: Vec<PathBuf>,
    /// The directory in the image for the files that `path_lists` list; empty for the root.
    pub(crate) root: Vec<u8>,
    /// Whether lines of `path_lists` may be `PLACE=FILE`.
    pub(crate) grafts_in_lists: bool,
    /// Whether symbolic links given as operands are followed instead of recorded.
    pub(crate) follow_operands: bool,
    /// Whether symbolic links are skipped without Rock Ridge, which is needed to record them.
    pub(crate) skip_links_without_rock_ridge: bool,
    /// Shell patterns of files to exclude.
    pub(crate) excludes: Vec<String>,
    /// Files that list more patterns, one per line.
    pub(crate) exclude_lists: Vec<PathBuf>,
    /// Files to hide and to sort.
    pub(crate) selection: Selection,
    /// MBR templates.
    pub(crate) hybrid: HybridFiles,
    /// Where the image is written.
    pub(crate) output: Destination,
    /// Print the number of sectors of the image instead of writing it.
    pub(crate) print_size: bool,
    /// Say what would be written instead of writing it.
    pub(crate) dry_run: bool,
    /// Print errors only.
    pub(crate) quiet: bool,
    /// Print the size of the image.
    pub(crate) verbose: bool,
}

/// Files that are selected by patterns or paths.
#[derive(Debug, Default)]
pub(crate) struct Selection {
    /// Exclude the backup files of editors.
    pub(crate) no_backups: bool,
    /// Shell patterns of files to hide.
    pub(crate) hidden: Vec<(String, Hide)>,
    /// Files that list more patterns, one per line.
    pub(crate) hidden_lists: Vec<(PathBuf, Hide)>,
    /// Files with lines `PATTERN WEIGHT`.
    pub(crate) sort_lists: Vec<PathBuf>,
    /// Weights of paths in the image.
    pub(crate) weights: Vec<(i32, Vec<u8>)>,
    /// Files with lines `WEIGHT PATH`.
    pub(crate) weight_lists: Vec<PathBuf>,
}

/// Host files, or parts of them, whose contents go into the system area.
#[derive(Debug, Default)]
pub(crate) struct HybridFiles {
    /// The MBR of isohybrid.
    pub(crate) isohybrid_mbr: Option<PartitionContents>,
    /// The MBR of GRUB.
    pub(crate) grub2_mbr: Option<PartitionContents>,
    /// The whole system area.
    pub(crate) system_area: Option<PartitionContents>,
}

/// A well-known purpose of an image that determines its label and required files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// An OpenStack config drive, as created by Nova.
    OpenStack,
    /// A seed for cloud-init's NoCloud data source.
    NoCloud,
    /// Drivers or a kickstart file for Anaconda.
    OemDrv,
}

impl Profile {
    /// Sets the label and checks that `grafts` contain the required files.
    pub(crate) fn apply(
        self,
        options: &mut CreateOptions,
        grafts: &[Graft],
    ) -> Result<(), Failure> {
        let (option, needed): (_, &[&str]) = match self {
            Self::OpenStack => {
                options.volume_id = "config-2".into();
                options.publisher = "OpenStack Nova".into();
                ("--openstack", &["openstack/latest/meta_data.json"])
            }
            Self::NoCloud => {
                options.volume_id = "cidata".into();
                ("--nocloud", &["user-data", "meta-data"])
            }
            Self::OemDrv => {
                options.volume_id = "OEMDRV".into();
                ("--oemdrv", &[])
            }
        };
        let provided = |path: &str| grafts.iter().any(|graft| graft.provides(path));
        let missing: Vec<_> = needed.iter().filter(|path| !provided(path)).copied().collect();
        match missing[..] {
            [] => Ok(()),
            _ => Err(Failure::error(format!(
                "{option} requires {}, which is not among the files",
                missing.join(" and ")
            ))),
        }
    }
}

/// Where an image is written.
#[derive(Debug)]
pub(crate) enum Destination {
    /// A file.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

impl Destination {
    /// Parses `-o` of `command`; `-` is standard output.
    pub(crate) fn from_arg(output: Option<PathBuf>, command: &str) -> Result<Self, Failure> {
        match output {
            None => Err(Failure::usage(command, "Expecting -o IMAGE")),
            Some(path) if path == *"-" => Ok(Self::Stdout),
            Some(path) => {
                common::require_no_url(&path)?;
                Ok(Self::File(path))
            }
        }
    }
}

/// A host file or directory, and its path in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Graft {
    /// Path in the image. A directory's entries are added below it. A file gets this path or, if it
    /// is empty or ends with `/`, its own name below it.
    pub(crate) place: Vec<u8>,
    /// The file or directory.
    pub(crate) path: PathBuf,
}

impl Graft {
    /// Returns a graft into the root directory.
    pub(crate) fn root(path: PathBuf) -> Self {
        Self { place: Vec::new(), path }
    }

    /// Moves the place below the directory `root` of the image.
    pub(crate) fn move_below(&mut self, root: &[u8]) {
        if !root.is_empty() {
            self.place = [root, b"/", &self.place].concat();
        }
    }

    /// Returns whether this adds a file with this path in the image.
    fn provides(&self, path: &str) -> bool {
        let place = String::from_utf8_lossy(&self.place);
        let Some(rest) = path.strip_prefix(place.trim_matches('/')) else { return false };
        let rest = rest.trim_start_matches('/');
        if self.path.is_dir() {
            return self.path.join(rest).is_file();
        }
        let named = self.path.file_name().is_some_and(|name| name == rest);
        let exactly = rest.is_empty() && !place.is_empty() && !place.ends_with('/');
        self.path.exists() && (named || exactly)
    }

    /// Parses `PLACE=FILE` or `FILE`, which goes into the root directory. `\=` and `\\` stand for
    /// `=` and a backslash.
    pub(crate) fn parse(arg: &OsStr) -> Result<Self, Failure> {
        let mut bytes = names::bytes(arg)?.into_iter().peekable();
        let (mut place, mut path) = (None, Vec::new());
        while let Some(byte) = bytes.next() {
            match byte {
                b'\\' => path.push(bytes.next_if(|c| matches!(c, b'=' | b'\\')).unwrap_or(byte)),
                b'=' if place.is_none() => place = Some(std::mem::take(&mut path)),
                _ => path.push(byte),
            }
        }
        if path.is_empty() {
            let arg = arg.to_string_lossy();
            return Err(Failure::error(format!("'{arg}': expected FILE or PLACE=FILE")));
        }
        Ok(Self { place: place.unwrap_or_default(), path: names::os_string(path)?.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backslash_escapes_an_equals_sign_or_a_backslash() {
        for (word, place, path) in [
            ("dir", "", "dir"),
            ("a/b=dir/c", "a/b", "dir/c"),
            ("a/=c=d", "a/", "c=d"),
            (r"a\=b", "", "a=b"),
            (r"a\=b=c\=d", "a=b", "c=d"),
            (r"a\\=b\c", r"a\", r"b\c"),
            (r"a\", "", r"a\"),
        ] {
            let graft = Graft::parse(word.as_ref()).expect(word);
            assert_eq!(graft, Graft { place: place.into(), path: path.into() }, "{word}");
        }
        for word in ["", "a=", "=", "a/="] {
            assert!(Graft::parse(word.as_ref()).is_err(), "{word}");
        }
    }
}
