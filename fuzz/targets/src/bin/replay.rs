//! Runs each target on the inputs in a subdirectory of its name: `replay DIRECTORY`.

use diskimg_fuzz_targets::TARGETS;
use std::io;
use std::path::PathBuf;

fn main() -> io::Result<()> {
    let directory = std::env::args_os().nth(1).map(PathBuf::from);
    let directory = directory.ok_or_else(|| io::Error::other("usage: replay DIRECTORY"))?;
    for target in TARGETS {
        for entry in std::fs::read_dir(directory.join(target.name)).into_iter().flatten() {
            target.run(&std::fs::read(entry?.path())?);
        }
    }
    Ok(())
}
