//! Small boot programs, and a virtual machine that runs them: QEMU without acceleration.
//!
//! Each program writes a word to the first serial port and switches the machine off.

use diskimg_testkit::tool::run;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The drive that the image is attached as.
#[derive(Debug, Clone, Copy)]
pub enum Medium {
    Disc,
    Disk,
}

/// The firmware of the machine.
#[derive(Debug, Clone, Copy)]
pub enum Firmware {
    Bios,
    Uefi,
}

/// Returns code that writes a word to the serial port at 0x3F8, then to QEMU's exit device at 0xF4.
///
/// ```text
///   mov dx, 0x3f8
///   mov al, 'W'       out dx, al        ; for each letter
///   out 0xf4, al
///   cli
///   hlt
///   jmp $-1
/// ```
///
/// The code is the same in real mode and in long mode, except that the first instruction needs an
/// operand-size prefix in long mode.
fn write_word(word: &str, long_mode: bool) -> Vec<u8> {
    let mut code = if long_mode { vec![0x66] } else { Vec::new() };
    code.extend([0xba, 0xf8, 0x03]);
    word.bytes().for_each(|letter| code.extend([0xb0, letter, 0xee]));
    code.extend([0xe6, 0xf4, 0xfa, 0xf4, 0xeb, 0xfd]);
    code
}

/// Returns a boot image for BIOS with the layout of isolinux.bin and GRUB's: space for a boot info
/// table, a second entry point at 2048, to which GRUB's MBR jumps, and isolinux's signature at 64,
/// which isohybrid requires.
///
/// ```text
///      0   jmp 0x44
///     64   fb c0 78 70
///     68   write `first`
///   2048   write `second`
/// ```
pub fn bios_image(first: &str, second: &str) -> Vec<u8> {
    let mut image = vec![0; 5000];
    image[..2].copy_from_slice(&[0xeb, 0x42]);
    image[64..68].copy_from_slice(&[0xfb, 0xc0, 0x78, 0x70]);
    for (at, word) in [(68, first), (2048, second)] {
        let code = write_word(word, false);
        image[at..at + code.len()].copy_from_slice(&code);
    }
    // Data for the checksum.
    image[3000..].iter_mut().zip(1..).for_each(|(byte, n): (_, u32)| *byte = (n * n) as u8);
    image
}

/// Returns a disk whose boot sector writes `word`. It has one partition, of type 6.
pub fn emulated_disk(word: &str, bytes: usize) -> Vec<u8> {
    let mut disk = vec![0; bytes];
    let code = write_word(word, false);
    disk[..code.len()].copy_from_slice(&code);
    disk[446..462].copy_from_slice(&[0x80, 1, 1, 0, 6, 1, 32, 0, 32, 0, 0, 0, 0xe0, 7, 0, 0]);
    disk[510..512].copy_from_slice(&[0x55, 0xaa]);
    disk
}

