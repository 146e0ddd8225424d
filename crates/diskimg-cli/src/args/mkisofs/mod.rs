//! mkisofs's command line, as genisoimage and `xorriso -as mkisofs` have it.
//!
//! It is not clap's: long options have one hyphen or two, take their values as words of their
//! own, and stand before, between and behind the files. Here it is a table:
//!
//! ```text
//!   table   every option: its names, how many words it takes, what it does to ...
//!   draft   ... the image as far as it is told
//!   values  what the words may be
//! ```
//!
//! Where the programs differ, the name we are called by decides ([`Dialect`]). What we do not
//! have is an error, never left aside. Their files of settings (`.mkisofsrc`) are not read.

mod draft;
mod table;
#[cfg(test)]
mod tests;
mod values;

use crate::args::recipe::Recipe;
use crate::args::{Command, Invocation};
use crate::confine::Sandbox;
use crate::failure::Failure;
use crate::output::Program;
use draft::Draft;
use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use table::Row;
use values::Value;

/// Which program's defaults hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// genisoimage's: no Rock Ridge unless asked for, directories deeper than eight relocated.
    Mkisofs,
    /// xorriso's: Rock Ridge, deep directories where they are, volume ID ISOIMAGE.
    Xorriso,
}

/// If `argv` is one of these command lines: reads it. It is by the name of the program or, in
/// our own name, by a subcommand of such a name.
pub(super) fn parse(argv: &[OsString], program: Program) -> Option<Result<Invocation, Failure>> {
    let (name, words) = match program {
        Program::QemuImg => return None,
        Program::Diskimg => {
            let (verb, words) = argv.get(1..)?.split_first()?;
            (verb.to_str()?, words)
        }
        _ => (program.name(), argv.get(1..).unwrap_or_default()),
    };
    let command = (program == Program::Diskimg).then_some(name);
    Some(match name {
        "mkisofs" | "genisoimage" => read(Dialect::Mkisofs, words, command, program),
        "xorrisofs" => read(Dialect::Xorriso, words, command, program),
        "xorriso" => match words {
            [r#as, who, words @ ..] if r#as == "-as" && is_emulated(who) => {
                read(Dialect::Xorriso, words, command, program)
            }
            [word] if is_one_of(word, &["version", "-version"]) => {
                Ok(Invocation::Show(program.version()))
            }
            _ => Err(Failure::not_supported("anything but 'xorriso -as mkisofs'")),
        },
        _ => return None,
    })
}

/// The words behind the subcommand `mkisofs`.
pub(super) fn read_words(words: &[OsString], program: Program) -> Result<Invocation, Failure> {
    read(Dialect::Mkisofs, words, Some("mkisofs"), program)
}

/// Whom xorriso can be told to be, of those that are here.
fn is_emulated(name: &OsStr) -> bool {
    ["mkisofs", "genisoimage", "genisofs"].iter().any(|known| name == *known)
}

/// True for an option of one of these names; the first hyphen counts for nothing.
fn is_one_of(word: &OsStr, names: &[&str]) -> bool {
    word.to_str().and_then(|text| text.strip_prefix('-')).is_some_and(|name| names.contains(&name))
}

fn read(
    dialect: Dialect,
    words: &[OsString],
    command: Option<&str>,
    program: Program,
) -> Result<Invocation, Failure> {
    if words.iter().any(|word| is_one_of(word, &["help", "-help"])) {
        return Ok(Invocation::Show(help(command, program)));
    }
    if words.iter().any(|word| is_one_of(word, &["version", "-version"])) {
        return Ok(Invocation::Show(program.version()));
    }
    recipe(dialect, words)
        .map(|recipe| Invocation::Run(Box::new(Command::IsoCreate(recipe)), Sandbox::default()))
        .map_err(|failure| failure.of_command(command))
}

