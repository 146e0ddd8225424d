//! A new ISO image, whichever command line told of it: `iso create` or mkisofs's.

use crate::args::names;
use crate::failure::Failure;
use diskimg::iso::write::CreateOptions;
use std::ffi::OsStr;
use std::path::PathBuf;

/// What goes into a new image, and where that goes.
#[derive(Debug)]
pub(crate) struct Recipe {
    /// What the image shall be like.
    pub(crate) options: CreateOptions,
    /// What goes in.
    pub(crate) grafts: Vec<Graft>,
    /// Files with more of it, one a line; `-` is standard input.
    pub(crate) path_lists: Vec<PathBuf>,
    /// Whether their lines may be PLACE=FILE.
    pub(crate) grafts_in_lists: bool,
    /// A symbolic link on the command line stands for what it leads to; otherwise it is recorded.
    pub(crate) follow_operands: bool,
    /// Without Rock Ridge, which alone can record them, symbolic links are left out.
    pub(crate) skip_links_without_rock_ridge: bool,
    /// Shell patterns of what is left out.
    pub(crate) excludes: Vec<String>,
    /// Files with more of them, one a line.
    pub(crate) exclude_lists: Vec<PathBuf>,
    /// MBRs.
    pub(crate) hybrid: HybridFiles,
    /// Where it goes.
    pub(crate) output: Destination,
    /// Say nothing but errors.
    pub(crate) quiet: bool,
    /// Say how large it is.
    pub(crate) verbose: bool,
}

/// Files of the host that the system area is made of.
#[derive(Debug, Default)]
pub(crate) struct HybridFiles {
    /// isohybrid's MBR.
    pub(crate) isohybrid_mbr: Option<PathBuf>,
    /// GRUB's.
    pub(crate) grub2_mbr: Option<PathBuf>,
}

/// What an image is for, where that says what it must have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// OpenStack's config drive, as Nova makes it.
    OpenStack,
    /// cloud-init's seed (NoCloud).
    NoCloud,
    /// What Anaconda looks for: drivers, a kickstart file.
    OemDrv,
}

impl Profile {
    /// Names the volume, and sees that what is read of it is there.
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
                "{option} needs {}, which nothing of this brings",
                missing.join(" and ")
            ))),
        }
    }
}

/// Where an image goes.
#[derive(Debug)]
pub(crate) enum Destination {
    /// Into this file.
    File(PathBuf),
    /// To standard output.
    Stdout,
}

impl Destination {
    /// What `-o` of this verb says; `-` is standard output.
    pub(crate) fn args(output: Option<PathBuf>, verb: &str) -> Result<Self, Failure> {
        match output {
            None => Err(Failure::usage(verb, "Expecting -o IMAGE")),
            Some(path) if path == *"-" => Ok(Self::Stdout),
            Some(path) => Ok(Self::File(path)),
        }
    }
}

/// A file or directory of the host, and its place in the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Graft {
    /// Where what is in a directory goes. A file takes this very path or, where it is empty or
    /// ends with `/`, its own name in it.
    pub(crate) place: Vec<u8>,
    /// The file or directory.
    pub(crate) path: PathBuf,
}

impl Graft {
    /// Into the root.
    pub(crate) fn root(path: PathBuf) -> Self {
        Self { place: Vec::new(), path }
    }

    /// Whether it brings the file of this path in the image.
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

    /// `PLACE=FILE`, or a file alone, which goes into the root. A backslash makes `=` and
    /// another backslash plain characters.
    pub(crate) fn parse(word: &OsStr) -> Result<Self, Failure> {
        let mut args = names::bytes(word)?.into_iter().peekable();
        let (mut place, mut path) = (None, Vec::new());
        while let Some(byte) = args.next() {
            match byte {
                b'\\' => path.push(args.next_if(|c| matches!(c, b'=' | b'\\')).unwrap_or(byte)),
                b'=' if place.is_none() => place = Some(std::mem::take(&mut path)),
                _ => path.push(byte),
            }
        }
        if path.is_empty() {
            let word = word.to_string_lossy();
            return Err(Failure::error(format!("'{word}' names no file (PLACE=FILE is expected)")));
        }
        Ok(Self { place: place.unwrap_or_default(), path: names::word(path)?.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backslash_takes_the_meaning_from_an_equals_sign_and_from_another() {
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
