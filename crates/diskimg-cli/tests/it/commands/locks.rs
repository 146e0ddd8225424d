//! QEMU's locks on images, in both directions.

use crate::support::Lab;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule,
};
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};

/// A qemu-io process that has an image open.
struct Qemu(Child);

impl Qemu {
    /// Opens the image and returns when it is locked.
    fn open(lab: &Lab, mode: &[&str], format: &str, name: &str) -> Self {
        let mut child = Command::new("qemu-io")
            .args(mode)
            .args(["-f", format])
            .arg(lab.path(name))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("runs");
        // The output of the first command shows that the image is open.
        child.stdin.as_mut().expect("piped").write_all(b"length\n").expect("writes");
        let mut lines = BufReader::new(child.stdout.as_mut().expect("piped")).lines();
        assert!(lines.any(|line| line.expect("reads").contains("MiB")));
        Self(child)
    }

    fn writing(lab: &Lab, name: &str) -> Self {
        Self::open(lab, &[], "qcow2", name)
    }

    fn reading(lab: &Lab, name: &str) -> Self {
        Self::open(lab, &["-r"], "qcow2", name)
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn lab() -> Lab {
    let lab = Lab::new();
    lab.raw("a.raw");
    std::fs::write(lab.path("small.raw"), [0; 512]).expect("writes");
    lab.qemu("convert -f raw -O qcow2 a.raw a.qcow2").ok();
    lab.qemu("create -q -f qcow2 -b a.qcow2 -F qcow2 over.qcow2").ok();
    lab
}

const READERS: [&str; 7] = [
    "info a.qcow2",
    "check a.qcow2",
    "map a.qcow2",
    "measure -O raw a.qcow2",
    "compare a.qcow2 a.raw",
    "convert -O raw a.qcow2 out.raw",
    "convert -O raw over.qcow2 out.raw",
];

const WRITERS: [&str; 5] = [
    "create -f qcow2 a.qcow2 1M",
    "convert -f raw -O qcow2 a.raw a.qcow2",
    "convert -n -f raw -O qcow2 a.raw a.qcow2",
    "resize a.qcow2 +1M",
    "convert -n -f raw -O raw small.raw a.qcow2",
];

#[test]
fn an_image_that_qemu_writes_is_neither_read_nor_replaced() {
    let lab = lab();
    let before = lab.read("a.qcow2");
    let qemu = Qemu::writing(&lab, "a.qcow2");
    let holder = format!("another process, {} (qemu-io), is using the file", qemu.0.id());
    for line in READERS {
        let code = if line.starts_with("compare") { 2 } else { 1 };
        let error = lab.line(line).fails(code);
        assert!(error.contains("a.qcow2: Failed to get shared \"write\" lock"), "{line}: {error}");
        assert!(error.contains("another process") && error.contains("-U"), "{line}: {error}");
        // The sandbox lets a process find out who has locked what the command line names.
        assert_eq!(error.contains(&holder), !line.contains("over"), "{line}: {error}");
        assert!(lab.qemu(line).fails(code).contains("Failed to get shared \"write\" lock"));
        let (command, rest) = line.split_once(' ').expect("operands");
        lab.line(&format!("{command} -U {rest}")).ok();
    }
    let error = lab.line("map --sandbox off over.qcow2").fails(1);
    assert!(error.contains(&holder), "{error}");
    for options in ["force-share=on,", "file.locking=off,", "file.force-share=on,"] {
        let image = format!("driver=qcow2,{options}file.filename=a.qcow2");
        lab.line(&format!("map --image-opts {image}")).ok();
    }
    for line in WRITERS {
        let error = lab.line(line).fails(1);
        assert!(error.contains("Failed to get \"write\" lock"), "{line}: {error}");
        assert!(!error.contains("-U"), "{line}: {error}");
        assert!(error.contains(&holder), "{line}: {error}");
    }
    lab.line("create -f qcow2 -b a.qcow2 -F qcow2 new.qcow2").fails(1);
    lab.line("create -U -f qcow2 -b a.qcow2 -F qcow2 new.qcow2").ok();
    drop(qemu);
    assert!(lab.read("a.qcow2") == before);
    for line in READERS.iter().chain(&WRITERS[3..]) {
        lab.line(line).ok();
    }
}

#[test]
fn an_image_that_qemu_reads_is_read_but_not_replaced() {
    let lab = lab();
    let qemu = Qemu::reading(&lab, "a.qcow2");
    for line in READERS {
        lab.line(line).ok();
    }
    for line in WRITERS {
        let error = lab.line(line).fails(1);
        assert!(error.contains("Failed to get \"write\" lock"), "{line}: {error}");
        lab.qemu(line).fails(1);
    }
    drop(qemu);
    for line in &WRITERS[2..] {
        lab.line(line).ok();
    }
}

#[test]
fn a_raw_image_that_qemu_writes_has_information_but_is_not_read() {
    let lab = lab();
    let _qemu = Qemu::open(&lab, &[], "raw", "a.raw");
    lab.line("info -f raw a.raw").ok();
    lab.qemu("info -f raw a.raw").ok();
    for line in ["convert -f raw -O qcow2 a.raw b.qcow2", "convert -f raw -O raw a.raw b.raw"] {
        lab.line(line).fails(1);
        lab.qemu(line).fails(1);
    }
}

/// Standard input may be open in other processes, which would keep the lock.
#[test]
fn standard_input_is_not_locked_when_the_command_has_ended() {
    let lab = lab();
    let file = std::fs::File::open(lab.path("a.qcow2")).expect("opens");
    let mut info = lab.command(crate::support::diskimg());
    let info = info.args(["map", "-"]).stdin(file.try_clone().expect("clones"));
    assert!(info.output().expect("runs").status.success());
    lab.line("resize a.qcow2 +1M").ok();
    drop(file);
}

#[test]
fn qemu_neither_writes_nor_resizes_a_source_of_a_conversion() {
    let lab = lab();
    // Slow enough that it does not end before it is killed.
    let mut convert = lab
        .command(crate::support::diskimg())
        .args(["convert", "-r", "1k", "-O", "raw", "over.qcow2", "out.raw"])
        .spawn()
        .expect("runs");
    // It has locked both images when it has created its output.
    let is_temporary = |name: std::ffi::OsString| name.to_string_lossy().contains(".diskimg-tmp");
    let names = || std::fs::read_dir(lab.path("")).expect("lists").flatten();
    while !names().any(|entry| is_temporary(entry.file_name())) {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    for name in ["over.qcow2", "a.qcow2"] {
        let error = lab.qemu(&format!("resize -f qcow2 {name} +1M")).fails(1);
        assert!(error.contains("Failed to get \"write\" lock"), "{error}");
        lab.qemu(&format!("info -f qcow2 {name}")).ok();
    }
    convert.kill().expect("kills");
    convert.wait().expect("waits");
    lab.qemu("resize -q -f qcow2 over.qcow2 +1M").ok();
}

/// Runs `run` with a kernel in which no file can be locked, as on NFS without a lock service.
fn without_locks<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    let request =
        |command| SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, command);
    let request = request(libc::F_OFD_SETLK as u64).expect("a condition");
    let rule = SeccompRule::new(vec![request]).expect("a rule");
    let filter = SeccompFilter::new(
        [(libc::SYS_fcntl, vec![rule])].into(),
        SeccompAction::Allow,
        SeccompAction::Errno(libc::ENOLCK as u32),
        std::env::consts::ARCH.try_into().expect("a known architecture"),
    );
    let filter = BpfProgram::try_from(filter.expect("a filter")).expect("compiles");
    // It applies to the thread and to the processes that the thread starts.
    let restricted = move || {
        seccompiler::apply_filter(&filter).expect("applies");
        run()
    };
    std::thread::scope(|scope| scope.spawn(restricted).join().expect("does not panic"))
}

#[test]
fn what_modifies_an_image_warns_once_if_the_file_system_has_no_locks() {
    let lab = lab();
    without_locks(|| {
        for line in ["resize over.qcow2 +1M", "snapshot -c s over.qcow2", "commit over.qcow2"] {
            let warnings = lab.line(line).fails(0);
            assert_eq!(warnings.matches("the file system has no locks").count(), 1, "{line}");
            assert_eq!(warnings.lines().count(), 1, "{line}: {warnings}");
        }
        lab.line("info over.qcow2").ok();
        lab.as_qemu_img("resize over.qcow2 +1M").ok();
    });
    lab.qemu("check over.qcow2").ok();
}
