//! Builds OVF packages with the tools that users build them with.

use crate::tool::run;
use std::fmt::Write;
use std::path::PathBuf;
use tempfile::TempDir;

/// VMware's `ovf:format` URI of a VMDK.
pub const VMDK_FORMAT: &str =
    "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";

/// A temporary directory in which a package is built.
pub struct PackageBuilder(TempDir);

/// A `File` element of an OVF descriptor.
#[derive(Clone, Copy)]
pub struct OvfFile<'a> {
    pub href: &'a str,
    /// Further attributes.
    pub attributes: &'a str,
}

/// A `Disk` element of an OVF descriptor.
#[derive(Clone, Copy)]
pub struct OvfDisk<'a> {
    /// Number of the file that holds the disk, counted from 1; `None` for an empty disk.
    pub file: Option<usize>,
    pub format: &'a str,
    /// Further attributes; must contain the capacity if it is not 2 MiB.
    pub attributes: &'a str,
}

impl PackageBuilder {
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

    /// Creates a 2 MiB disk from `seed` and converts it into an image with qemu-img. Returns the
    /// disk's bytes.
    pub fn create_disk(&self, name: &str, seed: u64, format: &str, options: &[&str]) -> Vec<u8> {
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

    /// Creates a stream-optimized VMDK.
    pub fn create_vmdk(&self, name: &str, seed: u64) -> Vec<u8> {
        self.create_disk(name, seed, "vmdk", &["-o", "subformat=streamOptimized"])
    }

    /// Runs a tool in the directory and returns its standard output.
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

    /// Creates `a.ova` with one stream-optimized VMDK. Returns its path and the disk's bytes.
    pub fn single_disk_ova(&self) -> (PathBuf, Vec<u8>) {
        let bytes = self.create_vmdk("a-disk1.vmdk", 1);
        self.write("a.ovf", single_disk_descriptor("a-disk1.vmdk"));
        (self.tar("a.ova", "ustar", &["a.ovf", "a-disk1.vmdk"]), bytes)
    }

    /// Writes a manifest in coreutils' format (`sha256sum --tag`), which has one blank more per
    /// line than VMware's.
    pub fn manifest(&self, name: &str, tool: &str, files: &[&str]) {
        let mut args = vec!["--tag"];
        args.extend_from_slice(files);
        let text = self.tool(tool, &args);
        self.write(name, text);
    }
}

/// Returns a descriptor of one disk in one file.
pub fn single_disk_descriptor(href: &str) -> String {
    descriptor(
        &[OvfFile { href, attributes: "" }],
        &[OvfDisk { file: Some(1), format: VMDK_FORMAT, attributes: "" }],
    )
}

/// Returns a descriptor as VMware writes it.
pub fn descriptor(files: &[OvfFile<'_>], disks: &[OvfDisk<'_>]) -> String {
    let mut text = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\" \
         xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\">\n<References>\n",
    );
    for (i, OvfFile { href, attributes }) in files.iter().enumerate() {
        writeln!(text, "<File ovf:id=\"file{}\" ovf:href=\"{href}\" {attributes}/>", i + 1)
            .unwrap();
    }
    text.push_str("</References>\n<DiskSection><Info>Disks</Info>\n");
    for (i, OvfDisk { file, format, attributes }) in disks.iter().enumerate() {
        let file = file.map(|n| format!("ovf:fileRef=\"file{n}\"")).unwrap_or_default();
        let capacity = match attributes.contains("capacity=") {
            true => "",
            false => "ovf:capacity=\"2\" ovf:capacityAllocationUnits=\"byte * 2^20\"",
        };
        let id = i + 1;
        writeln!(
            text,
            "<Disk ovf:diskId=\"vmdisk{id}\" {file} {capacity} ovf:format=\"{format}\" \
             {attributes}/>"
        )
        .unwrap();
    }
    text.push_str(
        "</DiskSection>\n<VirtualSystem ovf:id=\"vm\"><Info/></VirtualSystem>\n</Envelope>\n",
    );
    text
}

/// Returns all guest bytes, read with diskimg.
pub fn guest_bytes(image: &diskimg::Image) -> Vec<u8> {
    let mut bytes = vec![0; image.size() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    bytes
}
