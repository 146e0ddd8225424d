//! The binary: all of it is in the library.

fn main() -> std::process::ExitCode {
    diskimg_cli::main(std::env::args_os().collect()).into()
}
