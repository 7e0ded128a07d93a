//! The `interdict` command.

fn main() -> std::process::ExitCode {
    interdict::cli::main()
}
