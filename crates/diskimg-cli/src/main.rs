//! The `diskimg` binary.

mod closed_streams;

#[global_allocator]
static ALLOCATOR: diskimg_cli::ReservingAllocator = diskimg_cli::ReservingAllocator;

fn main() -> std::process::ExitCode {
    diskimg_cli::main(std::env::args_os().collect(), closed_streams::at_start()).into()
}
