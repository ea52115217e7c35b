//! The `cairn` binary.

// glibc's allocator keeps freed megabytes apart per thread; a pipeline of 1 MiB buffers wants them back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    cairn::cli::main()
}