/// Returns an MBR that loads four sectors from the address at offset 432 and jumps to them, like
/// Syslinux's isohdpfx.bin and GRUB's boot_hybrid.img.
///
/// ```text
///      0   cli
///          xor ax, ax
///          mov ds, ax
///          mov ss, ax
///          mov sp, 0x7c00
///          sti
///     11   mov eax, [0x7db0]     ; 0x7c00 + 432
///          mov [0x7c48], eax
///          mov si, 0x7c40
///          mov ah, 0x42          ; extended read from the boot drive in dl
///          int 0x13
///          jc stop
///          jmp 0:0x8000
///   stop:  hlt
///          jmp stop
///     64   packet: size 16, sectors 4, to 0:0x8000, from sector ..
/// ```
pub fn mbr_code() -> Vec<u8> {
    let mut code = vec![
        0xfa, 0x31, 0xc0, 0x8e, 0xd8, 0x8e, 0xd0, 0xbc, 0x00, 0x7c, 0xfb, 0x66, 0xa1, 0xb0, 0x7d,
        0x66, 0xa3, 0x48, 0x7c, 0xbe, 0x40, 0x7c, 0xb4, 0x42, 0xcd, 0x13, 0x72, 0x05, 0xea, 0x00,
        0x80, 0x00, 0x00, 0xf4, 0xeb, 0xfd,
    ];
    code.resize(64, 0);
    code.extend([0x10, 0, 4, 0, 0, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    code.resize(440, 0);
    code
}

/// Returns a UEFI program for x86-64: a PE32+ image with one section (Microsoft, "PE Format").
fn uefi_program(word: &str) -> Vec<u8> {
    let mut file = vec![0; 0x400];
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, b"MZ");
    put(0x3c, &[0x40]); // e_lfanew
    put(0x40, b"PE\0\0\x64\x86\x01"); // x86-64, one section
    put(0x54, &[0xf0, 0, 0x22, 0]); // bytes of the optional header; executable, large addresses
    let optional = 0x58;
    put(optional, &[0x0b, 0x02]); // PE32+
    for (at, number) in [
        (4, 0x200),   // bytes of code
        (16, 0x1000), // entry point
        (20, 0x1000), // base of code
        (32, 0x1000), // alignment in memory
        (36, 0x200),  // alignment in the file
        (56, 0x2000), // bytes in memory
        (60, 0x200),  // bytes of headers
        (68, 10),     // EFI application
        (108, 16),    // directories, all empty
    ] {
        put(optional + at, &u32::to_le_bytes(number));
    }
    let section = optional + 0xf0;
    put(section, b".text");
    for (at, number) in [(8, 0x200), (12, 0x1000), (16, 0x200), (20, 0x200), (36, 0x6000_0020u32)] {
        put(section + at, &number.to_le_bytes());
    }
    put(0x200, &write_word(word, true));
    file
}

/// Creates an EFI system partition, a FAT file system of 1.44 MB, whose program writes `word`.
pub fn efi_image(dir: &Path, word: &str) -> PathBuf {
    let (program, image) = (dir.join("bootx64.efi"), dir.join("efi.img"));
    std::fs::write(&program, uefi_program(word)).unwrap();
    let (program, image_name) = (program.to_str().unwrap(), image.to_str().unwrap());
    run("mformat", ["-C", "-f", "1440", "-i", image_name, "::"]);
    run("mmd", ["-i", image_name, "::/EFI", "::/EFI/BOOT"]);
    run("mcopy", ["-i", image_name, program, "::/EFI/BOOT/BOOTX64.EFI"]);
    image
}

/// Paths of the UEFI firmware for QEMU in Debian.
const OVMF: [(&str, &str); 2] = [
    ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
    ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
];

/// Boots a machine from the image and returns its serial output. If the machine does not switch
/// itself off, it is killed after two minutes.
pub fn start(image: &Path, medium: Medium, firmware: Firmware) -> String {
    let dir = tempfile::tempdir().unwrap();
    let serial = dir.path().join("serial");
    let mut machine = Command::new("qemu-system-x86_64");
    machine.args(["-nodefaults", "-display", "none", "-accel", "tcg", "-m", "256", "-no-reboot"]);
    machine.args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"]);
    machine.arg("-serial").arg(format!("file:{}", serial.display()));
    let drive = match medium {
        Medium::Disc => "media=cdrom,readonly=on",
        Medium::Disk => "media=disk,snapshot=on",
    };
    machine.arg("-drive").arg(format!("if=ide,format=raw,{drive},file={}", image.display()));
    if let Firmware::Uefi = firmware {
        let found = OVMF.iter().find(|(code, _)| Path::new(code).exists());
        let (code, variables) = found.expect("./test.sh installs ovmf");
        let own = dir.path().join("variables");
        std::fs::copy(variables, &own).unwrap();
        machine.arg("-drive").arg(format!("if=pflash,format=raw,readonly=on,file={code}"));
        machine.arg("-drive").arg(format!("if=pflash,format=raw,file={}", own.display()));
    }
    let child = machine.stdin(Stdio::null()).spawn();
    let mut child =
        child.expect("qemu-system-x86_64 is missing; ./test.sh lists the required tools");
    let start = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if start.elapsed() > Duration::from_secs(120) {
            child.kill().unwrap();
            child.wait().unwrap();
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    String::from_utf8_lossy(&std::fs::read(&serial).unwrap_or_default()).into_owned()
}
