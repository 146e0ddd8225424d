//! Other people's readers of VMDK: what do they make of a file?
//!
//! ```text
//!   image ──► reader ──► guest bytes ──┐
//!                                      ├──► same · differs · refuses
//!   what the disk holds ───────────────┘
//! ```
//!
//! qemu-img and 7-Zip are always there. The others are Python modules and run
//! where `DISKIMG_ORACLES` names a virtual environment that has them
//! (`oracles/requirements.txt`); `./test.sh` makes one.

use crate::disk::Disk;
use crate::tool::try_run;
use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A reader that shares no code with ours, nor with the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Oracle {
    QemuImg,
    SevenZip,
    Dissect,
    Libvmdk,
}

/// What came of reading an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every byte is the disk's, and there are as many.
    Same,
    /// The reader was content, but the bytes are others: where.
    Differs(String),
    /// The reader gave up: its last words.
    Refuses(String),
    /// The reader is not installed.
    NotThere,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Same => f.write_str("same"),
            Self::Differs(at) => write!(f, "differs! {at}"),
            Self::Refuses(reason) => write!(f, "refuses: {reason}"),
            Self::NotThere => f.write_str("-"),
        }
    }
}

impl Oracle {
    pub const ALL: [Self; 4] = [Self::QemuImg, Self::SevenZip, Self::Dissect, Self::Libvmdk];

    pub fn name(self) -> &'static str {
        match self {
            Self::QemuImg => "qemu-img",
            Self::SevenZip => "7-Zip",
            Self::Dissect => "dissect",
            Self::Libvmdk => "libvmdk",
        }
    }

    /// Reads the VMDK `image` to its end: does it hold `disk`?
    pub fn judge(self, image: &Path, disk: &Disk) -> Verdict {
        match self {
            Self::QemuImg => judge_qemu_img(image, disk),
            Self::SevenZip => {
                let mut command = Command::new("7zz");
                judge_output(command.args(["x", "-tvmdk", "-so", "-bd"]).arg(image), disk)
            }
            Self::Dissect => judge_python(include_str!("oracles/dissect_vmdk.py"), image, disk),
            Self::Libvmdk => judge_python(include_str!("oracles/libvmdk.py"), image, disk),
        }
    }
}

/// The verdict on a reader that gives the guest's bytes as `guest`.
pub fn judge_bytes(guest: impl Read, disk: &Disk) -> Verdict {
    match first_difference(guest, disk) {
        Ok(None) => Verdict::Same,
        Ok(Some(at)) => Verdict::Differs(at),
        Err(error) => Verdict::Refuses(error.to_string()),
    }
}

/// qemu-img writes to no pipe, but it compares.
fn judge_qemu_img(image: &Path, disk: &Disk) -> Verdict {
    let args = ["compare", "-f", "vmdk", "-F", "raw"].map(OsStr::new);
    let raw = tempfile::NamedTempFile::new().unwrap().into_temp_path();
    disk.write(&raw);
    File::options().write(true).open(&raw).unwrap().set_len(guest_len(disk)).unwrap();
    let output = try_run("qemu-img", args.into_iter().chain([image.as_ref(), raw.as_ref()]));
    let said = String::from_utf8_lossy(&output.stdout);
    match output.status.code() {
        // It does not mind zeros behind the end of the other.
        Some(0) if !said.contains("size mismatch") => Verdict::Same,
        Some(0 | 1) => Verdict::Differs(said.lines().next().unwrap_or_default().to_owned()),
        _ => Verdict::Refuses(last_line(&output.stderr)),
    }
}

/// A Python program that is told the image and writes the guest's bytes.
fn judge_python(program: &str, image: &Path, disk: &Disk) -> Verdict {
    let Some(environment) = std::env::var_os("DISKIMG_ORACLES") else { return Verdict::NotThere };
    let python = PathBuf::from(environment).join("bin/python");
    judge_output(Command::new(python).args(["-I", "-c", program]).arg(image), disk)
}

/// A command that writes the guest's bytes to its standard output.
fn judge_output(command: &mut Command, disk: &Disk) -> Verdict {
    // In a file, its complaints cannot fill a pipe that nobody reads.
    let mut complaints = tempfile::tempfile().unwrap();
    let mut reader = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(complaints.try_clone().unwrap())
        .spawn()
        .unwrap_or_else(|e| panic!("{command:?} cannot be run ({e})"));
    let mut guest = reader.stdout.take().unwrap();
    let verdict = judge_bytes(&mut guest, disk);
    // Its exit code tells something only after it could say all.
    io::copy(&mut guest, &mut io::sink()).unwrap();
    if reader.wait().unwrap().success() {
        return verdict;
    }
    let mut words = Vec::new();
    complaints.rewind().unwrap();
    complaints.read_to_end(&mut words).unwrap();
    Verdict::Refuses(last_line(&words))
}

fn last_line(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("without a word").trim().to_owned()
}

/// A VMDK holds whole sectors.
fn guest_len(disk: &Disk) -> u64 {
    disk.size.next_multiple_of(512)
}

/// Where the guest's bytes are first not those of `disk`. An error is the
/// guest's.
fn first_difference(mut guest: impl Read, disk: &Disk) -> io::Result<Option<String>> {
    const PIECE: usize = 1 << 20;
    let len = guest_len(disk);
    let (mut given, mut expected) = (vec![0; PIECE], vec![0; PIECE]);
    let mut at = 0;
    loop {
        let given = fill(&mut guest, &mut given)?;
        let expected = &mut expected[..PIECE.min((len - at) as usize)];
        disk.read_at(expected, at);
        if given != expected {
            let same = given.iter().zip(&*expected).take_while(|(a, b)| a == b).count();
            let end = at + same as u64;
            return Ok(Some(match (same == given.len(), same == expected.len()) {
                (true, _) => format!("ends at byte {end} of {len}"),
                (_, true) => format!("goes on after byte {len}"),
                _ => format!("at byte {end}"),
            }));
        }
        if given.is_empty() {
            return Ok(None);
        }
        at += given.len() as u64;
    }
}

/// Reads until the buffer is full or there is no more; gives what it read.
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
