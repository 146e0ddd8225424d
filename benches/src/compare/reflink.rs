//! File systems with reflinks, created in a file and mounted.

use crate::tools::{command, run};
use anyhow::{Context, Result, bail};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A file system type.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Xfs,
    Btrfs,
}

impl Kind {
    pub(crate) const ALL: [Self; 2] = [Self::Xfs, Self::Btrfs];

    fn mkfs(self) -> (&'static str, &'static [&'static str]) {
        match self {
            Self::Xfs => ("mkfs.xfs", &["-q", "-m", "reflink=1"]),
            Self::Btrfs => ("mkfs.btrfs", &["-q"]),
        }
    }
}

/// A mounted file system, unmounted on drop.
#[derive(Debug)]
pub(crate) struct Mounted {
    point: PathBuf,
    /// Removed after the file system is unmounted.
    _dir: TempDir,
}

impl Mounted {
    /// Creates a file system of `size` bytes in a sparse file in `dir`, and mounts it.
    pub(crate) fn new(kind: Kind, dir: &Path, size: u64) -> Result<Self> {
        let temp_dir = tempfile::Builder::new().prefix("diskimg-compare-").tempdir_in(dir)?;
        let (image, point) = (temp_dir.path().join("disk"), temp_dir.path().join("mounted"));
        fs::create_dir(&point)?;
        File::create(&image)?.set_len(size)?;
        let (mkfs, options) = kind.mkfs();
        run(command(mkfs).args(options).arg(&image))?;
        run(command("mount").args(["-o", "loop"]).arg(&image).arg(&point))
            .context("mounting requires root; run without --reflink")?;
        Ok(Self { point, _dir: temp_dir })
    }

    /// Returns the mount point.
    pub(crate) fn path(&self) -> &Path {
        &self.point
    }

    fn unmount(&self) -> Result<()> {
        if run(command("umount").arg(&self.point)).is_ok() {
            return Ok(());
        }
        // An interrupted tool may still have files open for a moment.
        std::thread::sleep(std::time::Duration::from_secs(1));
        if run(command("umount").arg(&self.point)).is_err() {
            run(command("umount").arg("--lazy").arg(&self.point))?;
            bail!("{} is busy and will be unmounted when it no longer is", self.point.display());
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
