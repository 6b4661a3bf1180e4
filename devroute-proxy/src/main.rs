//! The `devroute` binary: reads what is asked for, runs it, and turns the end into a status.
//!
//! 0 is success; 1 a demo, an explanation or a server that failed; 64 a wrong flag, variable or file.

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _};
use devroute_proxy::cli::Cli;
use devroute_proxy::config::Settings;
use devroute_proxy::{print, run};

/// Chosen by measurement, see docs/performance.md.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `EX_USAGE` of sysexits(3).
const USAGE: u8 = 64;

fn main() -> ExitCode {
    let mut program = Cli::command();
    let parsed = program
        .try_get_matches_from_mut(std::env::args_os())
        .and_then(|matches| Cli::from_arg_matches(&matches).map(|cli| (cli, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => {
            let _ = error.print();
            let asked = matches!(
                error.kind(),
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion
            );
            return if asked {
                ExitCode::SUCCESS
            } else {
                ExitCode::from(USAGE)
            };
        }
    };
    run::run(cli.mode, || Settings::gather(&program, &matches)).unwrap_or_else(|error| {
        print::error(format_args!("devroute: {error}"));
        ExitCode::from(USAGE)
    })
}
