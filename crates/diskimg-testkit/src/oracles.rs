//! Independent readers of disk images, whose results are compared with a disk's content.

//!
//! ```text
//!   image ──► reader ──► guest bytes ──┐
//!                                      ├──► same · differs · refuses
//!   expected guest bytes ──────────────┘
//! ```
//!
//! qemu-img and 7-Zip are required. The others are Python modules and are used if `DISKIMG_ORACLES`
//! names a virtual environment that has them (`oracles/requirements.txt`); `./test.sh` creates one.

use crate::disk::Disk;
use crate::tool::try_run;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A reader that shares no code with diskimg or with the other readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oracle {
    QemuImg,
    SevenZip,
    Dissect,
    /// libvmdk, libvhdi, libqcow, libphdi, libmodi or libewf.
    Libyal,
    /// VirtualBox, if `DISKIMG_VBOX_IMG` names its program `vbox-img`. Not in [`ALL`](Self::ALL).
    VirtualBox,
}

/// The result of reading an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The guest bytes are the disk's.
    Same,
    /// The reader succeeded, but the bytes or the size differ: where.
    Differs(String),
    /// The reader failed: the last line of its error output.
    Refuses(String),
    /// The reader is not installed.
    NotInstalled,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same => f.write_str("same"),
            Self::Differs(at) => write!(f, "differs! {at}"),
            Self::Refuses(reason) => write!(f, "refuses: {reason}"),
            Self::NotInstalled => f.write_str("-"),
        }
    }
}

impl Oracle {
    pub const ALL: [Self; 4] = [Self::QemuImg, Self::SevenZip, Self::Dissect, Self::Libyal];

    pub fn name(self) -> &'static str {
        match self {
            Self::QemuImg => "qemu-img",
            Self::SevenZip => "7-Zip",
            Self::Dissect => "dissect",
            Self::Libyal => "libyal",
            Self::VirtualBox => "VirtualBox",
        }
    }

    /// Reads `image`, which has this format of QEMU, to its end and compares it with `disk`. A reader
    /// that does not know the format counts as not installed.
    pub fn compare(self, format: &str, image: &Path, disk: &Disk) -> Verdict {
        match self {
            Self::QemuImg => compare_qemu_img(format, image, disk),
            Self::SevenZip => {
                let kind = match format {
                    "vmdk" | "vhdx" | "vdi" => format,
                    // The partitions, one after the other.
                    "dmg" => "Dmg",
                    "vpc" => "vhd",
                    "qcow" => "qcow",
                    _ => return Verdict::NotInstalled,
                };
                let mut command = Command::new("7zz");
                command.args(["x", &format!("-t{kind}"), "-so", "-bd"]).arg(image);
                compare_output(&mut command, disk)
            }
            Self::Dissect => {
                let program = match format {
                    "vmdk" => include_str!("oracles/dissect_vmdk.py"),
                    "vpc" => include_str!("oracles/dissect_vhd.py"),
                    "vhdx" => include_str!("oracles/dissect_vhdx.py"),
                    "vdi" => include_str!("oracles/dissect_vdi.py"),
                    "parallels" => include_str!("oracles/dissect_hdd.py"),
                    "asif" => include_str!("oracles/dissect_asif.py"),
                    _ => return Verdict::NotInstalled,
                };
                compare_python(program, image, disk)
            }
            Self::Libyal => {
                let program = match format {
                    "vmdk" => include_str!("oracles/libvmdk.py"),
                    "vpc" | "vhdx" => include_str!("oracles/libvhdi.py"),
                    "qcow" => include_str!("oracles/libqcow.py"),
                    "parallels" => include_str!("oracles/libphdi.py"),
                    "sparseimage" | "sparsebundle" => include_str!("oracles/libmodi.py"),
                    "ewf" => include_str!("oracles/libewf.py"),
                    "dmg" => include_str!("oracles/libmodi.py"),
                    _ => return Verdict::NotInstalled,
                };
                compare_python(program, image, disk)
            }
            Self::VirtualBox => compare_virtualbox(image, disk),
        }
    }
}

/// Compares the guest bytes that a reader returns with `disk`.
pub fn compare_bytes(guest: impl Read, disk: &Disk) -> Verdict {
    match first_difference(guest, disk) {
        Ok(None) => Verdict::Same,
        Ok(Some(at)) => Verdict::Differs(at),
        Err(error) => Verdict::Refuses(error.to_string()),
    }
}

