//! Runs each target on what a folder has under its name: `replay FOLDER`.

use diskimg_fuzz_targets::TARGETS;
use std::io;
use std::path::PathBuf;

fn main() -> io::Result<()> {
    let folder = std::env::args_os().nth(1).map(PathBuf::from);
    let folder = folder.ok_or_else(|| io::Error::other("usage: replay FOLDER"))?;
    for target in TARGETS {
        for entry in std::fs::read_dir(folder.join(target.name)).into_iter().flatten() {
            target.run(&std::fs::read(entry?.path())?);
        }
    }
    Ok(())
}