/// What the words come to.
fn recipe(dialect: Dialect, words: &[OsString]) -> Result<Recipe, Failure> {
    let mut draft = Draft::new(dialect);
    let mut operands = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        match word.to_str().and_then(|text| text.strip_prefix('-')) {
            None | Some("") => operands.push(word.clone()),
            // To xorriso it ends these options, and its own would follow.
            Some("-") if dialect == Dialect::Xorriso => match words.next() {
                None => break,
                Some(word) => {
                    let word = word.to_string_lossy();
                    return Err(Failure::not_supported(&format!("'{word}' behind --")));
                }
            },
            Some("-") => operands.extend(words.by_ref().cloned()),
            Some(name) => {
                let name = name.strip_prefix('-').unwrap_or(name);
                option(&mut draft, name, &word.to_string_lossy(), &mut words)?;
            }
        }
    }
    if operands.is_empty() && draft.path_lists.is_empty() {
        return Err(usage("Missing pathspec: which files shall the image have?"));
    }
    draft.recipe(&operands)
}

/// One word that begins with a hyphen, and the words that it takes.
fn option(
    draft: &mut Draft,
    name: &str,
    args: &str,
    words: &mut std::slice::Iter<'_, OsString>,
) -> Result<(), Failure> {
    if let Some(row) = table::find(name) {
        return apply(draft, row, args, None, words);
    }
    // A value joined to a long name: `--modification-date=…`.
    if let Some((name, value)) = name.split_once('=')
        && let Some(row) = table::find(name).filter(|row| row.takes.len() == 1 && name.len() > 1)
    {
        let option = args.split('=').next().unwrap_or(args);
        return apply(draft, row, option, Some(OsStr::new(value)), words);
    }
    if table::is_elsewhere(name) {
        return Err(Failure::not_supported(&format!("the option {args}")));
    }
    for row in letters(name).ok_or_else(|| usage(format!("unrecognized option '{args}'")))? {
        apply(draft, row, args, None, words)?;
    }
    Ok(())
}

/// Options of one letter behind one hyphen; only the last of them may take something, as words of
/// their own: a misspelt long option shall not pass for `-o` and the name of a file.
fn letters(name: &str) -> Option<Vec<&'static Row>> {
    let rows: Option<Vec<_>> =
        name.char_indices().map(|(at, c)| table::find(&name[at..at + c.len_utf8()])).collect();
    let rows = rows?;
    let (_, others) = rows.split_last()?;
    others.iter().all(|row| row.takes.is_empty()).then_some(rows)
}

fn apply(
    draft: &mut Draft,
    row: &Row,
    option: &str,
    joined: Option<&OsStr>,
    words: &mut std::slice::Iter<'_, OsString>,
) -> Result<(), Failure> {
    let mut values = Vec::new();
    for _ in row.takes {
        let next = joined.or_else(|| words.next().map(OsString::as_os_str));
        let word = next.ok_or_else(|| usage(format!("option requires an argument: {option}")))?;
        values.push(Value { option, word });
    }
    (row.apply)(draft, &values)
}

fn usage(message: impl Into<String>) -> Failure {
    Failure::Usage { command: None, message: message.into() }
}

fn help(command: Option<&str>, program: Program) -> String {
    let mut name = program.name().to_owned();
    match command {
        Some(command) => name = format!("{name} {command}"),
        None if program == Program::Xorriso => name.push_str(" -as mkisofs"),
        None => {}
    }
    let mut text = format!("Usage: {name} [options] -o IMAGE FILE...\n\nOptions:\n");
    for row in table::ROWS {
        let names: Vec<_> = row.names.iter().map(|name| format!("-{name}")).collect();
        let left = format!("{} {}", names.join(", "), row.takes.join(" "));
        let _ = writeln!(text, "  {:<36} {}", left.trim_end(), row.help);
    }
    text.push_str(
        "\nFiles go into the root of the image; of a directory, what is in it.\n\
         Two hyphens are as good as one. SOURCE_DATE_EPOCH is the latest time recorded.\n",
    );
    text
}