/// qemu-img cannot write to a pipe, but it can compare.
fn compare_qemu_img(format: &str, image: &Path, disk: &Disk) -> Verdict {
    let args = ["compare", "-f", format, "-F", "raw"].map(OsStr::new);
    let raw = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    disk.write(&raw);
    File::options().write(true).open(&raw).unwrap().set_len(guest_len(disk)).unwrap();
    let output = try_run("qemu-img", args.into_iter().chain([image.as_ref(), raw.as_ref()]));
    let stdout = String::from_utf8_lossy(&output.stdout);
    match output.status.code() {
        // Images of different sizes are identical to it if the larger one ends with zeros.
        Some(0) if !stdout.contains("size mismatch") => Verdict::Same,
        Some(0 | 1) => Verdict::Differs(stdout.lines().next().unwrap_or_default().to_owned()),
        _ => Verdict::Refuses(last_line(&output.stderr)),
    }
}

/// vbox-img converts to a raw file.
fn compare_virtualbox(image: &Path, disk: &Disk) -> Verdict {
    let Some(program) = std::env::var_os("DISKIMG_VBOX_IMG") else { return Verdict::NotInstalled };
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    let output = Command::new(program)
        .args(["convert", "--dstformat", "RAW", "--srcfilename"])
        .arg(image)
        .arg("--dstfilename")
        .arg(&raw)
        .output()
        .unwrap();
    match output.status.success() {
        true => compare_bytes(File::open(raw).unwrap(), disk),
        false => Verdict::Refuses(last_line(&output.stderr)),
    }
}

/// Runs a Python program that takes the image as its argument and writes the guest bytes to its
/// standard output.
fn compare_python(program: &str, image: &Path, disk: &Disk) -> Verdict {
    let Some(environment) = std::env::var_os("DISKIMG_ORACLES") else {
        return Verdict::NotInstalled;
    };
    let python = PathBuf::from(environment).join("bin/python");
    compare_output(Command::new(python).args(["-I", "-c", program]).arg(image), disk)
}

/// Runs a command that writes the guest bytes to its standard output.
fn compare_output(command: &mut Command, disk: &Disk) -> Verdict {
    // A file, because a pipe that is not read could fill up and block the reader.
    let mut stderr = tempfile::tempfile().unwrap();
    let mut reader = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr.try_clone().unwrap())
        .spawn()
        .unwrap_or_else(|e| panic!("cannot run {command:?}: {e}"));
    let mut guest = reader.stdout.take().unwrap();
    let verdict = compare_bytes(&mut guest, disk);
    // Drain the pipe: otherwise the reader would fail with EPIPE.
    io::copy(&mut guest, &mut io::sink()).unwrap();
    if reader.wait().unwrap().success() {
        return verdict;
    }
    let mut text = Vec::new();
    stderr.rewind().unwrap();
    stderr.read_to_end(&mut text).unwrap();
    Verdict::Refuses(last_line(&text))
}

fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("no error message")
        .trim()
        .to_owned()
}

/// Returns the size of the disk in the image, which has whole sectors.
fn guest_len(disk: &Disk) -> u64 {
    disk.size.next_multiple_of(512)
}

/// Describes the first difference between the guest bytes and `disk`. Returns the errors of
/// `guest`.
fn first_difference(mut guest: impl Read, disk: &Disk) -> io::Result<Option<String>> {
    const CHUNK: usize = 1 << 20;
    let len = guest_len(disk);
    let (mut actual, mut expected) = (vec![0; CHUNK], vec![0; CHUNK]);
    let mut at = 0;
    loop {
        let actual = fill(&mut guest, &mut actual)?;
        let expected = &mut expected[..CHUNK.min((len - at) as usize)];
        disk.read_at(expected, at);
        if actual != expected {
            let same = actual.iter().zip(&*expected).take_while(|(a, b)| a == b).count();
            let end = at + same as u64;
            return Ok(Some(match (same == actual.len(), same == expected.len()) {
                (true, _) => format!("ends at byte {end} of {len}"),
                (_, true) => format!("continues after byte {len}"),
                _ => format!("at byte {end}"),
            }));
        }
        if actual.is_empty() {
            return Ok(None);
        }
        at += actual.len() as u64;
    }
}

/// Reads until the buffer is full or the input ends. Returns the bytes read.
fn fill<'a>(guest: &mut impl Read, buf: &'a mut [u8]) -> io::Result<&'a [u8]> {
    let mut filled = 0;
    while filled < buf.len() {
        match guest.read(&mut buf[filled..])? {
            0 => break,
            n => filled += n,
        }
    }
    Ok(&buf[..filled])
}
