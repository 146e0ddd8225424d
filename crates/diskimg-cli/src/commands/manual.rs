//! `completions` and `man`: shell completion scripts and manual pages.

use crate::args;
use crate::failure::Failure;
use crate::output::Console;
use clap::builder::PossibleValuesParser;
use diskimg::{DigestAlgorithm, Format};
use std::path::Path;

/// Prints a completion script.
pub(super) fn completions(shell: clap_complete::Shell, console: &Console) -> Result<u8, Failure> {
    let program = console.program();
    let mut script = Vec::new();
    let mut grammar = with_values(args::grammar(program));
    clap_complete::generate(shell, &mut grammar, program.name(), &mut script);
    console.print(&String::from_utf8_lossy(&script))?;
    Ok(0)
}

/// Names the values of options to the shell. When the command line is parsed, they are compared
/// later, so that the messages are those of qemu-img.
fn with_values(grammar: clap::Command) -> clap::Command {
    let formats = Format::ALL.iter().map(|format| format.name());
    let digests = DigestAlgorithm::ALL.iter().map(|algorithm| algorithm.name());
    let (formats, digests) = (formats.collect::<Vec<_>>(), digests.collect::<Vec<_>>());
    let known = |arg: clap::Arg| {
        let values = match arg.get_id().as_str() {
            "format" | "source_format" | "output_format" | "backing_format" => formats.clone(),
            "digest" => digests.clone(),
            "cache" | "source_cache" => {
                vec!["none", "writeback", "writethrough", "directsync", "unsafe"]
            }
            "reflink" => vec!["auto", "always", "never"],
            _ => return arg,
        };
        arg.value_parser(PossibleValuesParser::new(values))
    };
    grammar.mut_subcommands(|command| command.mut_args(known))
}

/// Writes a manual page for each command to `dir`, which is created if it does not exist, or prints
/// the main page.
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
