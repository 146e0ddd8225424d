//! The `diskimg` binary.

fn main() -> std::process::ExitCode {
    diskimg_cli::main(std::env::args_os().collect()).into()
}
