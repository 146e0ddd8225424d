//! The programs: ours, qemu-img, and what else is installed.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What is there to run.
#[derive(Debug)]
pub(crate) struct Tools {
    /// Ours.
    pub(crate) diskimg: PathBuf,
    /// First line of `diskimg --version`.
    pub(crate) diskimg_version: String,
    /// First line of `qemu-img --version`.
    pub(crate) qemu_img_version: String,
    /// `cp` knows `--sparse` (GNU's does).
    pub(crate) cp: bool,
    /// `nbdcopy` and `qemu-nbd`.
    pub(crate) nbdcopy: bool,
    /// 7-Zip, by the name it has here.
    pub(crate) seven_zip: Option<&'static str>,
}

impl Tools {
    /// Builds ours unless `diskimg` says which, and looks for the others.
    pub(crate) fn find(diskimg: Option<&Path>) -> Result<Self> {
        let diskimg = match diskimg {
            Some(path) => path.to_owned(),
            None => build()?,
        };
        let diskimg_version = first_line(&diskimg, "--version")
            .with_context(|| format!("{} cannot be run", diskimg.display()))?;
        let qemu_img_version = first_line("qemu-img", "--version")
            .context("qemu-img cannot be run; Debian's package is qemu-utils")?;
        Ok(Self {
            diskimg,
            diskimg_version,
            qemu_img_version,
            cp: first_line("cp", "--version").is_ok_and(|line| line.contains("GNU")),
            nbdcopy: is_there("nbdcopy") && is_there("qemu-nbd"),
            seven_zip: ["7zz", "7z"].into_iter().find(|name| is_there(name)),
        })
    }

    /// A note for every tool that could have been compared.
    pub(crate) fn absent(&self) -> Vec<String> {
        let absent = [
            (!self.cp, "GNU cp"),
            (!self.nbdcopy, "nbdcopy with qemu-nbd"),
            (self.seven_zip.is_none(), "7-Zip"),
        ];
        let names = absent.iter().filter(|(absent, _)| *absent);
        names.map(|(_, name)| format!("Not installed, so left out: {name}.")).collect()
    }
}

/// A command that also finds what only administrators have in their path.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).stdin(Stdio::null());
    command
}

/// Runs what must succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    let output = command.output().with_context(|| format!("{shown} cannot be run"))?;
    if !output.status.success() {
        bail!("{shown} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// A command as one would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = [command.get_program()].into_iter().chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

fn is_there(program: &str) -> bool {
    first_line(program, "--help").is_ok()
}

fn first_line(program: impl AsRef<OsStr>, arg: &str) -> Result<String> {
    let output = command(program).arg(arg).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// Builds this checkout's command, in the target folder this program is in.
fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let here = std::env::current_exe()?;
    let target = here.ancestors().nth(2).context("this program is in no target folder")?;
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let mut build = Command::new(cargo);
    build.args(["build", "--release", "--locked", "--package", "diskimg-cli", "--manifest-path"]);
    build.arg(manifest).arg("--target-dir").arg(target);
    if !build.status().context("cargo cannot be run")?.success() {
        bail!("the command cannot be built; --diskimg PATH names one that is");
    }
    Ok(target.join("release").join("diskimg"))
}
