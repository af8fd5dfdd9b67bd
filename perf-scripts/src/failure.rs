//! Why a verb failed, as an exit code that scripts can act on.

use std::fmt;
use std::process::ExitCode;

/// The exit codes, as `--help` tells them. Code 0 is success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// A check, a test or a byte was wrong.
    Failed = 1,
    /// Wrong command line (clap uses the same code).
    Usage = 2,
    /// A tool is missing and was not installed.
    MissingTool = 3,
    /// A time limit ended the work.
    Timeout = 4,
    /// Something did not build.
    Build = 5,
    /// An input file cannot be used.
    BadInput = 6,
}

/// For `--help`.
pub const EXIT_CODES: &str = "Exit codes:\n  \
    0  everything asked for was done and verified\n  \
    1  a check, a test or a byte was wrong\n  \
    2  wrong command line\n  \
    3  a tool is missing and was not installed\n  \
    4  a time limit ended the work\n  \
    5  something did not build\n  \
    6  an input file (capture, module) cannot be used";

/// An error that carries its exit code. Anything else ends with [`Exit::Failed`].
#[derive(Debug)]
pub struct Stop {
    pub exit: Exit,
    text: String,
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for Stop {}

/// An error with an exit code; `text` says what is wrong and what to do next.
pub fn stop(exit: Exit, text: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Stop { exit, text: text.into() })
}

/// The exit code an error ends the program with.
pub fn code_of(error: &anyhow::Error) -> ExitCode {
    let exit = error.downcast_ref::<Stop>().map_or(Exit::Failed, |stop| stop.exit);
    ExitCode::from(exit as u8)
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn the_code_survives_context() {
        let error = Err::<(), _>(stop(Exit::Timeout, "late")).context("while booting").unwrap_err();
        assert_eq!(format!("{:?}", code_of(&error)), format!("{:?}", ExitCode::from(4)));
    }
}
