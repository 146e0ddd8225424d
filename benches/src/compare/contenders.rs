//! The tools that are run for a cell, and their command lines.

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

/// The role of a tool in a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// diskimg.
    Ours,
    /// qemu-img or, for what it does not read, another tool: all others are compared with it.
    Reference,
    /// Another tool for the same conversion.
    Other,
    /// A copy of the source file.
    Floor,
}

/// A command line and its results.
#[derive(Debug, Serialize)]
pub(crate) struct Contender {
    /// Name of the tool.
    pub(crate) tool: &'static str,
    pub(crate) role: Role,
    /// Program and arguments.
    pub(crate) argv: Vec<String>,
    /// Format of the output.
    #[serde(skip)]
    pub(crate) output_format: &'static str,
    #[serde(skip)]
    args: Vec<OsString>,
    /// The measured runs.
    pub(crate) runs: Vec<Run>,
    /// Size of the output of the warm-up run.
    pub(crate) output: Option<FileSize>,
    /// Why the tool was not measured.
    pub(crate) failure: Option<String>,
}

impl Contender {
    /// Creates a contender with the command line `args`.
    pub(crate) fn new(
        tool: &'static str,
        role: Role,
        output_format: &'static str,
        args: Vec<OsString>,
    ) -> Self {
        let argv = args.iter().map(|arg| arg.to_string_lossy().into_owned()).collect();
        let (runs, output, failure) = (Vec::new(), None, None);
        Self { tool, role, argv, output_format, args, runs, output, failure }
    }

    /// Returns the command to run.
    pub(crate) fn command(&self) -> Command {
        let mut command = command(&self.args[0]);
        command.args(&self.args[1..]);
        command
    }
}

/// A cell with the parameters of its contenders.
pub(crate) struct Task<'a> {
    pub(crate) cell: &'a Cell,
    pub(crate) tools: &'a Tools,
    pub(crate) fsync: Fsync,
    pub(crate) source: &'a Path,
    pub(crate) output: &'a Path,
}

