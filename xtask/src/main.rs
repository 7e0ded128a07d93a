//! `cargo xtask`: everything that is done to this repository.

mod bench;
mod demo;
mod ebpf;
mod escape;
mod fuzz;
mod guest;
mod package;
mod setup;
mod shell;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::guest::System;

/// Set up, build, test, demonstrate, measure.
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Install what is missing on Debian (without root: print the command).
    Setup,
    /// Run the main job end to end: a real MCP server on a real database, governed.
    Demo {
        /// Leave database and issuer running, and the directory.
        #[arg(long)]
        keep: bool,
    },
    /// Pass every test, setting up what it needs.
    Test {
        /// No root, no servers, under two minutes on a warm build.
        #[arg(long)]
        fast: bool,
    },
    /// Fuzz what hostile bytes reach.
    Fuzz {
        /// What: `all`, or a promise of `agent/src/fuzz.rs`.
        #[arg(default_value = "all")]
        name: String,
        /// How long each.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
    },
    /// Package the binary: .deb, .rpm, OCI image.
    Package(package::PackageArgs),
    /// Write what is linked into the binary as a CycloneDX document.
    Sbom {
        /// Where to.
        #[arg(default_value = "target/interdict.cdx.json")]
        file: std::path::PathBuf,
    },
    /// Rebuild the kernel object with the recorded toolchain.
    Ebpf,
    /// Check the house rules that no compiler knows.
    Tidy,
    /// Try every way around the agent that somebody could think of, and print what stopped each.
    Escape {
        /// In a guest whose kernel has BPF LSM (QEMU without KVM).
        #[arg(long)]
        vm: bool,
        /// End with one line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Run a command on this host's files in a guest with Debian's kernel; what it writes is gone afterwards.
    Guest {
        /// In a Debian of its own with systemd as its first process, in place of this host's files.
        #[arg(long)]
        systemd: bool,
        /// The command, after `--`.
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
    /// Measure side by side with what a user would pick instead.
    Bench {
        /// What: `postgres`, `kernel` or `http`.
        name: String,
        /// End with one line of JSON.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup => setup::run(true),
        Command::Demo { keep } => demo::run(keep),
        Command::Test { fast } => test::run(fast),
        Command::Fuzz { name, seconds } => fuzz::run(&name, seconds),
        Command::Package(args) => package::run(args),
        Command::Sbom { file } => package::sbom(&file),
        Command::Ebpf => ebpf::build(),
        Command::Tidy => tidy::run(),
        Command::Escape { vm, json } => escape::run(vm, json),
        Command::Guest { systemd, command } => {
            let system = if systemd { System::Debian } else { System::Host };
            guest::shell(&command, system)
        }
        Command::Bench { name, json } => bench::run(&name, json),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            shell::complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
