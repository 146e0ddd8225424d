//! Commands that modify images in place, killed or cut off at any point.
//!
//! Afterwards, the images are consistent, each byte of the disk is the old or the new one, and the
//! image can be repaired or the command repeated.

mod cases;
mod compared;
mod kills;
mod replay;

use crate::support::{Lab, diskimg};
use diskimg::{Check, ErrorKind, ExternalFiles, Format, OpenOptions};
use std::path::Path;
use std::process::Command;

/// A command that modifies images.
#[derive(Debug, Clone, Copy)]
struct Case {
    /// Its arguments.
    line: &'static str,
    /// The image whose disk is compared.
    image: &'static str,
    /// The format of the image.
    format: &'static str,
    /// All files that are modified, the image first.
    files: &'static [&'static str],
}

/// A disk before and after a command.
struct Contents {
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Case {
    /// Returns the command with its arguments, of which `''` is an empty one.
    fn command(&self, lab: &Lab) -> Command {
        let mut command = lab.command(diskimg());
        command.args(self.line.split(' ').map(|word| if word == "''" { "" } else { word }));
        command
    }

    fn options(&self) -> OpenOptions {
        let format: Format = self.format.parse().expect("a format");
        OpenOptions::new().format(format).external_files(ExternalFiles::SameDir)
    }

    /// Returns the bytes of the disk.
    fn disk(&self, directory: &Path) -> diskimg::Result<Vec<u8>> {
        let image = self.options().open(directory.join(self.image))?;
        let mut bytes = vec![0; image.size() as usize];
        image.read_at(&mut bytes, 0)?;
        Ok(bytes)
    }

    /// Runs the command in a copy of the lab's images, and returns the disk before and after.
    fn contents(&self, lab: &Lab) -> Contents {
        let before = self.disk(&lab.path("")).expect("reads");
        let ran = self.command(lab).output().expect("runs");
        assert!(ran.status.success(), "{}: {}", self.line, String::from_utf8_lossy(&ran.stderr));
        Contents { before, after: self.disk(&lab.path("")).expect("reads") }
    }

    /// Verifies the images in a directory after the command was cut off. Returns whether there are
    /// leaks.
    fn verify(&self, directory: &Path, contents: &Contents) -> Result<bool, String> {
        let disk = self.disk(directory).map_err(|e| format!("cannot be read: {e}"))?;
        contents.explain(&disk)?;
        let mut leaks = false;
        for name in self.files.iter().filter(|name| name.ends_with(self.format)) {
            leaks |= self.check(&directory.join(name)).map_err(|e| format!("{name}: {e}"))?;
        }
        Ok(leaks)
    }

    /// Checks an image. Returns whether it has leaks.
    fn check(&self, path: &Path) -> Result<bool, String> {
        let options = self.options().metadata_only(true).with_extents(true);
        let image = options.open(path).map_err(|e| e.to_string())?;
        let mut first = None;
        let report = Check::new(&image).run(&mut |finding| {
            first.get_or_insert_with(|| format!("{finding:?}"));
        });
        match report {
            Ok(None) => Ok(false),
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(false),
            Err(error) => Err(error.to_string()),
            Ok(Some(report)) if report.corruptions + report.check_errors > 0 => {
                Err(format!("{report:?}: {first:?}"))
            }
            Ok(Some(report)) => Ok(report.leaks > 0),
        }
    }
}

impl Contents {
    /// Verifies that each byte of a disk is the old or the new one, and its size, too.
    fn explain(&self, disk: &[u8]) -> Result<(), String> {
        let (before, after) = (&self.before, &self.after);
        if disk.len() != before.len() && disk.len() != after.len() {
            let (old, new) = (before.len(), after.len());
            return Err(format!("the disk has {} bytes, not {old} or {new}", disk.len()));
        }
        // Bytes that one of the two disks does not have read as zeros after it was made larger.
        let at = |bytes: &[u8], n: usize| bytes.get(n).copied().unwrap_or(0);
        let wrong = (0..disk.len()).find(|&n| disk[n] != at(before, n) && disk[n] != at(after, n));
        wrong.map_or(Ok(()), |n| Err(format!("byte {n} of the disk is neither old nor new")))
    }
}
