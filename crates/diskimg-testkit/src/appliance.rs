//! Appliances to test with: packages of files, packed by the tools that people use.

use crate::tool::run;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// VMware's URI for VMDKs.
pub const VMDK: &str = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";

/// A folder in which a package is put together.
pub struct Kit(TempDir);

/// A `File` of a descriptor.
#[derive(Clone, Copy)]
pub struct FileLine<'a> {
    pub href: &'a str,
    /// Further attributes.
    pub more: &'a str,
}

/// A `Disk` of a descriptor; with `file` it is in the file of that number, counted from 1.
#[derive(Clone, Copy)]
pub struct DiskLine<'a> {
    pub file: Option<usize>,
    pub format: &'a str,
    /// Further attributes; the capacity if it is not 2 MiB.
    pub more: &'a str,
}

impl Kit {
    pub fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }

    /// A 2 MiB disk, the same for the same seed: its bytes, and by qemu-img an
    /// image of them.
    pub fn disk(&self, name: &str, seed: u64, format: &str, options: &[&str]) -> Vec<u8> {
        let mut bytes = vec![0; 2 << 20];
        bytes[..100_000].copy_from_slice(&crate::disk::noise(seed, 100_000));
        bytes[1 << 20..][..70_000].fill(seed as u8 | 1);
        *bytes.last_mut().unwrap() = 9;
        self.write("disk.raw", &bytes);
        let (raw, image) = (self.path("disk.raw"), self.path(name));
        std::fs::create_dir_all(image.parent().unwrap()).unwrap();
        let mut args = vec!["convert", "-f", "raw", "-O", format];
        args.extend_from_slice(options);
        args.extend([raw.to_str().unwrap(), image.to_str().unwrap()]);
        run("qemu-img", args);
        bytes
    }

    /// A streamed VMDK.
    pub fn vmdk(&self, name: &str, seed: u64) -> Vec<u8> {
        self.disk(name, seed, "vmdk", &["-o", "subformat=streamOptimized"])
    }

    /// Runs a tool in the folder.
    pub fn tool(&self, program: &str, args: &[&str]) -> String {
        let args = ["-C", self.0.path().to_str().unwrap(), program]
            .iter()
            .chain(args)
            .copied()
            .collect::<Vec<_>>();
        run("env", args)
    }

    /// Packs files with GNU tar.
    pub fn tar(&self, archive: &str, format: &str, files: &[&str]) -> PathBuf {
        let format = format!("--format={format}");
        let mut args = vec![&*format, "--no-recursion", "-cf", archive, "--"];
        args.extend_from_slice(files);
        self.tool("tar", &args);
        self.path(archive)
    }

    /// A package of one streamed VMDK, `a.ova`: its path, and the disk's bytes.
    pub fn simple(&self) -> (PathBuf, Vec<u8>) {
        let bytes = self.vmdk("a-disk1.vmdk", 1);
        self.write("a.ovf", one_disk("a-disk1.vmdk"));
        (self.tar("a.ova", "ustar", &["a.ovf", "a-disk1.vmdk"]), bytes)
    }

    /// A manifest in coreutils' words (`sha256sum --tag`), which differ from
    /// VMware's in a blank.
    pub fn manifest(&self, name: &str, tool: &str, files: &[&str]) {
        let mut args = vec!["--tag"];
        args.extend_from_slice(files);
        let text = self.tool(tool, &args);
        self.write(name, text);
    }
}

/// A descriptor of one disk in one file.
pub fn one_disk(href: &str) -> String {
    descriptor(
        &[FileLine { href, more: "" }],
        &[DiskLine { file: Some(1), format: VMDK, more: "" }],
    )
}

/// A descriptor as VMware writes it.
pub fn descriptor(files: &[FileLine<'_>], disks: &[DiskLine<'_>]) -> String {
    let mut text = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" \
         xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\">\n<References>\n",
    );
    for (i, FileLine { href, more }) in files.iter().enumerate() {
        writeln!(text, "<File ovf:id=\"file{}\" ovf:href=\"{href}\" {more}/>", i + 1).unwrap();
    }
    text.push_str("</References>\n<DiskSection><Info>Disks</Info>\n");
    for (i, DiskLine { file, format, more }) in disks.iter().enumerate() {
        let file = file.map(|n| format!("ovf:fileRef=\"file{n}\"")).unwrap_or_default();
        let capacity = match more.contains("capacity=") {
            true => "",
            false => "ovf:capacity=\"2\" ovf:capacityAllocationUnits=\"byte * 2^20\"",
        };
        let id = i + 1;
        writeln!(
            text,
            "<Disk ovf:diskId=\"vmdisk{id}\" {file} {capacity} ovf:format=\"{format}\" {more}/>"
        )
        .unwrap();
    }
    text.push_str(
        "</DiskSection>\n<VirtualSystem ovf:id=\"vm\"><Info/></VirtualSystem>\n</Envelope>\n",
    );
    text
}

/// The guest's bytes according to us.
pub fn guest_bytes(image: &diskimg::Image) -> Vec<u8> {
    let mut bytes = vec![0; image.size() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// The disk's bytes as a conversion to raw gives them; the image keeps its promises.
pub fn assert_holds(ova: &Path, bytes: &[u8]) {
    let image = crate::opened::verified(&diskimg::OpenOptions::new(), ova);
    assert_eq!(image.format(), diskimg::Format::Ova);
    assert!(guest_bytes(&image) == bytes, "{}: other bytes", ova.display());
    let dir = tempfile::tempdir().unwrap();
    let raw = dir.path().join("raw");
    diskimg::Convert::new(image).run(&raw).unwrap();
    assert!(std::fs::read(&raw).unwrap() == bytes, "{}: converts to other bytes", ova.display());
}
