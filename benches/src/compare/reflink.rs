//! File systems that share blocks between files, made in a file and mounted.

use crate::tools::{command, run};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A file system and how it is made.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Xfs,
    Btrfs,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Xfs, Self::Btrfs];

    fn make(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Xfs => ("mkfs.xfs", &["-q", "-m", "reflink=1"]),
            Self::Btrfs => ("mkfs.btrfs", &["-q"]),
        }
    }
}

/// A file system that is mounted as long as this lives.
#[derive(Debug)]
pub(crate) struct Mounted {
    point: PathBuf,
    /// Last, because it is removed after the file system is unmounted.
    _folder: TempDir,
}

impl Mounted {
    /// Makes a file system of `size` bytes in a sparse file in `dir`, and mounts it.
    pub(crate) fn new(kind: Kind, dir: &Path, size: u64) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("diskimg-compare-").tempdir_in(dir)?;
        let (image, point) = (folder.path().join("disk"), folder.path().join("mounted"));
        fs::create_dir(&point)?;
        File::create(&image)?.set_len(size)?;
        let (mkfs, options) = kind.make();
        run(command(mkfs).args(options).arg(&image))?;
        run(command("mount").args(["-o", "loop"]).arg(&image).arg(&point))
            .context("only root mounts a file; leave out --reflink")?;
        Ok(Self { point, _folder: folder })
    }

    /// Where it is mounted.
    pub(crate) fn path(&self) -> &Path {
        &self.point
    }

    fn unmount(&self) -> Result<()> {
        if run(command("umount").arg(&self.point)).is_ok() {
            return Ok(());
        }
        // A tool that was stopped may take a moment to let go.
        std::thread::sleep(std::time::Duration::from_secs(1));
        if run(command("umount").arg(&self.point)).is_err() {
            run(command("umount").arg("--lazy").arg(&self.point))?;
            bail!("{} was busy: unmounted as soon as it is not", self.point.display());
        }
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Err(error) = self.unmount() {
            eprintln!("{error:#}");
        }
    }
}