impl Task<'_> {
    /// Returns the contenders that are installed, diskimg and qemu-img first.
    pub(crate) fn contenders(&self) -> Vec<Contender> {
        match self.cell.sharing {
            None => self.all_tools(),
            Some(sharing) => self.reflink_tools(sharing),
        }
    }

    fn all_tools(&self) -> Vec<Contender> {
        let from = self.cell.source;
        let reference = match from {
            Form::Ewf => self.ewfexport(),
            Form::Qcow2Gz => self.zcat(),
            _ => self.qemu_img("qemu-img", Role::Reference, self.cell.theirs),
        };
        let mut all = vec![self.ours("diskimg", self.cell.ours), reference];
        if self.tools.cp && self.cell.floor == Floor::Copy {
            all.push(self.cp("cp of the source", Role::Floor));
        }
        if self.cell.format == "raw" {
            let is_for_qemu = !matches!(from, Form::Ewf | Form::Qcow2Gz);
            if self.tools.nbdcopy && from.format() != "vmdk" && is_for_qemu {
                all.push(self.nbdcopy());
            }
            // Not for the 16 TiB disk, whose zeros would all be written, and what it does not know.
            let is_unknown = matches!(from, Form::HugeQcow2 | Form::Parallels | Form::Cloop);
            if from.format() != "raw" && is_for_qemu && !is_unknown {
                all.extend(self.tools.seven_zip.map(|program| self.seven_zip(program)));
            }
        }
        all
    }

    /// Returns the contenders on a file system with reflinks.
    fn reflink_tools(&self, sharing: Sharing) -> Vec<Contender> {
        let plain = |role| self.qemu_img("qemu-img", role, &[]);
        let offloaded = |role| self.qemu_img("qemu-img -C", role, &["-C"]);
        let mut all = match sharing {
            Sharing::Default => {
                vec![self.ours("diskimg", &[]), plain(Role::Reference), offloaded(Role::Other)]
            }
            Sharing::Offload => {
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
        let mut args = vec![self.tools.diskimg.clone().into(), "convert".into()];
        if self.fsync == Fsync::None {
            args.extend(["-t".into(), "unsafe".into()]);
        }
        args.extend(options.iter().map(OsString::from));
        self.add_formats_and_files(&mut args);
        Contender::new(tool, Role::Ours, self.cell.format, args)
    }

    fn qemu_img(&self, tool: &'static str, role: Role, options: &[&str]) -> Contender {
        let mut args: Vec<OsString> = vec!["qemu-img".into(), "convert".into()];
        if self.fsync == Fsync::Both {
            args.extend(["-t".into(), "writeback".into()]);
        }
        args.extend(options.iter().map(OsString::from));
        self.add_formats_and_files(&mut args);
        Contender::new(tool, role, self.cell.format, self.flushed(args))
    }

    /// Decompresses a file, without converting what is in it.
    fn zcat(&self) -> Contender {
        let args = self.with_files(&["sh", "-c", "zcat \"$0\" > \"$1\""]);
        Contender::new("zcat", Role::Reference, self.cell.source.format(), self.flushed(args))
    }

    /// libewf's tool, which adds the extension `.raw` to the output's name.
    fn ewfexport(&self) -> Contender {
        let mut args: Vec<OsString> =
            ["ewfexport", "-u", "-q", "-f", "raw", "-t"].map(Into::into).into();
        args.extend([self.output.with_extension("").into(), self.source.into()]);
        Contender::new("ewfexport", Role::Reference, "raw", self.flushed(args))
    }

    /// Copies the source file: the lower bound of uncompressed conversions and, from raw to raw,
    /// also a tool for the same conversion.
    fn cp(&self, tool: &'static str, role: Role) -> Contender {
        let args = self.with_files(&["cp", "--sparse=auto"]);
        Contender::new(tool, role, self.cell.source.format(), self.flushed(args))
    }

    fn nbdcopy(&self) -> Contender {
        let mut args: Vec<OsString> =
            ["nbdcopy", "--", "[", "qemu-nbd", "-r", "-f"].map(Into::into).into();
        args.extend([self.cell.source.format().into(), self.source.into(), "]".into()]);
        args.push(self.output.into());
        Contender::new("nbdcopy", Role::Other, "raw", self.flushed(args))
    }

    fn seven_zip(&self, program: &'static str) -> Contender {
        // Extracts to standard output, because 7-Zip chooses the names of extracted files.
        let kind = match self.cell.source.format() {
            "qcow2" | "qcow" => "-tqcow",
            "vpc" => "-tvhd",
            "vhdx" => "-tvhdx",
            "vdi" => "-tvdi",
            "dmg" => "-tDmg",
            _ => "-tvmdk",
        };
        let args =
            self.with_files(&["sh", "-c", "\"$0\" x -so \"$1\" \"$2\" >\"$3\"", program, kind]);
        Contender::new(program, Role::Other, "raw", self.flushed(args))
    }

    fn add_formats_and_files(&self, args: &mut Vec<OsString>) {
        args.extend(["-f", self.cell.source.format(), "-O", self.cell.format].map(Into::into));
        args.extend([self.source.into(), self.output.into()]);
    }

    fn with_files(&self, first: &[&str]) -> Vec<OsString> {
        let files = [self.source.into(), self.output.into()];
        first.iter().map(OsString::from).chain(files).collect()
    }

    /// Appends a flush if all tools flush.
    fn flushed(&self, args: Vec<OsString>) -> Vec<OsString> {
        if self.fsync != Fsync::Both {
            return args;
        }
        let script = ["sh", "-c", "\"$@\" && sync \"$0\""].map(OsString::from);
        script.into_iter().chain([self.output.into()]).chain(args).collect()
    }
}

/// Returns the path of a cell's output.
pub(crate) fn output_in(dir: &Path, format: &str) -> PathBuf {
    dir.join(format!("output.{format}"))
}
