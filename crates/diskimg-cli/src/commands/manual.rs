//! `completions` and `man`: shell completion scripts and manual pages.

use crate::args;
use crate::failure::Failure;
use crate::output::Console;
use std::path::Path;

/// Prints a completion script.
pub(super) fn completions(shell: clap_complete::Shell, console: &Console) -> Result<u8, Failure> {
    let program = console.program();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut args::grammar(program), program.name(), &mut script);
    console.print(&String::from_utf8_lossy(&script))?;
    Ok(0)
}

/// Writes a manual page for each command to `dir`, which is created if it does not exist, or prints the main page.
pub(super) fn man(dir: Option<&Path>, console: &Console) -> Result<u8, Failure> {
    let grammar = args::grammar(console.program());
    match dir {
        Some(dir) => std::fs::create_dir_all(dir)
            .and_then(|()| clap_mangen::generate_to(grammar, dir))
            .map_err(|e| Failure::error(format!("{}: {e}", dir.display())))?,
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(grammar).render(&mut page)?;
            console.print(&String::from_utf8_lossy(&page))?;
        }
    }
    Ok(0)
}
