//! A conversion that is ended leaves nothing: neither a temporary file nor a part of the output.

use crate::lab::{Lab, pattern};
use std::process::Child;
use std::time::{Duration, Instant};

/// Waits until the conversion has created its temporary file.
fn wait_for_temporary_file(lab: &Lab, child: &mut Child) {
    let begun = Instant::now();
    while !lab.names().iter().any(|name| name.ends_with(".diskimg-tmp")) {
        assert!(begun.elapsed() < Duration::from_secs(60), "no temporary file");
        assert!(child.try_wait().unwrap().is_none(), "ended before it was interrupted");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Starts a conversion that takes minutes.
fn start(lab: &Lab) -> std::process::Command {
    let part = pattern(16 << 20);
    lab.write("disk.raw", part.repeat(24));
    lab.command(["convert", "-f", "raw", "-O", "qcow2", "-c", "-m", "1", "disk.raw", "out.qcow2"])
}

#[cfg(unix)]
#[test]
fn an_interrupted_conversion_leaves_nothing() {
    let lab = Lab::new();
    let mut child = start(&lab).spawn().unwrap();
    wait_for_temporary_file(&lab, &mut child);
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(lab.names(), ["disk.raw"]);
}

/// Ctrl-Break, because Ctrl-C cannot be sent to one process group alone.
#[cfg(windows)]
#[test]
fn an_interrupted_conversion_leaves_nothing() {
    use std::os::windows::process::CommandExt;
    use windows_sys::Win32::System::Console::{
        AllocConsole, CTRL_BREAK_EVENT, GenerateConsoleCtrlEvent,
    };
    use windows_sys::Win32::System::Threading::CREATE_NEW_PROCESS_GROUP;
    let lab = Lab::new();
    // SAFETY: the call takes nothing. It fails if there is a console already.
    #[allow(unsafe_code)]
    unsafe {
        AllocConsole()
    };
    let mut child = start(&lab).creation_flags(CREATE_NEW_PROCESS_GROUP).spawn().unwrap();
    wait_for_temporary_file(&lab, &mut child);
    // SAFETY: the call takes two integers.
    #[allow(unsafe_code)]
    let sent = unsafe { GenerateConsoleCtrlEvent(CTRL_BREAK_EVENT, child.id()) };
    if sent == 0 {
        let error = std::io::Error::last_os_error();
        eprintln!("skipped: Ctrl-Break cannot be sent without a console: {error}");
        child.kill().unwrap();
        child.wait().unwrap();
        return;
    }
    let begun = Instant::now();
    while child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(60), "still running");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(lab.names(), ["disk.raw"]);
}

/// Nothing can be done when a process is killed: the next run removes what it left.
#[test]
fn what_a_killed_conversion_left_is_removed_by_the_next_run() {
    let lab = Lab::new();
    let mut child = start(&lab).spawn().unwrap();
    wait_for_temporary_file(&lab, &mut child);
    // The output of a running process remains.
    let running = lab.names();
    lab.testdata("ext4-zlib.qcow2");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(lab.names().len(), running.len() + 1);
    lab.line("convert -O qcow2 ext4-zlib.qcow2 out.qcow2").ok();
    assert_eq!(lab.names(), ["disk.raw", "ext4-zlib.qcow2", "out.qcow2"]);
}
