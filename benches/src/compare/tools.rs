//! The programs: diskimg, qemu-img, and other installed tools.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The available tools.
#[derive(Debug)]
pub(crate) struct Tools {
    /// Path of diskimg.
    pub(crate) diskimg: PathBuf,
    /// First line of `diskimg --version`.
    pub(crate) diskimg_version: String,
    /// First line of `qemu-img --version`.
    pub(crate) qemu_img_version: String,
    /// Whether `cp` is GNU cp, which supports `--sparse`.
    pub(crate) cp: bool,
    /// Whether `nbdcopy` and `qemu-nbd` are installed.
    pub(crate) nbdcopy: bool,
    /// Name of the 7-Zip program, if installed.
    pub(crate) seven_zip: Option<&'static str>,
}

impl Tools {
    /// Finds the tools, and builds diskimg unless its path is given.
    pub(crate) fn find(diskimg: Option<&Path>) -> Result<Self> {
        let diskimg = match diskimg {
            Some(path) => path.to_owned(),
            None => build()?,
        };
        let diskimg_version = first_line(&diskimg, "--version")
            .with_context(|| format!("cannot run {}", diskimg.display()))?;
        let qemu_img_version = first_line("qemu-img", "--version")
            .context("cannot run qemu-img (install qemu-utils)")?;
        Ok(Self {
            diskimg,
            diskimg_version,
            qemu_img_version,
            cp: first_line("cp", "--version").is_ok_and(|line| line.contains("GNU")),
            nbdcopy: is_installed("nbdcopy") && is_installed("qemu-nbd"),
            seven_zip: ["7zz", "7z"].into_iter().find(|name| is_installed(name)),
        })
    }

    /// Returns a note for every tool that is not installed.
    pub(crate) fn missing(&self) -> Vec<String> {
        let tools = [
            (!self.cp, "GNU cp"),
            (!self.nbdcopy, "nbdcopy with qemu-nbd"),
            (self.seven_zip.is_none(), "7-Zip"),
        ];
        let names = tools.iter().filter(|(missing, _)| *missing);
        names
            .map(|(_, name)| format!("Not installed and therefore not measured: {name}."))
            .collect()
    }
}

/// Returns a command whose PATH includes the sbin directories.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut command = Command::new(program);
    command.env("PATH", format!("{path}:/usr/sbin:/sbin")).stdin(Stdio::null());
    command
}

/// Runs a command, which must succeed.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let shown = shown(command);
    let output = command.output().with_context(|| format!("cannot run {shown}"))?;
    if !output.status.success() {
        bail!("{shown} failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Formats a command line.
pub(crate) fn shown(command: &Command) -> String {
    let args = [command.get_program()].into_iter().chain(command.get_args());
    args.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

fn is_installed(program: &str) -> bool {
    first_line(program, "--help").is_ok()
}

fn first_line(program: impl AsRef<OsStr>, arg: &str) -> Result<String> {
    let output = command(program).arg(arg).output()?;
    Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
}

/// Builds diskimg from this checkout, in the target directory of this program.
fn build() -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let here = std::env::current_exe()?;
    let target = here.ancestors().nth(2).context("this program is not in a target directory")?;
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let mut build = Command::new(cargo);
    build.args(["build", "--release", "--locked", "--package", "diskimg-cli", "--manifest-path"]);
    build.arg(manifest).arg("--target-dir").arg(target);
    if !build.status().context("cannot run cargo")?.success() {
        bail!("cannot build diskimg; use --diskimg PATH");
    }
    Ok(target.join("release").join("diskimg"))
}
