//! Who takes part in a cell, and with which command line.

use crate::args::Fsync;
use crate::cells::{Cell, Sharing};
use crate::floor::Floor;
use crate::inputs::Form;
use crate::measure::{FileSize, Run};
use crate::tools::{Tools, command};
use serde::Serialize;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What a contender is in a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// diskimg.
    Ours,
    /// qemu-img, that all are compared with.
    Reference,
    /// Another tool that does the same.
    Other,
    /// A copy of the source's file.
    Floor,
}

/// A command line, and what came of it.
#[derive(Debug, Serialize)]
pub(crate) struct Contender {
    /// What the tool is called.
    pub(crate) tool: &'static str,
    pub(crate) role: Role,
    /// Program and arguments.
    pub(crate) argv: Vec<String>,
    /// The format of its output.
    #[serde(skip)]
    pub(crate) output_format: &'static str,
    #[serde(skip)]
    words: Vec<OsString>,
    /// The counted runs.
    pub(crate) runs: Vec<Run>,
    /// Of the output of the first run.
    pub(crate) output: Option<FileSize>,
    /// Why there are no runs.
    pub(crate) failure: Option<String>,
}

impl Contender {
    /// Whoever is run as `words`.
    pub(crate) fn new(
        tool: &'static str,
        role: Role,
        output_format: &'static str,
        words: Vec<OsString>,
    ) -> Self {
        let argv = words.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        let (runs, output, failure) = (Vec::new(), None, None);
        Self { tool, role, argv, output_format, words, runs, output, failure }
    }

    /// The process to run.
    pub(crate) fn command(&self) -> Command {
        let mut command = command(&self.words[0]);
        command.args(&self.words[1..]);
        command
    }
}

/// What all contenders of a cell are told.
pub(crate) struct Task<'a> {
    pub(crate) cell: &'a Cell,
    pub(crate) tools: &'a Tools,
    pub(crate) fsync: Fsync,
    pub(crate) source: &'a Path,
    pub(crate) output: &'a Path,
}

impl Task<'_> {
    /// All contenders that are installed; ours and qemu-img first.
    pub(crate) fn contenders(&self) -> Vec<Contender> {
        match self.cell.sharing {
            None => self.all_tools(),
            Some(sharing) => self.sharers(sharing),
        }
    }

    fn all_tools(&self) -> Vec<Contender> {
        let from = self.cell.source;
        let mut all = vec![
            self.ours("diskimg", self.cell.ours),
            self.qemu_img("qemu-img", Role::Reference, self.cell.theirs),
        ];
        if self.tools.cp && self.cell.floor == Floor::Copy {
            all.push(self.cp("cp of the source", Role::Floor));
        }
        if self.cell.format == "raw" {
            if self.tools.nbdcopy && from.format() != "vmdk" {
                all.push(self.nbdcopy());
            }
            // The giant would be written byte for byte.
            if from.format() != "raw" && from != Form::HugeQcow2 {
                all.extend(self.tools.seven_zip.map(|program| self.seven_zip(program)));
            }
        }
        all
    }

    /// On a file system that shares blocks.
    fn sharers(&self, sharing: Sharing) -> Vec<Contender> {
        let plain = |role| self.qemu_img("qemu-img", role, &[]);
        let offloaded = |role| self.qemu_img("qemu-img -C", role, &["-C"]);
        let mut all = match sharing {
            Sharing::Unasked => {
                vec![self.ours("diskimg", &[]), plain(Role::Reference), offloaded(Role::Other)]
            }
            Sharing::Asked => {
                let ours = self.ours("diskimg -C", &["-C"]);
                vec![ours, offloaded(Role::Reference), plain(Role::Other)]
            }
        };
        if self.tools.cp && self.cell.source.format() == self.cell.format {
            all.push(self.cp("cp", Role::Other));
        }
        all
    }

    fn ours(&self, tool: &'static str, options: &[&str]) -> Contender {
        let mut words = vec![self.tools.diskimg.clone().into(), "convert".into()];
        if self.fsync == Fsync::None {
            words.extend(["-t".into(), "unsafe".into()]);
        }
        words.extend(options.iter().map(OsString::from));
        self.add_formats_and_files(&mut words);
        Contender::new(tool, Role::Ours, self.cell.format, words)
    }

    fn qemu_img(&self, tool: &'static str, role: Role, options: &[&str]) -> Contender {
        let mut words: Vec<OsString> = vec!["qemu-img".into(), "convert".into()];
        if self.fsync == Fsync::Both {
            words.extend(["-t".into(), "writeback".into()]);
        }
        words.extend(options.iter().map(OsString::from));
        self.add_formats_and_files(&mut words);
        Contender::new(tool, role, self.cell.format, self.flushed(words))
    }

    /// The source's file, copied: the floor of what is stored, and where raw
    /// becomes raw also a tool that does it.
    fn cp(&self, tool: &'static str, role: Role) -> Contender {
        let words = self.words(&["cp", "--sparse=auto"]);
        Contender::new(tool, role, self.cell.source.format(), self.flushed(words))
    }

    fn nbdcopy(&self) -> Contender {
        let mut words: Vec<OsString> =
            ["nbdcopy", "--", "[", "qemu-nbd", "-r", "-f"].map(Into::into).into();
        words.extend([self.cell.source.format().into(), self.source.into(), "]".into()]);
        words.push(self.output.into());
        Contender::new("nbdcopy", Role::Other, "raw", self.flushed(words))
    }

    fn seven_zip(&self, program: &'static str) -> Contender {
        // Its own names of extracted files depend on the archive's: through a pipe they do not matter.
        let kind = if self.cell.source.format() == "qcow2" { "-tqcow" } else { "-tvmdk" };
        let words = self.words(&["sh", "-c", "\"$0\" x -so \"$1\" \"$2\" >\"$3\"", program, kind]);
        Contender::new(program, Role::Other, "raw", self.flushed(words))
    }

    fn add_formats_and_files(&self, words: &mut Vec<OsString>) {
        words.extend(["-f", self.cell.source.format(), "-O", self.cell.format].map(Into::into));
        words.extend([self.source.into(), self.output.into()]);
    }

    fn words(&self, first: &[&str]) -> Vec<OsString> {
        let files = [self.source.into(), self.output.into()];
        first.iter().map(OsString::from).chain(files).collect()
    }

    /// The same with a flush behind it, where all flush.
    fn flushed(&self, words: Vec<OsString>) -> Vec<OsString> {
        if self.fsync != Fsync::Both {
            return words;
        }
        let script = ["sh", "-c", "\"$@\" && sync \"$0\""].map(OsString::from);
        script.into_iter().chain([self.output.into()]).chain(words).collect()
    }
}

/// Where a cell's output goes.
pub(crate) fn output_in(folder: &Path, format: &str) -> PathBuf {
    folder.join(format!("output.{format}"))
}
